"""The pace of polls: a table of the rule, what it learns, and its budget."""

from __future__ import annotations

import pytest
from journals import NOW, event, submission

from receiver.events import Event, Submission
from receiver.intake.pace import ENOUGH, LAST, NAMES, SHORTEST_LAGGING_MS, SHORTEST_MS, Budget, Durations, next_poll_ms
from receiver.tasks import Task


@pytest.mark.parametrize(
    ("percent", "idle", "usual", "wait"),
    [
        (0, 0, 20, 10),  # half of what is left
        (0, 0, 120, 15),  # at most the longest wait
        (0, 30, 40, 5),
        (0, 39, 40, 2),  # at least the shortest
        (0, 40, 40, 2),
        (0, 50, 40, 5),  # as rare after the expected end as before it
        (0, 4000, 40, 15),
        (50, 0, 40, 10),  # the percentage says how much is left
        (93, 0, 40, 2),
        (93, 60, 40, 15),  # a frozen percentage
        (100, 0, 40, 2),  # a success whose links are still to come
        (100, 20, 40, 10),
        (50, -3600, 40, 10),  # the clock was set back
    ],
)
def test_the_next_poll(percent: int, idle: int, usual: int, wait: int) -> None:
    """Seconds of waiting, of at most 15, for a task whose percentage was first seen `idle` seconds ago."""
    since_ms = NOW - idle * 1000
    due_ms = next_poll_ms(NOW, since_ms=since_ms, percent=percent, usual_ms=usual * 1000, longest_ms=15_000)
    assert due_ms - NOW == wait * 1000


def test_a_longest_wait_below_the_shortest() -> None:
    """The setting wins over what a task is worth."""
    assert next_poll_ms(NOW, since_ms=NOW, percent=0, usual_ms=40_000, longest_ms=200) == NOW + 200


def row_of(kind: str = "imagine", action: str = "", speed: str | None = None, number: int = 1) -> Submission:
    task = Task(id="17", action=action) if action else None
    return submission(number, kind=kind, speed=speed, task=task, sends=1)


def end(row: Submission, took: float, *, seen: float = 0, source: str = "poll") -> Event:
    """A result after so many seconds by the provider's clock, which is an hour ahead, seen so long after it."""
    task = Task(id="17", submit_ms=NOW + 3_600_000, finish_ms=NOW + 3_600_000 + int(took * 1000))
    created_ms = row.created_ms + int((took + seen) * 1000)
    return event(row, task=task, source=source, created_ms=created_ms)


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        (row_of(), 40),
        (row_of(speed="turbo"), 20),
        (row_of(speed="relax"), 120),
        (row_of("describe"), 10),
        (row_of("action"), 10),
        (row_of("action", "UPSCALE"), 10),
        (row_of("action", "VARIATION"), 40),
    ],
)
def test_what_is_usual_at_the_start(row: Submission, seconds: int) -> None:
    """The documented times."""
    assert Durations().usual_ms(row) == seconds * 1000


def test_what_is_usual_is_learnt() -> None:
    """The median of the last results of the same action, or kind, and speed."""
    durations = Durations()
    for took in (300, 300, *[30] * LAST, 25, 600):
        durations.learn(row_of(action="IMAGINE"), end(row_of(), took))
    assert durations.usual_ms(row_of()) == durations.usual_ms(row_of(action="IMAGINE")) == 30_000
    assert durations.usual_ms(row_of(speed="turbo")) == 20_000
    durations.learn(row_of("action", "UPSCALE"), end(row_of(), 5))
    assert durations.usual_ms(row_of("action", "UPSCALE")) == durations.usual_ms(row_of("action")) == 5_000
    assert durations.usual_ms(row_of("action", "VARIATION")) == 5_000


def test_times_that_cannot_be_are_not_learnt() -> None:
    """A provider may say anything, and its words are not kept without a limit."""
    durations = Durations()
    for took in (0, -5, 10**9):
        durations.learn(row_of(), end(row_of(), took))
    assert durations.usual_ms(row_of()) == 40_000
    durations.learn(row_of(), end(row_of(), 30))
    for number in range(2 * NAMES):
        durations.learn(row_of("action", f"A{number}"), end(row_of(), 9))
    assert durations.usual_ms(row_of()) == 40_000  # forgotten


@pytest.mark.parametrize(
    ("seen", "source", "shortest"),
    [
        ([1, 1, 2, 2, 1], "poll", SHORTEST_MS),
        ([3, 14, 9, 7, 1, 12], "poll", SHORTEST_LAGGING_MS),
        ([3, 14, 9], "poll", SHORTEST_MS),  # too few
        ([3, 14, 9, 7, 1, 12], "callback", SHORTEST_MS),  # says nothing of the provider's view
        ([14] * ENOUGH + [1] * LAST, "poll", SHORTEST_MS),  # not for ever
    ],
)
def test_a_view_that_is_refreshed_rarely(seen: list[int], source: str, shortest: int) -> None:
    """It is worth no question every 2 s, whatever the difference between the clocks."""
    durations = Durations()
    for age in seen:
        durations.learn(row_of(), end(row_of(), 36, seen=age, source=source))
    assert durations.shortest_ms == shortest


def test_the_budget() -> None:
    """A sixth of a minute's requests at once, then one after another: never more than the setting in a minute."""
    budget, now, asked = Budget(60), 1000.0, list[float]()
    while now < 1120:
        now += budget.wait(now)
        budget.spend(1)
        asked.append(now)
    assert sum(at == 1000 for at in asked) == 10
    assert max(sum(start <= at < start + 60 for at in asked) for start in asked) in (59, 60)
    budget.spend(1000)
    assert budget.wait(now) == pytest.approx(11 / (50 / 60), abs=2)
