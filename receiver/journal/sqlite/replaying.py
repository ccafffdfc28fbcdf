"""Replay inside one transaction: plain functions on a connection.

A replayed delivery is exempt from the last word: it takes nobody's place, and nothing newer takes its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from receiver.deliveries import Delivery
from receiver.journal.orders import fresh, outcome_of, range_of
from receiver.journal.rows import delivery_from_row
from receiver.journal.selection import REPLAYED, Order, Replayed, Selection
from receiver.journal.sqlite.staged import delivery_row
from receiver.journal.sqlite.statements import SQL

Connection = sqlite3.Connection


def select_deliveries(db: Connection, selection: Selection, after: str, limit: int) -> list[Delivery]:
    """A page of the selection, in order of id, which is the order of time."""
    statement = "select_deliveries" if selection.submission_id is None else "select_submission_deliveries"
    after, until = range_of(selection, after)
    values = {
        "submission_id": selection.submission_id,
        "destination": selection.destination,
        "status": selection.status,
        "after": after,
        "until": until,
        "limit": limit,
    }
    return [delivery_from_row(row) for row in db.execute(SQL[statement], values)]


def select_events(db: Connection, selection: Selection, after: int, limit: int) -> list[sqlite3.Row]:
    """A page of the selection, in the order in which the facts became known."""
    statement = "select_events" if selection.submission_id is None else "select_submission_events"
    values = {
        "submission_id": selection.submission_id,
        "type": selection.type,
        "since_ms": selection.since_ms,
        "until_ms": selection.until_ms,
        "after": after,
        "limit": limit,
    }
    return db.execute(SQL[statement], values).fetchall()


def event_deliveries(db: Connection, event_id: str, submission_id: str, destination: str | None) -> list[Delivery]:
    """What one event is or was owed, the newest first."""
    values = {"event_id": event_id, "submission_id": submission_id, "destination": destination}
    return [delivery_from_row(row) for row in db.execute(SQL["event_deliveries"], values)]


def foresee(db: Connection, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
    """What `replay` would do now. Writes nothing."""
    return [_foresee(db, order, now_ms) for order in orders]


def replay(db: Connection, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
    """Make what is ordered owed, due now."""
    return [_replay(db, order, now_ms) for order in orders]


def _foresee(db: Connection, order: Order, now_ms: int) -> Replayed:
    event = db.execute(SQL["has_event"], {"id": order.event_id}).fetchone() is not None
    return outcome_of(order, _existing(db, order), now_ms, event=event)


def _existing(db: Connection, order: Order) -> Delivery | None:
    if order.delivery_id is not None:
        row = db.execute(SQL["get_delivery"], {"id": order.delivery_id}).fetchone()
        return None if row is None else delivery_from_row(row)
    found = event_deliveries(db, order.event_id, order.submission_id, order.destination)
    return found[0] if found else None


def _replay(db: Connection, order: Order, now_ms: int) -> Replayed:
    seen = _foresee(db, order, now_ms)
    if seen.outcome not in REPLAYED:
        return seen
    if seen.delivery_id is not None:
        db.execute(SQL["revive_delivery"], {"id": seen.delivery_id, "now_ms": now_ms})
        return seen
    delivery = fresh(order, now_ms)
    db.execute(SQL["insert_delivery"], delivery_row(delivery))
    return Replayed(order=order, outcome="new", delivery_id=delivery.id)
