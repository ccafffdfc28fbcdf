"""The engine of a process that may be frozen as soon as it has answered: runs until idle, and its membership."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from engine import PNG, Kit, Recording, StillClock, answer, destination, engine, logged, until, wire_task

from receiver.deliveries import Completion, Receipt
from receiver.engine.archiver import AT_ONCE
from receiver.engine.attempts import OpenDestination
from receiver.engine.engine import Engine
from receiver.errors import EngineRunning, JournalError
from receiver.handlers.base import Attempt, RetryLater
from receiver.journal import Journal


class Members:
    """The engines of a journal that several share, as far as one of them sees.

    Attributes:
        alive: the next answers to a heartbeat; the last one repeats.
        refusal: raised by `join`.
        calls: methods and owners, in order.
    """

    def __init__(self) -> None:
        self.alive = [True]
        self.refusal: JournalError | None = None
        self.calls: list[tuple[str, str]] = []

    async def join(self, role: str, owner: str, *, store: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("join", owner))

    async def heartbeat(self, owner: str) -> bool:
        self.calls.append(("heartbeat", owner))
        return self.alive.pop(0) if len(self.alive) > 1 else self.alive[0]

    async def leave(self, owner: str) -> None:
        self.calls.append(("leave", owner))

    async def expire(self, owner: str) -> list[str]:
        self.calls.append(("expire", owner))
        return []

    async def owners(self) -> frozenset[str]:
        return frozenset()

    @property
    def said(self) -> list[str]:
        return [name for name, _ in self.calls]


class Shared:
    """A journal that several engines may run on.

    Attributes:
        unregistered: raised by `register`.
        completing: what `complete` waits for.
        incomplete: raised by `complete`.
    """

    shared = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.membership = Members()
        self.unregistered: JournalError | None = None
        self.completing = asyncio.Event()
        self.completing.set()
        self.incomplete: JournalError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def register(self, destinations: Mapping[str, str]) -> None:
        if self.unregistered is not None:
            raise self.unregistered
        await self._journal.register(destinations)

    async def complete(self, completion: Completion) -> bool:
        await self.completing.wait()
        if self.incomplete is not None:
            raise self.incomplete
        return await self._journal.complete(completion)


@dataclass
class Function:
    """An engine on a kit."""

    kit: Kit
    journal: Shared
    engine: Engine
    steps: list[str] = field(default_factory=list)


@asynccontextmanager
async def function(
    folder: Path, *places: Recording | OpenDestination, clock: StillClock | None = None, **leading: Any
) -> AsyncIterator[Function]:
    """A handler alone is the destination `main`; `leading` takes the place of a step."""
    opened = [destination("main", place) if isinstance(place, Recording) else place for place in places]
    async with engine(folder, clock=clock, routes=[place.name for place in opened]) as kit:
        journal = Shared(kit.journal)
        steps: list[str] = []

        def counted(name: str, step: Any) -> Any:
            async def call() -> int:
                steps.append(name)
                return int(await step())

            return call

        async def nothing() -> int:
            return 0

        real = {
            "send": kit.submissions.send_once,
            "reconcile": kit.reconciler.reconcile_once,
            "archive": kit.archiver.archive_once,
            "callbacks": nothing,
            "purge": nothing,
        }
        dispatcher = kit.dispatcher(*opened, journal=journal)
        made = Engine(
            function=True,
            journal=journal,  # type: ignore[arg-type] - it is one where it counts
            dispatcher=dispatcher,
            archiver=kit.archiver,
            submissions=kit.submissions,
            waiting=lambda: 0,
            store=kit.store,
            leading={name: counted(name, step) for name, step in (real | leading).items()},
            destinations={place.name: "recording" for place in opened},
            clock=kit.clock,
            exit_on_stall=False,
        )
        made.progress = False
        dispatcher.changed = made.slot_free  # as the runtime wires it
        kit.intake.changed = made.changed
        yield Function(kit, journal, made, steps)
        await made.stop()


async def hang(attempt: Attempt) -> Receipt:
    await asyncio.Event().wait()
    return Receipt()


async def passing(kit: Kit, work: Awaitable[Any]) -> float:
    """Let the clock go until the work has ended. Returns the seconds it took."""
    task = asyncio.ensure_future(work)
    began = kit.clock.passed
    while not task.done():
        assert kit.clock.passed - began < 200, "it does not end"
        await asyncio.wait([task], timeout=0.05)  # what is to happen at this time takes real time
        if not task.done():
            kit.clock.advance(0.5)
    await task
    return kit.clock.passed - began


def hold_submits(kit: Kit) -> asyncio.Event:
    """The provider answers no submit until what is returned is set."""
    gate = asyncio.Event()

    async def wait(request: object) -> None:
        await gate.wait()

    kit.relay.on_submit = wait
    return gate


async def left_running(kit: Kit, destination: str) -> None:
    """Leave deliveries running, as a process does that is killed while it delivers, and free them."""
    assert await kit.journal.claim(destination, owner="killed", limit=9, now_ms=kit.clock.now_ms())
    assert await kit.journal.free_running("another", kit.clock.now_ms())


async def test_a_shift_delivers_what_is_due_and_leaves_nothing_running(tmp_path: Path) -> None:
    """It enters the engines before it claims, and ends when nothing is due."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        await item.kit.succeeded()
        await item.engine.run_until_idle(20)
        assert len(handler.attempts) == 1
        assert item.journal.membership.said[:2] == ["join", "expire"]
        assert not item.engine.running


async def test_looks_for_what_is_overdue_are_rare(tmp_path: Path) -> None:
    """A process that is asked every second does not look through the journal each time."""
    async with function(tmp_path, Recording()) as item:
        for seconds in (0, 1, 28, 2):
            item.kit.clock.advance(seconds)
            await item.engine.run_until_idle(20, begun=False)
        assert item.steps.count("reconcile") == 2


async def test_a_process_that_slept_claims_under_a_new_name_only(tmp_path: Path) -> None:
    """Others may have taken it for dead meanwhile, and free what it claims under the old one."""
    async with function(tmp_path, Recording()) as item:
        await item.engine.run_until_idle(20)
        item.kit.clock.step(3600)  # asleep: the clock that only goes forward stood still
        await item.engine.run_until_idle(20)
        names = [(name, owner) for name, owner in item.journal.membership.calls if name in ("join", "leave")]
        assert [name for name, _ in names] == ["join", "leave", "join"]
        assert names[0][1] == names[1][1] != names[2][1]


async def test_one_that_was_taken_for_dead_goes_on_under_a_new_name(tmp_path: Path) -> None:
    """Between two signs of life of one shift."""
    async with function(tmp_path, Recording()) as item:
        await item.engine.run_until_idle(20)
        item.kit.clock.advance(5)
        item.journal.membership.alive = [False, True]
        with logged() as lines:
            await item.engine.run_everything(20)
        assert item.journal.membership.said.count("join") == 2
        assert "engine.expired" in [line["event"] for line in lines]


async def test_a_start_that_failed_halfway_is_completed_by_the_next_shift(tmp_path: Path) -> None:
    """The journal was away for a moment after it had been entered. Of a destination that it does not know, pauses and
    failures are kept nowhere."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        await item.kit.journal.register({"main": "file"})  # what it was before this process
        await item.kit.succeeded()
        item.journal.unregistered = JournalError("The journal does not answer in time.", fault="unreachable")
        await item.engine.run_everything(20)
        assert handler.attempts == []
        item.journal.unregistered = None
        item.kit.clock.advance(1)
        await item.engine.run_everything(20)
        assert len(handler.attempts) == 1
        assert item.journal.membership.said.count("join") == 1
        assert await item.kit.journal.registered() == {"main": "recording"}


async def test_an_engine_that_lives_and_suffers_no_other_is_left_the_work(tmp_path: Path) -> None:
    """That is no error: it delivers."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        item.journal.membership.refusal = EngineRunning("`receiver serve` is the engine.", holder="serve")
        await item.kit.succeeded()
        await item.engine.run_until_idle(20)
        assert handler.attempts == []
        item.journal.membership.refusal = None
        await item.engine.run_everything(20)
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
        first, second = (asyncio.create_task(item.engine.run_until_idle(20)) for _ in range(2))
        await until(lambda: len(handler.attempts) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert item.engine.running
        gate.set()
        await second
        assert not item.engine.running
        assert [delivery.status for delivery in await item.kit.deliveries(row.id)] == ["succeeded"]


async def test_a_shift_waits_for_all_that_was_put_off(tmp_path: Path) -> None:
    """Each to its own time, not for the first of them alone; but for nothing that is due after its end."""
    later = [RetryLater(seconds, "not yet") for seconds in (5, 10, 60)]
    handler = Recording(*later, Receipt(ref="made"))
    async with function(tmp_path, handler) as item:
        rows = [await item.kit.succeeded() for _ in range(3)]
        shift = asyncio.create_task(item.engine.run_until_idle(40))
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
    handler = Recording(hang, Receipt(ref="made"))
    async with function(tmp_path, handler) as item:
        row = await item.kit.succeeded()
        shift = asyncio.create_task(item.engine.run_until_idle(20))
        await until(lambda: len(handler.attempts) == 1)
        item.kit.clock.advance(21)
        await shift
        [delivery] = await item.kit.deliveries(row.id)
        assert (delivery.status, delivery.failures) == ("pending", 0)
        await item.engine.run_everything(20)
        assert len(handler.attempts) == 2


async def test_slots_are_filled_again_beside_one_that_hangs(tmp_path: Path) -> None:
    """Those of its own destination, and the only one of another."""
    full, single = Recording(hang, Receipt(ref="made")), Recording()
    places = destination("full", full, timeout=60), destination("single", single, concurrency=1)
    async with function(tmp_path, *places) as item:
        for _ in range(12):
            await item.kit.succeeded()
        await passing(item.kit, item.engine.run_until_idle(20))
        assert len(full.attempts) == 12
        assert len(single.attempts) == 12


async def test_what_was_put_off_comes_beside_one_that_hangs(tmp_path: Path) -> None:
    """A place that asks to wait for two seconds is asked again in the same shift."""
    chat = Recording(RetryLater(2, "wait"), Receipt(ref="made"))
    slow = destination("slow", Recording(hang), timeout=60)
    async with function(tmp_path, destination("chat", chat), slow) as item:
        await item.kit.succeeded()
        await passing(item.kit, item.engine.run_until_idle(20))
        assert len(chat.attempts) == 2


async def test_a_claim_is_asked_about_again_beside_a_delivery_that_hangs(tmp_path: Path) -> None:
    """The provider's answer lags behind its callback."""
    slow = Recording(hang, Receipt(ref="made"))
    async with function(tmp_path, destination("main", slow, timeout=60)) as item:
        kit = item.kit
        await kit.succeeded()
        kit.relay.submits = [answer(1, "B")]
        row = await kit.submit()
        kit.relay.tasks["B"] = wire_task("B", "IN_PROGRESS")
        first = asyncio.create_task(item.engine.run_until_idle(20))
        await until(lambda: len(slow.attempts) == 1)
        await kit.calls_back(row, "SUCCESS")
        await until(lambda: "B" in kit.relay.asked)
        kit.relay.tasks["B"] = wire_task("B", "SUCCESS")
        await passing(kit, asyncio.gather(first, item.engine.run_until_idle(18)))
        assert (await kit.row(row.id)).ended == "task.succeeded"
        assert len(slow.attempts) == 2


async def test_one_tick_brings_all_that_is_to_be_downloaded(tmp_path: Path) -> None:
    """Left by a process that was killed, and more than may be downloaded at once."""
    async with function(tmp_path, destination("main", Recording(), concurrency=64)) as item:
        kit = item.kit
        kit.intake.changed = lambda row: None
        rows = [await kit.succeeded(imageUrl=f"{kit.origin.url}/p.png") for _ in range(AT_ONCE + 4)]
        kit.intake.changed = item.engine.changed
        gate = kit.origin.hanging["/p.png"] = asyncio.Event()
        kit.origin.files["/p.png"] = PNG
        tick = asyncio.create_task(item.engine.run_everything(40))
        await until(lambda: len(kit.origin.requests) == AT_ONCE)
        await until(lambda: not item.engine._steps)
        gate.set()
        await passing(kit, tick)
        assert all([(await kit.row(row.id)).media for row in rows])


async def test_what_comes_while_the_last_shift_ends_is_not_forgotten(tmp_path: Path) -> None:
    """It waits at the door, and is carried on by whoever began it."""
    handler = Recording(hang, Receipt(ref="made"))
    async with function(tmp_path, destination("main", handler, timeout=60)) as item:
        kit = item.kit
        await kit.succeeded()
        kit.relay.submits = [answer(1, "A")]
        row = await kit.submit()
        kit.relay.tasks["A"] = wire_task("A", "SUCCESS")
        first = asyncio.create_task(item.engine.run_until_idle(20))
        await until(lambda: len(handler.attempts) == 1)
        item.journal.completing.clear()
        kit.clock.advance(21)
        await until(item.engine._resting.locked)
        before = item.engine.begun
        await kit.calls_back(row, "SUCCESS")
        second = asyncio.create_task(item.engine.run_until_idle(20, begun=item.engine.begun > before))
        await until(lambda: bool(item.engine._resting._waiters))
        item.journal.completing.set()
        await passing(kit, asyncio.gather(first, second))
        assert (await kit.row(row.id)).ended == "task.succeeded"
        assert [delivery.status for delivery in await kit.deliveries(row.id)] == ["succeeded"]


async def test_a_shift_does_not_wait_for_what_another_request_sends(tmp_path: Path) -> None:
    """The provider may take more than a minute to answer."""
    async with function(tmp_path, Recording()) as item:
        gate = hold_submits(item.kit)
        other = await item.kit.prepared()
        sending = asyncio.create_task(item.kit.submissions.send(other.id))
        await until(lambda: len(item.kit.relay.submitted) == 1)
        assert await passing(item.kit, item.engine.run_until_idle(20)) < 20
        gate.set()
        await sending


async def test_a_send_that_hangs_holds_up_nothing_else(tmp_path: Path) -> None:
    """What is due is delivered meanwhile."""
    handler = Recording()
    async with function(tmp_path, handler) as item:
        await item.kit.succeeded()
        gate = hold_submits(item.kit)
        await item.kit.prepared()
        item.kit.clock.advance(31)
        tick = asyncio.create_task(item.engine.run_everything(40))
        await until(lambda: len(item.kit.relay.submitted) == 2)
        await until(lambda: len(handler.attempts) == 1)
        gate.set()
        await tick


async def test_a_step_that_takes_long_keeps_no_sign_of_life_back(tmp_path: Path) -> None:
    """Otherwise what runs would be given to others."""
    handler = Recording(hang)

    async def reconcile() -> int:
        if handler.attempts:
            await asyncio.Event().wait()
        return 0

    async with function(tmp_path, destination("main", handler, timeout=60), reconcile=reconcile) as item:
        await item.kit.succeeded()
        shift = asyncio.create_task(item.engine.run_until_idle(40))
        await until(lambda: len(handler.attempts) == 1)
        count = item.steps.count("reconcile")
        item.engine.changed(msgspec.structs.replace(await item.kit.submit(), poll_due_ms=1))
        await until(lambda: item.steps.count("reconcile") > count)
        item.journal.membership.calls.clear()
        await passing(item.kit, shift)
        assert "heartbeat" in item.journal.membership.said


async def test_follow_ups_by_themselves_are_sent_in_the_shift_of_the_result(tmp_path: Path) -> None:
    """A button that was to be pressed when the grid is there."""
    upscale = {"customId": "MJ::JOB::upsample::1::x", "label": "U1", "emoji": "", "type": 2, "style": 2}
    async with function(tmp_path, Recording()) as item:
        kit = item.kit
        kit.relay.submits = [answer(1, "A")]
        row = await kit.submit(auto=("U1",))
        kit.relay.tasks["A"] = wire_task("A", "SUCCESS", buttons=[upscale])
        await passing(kit, item.engine.run_until_idle(20))  # an earlier request has looked for what is overdue
        kit.relay.submits = [answer(1, "U")]
        before = item.engine.begun
        await kit.calls_back(row, "SUCCESS")
        await passing(kit, item.engine.run_until_idle(20, begun=item.engine.begun > before))
        assert (await kit.row(row.id)).ended == "task.succeeded"
        assert len(kit.relay.submitted) == 2


async def test_a_crash_suspect_that_hangs_starves_no_other(tmp_path: Path) -> None:
    """Where each tick is a process of its own."""
    bad, good, clock = Recording(hang), Recording(), StillClock()
    for number in range(2):
        async with function(
            tmp_path, destination("bad", bad, timeout=60), destination("good", good), clock=clock
        ) as item:
            if number == 0:
                await item.kit.succeeded()
                await left_running(item.kit, "bad")
            await passing(item.kit, item.engine.run_everything(40))
            clock.advance(300)
    assert len(good.attempts) == 1


async def test_what_could_not_be_given_back_is_freed(tmp_path: Path) -> None:
    """The process lives on, and takes another name, so that what stands under the last one counts as left behind."""
    handler = Recording(hang, Receipt(ref="made"))
    async with function(tmp_path, destination("main", handler, timeout=60)) as item:
        row = await item.kit.succeeded()
        shift = asyncio.create_task(item.engine.run_until_idle(20))
        await until(lambda: len(handler.attempts) == 1)
        item.journal.incomplete = JournalError("The store is down.")
        await passing(item.kit, shift)
        item.journal.incomplete = None
        for _ in range(30):
            item.kit.clock.advance(3)
            await item.engine.run_everything(20)
        [delivery] = await item.kit.deliveries(row.id)
        assert delivery.status == "succeeded"


async def test_a_shift_waits_for_nothing_that_is_due_after_its_end(tmp_path: Path) -> None:
    """Though a longer one beside it does."""
    handler = Recording(RetryLater(30, "later"), Receipt(ref="made"))
    async with function(tmp_path, handler) as item:
        await item.kit.succeeded()
        tick = asyncio.create_task(item.engine.run_everything(40))
        await until(lambda: 30.0 in item.kit.clock.waited)
        assert await passing(item.kit, item.engine.run_until_idle(20)) < 20
        await passing(item.kit, tick)
        assert len(handler.attempts) == 2


async def test_a_handler_that_cannot_be_stopped_makes_no_shift_longer(tmp_path: Path) -> None:
    """Its delivery has been given up, and nothing is owed."""
    stop = asyncio.Event()

    async def leak(attempt: Attempt) -> Receipt:
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue
        return Receipt()

    handler = Recording(leak, Receipt(ref="made"))
    async with function(tmp_path, destination("main", handler, timeout=0.1)) as item:
        item.engine._dispatcher._stuck_seconds = 0.1
        row = await item.kit.succeeded()
        shift = asyncio.create_task(item.engine.run_until_idle(3600))
        try:
            await until(lambda: any(2 < wait < 20 for wait in item.kit.clock.waited))  # nothing runs, for all it knows
            await passing(item.kit, shift)
            [delivery] = await item.kit.deliveries(row.id)
            assert (delivery.status, delivery.failures) == ("succeeded", 1)
        finally:
            stop.set()
