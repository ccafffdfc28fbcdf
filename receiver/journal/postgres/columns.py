"""What a batch writes, column by column, as the parameters of its statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from receiver.deliveries import Delivery
from receiver.events import Event, Submission
from receiver.journal.postgres.seen import Known
from receiver.journal.rows import to_json, to_row

ALL = (*Submission.__struct_fields__, "task_status")
CHANGING = (
    "id", "once", "reply", "status", "outcome", "detail", "sends", "send_due_ms", "task_id", "task", "ended",
    "deadline_ms", "poll_due_ms", "polls", "misses", "claim", "callbacks", "media", "media_problem", "media_tries",
    "media_due_ms", "fallback_urls", "task_status", "told",
)  # fmt: skip


def columns(values: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in values] for name in names}


Told = Mapping[str, str]
"""By submission, the new event that holds its task, which is not written a second time then."""


def heard_rows(heard: Sequence[Submission], told: Told) -> dict[str, list[Any]]:
    return {
        "heard": [row.id for row in heard],
        "tasks": [None if row.task is None or row.id in told else to_json(row.task) for row in heard],
        "told": [told.get(row.id) for row in heard],
        "task_statuses": [row.task_status for row in heard],
        "counts": [row.callbacks for row in heard],
        "polls_due": [row.poll_due_ms for row in heard],
        "polls": [row.polls for row in heard],
        "misses": [row.misses for row in heard],
    }


def event_rows(events: Sequence[tuple[Event, str]]) -> dict[str, list[Any]]:
    """Events, each with its body."""
    return {
        "event_ids": [event.id for event, _ in events],
        "event_submissions": [event.submission_id for event, _ in events],
        "event_types": [event.type for event, _ in events],
        "event_times": [event.created_ms for event, _ in events],
        "event_bodies": [body for _, body in events],
    }


def owed_rows(owed: Sequence[Delivery], known: Mapping[str, Known]) -> dict[str, list[Any]]:
    """Deliveries that are pending, or (`finished_ms`) gave way within the batch already; the older ones that give way
    to the first of them; and where it has to be looked which these are."""
    firsts = {(item.submission_id, item.destination): item for item in reversed(owed) if not item.manual}
    older, unknown = [], []
    for item in firsts.values():
        before = known[item.submission_id].last.get(item.destination)
        if before is None:
            unknown.append(item)
        else:
            older.append((before, item.created_ms))
    return {
        "owed": [item.id for item in owed],
        "owed_events": [item.event_id for item in owed],
        "owed_submissions": [item.submission_id for item in owed],
        "owed_destinations": [item.destination for item in owed],
        "owed_created": [item.created_ms for item in owed],
        "owed_due": [item.due_ms for item in owed],
        "owed_finished": [item.finished_ms for item in owed],
        "owed_manual": [item.manual for item in owed],
        "older": [id for id, _ in older],
        "older_times": [ms for _, ms in older],
        "newer_submissions": [item.submission_id for item in unknown],
        "newer_destinations": [item.destination for item in unknown],
        "newer_created": [item.created_ms for item in unknown],
    }


def callback_rows(callbacks: Sequence[tuple[str, int, str | None, bytes]]) -> dict[str, list[Any]]:
    return {
        "called": [row[0] for row in callbacks],
        "called_times": [row[1] for row in callbacks],
        "causes": [row[2] for row in callbacks],
        "bodies": [row[3] for row in callbacks],
    }


def full_rows(rows: Sequence[Submission], told: Told) -> list[dict[str, Any]]:
    """Submissions as rows of their table."""
    return [_full_row(row, told.get(row.id)) for row in rows]


def _full_row(row: Submission, told: str | None) -> dict[str, Any]:
    values = to_row(row) | {"task_status": row.task_status, "told": told}
    return values | {"task": None} if told else values
