"""Simulated provider, served in this event loop or in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import uvicorn

from receiver.errors import require
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

    def environment(self, folder: Path) -> dict[str, str]:
        """Return environment variables for a Receiver under test: this provider, short waits, and everything that is
        written in `folder`, also where the shell names a real journal."""
        return {
            "RECEIVER_PROVIDER_URL": self.url,
            "COMETAPI_KEY": "simulator",
            "RECEIVER_DATA": str(folder / "receiver"),
            "RECEIVER_DATABASE": f"sqlite:{folder / 'receiver' / 'journal.db'}",
            "RECEIVER_TO": f"file:{folder / 'outputs'}",
            "RECEIVER_POLL_INTERVAL": "0.1s",
            "RECEIVER_CONFIRM_WITHIN": "0",
        }


class Choices(TypedDict, total=False):
    """Arguments of a simulator. Each may be left out."""

    faults: Iterable[str]  # any of `receiver.simulator.FAULTS`
    profile: str  # the kind of provider, one of `receiver.simulator.PROFILES`
    speed: float  # simulated seconds in a real one, `SPEED` by default
    seed: int
    key: str | None  # the only accepted key. None accepts any, and none
    side: int  # of a square picture, in pixels. A small one is drawn ten times as fast


@asynccontextmanager
async def simulated(**choices: Unpack[Choices]) -> AsyncIterator[Simulated]:
    """Serve a simulator in this event loop while the block runs.

    Raises:
        SettingsError: Pillow is not installed.
        ValueError: the profile or a fault is unknown, or the speed is not above 0.
    """
    with _listening(choices) as (server, listener, served):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield served
        finally:
            server.should_exit = True
            await serving


@contextmanager
def simulating(**choices: Unpack[Choices]) -> Iterator[Simulated]:
    """Serve a simulator, as `simulated`, in a thread of its own, for code without an event loop."""
    with _listening(choices) as (server, listener, served):

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
def _listening(choices: Choices) -> Iterator[tuple[uvicorn.Server, socket.socket, Simulated]]:
    require("PIL", extra="simulator", why="The simulator", page="testing")
    simulator = Simulator(**(Choices(speed=SPEED) | choices))
    # It listens from the start, so a client that connects before the server is up waits and is not refused.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Answers come at once on asyncio's own loop, too (see `receiver.cli.process.bind`).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(simulator.app, log_level="error", ws="none", timeout_graceful_shutdown=1)
        served = Simulated(f"http://127.0.0.1:{listener.getsockname()[1]}", simulator)
        yield uvicorn.Server(config), listener, served
