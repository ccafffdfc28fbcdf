"""Claims: take what is due, begin its attempts, and read all they need, in one statement where all is well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from receiver.deliveries import Delivery, DestinationRecord, Receipt
from receiver.errors import JournalError
from receiver.events import Event, Media
from receiver.journal import Work, rules
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import row, rows
from receiver.journal.rows import delivery_from_row, from_row, reader

Taken = Sequence[Any]
"""Rows of deliveries that were taken, the longest due first, with what `works` makes of them."""


async def claim(
    db: Connection, mark: Mark, *, destination: str, owner: str, limit: int, now_ms: int, probing: bool = False
) -> Taken:
    """Take up to `limit`."""
    values = {"destination": destination, "owner": owner, "limit": limit, "now_ms": now_ms, "probing": probing}
    return await rows(db, "claim", **values, **mark.values)


async def probe(db: Connection, mark: Mark, *, destination: str, owner: str, limit: int, now_ms: int) -> Taken:
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


async def claim_alone(db: Connection, mark: Mark, *, id: str, owner: str, now_ms: int) -> Taken:
    """Take this one, if it is still there."""
    return await rows(db, "claim_alone", id=id, owner=owner, now_ms=now_ms, **mark.values)


Unreadable = tuple[Delivery, str]
"""A delivery that cannot run, and why."""


def works(taken: Taken) -> tuple[list[Work], list[Unreadable]]:
    """What attempts need, in the same order; and the deliveries that lack something."""
    if not taken:
        return [], []
    delivery_of = _delivery_reader(tuple(taken[0].keys()))
    found, unreadable = [], []
    for record in taken:
        try:
            found.append(_work(delivery_of(record), record))
        except (JournalError, msgspec.DecodeError) as exc:
            unreadable.append((delivery_from_row(record), str(exc)))
    return found, unreadable


@functools.lru_cache(maxsize=4)
def _delivery_reader(names: tuple[str, ...]) -> Callable[[Any], Delivery]:
    return reader(Delivery, {name: at for at, name in enumerate(names)})


_event_of = msgspec.json.Decoder(Event).decode
_media_of = msgspec.json.Decoder(tuple[Media, ...]).decode
_receipt_of = msgspec.json.Decoder(Receipt).decode


def _work(delivery: Delivery, record: Any) -> Work:
    """Raises JournalError or DecodeError if something is lost or cannot be read."""
    if record["media"] is None or record["event"] is None:
        raise JournalError(f"Delivery {delivery.id} has lost its submission or event.")
    parent = record["parent_receipts"]
    return Work(
        delivery=delivery,
        event=_event_of(record["event"]),
        media=_media_of(record["media"]),
        media_problem=record["media_problem"],
        media_due_ms=record["media_due_ms"],
        receipts=_receipts(record["receipts"]),
        parent=_receipts(parent).get(delivery.destination) if parent else None,
    )


def _receipts(found: Sequence[str]) -> dict[str, Receipt]:
    """By destination, the newest: each begins with its delivery's id."""
    return {name: _receipt_of(receipt) for _, name, receipt in (text.split("\n", 2) for text in sorted(found))}
