"""The provider makes no callbacks, or is gone for a while, so that only polling brings results."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from builds.replacing import replaced
from starlette.types import Receive, Scope, Send

from experiments.base import Experiment, Outcome
from experiments.servers import here, served
from receiver.app.container import Runtime
from receiver.clock import Clock
from receiver.engine.reconciler import Reconciler
from receiver.errors import Ambiguous, Refused
from receiver.events import Submission
from receiver.journal import files
from receiver.requests import build
from receiver.simulator import Simulator, pictures
from receiver.testing import make_media

SPEED = 10.0
POLL = 15.0
LATE = 6.0
"""Simulated seconds that this machine may add to the poll interval: 0.6 real ones."""
PROMPT = "a paper boat on calm water --v 6.1"


class NoCallbacks:
    """The relay drops the hook of every task."""

    name = "no-callbacks"
    summary = "500 tasks of which none is called back: 500 pictures, each known within a poll interval of its end"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._poll(folder, 100 if quick else 500, patience=120)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Never ask the provider."""

        async def nothing(self: Reconciler) -> int:
            return 0

        with replaced(Reconciler, "_poll", nothing):
            return await self._poll(folder, 10, patience=10)

    async def _poll(self, folder: Path, tasks: int, *, patience: float) -> Outcome:
        begun = time.monotonic()
        async with provided(folder, faults=["hook_stripped"], poll_interval=POLL) as (simulator, receiver):
            rows = await submit(receiver, tasks)
            await wait_for_pictures(folder, tasks, patience)
            lags = [lag async for lag in _lags(receiver, rows)]
        late = max(lags, default=0.0)
        return Outcome(
            injected=tasks,
            acknowledged=len(rows),
            lost=without_picture(folder, rows),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=_told(lags),
            problem=_unless(
                not simulator.callbacks and late <= POLL + LATE,
                f"{len(simulator.callbacks)} callbacks came; a result was known {late:.1f} s after the provider's",
            ),
        )


def _told(lags: list[float]) -> str:
    if not lags:
        return "no result at all"
    return (
        f"known {statistics.median(lags):.1f} s after the provider's end, at most {max(lags):.1f} s (poll {POLL:g} s)"
    )


async def _lags(receiver: Runtime, rows: list[Submission]) -> AsyncIterator[float]:
    """Seconds between the provider's end of a task and ours."""
    for row in rows:
        for event in await receiver.journal.events(limit=10, submission_id=row.id):
            if event.type == "task.succeeded" and event.task is not None and event.task.finish_ms:
                yield (event.created_ms - event.task.finish_ms) / 1000


class ProviderOutage:
    """Every request to the provider fails for a while; its callbacks go on."""

    name = "provider-outage"
    summary = "the provider answers nothing for 90 s, and goes on calling back: afterwards every picture is there"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._outage(folder, 30 if quick else 150, patience=150)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Give up a picture that cannot be had at once."""
        with replaced(files, "MEDIA", ()):
            return await self._outage(folder, 10, patience=30)

    async def _outage(self, folder: Path, tasks: int, *, patience: float) -> Outcome:
        begun, line = time.monotonic(), Line()
        async with provided(folder, line=line, poll_interval=POLL) as (simulator, receiver):
            rows = await submit(receiver, tasks)
            line.cut = True
            await receiver.clock.sleep(90)
            line.cut = False
            await wait_for_pictures(folder, tasks, patience)
            ends = [(await receiver.journal.find(row.id)).ended for row in rows]
        return Outcome(
            injected=line.refused,
            acknowledged=len(rows),
            lost=without_picture(folder, rows),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{len(simulator.callbacks)} callbacks meanwhile and after",
            problem=_unless(set(ends) == {"task.succeeded"}, f"ends: {set(ends)}"),
        )


class Line:
    """The way to the provider. While it is `cut`, everything is answered 502 with a page, as a proxy does."""

    def __init__(self) -> None:
        self.cut = False
        self.refused = 0
        self.app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.cut or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.refused += 1
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 502, "headers": headers})
        await send({"type": "http.response.body", "body": b"<html>Bad gateway</html>"})


@asynccontextmanager
async def provided(
    folder: Path, *, faults: list[str] | None = None, line: Line | None = None, **settings: Any
) -> AsyncIterator[tuple[Simulator, Runtime]]:
    """A simulated provider and a Receiver that know each other, both ten times as fast as the world. Every picture is
    the same small one: drawing hundreds would take longer than everything else."""
    small = make_media(folder / "drawn")[0].path.read_bytes()
    simulator, line = Simulator(speed=SPEED, faults=faults or []), line or Line()
    line.app = simulator.app
    own: dict[str, Any] = {"confirm_within": 30.0, "deadline": 4200.0} | settings
    async with AsyncExitStack() as stack:
        stack.enter_context(replaced(pictures, "compose", lambda *picture: small))
        own["provider_url"] = await stack.enter_async_context(served(line))
        world = await stack.enter_async_context(here(folder, clock=Clock(SPEED), call_back=True, **own))
        yield simulator, world.receiver
        await world.receiver.stop_engine()  # before the provider goes


async def submit(receiver: Runtime, count: int) -> list[Submission]:
    """Submit as the command line does, eight at a time. The engine sends again what the provider did not take now."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> Submission:
        async with gate:
            row = await receiver.submissions.prepare(build("imagine", prompt=f"{PROMPT} --seed {number}"))
            try:
                return await receiver.submissions.send(row.id)
            except (Refused, Ambiguous):
                return row

    return list(await asyncio.gather(*map(one, range(count))))


async def wait_for_pictures(folder: Path, count: int, seconds: float) -> None:
    """Until there are so many, or for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(list((folder / "outputs").glob("*.json"))) < count:  # noqa: ASYNC110 - files
        await asyncio.sleep(0.1)


def without_picture(folder: Path, rows: list[Submission]) -> int:
    """Count the submissions without a picture. One may have several, as a later answer may name more of them."""
    names = [path.name for path in (folder / "outputs").glob("*.png")]
    return sum(not any(row.id in name for name in names) for row in rows)


def _unless(fine: bool, problem: str) -> str | None:
    return None if fine else problem


EXPERIMENTS: tuple[Experiment, ...] = (NoCallbacks(), ProviderOutage())
