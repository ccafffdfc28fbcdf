"""The engine of a process that lives only while it answers: its shifts, and what others may think of it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine import Kit, Recording, destination, engine, logged, until

from receiver.deliveries import Receipt
from receiver.errors import EngineRunning, JournalError
from receiver.handlers.base import Attempt, RetryLater
from receiver.journal.base import Journal
from receiver.runtime.shifts import Shifts
from receiver.web.admission import Admission


class Shared:
    """A journal that several engines may run on, and what it says of this one.

    Attributes:
        alive: what `beat` says next; the last one repeats.
        refusal: raised by `become_engine`.
        calls: methods and owners, in order.
    """

    shared = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.alive = [True]
        self.refusal: JournalError | None = None
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("enter", owner))

    async def beat(self, owner: str) -> bool:
        self.calls.append(("beat", owner))
        return self.alive.pop(0) if len(self.alive) > 1 else self.alive[0]

    async def resign(self, owner: str) -> None:
        self.calls.append(("resign", owner))

    async def free_running(self, owner: str, now_ms: int) -> int:
        self.calls.append(("free", owner))
        return 0

    @property
    def said(self) -> list[str]:
        return [name for name, _ in self.calls]


@dataclass
class Function:
    """Shifts on a kit."""

    kit: Kit
    journal: Shared
    shifts: Shifts
    steps: list[str] = field(default_factory=list)


@asynccontextmanager
async def function(folder: Path, handler: Any) -> AsyncIterator[Function]:
    async with engine(folder) as kit:
        journal = Shared(kit.journal)
        steps: list[str] = []

        def counted(name: str, step: Any) -> Any:
            async def call() -> int:
                steps.append(name)
                return int(await step())

            return call

        async def nothing() -> int:
            return 0

        leading = {"send": nothing, "reconcile": kit.reconciler.reconcile_once, "archive": kit.archiver.archive_once}
        leading |= {"callbacks": nothing, "purge": nothing}
        dispatcher = kit.dispatcher(destination("main", handler), journal=journal)
        shifts = Shifts(
            journal=journal,  # type: ignore[arg-type] - it is one where it counts
            dispatcher=dispatcher,
            archiver=kit.archiver,
            submissions=kit.submissions,
            admission=Admission(None),
            store=kit.store,
            leading={name: counted(name, step) for name, step in leading.items()},
            destinations={"main": "recording"},
            clock=kit.clock,
            stalled=lambda stall: None,
        )
        dispatcher._changed = shifts.slot_free  # as the runtime wires it
        yield Function(kit, journal, shifts, steps)
        await shifts.stop()


async def test_a_shift_delivers_what_is_due_and_leaves_nothing_running(tmp_path: Path) -> None:
    """It enters the engines before it claims, and ends when nothing is due."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        await item.kit.succeeded()
        await item.shifts.work(20)
        assert len(handler.attempts) == 1
        assert item.journal.said[:2] == ["enter", "free"]
        assert not item.shifts.running


async def test_looks_for_what_is_overdue_are_rare(tmp_path: Path) -> None:
    """A process that is asked every second does not look through the journal each time."""
    async with function(tmp_path, Recording()) as item:
        for seconds in (0, 1, 28, 2):
            item.kit.clock.advance(seconds)
            await item.shifts.work(20, begun=False)
        assert item.steps.count("reconcile") == 2


async def test_a_process_that_slept_claims_under_a_new_name_only(tmp_path: Path) -> None:
    """Others may have taken it for dead meanwhile, and free what it claims under the old one."""
    async with function(tmp_path, Recording()) as item:
        await item.shifts.work(20)
        item.kit.clock.step(3600)  # asleep: the clock that only goes forward stood still
        await item.shifts.work(20)
        names = [(name, owner) for name, owner in item.journal.calls if name in ("enter", "resign")]
        assert [name for name, _ in names] == ["enter", "resign", "enter"]
        assert names[0][1] == names[1][1] != names[2][1]


async def test_one_that_was_taken_for_dead_goes_on_under_a_new_name(tmp_path: Path) -> None:
    """Between two signs of life of one shift."""
    async with function(tmp_path, Recording()) as item:
        await item.shifts.work(20)
        item.kit.clock.advance(5)
        item.journal.alive = [False, True]
        with logged() as lines:
            await item.shifts.tick(20)
        assert item.journal.said.count("enter") == 2
        assert "shift.taken_for_dead" in [line["event"] for line in lines]


async def test_an_engine_that_lives_and_suffers_no_other_is_left_the_work(tmp_path: Path) -> None:
    """That is no error: it delivers."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        item.journal.refusal = EngineRunning("`receiver serve` is the engine.", holder="serve")
        await item.kit.succeeded()
        await item.shifts.work(20)
        assert handler.attempts == []
        item.journal.refusal = None
        await item.shifts.tick(20)
        assert len(handler.attempts) == 1


async def test_shifts_of_one_process_share_its_work(tmp_path: Path) -> None:
    """Whoever comes while another one works waits for the same deliveries; the first that leaves ends nothing."""
    gate = asyncio.Event()

    async def wait(attempt: Attempt) -> Receipt:
        await gate.wait()
        return Receipt(ref="made")

    handler = Recording(wait)
    async with function(tmp_path, handler) as item:
        row = await item.kit.succeeded()
        first, second = (asyncio.create_task(item.shifts.work(20)) for _ in range(2))
        await until(lambda: len(handler.attempts) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert item.shifts.running
        gate.set()
        await second
        assert not item.shifts.running
        assert [delivery.status for delivery in await item.kit.deliveries(row.id)] == ["succeeded"]


async def test_a_shift_waits_for_all_that_was_put_off(tmp_path: Path) -> None:
    """Each to its own time, not for the first of them alone; but for nothing that is due after its end."""
    later = [RetryLater(seconds, "not yet") for seconds in (5, 10, 60)]
    handler = Recording(*later, Receipt(ref="made"))
    async with function(tmp_path, handler) as item:
        rows = [await item.kit.succeeded() for _ in range(3)]
        shift = asyncio.create_task(item.shifts.work(40))
        for count in (4, 5):
            await until(lambda: 5.0 in item.kit.clock.waited)
            item.kit.clock.waited.clear()
            item.kit.clock.advance(5)
            await until(lambda count=count: len(handler.attempts) == count)  # type: ignore[misc]
        await shift
        statuses = [delivery.status for row in rows for delivery in await item.kit.deliveries(row.id)]
        assert sorted(statuses) == ["pending", "succeeded", "succeeded"]


async def test_what_runs_at_the_end_of_the_time_is_given_back(tmp_path: Path) -> None:
    """It uses up no failure, and the next shift begins it anew."""

    async def hang(attempt: Attempt) -> Receipt:
        await asyncio.Event().wait()
        return Receipt()

    handler = Recording(hang, Receipt(ref="made"))
    async with function(tmp_path, handler) as item:
        row = await item.kit.succeeded()
        shift = asyncio.create_task(item.shifts.work(20))
        await until(lambda: len(handler.attempts) == 1)
        item.kit.clock.advance(21)
        await shift
        [delivery] = await item.kit.deliveries(row.id)
        assert (delivery.status, delivery.failures) == ("pending", 0)
        await item.shifts.tick(20)
        assert len(handler.attempts) == 2


async def test_nothing_goes_on_by_itself(tmp_path: Path) -> None:
    """Who asks it to be an engine that stays is told."""
    async with function(tmp_path, Recording()) as item:
        with pytest.raises(EngineRunning, match="works in shifts"):
            await item.shifts.start("serve")
        await item.shifts.check()
