"""What an order to replay comes to, whatever database holds the rows: pure functions on what was found there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from receiver.deliveries import Delivery
from receiver.events import first_id, new_id
from receiver.journal.selection import REPLAYED, Order, Replayed, ReplayOutcome, Selection

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a page of orders comes to, decided at once.

    Attributes:
        replayed: the outcome of each, in order. What is new has its id already.
        revived: ids of deliveries that are owed again.
        made: new deliveries.
    """

    replayed: list[Replayed] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    made: list[Delivery] = field(default_factory=list)


def plan(orders: Sequence[Order], found: Iterable[Delivery], events: Collection[str], now_ms: int) -> Plan:
    """Decide about orders one after the other, each as if those before it had been carried out.

    Args:
        found: the deliveries they mean: those named, and of the others each event's newest one at its destination.
        events: ids of those of their events that are there.
    """
    by_id = {item.id: item for item in found}
    newest = {(item.event_id, item.destination): item for item in sorted(by_id.values(), key=lambda item: item.id)}
    result = Plan()
    for order in orders:
        place = (order.event_id, order.destination)
        meant = newest.get(place) if order.delivery_id is None else by_id.get(order.delivery_id)
        seen = outcome_of(order, meant, now_ms, event=order.event_id in events)
        if seen.outcome == "new":
            made = newest[place] = fresh(order, now_ms)
            result.made.append(made)
            seen = Replayed(order=order, outcome="new", delivery_id=made.id)
        elif meant is not None and seen.outcome in REPLAYED:
            result.revived.append(meant.id)
            again = msgspec.structs.replace(meant, status="pending", due_ms=now_ms)
            by_id[meant.id] = again
            if newest[place].id == meant.id:
                newest[place] = again
        result.replayed.append(seen)
    return result
