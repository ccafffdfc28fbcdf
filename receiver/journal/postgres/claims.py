"""Claims: take what is due, begin its attempts, and read all they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from receiver.deliveries import Delivery, DestinationRecord, Receipt
from receiver.errors import JournalError
from receiver.events import Event, Submission
from receiver.journal import rules
from receiver.journal.base import Work
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import row, rows
from receiver.journal.rows import from_row, reader


async def claim(
    db: Connection, mark: Mark, *, destination: str, owner: str, limit: int, now_ms: int, probing: bool = False
) -> list[str]:
    """Take up to `limit`, in one statement, where all is well. Their ids, the longest due first."""
    values = {"destination": destination, "owner": owner, "limit": limit, "now_ms": now_ms, "probing": probing}
    return [found["id"] for found in await rows(db, "claim", **values, **mark.values)]


async def probe(db: Connection, mark: Mark, *, destination: str, owner: str, limit: int, now_ms: int) -> list[str]:
    """The same where the destination seems to be down: asked under its lock, so that of two processes one sends the
    probe."""
    limit = await _room(db, destination, limit, now_ms)
    if not limit:
        return []
    return await claim(db, mark, destination=destination, owner=owner, limit=limit, now_ms=now_ms, probing=True)


async def _room(db: Connection, destination: str, limit: int, now_ms: int) -> int:
    found = await row(db, "lock_destination", name=destination)
    if found is None:
        return limit
    record = from_row(DestinationRecord, found)
    if record.paused(now_ms):
        return 0
    if not rules.is_down(record):
        return limit
    return 0 if await row(db, "any_running", destination=destination) else min(limit, 1)


async def claim_alone(db: Connection, mark: Mark, *, id: str, owner: str, now_ms: int) -> list[str]:
    """Take this one, if it is still there."""
    values = {"id": id, "owner": owner, "now_ms": now_ms}
    return [found["id"] for found in await rows(db, "claim_alone", **values, **mark.values)]


Unreadable = tuple[Delivery, str]
"""A delivery that cannot run, and why."""


async def read(db: Connection, ids: Sequence[str]) -> tuple[list[Work], list[Unreadable]]:
    """What claimed deliveries need, in the same order; and those that lack something."""
    found = await rows(db, "needs", ids=ids)
    if not found:
        return [], []
    names = list(found[0].keys())
    cut = names.index("cut")
    delivery_of = reader(Delivery, {name: at for at, name in enumerate(names) if at < cut})
    rest = {name: at for at, name in enumerate(names) if at > cut}
    submission_of = reader(Submission, rest)
    works, unreadable = [], []
    for record in found:
        delivery = delivery_of(record)
        try:
            works.append(_work(delivery, submission_of, {name: record[rest[name]] for name in _REST}, record))
        except (JournalError, msgspec.DecodeError) as exc:
            unreadable.append((delivery, str(exc)))
    order = {id: number for number, id in enumerate(ids)}
    return sorted(works, key=lambda work: order[work.delivery.id]), unreadable


_REST = ("id", "event", "receipts", "parent_receipts")
"""What else is read of a row: of the submission, and beside it."""


def _work(delivery: Delivery, submission_of: Callable[[Any], Submission], rest: Mapping[str, Any], record: Any) -> Work:
    """Raises JournalError or DecodeError if something is lost or cannot be read."""
    if rest["id"] is None or rest["event"] is None:
        raise JournalError(f"Delivery {delivery.id} has lost its submission or event.")
    return Work(
        delivery=delivery,
        event=msgspec.json.decode(rest["event"], type=Event),
        submission=submission_of(record),
        receipts=_receipts(rest["receipts"]),
        parent=_receipts(rest["parent_receipts"]).get(delivery.destination),
    )


def _receipts(found: Sequence[str]) -> dict[str, Receipt]:
    pairs = (text.split("\n", 1) for text in found)
    return {name: msgspec.json.decode(receipt, type=Receipt) for name, receipt in pairs}
