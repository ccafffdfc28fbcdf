"""A clock that is set back strands nothing, one that is set forward runs nothing twice."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest
from engine import POLICY, Recording, StillClock, destination, engine, logged, wire_task
from receiver.clock_steps import ClockSteps
from test_dispatcher import only, owed

from receiver.deliveries import Receipt
from receiver.errors import ProviderError
from receiver.handlers.base import RetryLater

HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize("step", [-HOUR, -2 * DAY, HOUR, 2 * DAY])
async def test_a_step_costs_nothing_and_doubles_nothing(tmp_path: Path, step: float) -> None:
    """What is to run in a minute runs within a minute of real time, once, whatever the wall clock does."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)
        handler = Recording(RetryLater(60), Receipt(ref="made"))
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        kit.clock.step(step)
        with logged() as lines:
            assert await steps.check_once() == 0
        assert [line["event"] for line in lines] == (["clock.set_back"] if step < 0 else [])
        await kit.submissions.send_once()
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        kit.clock.advance(60.1)
        assert await steps.check_once() == 0
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 0
        assert len(handler.attempts) == 2
        assert (await only(kit, submission)).status == "succeeded"
        assert len(kit.relay.submitted) == 1


async def test_what_runs_while_the_clock_steps_is_recorded_once(tmp_path: Path) -> None:
    """An attempt under way when the clock goes back or forth is completed by itself, and never run beside itself."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)

        async def step(_: object) -> Receipt:
            for seconds in (-2 * DAY, HOUR, 4 * DAY, -HOUR):
                kit.clock.step(seconds)
                await steps.check_once()
                assert await dispatcher.dispatch_once() == 0
            return Receipt(ref="made")

        handler = Recording(step)
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 0
        assert len(handler.attempts) == 1
        assert (await only(kit, submission)).status == "succeeded"


async def test_small_adjustments_move_nothing_until_they_add_up(tmp_path: Path) -> None:
    """A clock that is slewed by little and little is followed once it has gone a second."""
    async with engine(tmp_path) as kit:
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)
        with logged() as lines:
            for _ in range(9):
                kit.clock.step(-0.12)
                await steps.check_once()
        assert [line["seconds"] for line in lines] == [1.1]


class Interrupted(StillClock):
    """Each look at it takes two seconds: others have the processor."""

    def now(self) -> float:
        self.advance(1.0)
        time = super().now()
        self.advance(1.0)
        return time


async def test_a_busy_machine_is_no_step(tmp_path: Path) -> None:
    """Time that passes between the looks at two clocks is nobody's step back: it would bring deadlines forward."""
    async with engine(tmp_path, clock=Interrupted()) as kit:
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)
        with logged() as lines:
            for _ in range(5):
                await steps.check_once()
        assert lines == []


async def test_a_step_before_the_start_is_not_counted(tmp_path: Path) -> None:
    """An engine that starts later begins with the clock as it finds it."""
    async with engine(tmp_path) as kit:
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)
        kit.clock.step(-HOUR)
        steps.restart()
        with logged() as lines:
            await steps.check_once()
        assert lines == []


@pytest.mark.parametrize("answer", ["lags", "down"])
async def test_a_claim_made_before_a_step_back_is_settled_in_time(tmp_path: Path, answer: str) -> None:
    """A result that a callback reported waits for the provider's word no longer than it should, not for two days."""
    async with engine(tmp_path) as kit:
        row = await kit.submit()
        steps = ClockSteps(journal=kit.journal, clock=kit.clock)
        kit.relay.tasks["17"] = wire_task("17")
        if answer == "down":
            kit.relay.down = httpx.ConnectError("no route")
        await kit.calls_back(row, "SUCCESS")
        with contextlib.suppress(ProviderError):
            await kit.reconciler.reconcile_once()
        kit.clock.step(-2 * DAY)
        await steps.check_once()
        for _ in range(8):
            kit.clock.advance(POLICY.confirm_ms / 1000 / 5)
            with contextlib.suppress(ProviderError):
                await kit.reconciler.reconcile_once()
        assert (await kit.row(row.id)).ended == "task.succeeded"
