"""How a destination does: failures in a row pause it, one delivery probes it, and what never ran stays as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from journals import NOW, STORES, completion, due_file, fill, owe, submission, take

from receiver.backoff import DELIVERY, DOWN_AFTER, PAUSE, PROBE, pause
from receiver.deliveries import DestinationRecord
from receiver.journal import Journal, Work

HOUR = 3_600_000


@pytest.fixture
async def journal(journal: Journal) -> Journal:
    """Two destinations are registered. For what a store looks up or counts."""
    await journal.register({"folder": "file", "screen": "file"})
    return journal


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Journal]:
    """The same on one store, for what a function of the destination's record says."""
    async with STORES["sqlite"](tmp_path) as store:
        journal = await store.open()
        await journal.register({"folder": "file", "screen": "file"})
        yield journal
        await journal.aclose()


async def state(journal: Journal, name: str = "folder") -> DestinationRecord:
    return next(one for one in await journal.destinations() if one.name == name)


async def end(journal: Journal, work: Work, outcome: Any = "failed", *, at: int = 0, **fields: Any) -> None:
    """End an attempt at NOW + `at`, to be due again an hour later if it is."""
    status = {"succeeded": "succeeded", "rejected": "dead"}.get(outcome, "pending")
    fields = {"due_ms": NOW + at + HOUR, "detail": "connection refused"} | fields
    ended = completion(work, outcome=outcome, status=status, counts=outcome == "failed", finished_ms=NOW + at, **fields)
    assert await journal.complete(ended)


async def bring_down(journal: Journal, at: int = 0) -> None:
    """So many failures in a row that the destination is taken for down."""
    for work in await take(journal, at, limit=DOWN_AFTER):
        await end(journal, work, at=at)


async def test_failures_in_a_row_pause_a_destination(local: Journal) -> None:
    """The row says why and until when; others go on."""
    await fill(local, 20)
    await owe(local, submission(1), "task.lost", 30, destination="screen")
    await bring_down(local)
    row = await state(local)
    assert row.paused_until_ms is not None
    assert 0.9 * PAUSE[0] <= (row.paused_until_ms - NOW) / 1000 <= 1.1 * PAUSE[0]
    assert row.paused_reason == "5 attempts in a row have failed, the last one with: connection refused"
    assert (row.display_status(NOW), row.last_error, row.last_error_ms) == ("paused", "connection refused", NOW)
    assert await take(local, int(PROBE * 1000) - 1) == []
    assert len(await take(local, destination="screen")) == 1


async def test_what_never_ran_stays_untouched_through_a_long_outage(journal: Journal) -> None:
    """Hours of failures cost one delivery a try each time, and not one of those that have never run anything."""
    hours = 2
    await fill(journal, 50)
    await bring_down(journal)
    at, probes = 0, 0
    while at < hours * HOUR:
        until = (await state(journal)).paused_until_ms
        assert until is not None
        at = until - NOW
        (probe,) = await take(journal, at)
        await end(journal, probe, at=at, due_ms=NOW + 48 * HOUR)
        probes += 1
    deliveries = await journal.deliveries(limit=1000)
    tried = [one for one in deliveries if one.attempt]
    assert hours * 60 / 5 * 0.85 < probes < hours * 60 / 5 * 1.25
    assert len(tried) == probes + DOWN_AFTER
    assert {one.failures for one in tried} == {1}
    assert all((one.status, one.failures, one.due_ms) == ("pending", 0, NOW) for one in deliveries if not one.attempt)


async def test_one_probe_at_a_time(journal: Journal) -> None:
    """After the pause one delivery runs; success opens the destination, failure makes a longer pause."""
    await fill(journal, 20)
    await bring_down(journal)
    for step in PAUSE[1:]:
        until = (await state(journal)).paused_until_ms
        assert until is not None
        (probe,) = await take(journal, until - NOW)
        assert await take(journal, until - NOW) == []
        await end(journal, probe, at=until - NOW)
        longer = (await state(journal)).paused_until_ms
        assert longer is not None
        assert 0.9 * step <= (longer - until) / 1000 <= 1.1 * step
    at = longer - NOW
    (probe,) = await take(journal, at)
    await end(journal, probe, "succeeded", at=at)
    row = await state(journal)
    assert (row.failures, row.paused_until_ms, row.paused_reason, row.display_status(NOW + at)) == (
        0,
        None,
        None,
        "working",
    )
    assert row.last_success_ms == NOW + at
    assert len(await take(journal, at)) == 10


async def test_a_probe_that_proves_nothing_makes_room_for_the_next(local: Journal) -> None:
    """Rejected is about one delivery, postponed and interrupted say nothing: the next one probes at once."""
    await fill(local, 20)
    await bring_down(local)
    row = await state(local)
    at = (row.paused_until_ms or 0) - NOW
    for outcome in ("rejected", "postponed", "interrupted"):
        (probe,) = await take(local, at)
        await end(local, probe, outcome, at=at)
        assert (await state(local)).failures == DOWN_AFTER
    assert len(await take(local, at)) == 1


async def test_what_fails_during_a_pause_makes_it_no_longer(local: Journal) -> None:
    """Twenty that ran side by side when the place went down are one outage, not twenty."""
    await fill(local, 20)
    running = await take(local, limit=20)
    for work in running:
        await end(local, work)
    row = await state(local)
    assert row.failures == DOWN_AFTER
    assert ((row.paused_until_ms or 0) - NOW) / 1000 <= 1.1 * PAUSE[0]


async def test_only_failures_count(local: Journal) -> None:
    """Any number of rejections are as many bad deliveries; a rejection is shown as the last error all the same."""
    await fill(local, 21)
    for outcome in ("interrupted", "postponed", "rejected"):
        for work in await take(local, limit=7):
            await end(local, work, outcome)
        row = await state(local)
        assert (row.failures, row.paused_until_ms, row.display_status(NOW)) == (0, None, "working")
        assert (row.last_error is not None) == (outcome == "rejected")


async def test_a_success_between_failures_starts_the_count_again(local: Journal) -> None:
    """A poison delivery among good ones pauses nobody."""
    await fill(local, 40)
    for _ in range(5):
        works = await take(local, limit=DOWN_AFTER)
        for work in works[1:]:
            await end(local, work)
        assert (await state(local)).display_status(NOW) == "failing"
        await end(local, works[0], "succeeded")
    assert (await state(local)).failures == 0


async def test_events_that_fail_hold_up_no_others(journal: Journal) -> None:
    """The poison was first and last. A pause for failures is probed with what has not failed, and while
    others succeed, failures make no pause: all good ones are delivered within ten seconds."""
    poison, good, more = 30, 60, 30
    await fill(journal, poison, due_ms=NOW - 2)
    await fill(journal, good, first=poison + 1, due_ms=NOW - 1)
    await fill(journal, more, first=poison + good + 1)
    owed = sorted(item.id for item in await journal.deliveries(limit=1000))
    bad, made = {*owed[:poison], *owed[poison + good :]}, 0
    for second in range(10):
        while works := await take(journal, 1000 * second, limit=4):
            for work in works:
                outcome = "failed" if work.delivery.id in bad else "succeeded"
                await end(journal, work, outcome, at=1000 * second)
                made += outcome == "succeeded"
    assert made == good


async def test_what_has_failed_is_no_probe_in_a_pause(local: Journal) -> None:
    """With nothing else due, nothing runs until the pause is over."""
    await fill(local, DOWN_AFTER)
    for work in await take(local, limit=DOWN_AFTER):
        await end(local, work, due_ms=NOW)
    assert await take(local, int(PROBE * 1000)) == []
    row = await state(local)
    assert len(await take(local, (row.paused_until_ms or 0) - NOW)) == 1


async def test_a_wait_that_was_asked_for_is_not_probed(journal: Journal) -> None:
    """Down or not, a place that named a time is left alone until then."""
    await fill(journal, 20)
    await bring_down(journal)
    await journal.pause("folder", NOW + HOUR, "429")
    assert await take(journal, HOUR - 1) == []
    assert len(await take(journal, HOUR)) == 1


async def test_a_success_ends_no_rate_limit(local: Journal) -> None:
    """One attempt was told to wait while another succeeded: what was asked for stands. The longer pause counts."""
    await fill(local, 3)
    (work, other) = await take(local, limit=2)
    await local.pause("folder", NOW + 300, "429")
    await local.pause("folder", NOW + 100, "503")
    await end(local, work, "succeeded", at=5)
    row = await state(local)
    assert (row.paused_until_ms, row.paused_reason) == (NOW + 300, "429")
    await end(local, other, "succeeded", at=300)
    assert (await state(local)).paused_until_ms is None


async def test_a_vanished_engine_says_nothing_of_the_destination(local: Journal) -> None:
    """That our process ended is not that place's failure."""
    await fill(local, 20)
    await take(local, limit=20, owner="vanished")
    assert await local.free_running("next", NOW) == 20
    assert (await state(local)).failures == 0


async def test_events_that_a_destination_refuses_pause_nothing(local: Journal) -> None:
    """Any number of them in a row, and the next failure of another kind is the first one."""
    await fill(local, 20)
    for work in await take(local, limit=2 * DOWN_AFTER):
        await end(local, work, detail="answered 422", about_event=True)
    row = await state(local)
    assert (row.failures, row.display_status(NOW), row.last_error) == (0, "working", "answered 422")
    (work,) = await take(local, limit=1)
    await end(local, work)
    assert (await state(local)).failures == 1


async def test_a_person_ends_a_pause(local: Journal) -> None:
    """Everything due may run at once; what was never registered is told apart."""
    await fill(local, 20)
    await bring_down(local)
    assert await local.resume("folder")
    assert (await state(local)).display_status(NOW) == "working"
    assert len(await take(local, limit=8)) == 8
    assert not await local.resume("nowhere")


async def test_what_is_owed_is_counted(journal: Journal) -> None:
    """Pending and dead, destination by destination."""
    await fill(journal, 5)
    (work,) = await take(journal, limit=1)
    await end(journal, work, "rejected")
    assert [(one.name, one.handler, one.pending, one.dead) for one in await journal.destinations()] == [
        ("folder", "file", 4, 1),
        ("screen", "file", 0, 0),
    ]


def test_pauses_get_longer_to_an_end() -> None:
    """None before the fifth failure; then 10 s to 5 min, which repeat."""
    found = [pause(failures, random=lambda: 0.5) for failures in (0, 4, 5, 6, 7, 8, 9, 10, 1000)]
    assert found == [None, None, 10, 30, 60, 120, 300, 300, 300]


# The clock


@pytest.mark.parametrize("ahead", [HOUR, 48 * HOUR, 10_000 * HOUR])
async def test_a_step_nobody_saw_strands_nothing(journal: Journal, ahead: int) -> None:
    """Whatever a wrong clock has written, an engine that starts waits no longer than the longest wait of its kind."""
    await fill(journal, 1)
    (work,) = await take(journal)
    await end(journal, work, due_ms=NOW + ahead)
    await journal.pause("folder", NOW + ahead, "429")
    row = submission(9, send_due_ms=NOW + ahead, poll_due_ms=NOW + ahead, files=(due_file(NOW + ahead),))
    await journal.add(row)
    await journal.due("send", NOW + 60_000, 1)  # a bucket's first index entry comes early, and leads to the row then
    await journal.clamp(NOW)
    found = await journal.get(row.id)
    waiting = await journal.delivery(work.delivery.id)
    assert found is not None
    assert waiting is not None
    assert waiting.due_ms - NOW <= max(DELIVERY) * 1100
    assert ((await state(journal)).paused_until_ms or 0) - NOW <= max(DELIVERY) * 1000
    assert (found.send_due_ms or 0) - NOW <= HOUR
    assert (found.poll_due_ms or 0) - NOW <= 330_000
    assert (found.media_due_ms or 0) - NOW <= 3_960_000


async def test_ordinary_waits_are_left_alone(journal: Journal) -> None:
    """Starting an engine brings nothing forward that waits as it should."""
    await fill(journal, 1)
    (work,) = await take(journal)
    await end(journal, work, due_ms=NOW + int(max(DELIVERY) * 1000))
    row = submission(9, send_due_ms=NOW + 132_000, poll_due_ms=NOW + 15_000, files=(due_file(NOW + 600_000),))
    await journal.add(row)
    await journal.add(submission(10, poll_due_ms=NOW + HOUR))
    assert await journal.clamp(NOW, HOUR) == 0
