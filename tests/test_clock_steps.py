"""A clock that is set back strands nothing, one that is set forward runs nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import Recording, destination, engine
from test_dispatcher import only, owed

from receiver.deliveries import Receipt
from receiver.handlers.base import RetryLater
from receiver.journal.transitions import LONGEST_MS

HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize("step", [-HOUR, -2 * DAY, HOUR, 2 * DAY])
async def test_a_step_loses_nothing_and_doubles_nothing(tmp_path: Path, step: float) -> None:
    """What is to run in a minute runs once, after a step back within the longest wait of its kind."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Recording(RetryLater(60), Receipt(ref="made"))
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        kit.clock.step(step)
        await kit.journal.clamp(kit.clock.now_ms())
        await kit.submissions.send_once()
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        due_ms = (await only(kit, submission)).due_ms
        assert due_ms <= kit.clock.now_ms() + LONGEST_MS["delivery"]
        kit.clock.advance(max(due_ms - kit.clock.now_ms(), 0) / 1000 + 0.1)
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

        async def step(_: object) -> Receipt:
            for seconds in (-2 * DAY, HOUR, 4 * DAY, -HOUR):
                kit.clock.step(seconds)
                await kit.journal.clamp(kit.clock.now_ms())
                assert await dispatcher.dispatch_once() == 0
            return Receipt(ref="made")

        handler = Recording(step)
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 0
        assert len(handler.attempts) == 1
        assert (await only(kit, submission)).status == "succeeded"


async def test_a_poll_and_a_pause_of_a_wrong_clock_come_back_into_reach(tmp_path: Path) -> None:
    """A clock that was a year ahead wrote them. Due times that make sense stay."""
    async with engine(tmp_path) as kit:
        kit.clock.step(365 * DAY)
        row = await kit.submit()
        await kit.journal.pause("main", kit.clock.now_ms() + 60_000, "it asked for a minute")
        kit.clock.step(-365 * DAY)
        now_ms = kit.clock.now_ms()
        assert await kit.journal.clamp(now_ms) == 1
        assert (await kit.row(row.id)).poll_due_ms == now_ms + LONGEST_MS["poll_due_ms"]
        assert await kit.journal.pause_of("main") == (now_ms + LONGEST_MS["pause"], "it asked for a minute")
        assert await kit.journal.clamp(now_ms) == 0


async def test_a_pause_by_hand_keeps_its_length(tmp_path: Path) -> None:
    """A start brings the due times of a wrong clock back into reach. It shortens no pause that a person asked for."""
    async with engine(tmp_path) as kit:
        now_ms = kit.clock.now_ms()
        until_ms = now_ms + int(29 * DAY * 1000)
        await kit.journal.pause("main", until_ms, "paused by ann", by_hand=True)
        await kit.journal.clamp(now_ms)
        assert await kit.journal.pause_of("main") == (until_ms, "paused by ann")
        await kit.journal.resume("main")
        await kit.journal.pause("main", until_ms, "it asked for a month")
        await kit.journal.clamp(now_ms)
        assert await kit.journal.pause_of("main") == (now_ms + LONGEST_MS["pause"], "it asked for a month")
