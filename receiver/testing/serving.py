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
    """Simulator that is being served."""

    url: str  # its base URL without a slash at the end, for a client of CometAPI
    simulator: Simulator  # the requests it received and sent: `submits`, `endpoints`, `callbacks`, `pictures`


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
        key: the only accepted key. None accepts any, and none.

    Raises as `receiver.simulator.Simulator`.
    """
    simulator = Simulator(profile=profile, speed=speed, seed=seed, faults=faults, key=key)
    with _listening(simulator) as (server, listener, served):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield served
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
    """Serve a simulator, as `simulated`, in a thread of its own, for code without an event loop."""
    simulator = Simulator(profile=profile, speed=speed, seed=seed, faults=faults, key=key)
    with _listening(simulator) as (server, listener, served):

        def serve() -> None:
            asyncio.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve, name="simulator", daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)


@contextmanager
def _listening(simulator: Simulator) -> Iterator[tuple[uvicorn.Server, socket.socket, Simulated]]:
    # It listens from the start, so a client that connects before the server is up waits and is not refused.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Answers come at once on asyncio's own loop, too (see `receiver.cli.process.bind`).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(simulator.app, log_level="error", ws="none", timeout_graceful_shutdown=1)
        served = Simulated(f"http://127.0.0.1:{listener.getsockname()[1]}", simulator)
        yield uvicorn.Server(config), listener, served
