"""Destinations that are down or slow, beside healthy ones."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from builds.replacing import replaced

from experiments.base import Experiment, Outcome
from experiments.servers import Here, here
from experiments.stage import Target, http_client, seed
from experiments.witnesses import Witness, quiet, view
from receiver.clock import Clock
from receiver.deliveries import Delivery, DeliveryStatus
from receiver.engine import dispatcher
from receiver.events import Event
from receiver.journal import transitions
from receiver.journal.document import Document, replace

HELD_UP = 10.0
"""Seconds a destination may hold up the others (P9)."""
AT_ONCE = 4
DAY, HOUR = 86_400.0, 3600.0


class Steps(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self._time = time.time()
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        """Move the clock forward, and wake all that wait on it."""
        self._time += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        until = self._time + seconds
        while not event.is_set() and self._time < until:
            waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._moved.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for item in waiting:
                    item.cancel()
        return event.is_set()


class DeadForADay:
    """One destination of three refuses everything for a day."""

    name = "dead-destination"
    summary = "10,000 events in a day while one of three destinations is down: two get all in time, it the last words"
    promises = ("P3", "P5", "P9")
    course = (0, 25, 50, 75, None)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._day(folder, 200 if quick else 2000)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Never cancel an older delivery: yesterday's percentages arrive, too."""
        fan_out = transitions.fan_out

        def for_ever(
            document: Document, events: Sequence[Event], deliveries: Sequence[Delivery], **changes: Any
        ) -> Document:
            return fan_out(document, events, [replace(item, manual=True) for item in deliveries], **changes)

        with replaced(transitions, "fan_out", for_ever):
            return await self._day(folder, 40)

    async def _day(self, folder: Path, tasks: int) -> Outcome:
        begun, clock, down = time.monotonic(), Steps(), True

        async def refuse(event: Event) -> None:
            if down:
                raise ConnectionRefusedError("nothing listens there")

        dead = Witness("dead", refuse)
        neighbours = [Witness("one"), Witness("two")]
        targets = await seed(folder / "data", tasks, deadline=30 * DAY)
        slowest = 0.0
        functions = [item.function() for item in (dead, *neighbours)]
        async with here(folder, clock=clock, functions=functions, poll_interval=30 * DAY) as world:
            for cohort in _cohorts(targets, 8):
                for percent in self.course:
                    took = await _step(world, cohort, percent, neighbours)
                    slowest = max(slowest, took)
                    clock.advance(DAY / (8 * len(self.course)))
                    await asyncio.sleep(0.02)
            down, failed = False, dead.calls
            for _ in range(24):
                clock.advance(HOUR)
                if await quiet(world.receiver.journal, "dead", seconds=0.5):
                    break
            died = await world.receiver.journal.deliveries(limit=tasks, destination="dead", status="dead")
        events = tasks * len(self.course)
        missing = sum(events - item.count for item in neighbours)
        fine = slowest <= HELD_UP and not died and not missing
        return Outcome(
            injected=failed,
            acknowledged=3 * tasks,
            lost=sum(tasks - item.ended for item in (dead, *neighbours)),
            doubled=dead.count - len(dead.seen) + sum(item.repeated for item in neighbours),
            seconds=time.monotonic() - begun,
            notes=f"{events:,} events; neighbours waited {slowest:.2f} s at most; then {dead.count:,} deliveries",
            problem=None if fine else f"neighbours waited {slowest:.1f} s, missed {missing}; {len(died)} died",
        )


def _cohorts(targets: list[Target], count: int) -> Iterable[list[Target]]:
    size = math.ceil(len(targets) / count)
    return (targets[at : at + size] for at in range(0, len(targets), size))


async def _step(world: Here, targets: list[Target], percent: int | None, neighbours: list[Witness]) -> float:
    """Journal an event of each. Return the seconds until both neighbours have it."""
    begun, wanted = time.monotonic(), [item.count + len(targets) for item in neighbours]
    receiver = world.receiver
    await asyncio.gather(
        *(receiver.intake.received(item.id, view(item.task_id, percent), b"{}", None) for item in targets)
    )
    while any(item.count < count for item, count in zip(neighbours, wanted, strict=True)):
        if time.monotonic() - begun > 2 * HELD_UP:
            break
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


class SlowDestination:
    """A web server that answers two bytes a second, so that no read times out."""

    name = "slow-destination"
    summary = "a destination that answers 2 B/s beside two healthy ones: each attempt ends in time, nobody waits"
    promises = ("P9",)
    limit = 1.5

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._trickle(folder, 12 if quick else 200)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Rely on httpx's time-outs, which are for each read."""

        @asynccontextmanager
        async def unlimited(seconds: float) -> AsyncIterator[Any]:
            yield _Never()

        class Unlimited:
            def __getattr__(self, name: str) -> Any:
                return unlimited if name == "timeout" else getattr(asyncio, name)

        with replaced(dispatcher, "asyncio", Unlimited()):
            return await self._trickle(folder, AT_ONCE)

    async def _trickle(self, folder: Path, tasks: int) -> Outcome:
        begun, trickling = time.monotonic(), 0

        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal trickling
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                trickling += 1
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.5)
            writer.close()

        listener = await asyncio.start_server(trickle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with listener, http_client(url) as http:

            async def post(event: Event) -> None:
                (await http.post("/", json={"id": event.id})).raise_for_status()

            slow = Witness("slow", post, concurrency=AT_ONCE, timeout=self.limit)
            neighbours = [Witness("one"), Witness("two")]
            targets = await seed(folder / "data", tasks)
            async with here(folder, functions=[item.function() for item in (slow, *neighbours)]) as world:
                waited = await _step(world, targets, None, neighbours)
                rounds = 1 if tasks <= AT_ONCE else 2
                await _until_tried(slow, rounds * AT_ONCE, rounds * (self.limit + 1))
                still = [await _count(world, "slow", status) for status in ("pending", "running")]
        fine = waited <= HELD_UP and slow.finished >= rounds * AT_ONCE and slow.longest <= self.limit + 1
        return Outcome(
            injected=trickling,
            acknowledged=3 * tasks,
            lost=sum(tasks - item.ended for item in neighbours) + tasks - sum(still),
            doubled=sum(item.repeated for item in neighbours),
            seconds=time.monotonic() - begun,
            notes=f"neighbours waited {waited:.2f} s; a slow attempt ended after {slow.longest:.2f} s at most",
            problem=None if fine else f"{slow.finished} of {slow.calls} ended, after {slow.longest:.1f} s at most",
        )


class _Never:
    """A time-out that never expires."""

    def expired(self) -> bool:
        return False


async def _count(world: Here, destination: str, status: DeliveryStatus) -> int:
    return len(await world.receiver.journal.deliveries(limit=10_000, destination=destination, status=status))


async def _until_tried(witness: Witness, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and witness.finished < count:  # noqa: ASYNC110 - counts, no events
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # what has ended is recorded


EXPERIMENTS: tuple[Experiment, ...] = (DeadForADay(), SlowDestination())
