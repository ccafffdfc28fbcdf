"""One delivery told to somebody who has never seen it: what it was, what happened, what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from receiver.backoff import DELIVERY
from receiver.cli.output import when
from receiver.deliveries import AttemptOutcome, AttemptRecord, Delivery
from receiver.events import Event, EventType, Submission

_HAPPENED: dict[EventType, str] = {
    "task.accepted": "the provider took the task",
    "task.progressed": "the task went on",
    "task.input_required": "the task asks a person for input",
    "task.succeeded": "the task succeeded",
    "task.failed": "the task failed",
    "task.lost": "the task had no end within the deadline",
}

_MEANING: dict[AttemptOutcome, str] = {
    "failed": "it did not work; counts towards giving up",
    "rejected": "the destination refused it for good; it is not tried again by itself",
    "postponed": "the destination asked to be tried later; does not count towards giving up",
    "interrupted": "Receiver was stopped meanwhile; does not count towards giving up",
    "vanished": "Receiver's process ended without a word; counts towards giving up, for this may be the reason",
}

TRIES = len(DELIVERY) + 1
"""Failures until a delivery is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All there is to tell. `instead` is the newer delivery that took a cancelled one's place; `paused` says until when
    (epoch milliseconds) its destination gets nothing, and why."""

    delivery: Delivery
    attempts: list[AttemptRecord]
    event: Event | None
    submission: Submission | None
    instead: Delivery | None
    paused: tuple[int, str] | None
    now_ms: int


def told(story: Story) -> list[tuple[str, str]]:
    """(name, text) of each line above the attempts."""
    item = story.delivery
    receipt = item.receipt
    made = [part for part in (receipt.ref, receipt.url) if part] if receipt else []
    return [
        ("delivery", item.id),
        ("destination", item.destination),
        ("event", f"{item.event_id}: {_happened(story)}"),
        ("prompt", story.submission.prompt if story.submission else ""),
        ("status", _status(story)),
        ("reason", item.detail or "" if item.status not in ("succeeded", "cancelled") else ""),
        ("owed since", f"{when(item.created_ms)} UTC{', by a replay' if _born_manual(story) else ''}"),
        ("receipt", " ".join(dict.fromkeys(made))),
        ("files", _files(story)),
    ]


def _happened(story: Story) -> str:
    if story.event is None:
        return "it has been deleted"
    return f"{_HAPPENED[story.event.type]}, {when(story.event.created_ms)} UTC"


def _born_manual(story: Story) -> bool:
    return story.delivery.manual and (not story.attempts or story.attempts[0].manual)


def _files(story: Story) -> str:
    row = story.submission
    if row is None or story.event is None or story.event.type != "task.succeeded":
        return ""
    return f"{len(row.media)} archived" if row.media else row.media_problem or ""


def _status(story: Story) -> str:
    item = story.delivery
    ended = f" at {when(item.finished_ms)} UTC" if item.finished_ms else ""
    if item.status == "pending":
        return f"pending: {_waiting(story)}"
    if item.status == "running":
        return f"running: attempt {item.attempt} is under way, in engine {item.owner}"
    if item.status == "succeeded":
        return f"succeeded{ended}, at attempt {item.attempt}"
    if item.status == "dead":
        return f"dead{ended}: {_why_dead(story)}; it is not tried again by itself"
    return f"cancelled{ended}: a newer event of the same task took its place"


def _waiting(story: Story) -> str:
    item = story.delivery
    due = f"due {when(item.due_ms)} UTC ({_until(item.due_ms, story.now_ms)})"
    if story.paused is not None and story.paused[0] > story.now_ms:
        until, reason = story.paused
        return f"{due}, but {item.destination} gets nothing until {when(until)} UTC: {reason}"
    if item.attempt == 0:
        row = story.submission
        waits = row is not None and row.media_due_ms is not None and item.due_ms > story.now_ms
        return f"not tried yet, {due}{', or as soon as the picture is there' if waits else ''}"
    if item.manual and item.failures == 0:
        return f"a person asked for it again, {due}"
    return f"tried again by itself, {due}; {item.failures} of {TRIES} failures, then it is dead"


def _until(due_ms: int, now_ms: int) -> str:
    seconds = (due_ms - now_ms) // 1000
    if seconds <= 0:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"in {seconds // size} {unit}"
    return f"in {seconds} s"


def _why_dead(story: Story) -> str:
    last = story.attempts[-1].outcome if story.attempts else None
    if last == "rejected":
        return "the destination refused it for good"
    return f"{story.delivery.failures} attempts have failed"


def rows(story: Story) -> list[tuple[str, ...]]:
    """The attempts, for a table: number, who started it, when, how long, how it ended, detail."""
    return [_row(item) for item in story.attempts]


COLUMNS = ("ATTEMPT", "STARTED BY", "STARTED (UTC)", "SECONDS", "OUTCOME", "DETAIL")


def _row(item: AttemptRecord) -> tuple[str, ...]:
    seconds = "" if item.finished_ms is None else f"{(item.finished_ms - item.started_ms) / 1000:.3f}"
    by = "a person" if item.manual else "Receiver"
    return str(item.number), by, when(item.started_ms), seconds, item.outcome or "running", item.detail or ""


def meanings(story: Story) -> list[tuple[str, str]]:
    """What those outcomes in the table mean that do not speak for themselves."""
    seen = dict.fromkeys(item.outcome for item in story.attempts)
    return [(outcome, _MEANING[outcome]) for outcome in seen if outcome in _MEANING]


def next_steps(story: Story) -> list[str]:
    """What a person can do, as sentences with commands."""
    item = story.delivery
    again = f"receiver deliveries replay {item.id}"
    if story.event is None:
        return []
    if item.status == "pending":
        return _while_pending(story, again)
    if item.status == "running":
        return ["Wait for its end. If the engine has died, the next one starts it again."]
    if item.status == "dead":
        return [f"Mend what the reason names, then: {again}", f"Or bring it elsewhere: {again} --to NAME"]
    if item.status == "cancelled" and story.instead is not None:
        type = story.instead.event_id.partition(".")[2]
        return [f"Its successor: receiver deliveries show {story.instead.id} ({type})"]
    return [f"To deliver it once more: {again} (with --as-new if the destination drops repeats)"]


def _while_pending(story: Story, again: str) -> list[str]:
    item = story.delivery
    if story.paused is not None and story.paused[0] > story.now_ms:
        return [f"If the place works again, end the pause: receiver destinations resume {item.destination}"]
    steps = ["An engine delivers it: receiver serve, or receiver worker."]
    return [*steps, f"To try now: {again}"] if item.attempt and item.due_ms > story.now_ms else steps
