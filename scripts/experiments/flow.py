"""One fact many times, facts in every order, and several facts at once."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builds.replacing import replaced

from experiments.base import Experiment, Outcome
from experiments.servers import here
from experiments.stage import Ledger, callbacks, seed, send_all
from experiments.witnesses import Witness, quiet, restated, view
from receiver.events import EventType, Submission
from receiver.intake import transitions
from receiver.journal.document import Document

SETTLED = 60.0
"""Seconds in which everything owed must be delivered."""


class DuplicateStorm:
    """Every callback many times, shuffled."""

    name = "duplicate-storm"
    summary = "200 ends called back 100 times each, shuffled, by 16 clients: each is one effect at each destination"
    promises = ("P2", "P3")
    tasks = 200

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._storm(folder, 8 if quick else 100)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Take each callback for a new fact."""
        with _no_dedupe():
            return await self._storm(folder, 4 if quick else 20)

    async def _storm(self, folder: Path, times: int) -> Outcome:
        begun, ledger = time.monotonic(), Ledger()
        witnesses = [Witness("one"), Witness("two")]
        ends = [item for item in callbacks(await seed(folder / "data", self.tasks)) if item.final]
        flood = ends * times
        random.Random(times).shuffle(flood)  # noqa: S311 - an order, no secret
        async with here(folder, functions=[item.function() for item in witnesses]) as world:
            await send_all(world.url, iter(flood), ledger)
            settled = await quiet(world.receiver.journal, "one", "two", seconds=SETTLED)
        made = [len(item.seen) for item in witnesses]
        return Outcome(
            injected=len(flood) - len(ends),
            acknowledged=len(ledger.ended),
            lost=sum(len(ledger.ended) - count for count in made),
            doubled=sum(item.count - len(item.seen) for item in witnesses),
            seconds=time.monotonic() - begun,
            notes=f"{made[0]} and {made[1]} effects; {len(flood) / (time.monotonic() - begun):,.0f} callbacks/s",
            problem=_unless(settled and ledger.answers.keys() <= {200, 429}, f"answers: {ledger.answers}"),
        )


@contextmanager
def _no_dedupe() -> Iterator[None]:
    """Make an event of each end, under another id."""
    numbers = itertools.count()

    def unique(submission_id: str, type: EventType, percent: int | None = None) -> str:
        return f"{submission_id}.{type}.{next(numbers)}"

    def always(ended: EventType | None, type: EventType) -> bool:
        return True

    with replaced(transitions, "event_id", unique), replaced(transitions, "supersedable", always):
        yield


class EveryOrder:
    """Five callbacks of a task in each of their orders, as fast as they come, and each delivered before the next."""

    name = "every-order"
    summary = "all 120 orders of a task's five callbacks: the same end, and no destination sees a status fall"
    promises = ("P4",)
    steps = (10, 30, 60, 90, None)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._orders(folder)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Take the last callback as the truth."""
        with replaced(transitions, "merge", lambda old, new: new):
            return await self._orders(folder)

    async def _orders(self, folder: Path) -> Outcome:
        begun, witness = time.monotonic(), Witness("main")
        orders = list(itertools.permutations(self.steps))
        targets = await seed(folder / "data", 2 * len(orders))
        async with here(folder, functions=[witness.function()]) as world:
            receiver = world.receiver

            async def tell(number: int, percent: int | None) -> None:
                target = targets[number]
                await receiver.intake.received(target.id, view(target.task_id, percent), b"{}", None)

            for place in range(len(self.steps)):  # each order at once, and each with time to be delivered between
                await asyncio.gather(*(tell(number, order[place]) for number, order in enumerate(orders)))
                await quiet(receiver.journal, "main", seconds=SETTLED)
            for number, order in enumerate(orders, len(orders)):
                await asyncio.gather(*(tell(number, percent) for percent in order))
            settled = await quiet(receiver.journal, "main", seconds=SETTLED)
            rows = [await receiver.journal.get(target.id) for target in targets]
        ends = {_end(row) for row in rows if row is not None}
        return Outcome(
            injected=len(targets),
            acknowledged=len(targets),
            lost=len(targets) - witness.ended,
            doubled=witness.repeated,
            seconds=time.monotonic() - begun,
            notes=f"{witness.count} events delivered",
            problem=_unless(
                settled and len(ends) == 1 and not witness.falling,
                f"{len(ends)} different ends; a status fell {witness.falling} times",
            ),
        )


def _end(row: Submission) -> tuple[object, ...]:
    return row.ended, row.task_status, row.task.progress if row.task else None


class OneAtATime:
    """Many events of a submission while its destination is still busy with one."""

    name = "one-at-a-time"
    summary = "events come faster than two slow destinations take them: never two of a submission at once, in order"
    promises = ("P4",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._press(folder, 30 if quick else 150)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Claim whatever is due, also while another delivery of the submission runs."""
        never_busy = replaced(Document, "is_busy", lambda document, destination: False)
        with never_busy, restated("claimable", "AND other.status = 'running'", "AND other.status = 'none'"):
            return await self._press(folder, 30)

    async def _press(self, folder: Path, tasks: int) -> Outcome:
        begun, chance = time.monotonic(), random.Random(tasks)  # noqa: S311 - pauses, no secrets

        async def slowly(event: object) -> None:
            await asyncio.sleep(chance.uniform(0, 0.06))

        witnesses = [Witness(name, slowly, concurrency=64) for name in ("one", "two")]
        targets = await seed(folder / "data", tasks)
        async with here(folder, functions=[item.function() for item in witnesses]) as world:

            async def course(id: str, task_id: str) -> None:
                for percent in (*range(0, 100, 5), None):
                    await world.receiver.intake.received(id, view(task_id, percent), b"{}", None)
                    await asyncio.sleep(chance.uniform(0, 0.06))

            await asyncio.gather(*(course(target.id, target.task_id) for target in targets))
            await quiet(world.receiver.journal, "one", "two", seconds=SETTLED)
        overlaps = sum(item.overlaps for item in witnesses)
        falling = sum(item.falling for item in witnesses)
        return Outcome(
            injected=tasks * 21,
            acknowledged=tasks * 2,
            lost=sum(tasks - item.ended for item in witnesses),
            doubled=sum(item.repeated for item in witnesses),
            seconds=time.monotonic() - begun,
            notes=f"{sum(item.count for item in witnesses):,} delivered, the rest gave way to newer ones",
            problem=_unless(not overlaps and not falling, f"{overlaps} at once, {falling} out of order"),
        )


def _unless(fine: bool, problem: str) -> str | None:
    return None if fine else problem


EXPERIMENTS: tuple[Experiment, ...] = (DuplicateStorm(), EveryOrder(), OneAtATime())
