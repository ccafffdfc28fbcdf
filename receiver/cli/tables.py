"""Tables of submissions, events and deliveries, and the words in them."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.cli.output import ago, print_table, when
from receiver.deliveries import Delivery
from receiver.events import Event, Submission
from receiver.tasks.reasons import in_english


def status_of(row: Submission) -> str:
    """Return the status, with the percentage while the task is in progress."""
    percent = percent_of(row) if row.display_status == "in_progress" else None
    return row.display_status if percent is None else f"{row.display_status} {percent} %"


def describe(row: Submission) -> str:
    """Return the state of a submission in a few words."""
    if row.ended is not None:
        saving = "Saving the result" if row.media_due_ms is None else "Downloading files"
        return saving if row.ended == "task.succeeded" else row.ended.removeprefix("task.").capitalize()
    if row.status == "prepared":
        return f"Waiting to send again: {row.detail}" if row.detail else "Sending"
    words = {"sending": "Sending", "unknown": "Waiting for a callback", "refused": "Refused"}
    if row.status in words:
        return words[row.status]
    if row.claim is not None or row.unlinked_ms is not None:
        return "Checking the result with the provider" if row.claim else "Waiting for the links to its files"
    percent = percent_of(row)
    if row.task_status == "IN_PROGRESS":
        return f"Drawing {percent} %" if percent is not None else "Drawing"
    return "Asks for input" if row.task_status == "MODAL" else "Accepted, waiting to start"


def percent_of(row: Submission) -> int | None:
    """Return the task's progress, if it has any."""
    return row.task.progress if row.task else None


def made_by(row: Submission) -> str:
    """Return the origin: the button that was pressed, or the kind of request."""
    return row.button or row.kind


def labels_of(row: Submission) -> str:
    """Return the labels as they are given."""
    return " ".join(f"{name}={value}" for name, value in row.labels.items())


def print_tasks(found: Sequence[Submission]) -> None:
    """Print a table of submissions."""
    columns = ("SUBMISSION", "AGE", "MADE BY", "STATUS", "LABELS", "PROMPT")
    rows = [(row.id, ago(row.created_ms), made_by(row), status_of(row), labels_of(row), row.prompt) for row in found]
    print_table(columns, rows, flexible=5, ids=True)


def print_events(found: Sequence[Event]) -> None:
    """Print a table of events."""
    rows = [(item.id, when(item.created_ms), item.source, in_english(item.reason or "", item.prompt)) for item in found]
    print_table(("EVENT", "TIME", "SOURCE", "REASON"), rows, below=True, ids=True)


def print_deliveries(found: Sequence[Delivery]) -> None:
    """Print a table of deliveries."""
    rows = []
    for item in found:
        made = (item.receipt.url or item.receipt.ref) if item.receipt else None
        type = item.event_id.partition(".")[2]
        rows.append((item.id, item.destination, item.status, type, str(item.attempt), made or item.detail or ""))
    print_table(("DELIVERY", "DESTINATION", "STATUS", "EVENT", "ATTEMPTS", "RECEIPT"), rows, below=True, ids=True)
