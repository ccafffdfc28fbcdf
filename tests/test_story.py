"""One delivery told to a stranger: a table of what can have happened, and what is said about it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from journals import NOW, delivery, due_file, event, submission

from receiver.cli.deliveries import TRIES, Story
from receiver.deliveries import AttemptRecord, Delivery, Receipt

ROW = submission(1)
FACT = event(ROW)
MINUTE = 60_000


def attempt(number: int, outcome: Any, detail: str | None = None, *, manual: bool = False) -> AttemptRecord:
    started = NOW + number * MINUTE
    finished = None if outcome is None else started + 1500
    return AttemptRecord(
        delivery_id="d", number=number, started_ms=started, finished_ms=finished, outcome=outcome, detail=detail,
        manual=manual,
    )  # fmt: skip


def story(*attempts: AttemptRecord, **fields: Any) -> Story:
    """Fields of the story itself, and of its delivery."""
    own = {name: fields.pop(name) for name in ("event", "submission", "instead", "paused", "now_ms") if name in fields}
    item: Delivery = delivery(FACT, 1, **{"attempt": len(attempts), **fields})
    defaults: dict[str, Any] = {"event": FACT, "submission": ROW, "instead": None, "paused": None, "now_ms": NOW}
    return Story(delivery=item, attempts=list(attempts), **{**defaults, **own})


def status(item: Story) -> str:
    return dict(item.lines())["status"]


FAILED = attempt(1, "failed", "connection refused")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (story(due_ms=NOW), "pending: not tried yet, due 2026-03-12 11:29:02 UTC (now)"),
        (
            story(
                due_ms=NOW + 2 * MINUTE,
                submission=msgspec.structs.replace(ROW, files=(due_file(NOW),), late_ms=NOW + 1),
            ),
            "pending: not tried yet, due 2026-03-12 11:31:02 UTC (in 2 min), or as soon as the picture is there",
        ),
        (
            story(FAILED, failures=1, due_ms=NOW + 5 * 3_600_000),
            f"pending: tried again by itself, due 2026-03-12 16:29:02 UTC (in 5 h); 1 of {TRIES} failures, "
            "then it is dead",
        ),
        (
            story(FAILED, failures=0, manual=True, due_ms=NOW),
            "pending: a person asked for it again, due 2026-03-12 11:29:02 UTC (now)",
        ),
        (
            story(due_ms=NOW, paused=(NOW + 30_000, "HTTP 503")),
            "pending: due 2026-03-12 11:29:02 UTC (now), but folder gets nothing until 2026-03-12 11:29:32 UTC: "
            "HTTP 503",
        ),
        (story(due_ms=NOW, paused=(NOW - 1, "over")), "pending: not tried yet, due 2026-03-12 11:29:02 UTC (now)"),
        (
            story(attempt(1, None), status="running", owner="17-ab"),
            "running: attempt 1 is under way, in engine 17-ab",
        ),
        (
            story(FAILED, attempt(2, "succeeded"), status="succeeded", finished_ms=NOW),
            "succeeded at 2026-03-12 11:29:02 UTC, at attempt 2",
        ),
        (
            story(attempt(1, "rejected", "no such folder"), status="dead", finished_ms=NOW),
            "dead at 2026-03-12 11:29:02 UTC: the destination refused it for good; it is not tried again by itself",
        ),
        (
            story(*[FAILED] * TRIES, status="dead", failures=TRIES, finished_ms=NOW),
            f"dead at 2026-03-12 11:29:02 UTC: {TRIES} attempts have failed; it is not tried again by itself",
        ),
        (
            story(status="cancelled", finished_ms=NOW),
            "cancelled at 2026-03-12 11:29:02 UTC: a newer event of the same task took its place",
        ),
    ],
)
def test_every_status_in_words(item: Story, words: str) -> None:
    """What it means, since when or until when, and why."""
    assert status(item) == words


def test_what_it_was_about() -> None:
    """The event in words, the prompt, the destination, the receipt, the files, and the reason where it went wrong."""
    item = story(
        attempt(1, "rejected", "no such folder"),
        status="dead",
        detail="no such folder",
        receipt=Receipt(ref="/out/1.png", url="https://example.test/1"),
        submission=msgspec.structs.replace(
            ROW, files=(msgspec.structs.replace(due_file(None), problem="the link was dead"),)
        ),
    )
    lines = dict(item.lines())
    assert lines["event"] == f"{FACT.id}: the task succeeded, 2026-03-12 11:29:02 UTC"
    assert lines["prompt"] == "a paper boat"
    assert lines["destination"] == "folder"
    assert lines["receipt"] == "/out/1.png https://example.test/1"
    assert lines["reason"] == "no such folder"
    assert lines["files"] == f"the link was dead. To try again: receiver media fetch {ROW.id}"


def test_a_persons_attempts_are_told_apart() -> None:
    """And one still running has neither end nor outcome."""
    item = story(FAILED, attempt(2, "succeeded", manual=True), attempt(3, None))
    assert [(row[0], row[1], row[3], row[4]) for row in item.rows()] == [
        ("1", "Receiver", "1.500", "failed"),
        ("2", "a person", "1.500", "succeeded"),
        ("3", "Receiver", "", "running"),
    ]


def test_a_delivery_made_by_a_replay() -> None:
    """It says so, and one that was only replayed does not."""
    born = dict(story(manual=True).lines())
    assert born["owed since"].endswith(", by a replay")
    assert dict(story(FAILED, manual=True).lines())["owed since"].endswith(" UTC")


def test_outcomes_are_explained_once() -> None:
    """Those a stranger would not know."""
    ends = ("interrupted", "postponed", "vanished", "succeeded")
    others = [attempt(number, outcome) for number, outcome in enumerate(ends, start=3)]
    item = story(FAILED, FAILED, *others)
    assert [outcome for outcome, _ in item.meanings()] == ["failed", "interrupted", "postponed", "vanished"]


@pytest.mark.parametrize(
    ("item", "command"),
    [
        (story(), "receiver worker"),
        (story(FAILED, due_ms=NOW + MINUTE), "To try now: receiver deliveries replay 01KKGM7NK20000000000000001"),
        (story(paused=(NOW + 1, "HTTP 503")), "receiver destinations resume folder"),
        (story(attempt(1, None), status="running"), "Wait for its end"),
        (story(FAILED, status="dead"), "receiver deliveries replay 01KKGM7NK20000000000000001 --to NAME"),
        (story(FAILED, status="succeeded"), "--as-new"),
        (
            story(status="cancelled", instead=delivery(FACT, 2)),
            "receiver deliveries show 01KKGM7NK20000000000000002 (task.succeeded)",
        ),
        (story(status="cancelled"), "receiver deliveries replay 01KKGM7NK20000000000000001"),
    ],
)
def test_what_to_do_next(item: Story, command: str) -> None:
    """A command that can be copied."""
    assert any(command in step for step in item.next_steps()), item.next_steps()


def test_of_a_deleted_event_little_is_left_to_do() -> None:
    """It cannot be replayed."""
    item = story(status="dead", event=None, submission=None)
    assert "it has been deleted" in dict(item.lines())["event"]
    assert item.next_steps() == []
