"""A whole world in one event loop: the simulated provider and a real Receiver behind real HTTP, on fast clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.cli.servers import address, bind, server
from receiver.clock import Clock
from receiver.errors import Ambiguous, Refused
from receiver.events import Event, Submission
from receiver.journal import Trouble
from receiver.requests import build
from receiver.settings import Settings
from receiver.simulator import Simulator
from receiver.submissions import Options

SPEED = 100.0
"""How many times as fast as the world both sides live."""
SIDE = 128
"""Pixels of a picture's side: one of 1024, as the provider makes them, takes ten times as long to draw and to cut."""
PROMPT = "a paper boat on calm water --v 6.1"


@dataclass(frozen=True, slots=True)
class World:
    """One provider and one Receiver that know each other."""

    simulator: Simulator
    receiver: Runtime
    outputs: Path
    url: str
    """Where the receiver listens."""

    async def submit(self, prompt: str = PROMPT) -> Submission:
        """Submit as the command line does: an error of the first answer is ours to see, the row tells the rest. In the
        speed of half the time."""
        row = await self.receiver.submissions.prepare(build("imagine", prompt=prompt), Options(speed="turbo"))
        try:
            return await self.receiver.submissions.send(row.id)
        except (Refused, Ambiguous):
            return await self.receiver.journal.find(row.id)

    async def rest(self, submission_id: str, *, files: bool = True) -> Submission:
        """Wait until the submission has its last word, its files unless told otherwise, and nothing is owed any more.

        On a busy machine a picture may take longer to draw than deliveries wait for it: it is delivered late then.
        """
        while True:
            row = await self.receiver.journal.find(submission_id)
            here = row.media_due_ms is None or not files
            if row.status == "refused" or (row.ended and here and not await self._owed(row)):
                return row
            await self.receiver.clock.sleep(1)

    async def troubles(self) -> list[Trouble]:
        """What the operator is told, as soon as there is something."""
        while not (found := await self.receiver.journal.troubles()):
            await self.receiver.clock.sleep(1)
        return found

    async def _owed(self, row: Submission) -> bool:
        deliveries = await self.receiver.journal.deliveries(limit=100, submission_id=row.id)
        return any(delivery.status in ("pending", "running") for delivery in deliveries)

    async def events(self, row: Submission) -> list[Event]:
        """In the order they became known."""
        return (await self.receiver.journal.events(limit=100, submission_id=row.id))[::-1]

    def pictures(self) -> list[Path]:
        """What lies in the folder beside texts, drafts included."""
        return sorted(path for path in self.outputs.glob("*") if path.suffix not in (".json", ".txt"))


@asynccontextmanager
async def served(app: ASGIApp, listener: Any) -> AsyncIterator[None]:
    """The app behind real HTTP while the block runs."""
    running = server(app)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield
    finally:
        running.should_exit = True
        await task


@asynccontextmanager
async def world(
    folder: Path, *, faults: Iterable[str] = (), profile: str = "relay", speed: float = SPEED, **settings: Any
) -> AsyncIterator[World]:
    """Both sides, started; the engine runs."""
    simulator = Simulator(profile=profile, speed=speed, faults=faults, side=SIDE)
    with bind("127.0.0.1", 0) as provider_socket, bind("127.0.0.1", 0) as own_socket:
        chosen = Settings(
            **{
                "provider_url": address(provider_socket),
                "provider_key": "simulator",
                "public_url": address(own_socket),
                "data": folder / "data",
                "to": f"file:{folder / 'outputs'}",
                **settings,
            }
        )
        async with (
            served(simulator.app, provider_socket),
            open_runtime(chosen, clock=Clock(speed)) as receiver,
            served(web_app(receiver), own_socket),
        ):
            await receiver.start_engine("serve")
            yield World(simulator, receiver, folder / "outputs", address(own_socket))
            # Before the servers go, so that nothing asks a provider that is no longer there.
            await receiver.stop_engine()
