"""Replay inside one transaction: plain functions on a connection.

A replayed delivery is exempt from the last word: it takes nobody's place, and nothing newer takes its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from receiver.deliveries import Delivery
from receiver.journal.orders import Plan, plan, range_of
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import rows, run
from receiver.journal.rows import delivery_from_row
from receiver.journal.selection import Order, Replayed, Selection


async def select_deliveries(db: Connection, selection: Selection, after: str, limit: int) -> list[Delivery]:
    """A page of the selection, in order of id, which is the order of time."""
    statement = "select_deliveries" if selection.submission_id is None else "select_submission_deliveries"
    after, until = range_of(selection, after)
    found = await rows(
        db,
        statement,
        submission_id=selection.submission_id,
        destination=selection.destination,
        status=selection.status,
        after=after,
        until=until,
        limit=limit,
    )
    return [delivery_from_row(row) for row in found]


async def select_events(db: Connection, selection: Selection, after: int, limit: int) -> list[tuple[int, str]]:
    """A page of the selection, in the order in which the facts became known."""
    statement = "select_events" if selection.submission_id is None else "select_submission_events"
    found = await rows(
        db,
        statement,
        submission_id=selection.submission_id,
        type=selection.type,
        since_ms=selection.since_ms,
        until_ms=selection.until_ms,
        after=after,
        limit=limit,
    )
    return [(row["number"], row["id"]) for row in found]


async def event_deliveries(db: Connection, event_id: str, submission_id: str) -> list[Delivery]:
    """What one event is or was owed, the newest first."""
    found = await rows(db, "event_deliveries", event_id=event_id, submission_id=submission_id)
    return [delivery_from_row(row) for row in found]


async def foresee(db: Connection, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
    """What `replay` would do now. Writes nothing."""
    planned = await _plan(db, orders, now_ms, "deliveries_of")
    made = {item.id for item in planned.made}
    return [
        Replayed(order=item.order, outcome=item.outcome, delivery_id=None, was=item.was)
        if item.delivery_id in made
        else item
        for item in planned.replayed
    ]


async def replay(db: Connection, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
    """Make what is ordered owed, due now."""
    await rows(db, "lock_submissions", ids=sorted({order.submission_id for order in orders}))
    planned = await _plan(db, orders, now_ms, "lock_deliveries")
    if planned.revived:
        await run(db, "revive_deliveries", ids=planned.revived, now_ms=now_ms)
    if planned.made:
        await run(
            db,
            "insert_replays",
            ids=[item.id for item in planned.made],
            event_ids=[item.event_id for item in planned.made],
            submission_ids=[item.submission_id for item in planned.made],
            destinations=[item.destination for item in planned.made],
            now_ms=now_ms,
        )
    return planned.replayed


async def _plan(db: Connection, orders: Sequence[Order], now_ms: int, looked_up: str) -> Plan:
    """Decide on the rows that the orders mean; `looked_up`: the statement that reads them."""
    meant = [order.delivery_id for order in orders if order.delivery_id is not None]
    events = await rows(db, "events_there", ids=sorted({order.event_id for order in orders}))
    newest = await rows(
        db,
        "newest_deliveries",
        submission_ids=[order.submission_id for order in orders],
        event_ids=[order.event_id for order in orders],
        destinations=[order.destination for order in orders],
    )
    found = await rows(db, looked_up, ids=sorted({*meant, *(row["id"] for row in newest)}))
    return plan(orders, map(delivery_from_row, found), {row["id"] for row in events}, now_ms)
