"""What an order to replay comes to, whatever database holds the rows: pure functions on what was found there."""

from __future__ import annotations

from receiver.deliveries import Delivery
from receiver.events import first_id, new_id
from receiver.journal.selection import Order, Replayed, ReplayOutcome, Selection

_AFTER_ALL = "~"
"""Sorts behind every id."""


def range_of(selection: Selection, after: str) -> tuple[str, str]:
    """Ids of deliveries between which the selection's next page lies, without these two: ids are times."""
    since = "" if selection.since_ms is None else first_id(selection.since_ms)
    until = _AFTER_ALL if selection.until_ms is None else first_id(selection.until_ms)
    return max(after, since), until


def outcome_of(order: Order, found: Delivery | None, now_ms: int, *, event: bool) -> Replayed:
    """What the order comes to.

    Args:
        found: the delivery it means, if there is one.
        event: whether its event is still there.
    """
    if not event:
        return Replayed(order=order, outcome="gone", delivery_id=order.delivery_id)
    if found is None or order.as_new:
        return Replayed(order=order, outcome="new", delivery_id=None)
    return Replayed(order=order, outcome=_outcome(found, now_ms), delivery_id=found.id, was=found.status)


def _outcome(found: Delivery, now_ms: int) -> ReplayOutcome:
    if found.status == "running":
        return "running"
    if found.status == "pending":
        # One that was never tried may wait for its picture; its first attempt is still to come.
        return "sooner" if found.attempt and found.due_ms > now_ms else "owed"
    return "again"


def fresh(order: Order, now_ms: int) -> Delivery:
    """A new delivery for the order, due now."""
    return Delivery(
        id=new_id(now_ms),
        event_id=order.event_id,
        submission_id=order.submission_id,
        destination=order.destination,
        created_ms=now_ms,
        due_ms=now_ms,
        manual=True,
    )
