"""What a batch writes, column by column, as the parameters of its statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from receiver.deliveries import Delivery
from receiver.events import Event, Submission
from receiver.journal.rows import to_json, to_row

ALL = (*Submission.__struct_fields__, "task_status")
CHANGING = (
    "id", "once", "reply", "status", "outcome", "detail", "sends", "send_due_ms", "task_id", "task", "ended",
    "deadline_ms", "poll_due_ms", "polls", "misses", "claim", "callbacks", "media", "media_problem", "media_tries",
    "media_due_ms", "fallback_urls", "task_status",
)  # fmt: skip


def columns(values: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in values] for name in names}


def heard_rows(heard: Sequence[Submission]) -> dict[str, list[Any]]:
    return {
        "heard": [row.id for row in heard],
        "tasks": [None if row.task is None else to_json(row.task) for row in heard],
        "task_statuses": [row.task_status for row in heard],
        "counts": [row.callbacks for row in heard],
        "polls_due": [row.poll_due_ms for row in heard],
        "polls": [row.polls for row in heard],
        "misses": [row.misses for row in heard],
    }


def event_rows(events: Sequence[Event]) -> dict[str, list[Any]]:
    return {
        "ids": [event.id for event in events],
        "submissions": [event.submission_id for event in events],
        "types": [event.type for event in events],
        "times": [event.created_ms for event in events],
        "bodies": [to_json(event) for event in events],
    }


def owed_rows(owed: Sequence[Delivery]) -> dict[str, list[Any]]:
    """The deliveries, and whose older ones give way to the first of them."""
    firsts = {(item.submission_id, item.destination): item for item in reversed(owed) if not item.manual}
    return {
        "owed": [item.id for item in owed],
        "owed_events": [item.event_id for item in owed],
        "owed_submissions": [item.submission_id for item in owed],
        "owed_destinations": [item.destination for item in owed],
        "owed_created": [item.created_ms for item in owed],
        "owed_due": [item.due_ms for item in owed],
        "owed_status": [item.status for item in owed],
        "owed_details": [item.detail for item in owed],
        "owed_finished": [item.finished_ms for item in owed],
        "owed_manual": [item.manual for item in owed],
        "newer_submissions": [submission_id for submission_id, _ in firsts],
        "newer_destinations": [destination for _, destination in firsts],
        "newer_created": [item.created_ms for item in firsts.values()],
    }


def callback_rows(callbacks: Sequence[tuple[str, int, str | None, bytes]]) -> dict[str, list[Any]]:
    return {
        "called": [row[0] for row in callbacks],
        "called_times": [row[1] for row in callbacks],
        "causes": [row[2] for row in callbacks],
        "bodies": [row[3] for row in callbacks],
    }


def full_rows(rows: Sequence[Submission]) -> list[dict[str, Any]]:
    """Submissions as rows of their table."""
    return [to_row(row) | {"task_status": row.task_status} for row in rows]
