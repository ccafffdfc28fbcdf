"""Rows built by hand, and a clock that stands still until it is told the time."""

from __future__ import annotations

from typing import Any

from receiver.clock import Clock
from receiver.deliveries import Completion, Delivery
from receiver.events import Event, EventType, Submission, event_id
from receiver.journal.base import Change, Work
from receiver.tasks import Task

NOW = 1_773_314_942_177
"""Epoch milliseconds; where tests start."""
ID = "01KKGM7NK10000000000000001"
TASK_ID = "1773314942177684"
OWNER = "engine-1"


class SetClock(Clock):
    """Shows the time it was set to."""

    def __init__(self, seconds: float = NOW / 1000) -> None:
        super().__init__()
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds


def submission(number: int = 1, **fields: Any) -> Submission:
    """A submission fresh from `prepare`, changed as told."""
    default: dict[str, Any] = {
        "id": f"01KKGM7NK1{number:016d}",
        "kind": "imagine",
        "created_ms": NOW,
        "prompt": "a paper boat",
        "request": {"prompt": "a paper boat"},
        "hooked": True,
        "send_due_ms": NOW + 30_000,
        "deadline_ms": NOW + 900_000,
    }
    return Submission(**default | fields)


def event(row: Submission, type: EventType = "task.succeeded", percent: int | None = None, **fields: Any) -> Event:
    """A fact about `row`."""
    default: dict[str, Any] = {
        "id": event_id(row.id, type, percent),
        "type": type,
        "submission_id": row.id,
        "created_ms": NOW,
        "source": "poll",
        "task_id": row.task_id,
        "status": row.task_status,
        "progress": percent,
        "prompt": row.prompt,
        "kind": row.kind,
        "labels": row.labels,
        "state": row.user_state,
        "parent_id": row.parent_id,
        "confirmed": True,
        "task": Task(id=TASK_ID, status="SUCCESS", image_url="https://cdn.example.test/1.png"),
    }
    return Event(**default | fields)


def delivery(fact: Event, number: int, destination: str = "folder", **fields: Any) -> Delivery:
    """`fact` owed to `destination`. Ids sort by `number`."""
    default: dict[str, Any] = {
        "id": f"01KKGM7NK2{number:016d}",
        "event_id": fact.id,
        "submission_id": fact.submission_id,
        "destination": destination,
        "created_ms": NOW,
        "due_ms": NOW,
    }
    return Delivery(**default | fields)


def owing(row: Submission, *owed: tuple[Event, Delivery]) -> Change:
    """A change that leaves the row as it is and adds these facts with what each owes."""
    facts = tuple({fact.id: fact for fact, _ in owed}.values())
    return Change(submission=row, events=facts, deliveries=tuple(one for _, one in owed))


def completion(work: Work | Delivery, **fields: Any) -> Completion:
    """How the attempt at `work` ended: well, unless told otherwise."""
    claimed = work.delivery if isinstance(work, Work) else work
    default: dict[str, Any] = {
        "delivery_id": claimed.id,
        "attempt": claimed.attempt,
        "owner": claimed.owner or OWNER,
        "outcome": "succeeded",
        "status": "succeeded",
        "finished_ms": NOW + 1,
        "due_ms": NOW + 1,
        "counts": False,
    }
    return Completion(**default | fields)
