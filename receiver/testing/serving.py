"""Simulated provider, served in this event loop or in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from receiver.simulator import Simulator

SPEED = 100.0
"""Default speed of the simulator, as a multiple of real time. A picture takes 0.4 s."""

_STOP_SECONDS = 10.0
"""Time limit for a server's thread to end."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Simulator that is being served.

    Attributes:
        url: its base URL without a slash at the end, for a client of CometAPI.
        simulator: the requests it received and sent: `submits`, `endpoints`, `callbacks`, `pictures`.
    """

    url: str
    simulator: Simulator


@asynccontextmanager
async def simulated(
    *,
    faults: Iterable[str] = (),
    profile: str = "default",
    speed: float = SPEED,
    seed: int = 0,
    key: str | None = None,
) -> AsyncIterator[Simulated]:
    """Serve a simulator in this event loop while the block runs.

    Args:
        faults: any of `receiver.simulator.FAULTS`.
        profile: the kind of provider, one of `receiver.simulator.PROFILES`.
        speed: simulated seconds in a real one.
        seed: of all random choices.
        key: the only accepted key. None accepts any, and none.

    Raises:
        ValueError: a fault or the profile is unknown, or the speed is not above 0.
        ImportError: Pillow is not installed.
    """
    simulator = Simulator(profile=profile, speed=speed, seed=seed, faults=faults, key=key)
    with _listener() as listener:
        server = _server(simulator)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Simulated(_url(listener), simulator)
        finally:
            server.should_exit = True
            await serving


@contextmanager
def simulating(
    *,
    faults: Iterable[str] = (),
    profile: str = "default",
    speed: float = SPEED,
    seed: int = 0,
    key: str | None = None,
) -> Iterator[Simulated]:
    """Serve a simulator in a thread of its own while the block runs, for code without an event loop.

    Arguments and errors are those of `simulated`.
    """
    simulator = Simulator(profile=profile, speed=speed, seed=seed, faults=faults, key=key)
    with _listener() as listener:
        server = _server(simulator)

        def serve() -> None:
            asyncio.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve, name="simulator", daemon=True)
        thread.start()
        try:
            yield Simulated(_url(listener), simulator)
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)


@contextmanager
def _listener() -> Iterator[socket.socket]:
    # It listens from the start, so a client that connects before the server is up waits and is not refused.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Answers come at once on asyncio's own loop, too (see `receiver.cli.process.bind`).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _server(simulator: Simulator) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(simulator.app, log_level="error", ws="none", timeout_graceful_shutdown=1))


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
