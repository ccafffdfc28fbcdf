"""The loops: when a step runs, what its failure does, and that stopping ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from engine import StillClock, logged, until
from waiting import PATIENCE

from receiver.engine.engine import TICK, Loops, NotNow, Step
from receiver.errors import JournalError


class Counting:
    """A step that returns or raises what it is told; the last repeats."""

    def __init__(self, *does: int | BaseException) -> None:
        self.runs = 0
        self._does = list(does) or [0]

    async def __call__(self) -> int:
        self.runs += 1
        item = self._does.pop(0) if len(self._does) > 1 else self._does[0]
        if isinstance(item, BaseException):
            raise item
        return item


@asynccontextmanager
async def working(clock: StillClock, **steps: Step) -> AsyncIterator[Loops]:
    worker = Loops(steps, clock=clock)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def turned() -> None:
    """Enough turns of the loop for everything that can run to run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_idle_step_runs_once_a_tick() -> None:
    """It looks, finds nothing, and sleeps until the tick is over."""
    clock, step = StillClock(), Counting()
    async with working(clock, step=step):
        await turned()
        assert step.runs == 1
        clock.advance(TICK * 0.9)
        await turned()
        assert step.runs == 1
        clock.advance(TICK * 0.11)
        await until(lambda: step.runs == 2)


async def test_a_step_that_finds_work_looks_again_at_once() -> None:
    """No sleep between batches while there is more."""
    step = Counting(*[1] * 20, 0)
    async with working(StillClock(), step=step):
        await until(lambda: step.runs == 21)
        await turned()
        assert step.runs == 21


async def test_waking_runs_the_named_steps_at_once() -> None:
    """Nobody waits for a tick when there is news for him; the others sleep on."""
    one, two, three = Counting(), Counting(), Counting()
    async with working(StillClock(), one=one, two=two, three=three) as worker:
        await turned()
        worker.wake("one", "three")
        await until(lambda: (one.runs, three.runs) == (2, 2))
        await turned()
        assert (one.runs, two.runs, three.runs) == (2, 1, 2)


async def test_news_during_a_step_is_not_lost() -> None:
    """A wake that comes while the step is looking makes it look once more."""
    runs: list[int] = []
    workers: list[Loops] = []

    async def step() -> int:
        runs.append(1)
        if len(runs) == 1:
            workers[0].wake("step")
        return 0

    workers.append(Loops({"step": step}, clock=StillClock()))
    workers[0].start()
    await until(lambda: len(runs) == 2)
    await workers[0].stop()


@pytest.mark.parametrize(
    "error", [JournalError("The journal is locked."), ValueError("a bug"), asyncio.CancelledError()]
)
async def test_a_failing_step_is_told_once_and_goes_on(error: BaseException) -> None:
    """One line when it begins to fail, one when it works again; even a cancellation of something else ends no loop."""
    clock, step = StillClock(), Counting(error, error, error, 0)
    with logged() as lines:
        async with working(clock, step=step) as worker:
            for runs in (1, 2, 3):
                await until(lambda runs=runs: step.runs == runs)  # type: ignore[misc]
                assert worker.running
                await until(lambda runs=runs: len(clock.slept) == runs)  # type: ignore[misc]
                clock.advance(TICK)
            await until(lambda: step.runs == 4)
            await turned()
    assert [line["event"] for line in lines] == ["engine.step_failed", "engine.step_recovered"]


async def test_a_failing_step_is_not_driven_by_news() -> None:
    """Whatever wakes us, it runs once a tick: each run may cost the provider a question."""
    clock, step = StillClock(), Counting(JournalError("The journal is locked."))
    async with working(clock, step=step) as worker:
        await until(lambda: step.runs == 1)
        for _ in range(10):
            worker.wake("step")
            await turned()
        assert step.runs == 1
        clock.advance(TICK)
        await until(lambda: step.runs == 2)


async def test_a_failing_step_holds_up_no_other() -> None:
    """Each loop is its own."""
    works = Counting(*[1] * 5, 0)
    async with working(StillClock(), fails=Counting(ValueError("a bug")), works=works):
        await until(lambda: works.runs == 6)


async def test_stopping_cancels_a_step_under_way() -> None:
    """`stop` waits for nothing but the end, and nothing runs afterwards."""
    entered, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> int:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    worker = Loops({"endless": endless, "idle": Counting()}, clock=StillClock())
    assert not worker.started
    worker.start()
    await entered.wait()
    assert (worker.started, worker.running) == (True, True)
    await worker.stop()
    assert ended.is_set()
    assert (worker.started, worker.running) == (False, False)
    await worker.stop()


@pytest.mark.parametrize("error", [JournalError("The write was broken off."), OSError("broken off")])
async def test_a_step_that_tells_its_cancellation_in_other_words_ends(error: Exception) -> None:
    """A write that is cancelled may say that it failed. The loop does not go on for that."""
    entered = asyncio.Event()

    async def broken_off() -> int:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None
        return 0

    async with working(StillClock(), step=broken_off) as worker:
        await entered.wait()
        await asyncio.wait_for(worker.stop(), PATIENCE)


async def test_starting_twice_starts_one_loop() -> None:
    """A second start changes nothing, and one stop ends everything."""
    clock, step = StillClock(), Counting()
    worker = Loops({"step": step}, clock=clock)
    worker.start()
    worker.start()
    await turned()
    assert step.runs == 1
    await worker.stop()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("engine")] == []


async def test_a_stopped_worker_starts_again() -> None:
    """An engine may give way and come back."""
    step = Counting()
    worker = Loops({"step": step}, clock=StillClock())
    for runs in (1, 2):
        worker.start()
        await until(lambda runs=runs: step.runs == runs)  # type: ignore[misc]
        await worker.stop()


async def test_a_step_that_is_not_to_run_now_is_no_news() -> None:
    """It has neither failed nor recovered: only a run tells."""
    clock = StillClock()
    step = Counting(JournalError("The journal is locked."), NotNow(), NotNow(), 0)
    with logged() as lines:
        async with working(clock, step=step):
            for runs in (1, 2, 3, 4):
                await until(lambda runs=runs: step.runs == runs)  # type: ignore[misc]
                await turned()
                assert [line["event"] for line in lines] == ["engine.step_failed", "engine.step_recovered"][
                    : 1 + (runs == 4)
                ]
                clock.advance(TICK)
