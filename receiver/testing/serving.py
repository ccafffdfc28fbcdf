"""The simulated provider, served in this event loop or in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from receiver.simulator import Simulator

SPEED = 100.0
"""How many times as fast as the world the simulator runs unless told otherwise: a picture takes 0.4 s."""

_PATIENCE = 10.0
"""Seconds a server's thread may take to start or to end."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """A simulator that is being served.

    Attributes:
        url: Where it listens, without a slash at the end: what a client takes for CometAPI's address.
        simulator: What it received and sent: `submits`, `endpoints`, `callbacks`, `pictures`.
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
        faults: What shall go wrong, any of `receiver.simulator.FAULTS`.
        profile: Whose quirks to show, one of `receiver.simulator.PROFILES`.
        speed: How many simulated seconds pass in a real one.
        seed: Decides everything that would else be left to chance.
        key: The only key accepted; None accepts any, and none.

    Raises:
        ValueError: A fault or the profile is unknown, or the speed is not above 0.
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
    """Serve a simulator in a thread of its own while the block runs: for code that knows no event loop.

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
            thread.join(_PATIENCE)


@contextmanager
def _listener() -> Iterator[socket.socket]:
    # Listening from the start: whoever connects before the server is up waits instead of being refused.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Answers come at once, also on asyncio's own loop: see `receiver.cli.process.bind`.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _server(simulator: Simulator) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(simulator.app, log_level="error", ws="none", timeout_graceful_shutdown=1))


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
