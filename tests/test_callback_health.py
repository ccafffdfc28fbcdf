"""Callbacks that never come, or never with the result: measured from the journal, told once, and once when over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine import PUBLIC_URL, Kit, engine, logged, wire_task

from receiver.engine.health import SAMPLE, SETTLED_SECONDS, CallbackHealth, Troubles
from receiver.events import Submission
from receiver.intake import transitions
from receiver.tasks import Task


def health_of(kit: Kit, public_url: str | None = PUBLIC_URL) -> CallbackHealth:
    """As a process makes it at its start."""
    troubles = Troubles(journal=kit.journal, clock=kit.clock)
    return CallbackHealth(
        journal=kit.journal, troubles=troubles, clock=kit.clock, public_url=public_url, poll_seconds=15
    )


async def finished(kit: Kit, count: int, *, called: tuple[str, ...] = (), **row: Any) -> None:
    """Submissions whose text the provider has told, each called back with these statuses before."""
    for _ in range(count):
        prepared = await kit.prepared()
        await kit.intake.take(prepared.id, transitions.answered, (f"t{prepared.id}",), "accepted")
        for status in called:
            view = Task(id=f"t{prepared.id}", status=status)
            body = f'{{"id": "t{prepared.id}", "status": "{status}"}}'.encode()
            await kit.intake.received(prepared.id, view, body, None)
        end = Task(id=f"t{prepared.id}", status=row.get("end", "SUCCESS"), action="DESCRIBE", final_prompt="a boat")
        await kit.intake.polled(prepared.id, end)
        kit.clock.advance(1)


async def events(kit: Kit, health: CallbackHealth, seconds: float = SETTLED_SECONDS) -> list[str]:
    kit.clock.advance(seconds)
    with logged() as lines:
        assert await health.check_once() == 0
    return [line["event"] for line in lines]


async def names(kit: Kit) -> list[str]:
    return [trouble.name for trouble in await kit.journal.troubles()]


async def test_twenty_without_a_callback_are_told_once(tmp_path: Path) -> None:
    """The log and the journal say what is wrong, what happens meanwhile and what to do; then there is silence."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        health = health_of(kit)
        assert await events(kit, health) == ["callbacks.missing"]
        [trouble] = await kit.journal.troubles()
        assert "None of the last 20 submissions" in trouble.text
        assert f"{PUBLIC_URL}/livez" in trouble.text
        assert "asked about at least every 15 s" in trouble.text
        await finished(kit, 3)
        assert await events(kit, health) == []


async def test_nineteen_say_nothing(tmp_path: Path) -> None:
    """Chance is not judged."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE - 1)
        assert await events(kit, health_of(kit)) == []


async def test_what_is_young_says_nothing(tmp_path: Path) -> None:
    """The callback of what has just ended may still be on its way."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        health = health_of(kit)
        assert await events(kit, health, SETTLED_SECONDS - SAMPLE - 1) == []
        assert await events(kit, health, SAMPLE + 100) == ["callbacks.missing"]


async def test_what_cannot_be_called_back_does_not_count(tmp_path: Path) -> None:
    """Sent without a URL, still under way, or ended by our own clock: none of them says anything about the relay."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE - 1)
        for _ in range(SAMPLE):
            row = await kit.prepared()
            await kit.intake.take(row.id, transitions.answered, (f"t{row.id}",), "accepted")
        kit.clock.advance(4300)
        await kit.reconciler.reconcile_once()
        assert (await kit.row(row.id)).ended == "task.lost"
        async with engine(tmp_path, clock=kit.clock, public_url=None) as unhooked:
            await finished(unhooked, SAMPLE)
        assert await events(kit, health_of(kit)) == []
        await finished(kit, 1, end="FAILURE")
        assert await events(kit, health_of(kit)) == ["callbacks.missing"]


async def test_callbacks_that_return_are_told_over_a_restart(tmp_path: Path) -> None:
    """Another process finds them well again, says so once, and takes the note out of the journal."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        assert await events(kit, health_of(kit)) == ["callbacks.missing"]
        await finished(kit, 1, called=("IN_PROGRESS", "SUCCESS"))
        health = health_of(kit)
        assert await events(kit, health) == ["callbacks.returned"]
        assert await names(kit) == []
        assert await events(kit, health) == []


async def test_a_restart_says_again_what_is_still_wrong(tmp_path: Path) -> None:
    """It is measured from the journal, so nothing has to be missed twenty times again."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        assert await events(kit, health_of(kit)) == ["callbacks.missing"]
        assert await events(kit, health_of(kit)) == ["callbacks.missing"]
        assert len(await kit.journal.troubles()) == 1


async def test_callbacks_that_never_bring_the_result(tmp_path: Path) -> None:
    """Progress is called back, and the end never: that is another trouble, told in its place."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        health = health_of(kit)
        assert await events(kit, health) == ["callbacks.missing"]
        await finished(kit, SAMPLE, called=("SUBMITTED", "IN_PROGRESS"))
        assert await events(kit, health) == ["callbacks.unfinished"]
        [trouble] = await kit.journal.troubles()
        assert "none with its result" in trouble.text
        await finished(kit, 1, called=("SUBMITTED", "FAILURE"), end="FAILURE")
        assert await events(kit, health) == ["callbacks.returned"]
        assert await names(kit) == []


async def test_a_few_without_their_result_are_chance(tmp_path: Path) -> None:
    """Nine of twenty were called back, none with its result: nothing is said, and what was said stays."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        health = health_of(kit)
        await events(kit, health)
        await finished(kit, 9, called=("IN_PROGRESS",))
        assert await events(kit, health) == []
        assert await names(kit) == ["callbacks missing"]


async def test_callbacks_no_longer_kept_are_no_evidence(tmp_path: Path) -> None:
    """Their bodies are kept for days only. Submissions older than that are not said to have had no result."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE, called=("IN_PROGRESS",))
        keys = await kit.journal.old("callbacks", kit.clock.now_ms() + 1000, None)
        assert (await kit.journal.delete("callbacks", keys, problem=""))["callbacks"] == len(keys) > 0
        assert await events(kit, health_of(kit)) == []


async def test_without_a_public_url_nothing_is_expected(tmp_path: Path) -> None:
    """Whoever takes the advice and unsets it is told that this is over."""
    async with engine(tmp_path) as kit:
        await finished(kit, SAMPLE)
        await events(kit, health_of(kit))
        assert await events(kit, health_of(kit, None)) == ["callbacks.returned"]
        assert await names(kit) == []


async def test_it_looks_once_a_minute_also_when_the_clock_is_set_back(tmp_path: Path) -> None:
    """Between looks nothing is read; a clock two days back does not blind it for two days."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        health = health_of(kit)
        await health.check_once()
        for _ in range(59):
            await events(kit, health, 1)
        assert journal.calls.count("called_back") == 1
        await events(kit, health, 1)
        assert journal.calls.count("called_back") == 2
        await events(kit, health, -2 * 86400)
        assert journal.calls.count("called_back") == 3


@pytest.mark.parametrize("hooked", [False, True])
async def test_a_stripped_hook_costs_no_time(tmp_path: Path, hooked: bool) -> None:
    """A task that is never called back is asked about at the pace of one that has no callback URL."""
    async with engine(tmp_path, public_url=PUBLIC_URL if hooked else None) as kit:
        row: Submission = await kit.submit()
        assert row.hooked is hooked
        kit.relay.tasks["17"] = wire_task("17")
        asked = []
        start = kit.clock.time
        for _ in range(90):
            kit.clock.advance(1)
            if await kit.reconciler.reconcile_once():
                asked.append(kit.clock.time - start)
        assert asked == [15, 26, 32, 35, 37, 39, 41, 44, 48, 54, 63, 77]  # its percentage is frozen
