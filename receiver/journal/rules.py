"""What every journal decides alike, whatever keeps the rows, above all what an attempt's end means: values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from receiver.backoff import DELIVERY, DOWN_AFTER, MEDIA, MOST, PROVISIONAL, pause, wait
from receiver.backoff import LONGEST_RETRY_AFTER as LONGEST_ASKED
from receiver.deliveries import AttemptOutcome, Completion, Delivery, DeliveryStatus, DestinationRecord
from receiver.events import Submission
from receiver.journal.base import LASTING_ROLES


def speaks(completion: Completion) -> bool:
    """Whether an end says something of its destination. That it asks to wait, or that we were stopped, says nothing."""
    return completion.outcome not in ("postponed", "interrupted")


def failed(found: DestinationRecord, completion: Completion) -> DestinationRecord:
    """A destination after an attempt that failed or was rejected.

    A rejection is about one delivery, and what fails during a pause had begun before it: neither makes it longer.
    """
    now_ms = completion.finished_ms
    told = msgspec.structs.replace(found, last_error_ms=now_ms, last_error=completion.detail)
    if not completion.counts or found.paused(now_ms):
        return told
    failures = found.failures + 1
    seconds = pause(failures)
    if seconds is None:
        return msgspec.structs.replace(told, failures=failures)
    return msgspec.structs.replace(
        told,
        failures=failures,
        paused_until_ms=now_ms + int(seconds * 1000),
        paused_reason=f"{failures} attempts in a row have failed, the last one with: {completion.detail}",
    )


def succeeded(found: DestinationRecord, now_ms: int) -> DestinationRecord:
    """A destination after an attempt that succeeded; the same one where that says nothing new: each second at most
    while all goes well. A pause that lasts was not made by what has just succeeded."""
    over = found.paused_until_ms is not None and not found.paused(now_ms)
    if not found.failures and not over and abs((found.last_success_ms or 0) - now_ms) < 1000:
        return found
    if not found.paused(now_ms):
        found = msgspec.structs.replace(found, paused_until_ms=None, paused_reason=None)
    return msgspec.structs.replace(found, failures=0, last_success_ms=now_ms)


def is_down(found: DestinationRecord) -> bool:
    """Whether a destination gets one delivery at a time, as a probe."""
    return found.failures >= DOWN_AFTER


def runs_alone(role: str, store: str) -> bool:
    """Whether an engine suffers no other, and so names no place for pictures: a copy, or a compaction."""
    return role not in LASTING_ROLES and not store


def charge(left: Sequence[Delivery], now_ms: int) -> list[Completion]:
    """How the attempts of a vanished engine ended. Who is charged: all, for the reason is one of them; those suspected
    before, if there are any."""
    suspected = any(delivery.alone for delivery in left)
    return [
        _vanished(delivery, now_ms) if delivery.alone or not suspected else _beside(delivery, now_ms)
        for delivery in left
    ]


def _vanished(delivery: Delivery, now_ms: int) -> Completion:
    """The first time it may be a stranger's fault, so it is due at once; from the second on it waits like any failure,
    lest it ends each engine as soon as there is one."""
    seconds = wait(DELIVERY, max(delivery.failures, 1)) or 0.0 if delivery.alone else 0.0
    used_up = delivery.failures >= len(DELIVERY)
    return Completion(
        delivery_id=delivery.id,
        attempt=delivery.attempt,
        owner=delivery.owner or "",
        outcome="vanished",
        status="dead" if used_up else "pending",
        finished_ms=now_ms,
        due_ms=now_ms + int(seconds * 1000),
        counts=True,
        detail="the process ended while the attempt ran" + ("; the retries are used up" if used_up else ""),
    )


def _beside(delivery: Delivery, now_ms: int) -> Completion:
    detail = "the process ended beside another delivery that had been running at such an end before"
    return _uncounted(delivery, now_ms, outcome="interrupted", status="pending", detail=detail)


def unreadable(delivery: Delivery, now_ms: int, detail: str) -> Completion:
    """The end of what cannot be read: it can never run, and must not hold up its destination for ever."""
    return _uncounted(delivery, now_ms, outcome="rejected", status="dead", detail=detail)


def _uncounted(
    delivery: Delivery, now_ms: int, *, outcome: AttemptOutcome, status: DeliveryStatus, detail: str
) -> Completion:
    return Completion(
        delivery_id=delivery.id,
        attempt=delivery.attempt,
        owner=delivery.owner or "",
        outcome=outcome,
        status=status,
        finished_ms=now_ms,
        due_ms=now_ms,
        counts=False,
        detail=detail,
    )


def reach(statement: str, now_ms: int, step_ms: int) -> dict[str, int]:
    """Parameters of one of the statements in `LONGEST`: what is due after the longest wait of its kind was written by
    a clock that went ahead."""
    longest_ms = int(LONGEST[statement] * 1000)
    after_ms = now_ms if step_ms else now_ms + longest_ms
    return {"now_ms": now_ms, "step_ms": step_ms, "longest_ms": longest_ms, "after_ms": after_ms}


LONGEST: Mapping[str, float] = {
    "advance_deliveries": max(DELIVERY) * MOST,
    "advance_pauses": max(DELIVERY),
    "advance_sends": LONGEST_ASKED,
    "advance_polls": max(PROVISIONAL) * MOST,
    "advance_media": max(MEDIA) * MOST,
    "advance_deadlines": 365 * 86400.0,
}
"""Seconds. A deadline may be set to anything sensible; a poll whose wait was set longer comes early once, which harms
nobody."""


def only_heard(old: Submission, new: Submission) -> bool:
    """Whether the rows differ in nothing but what most callbacks and polls change."""
    heard = msgspec.structs.replace(
        old, task=new.task, callbacks=new.callbacks, poll_due_ms=new.poll_due_ms, polls=new.polls, misses=new.misses
    )
    return heard == new
