"""Claims: take what is due, begin its attempts, and read all they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from receiver.journal.rows import from_row


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
    parts = {name: number for number, name in enumerate(names[:cut])}, _after(names, cut)
    works, unreadable = [], []
    for record in found:
        delivery = from_row(Delivery, _Part(record, parts[0]))
        try:
            works.append(_work(delivery, _Part(record, parts[1])))
        except (JournalError, msgspec.DecodeError) as exc:
            unreadable.append((delivery, str(exc)))
    order = {id: number for number, id in enumerate(ids)}
    return sorted(works, key=lambda work: order[work.delivery.id]), unreadable


def _after(names: Sequence[str], cut: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names) if number > cut}


class _Part(Mapping[str, Any]):
    """The columns of one table in a row of two."""

    __slots__ = ("_positions", "_record")

    def __init__(self, record: Any, positions: Mapping[str, int]) -> None:
        self._record = record
        self._positions = positions

    def __getitem__(self, name: str) -> Any:
        return self._record[self._positions[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def _work(delivery: Delivery, rest: Mapping[str, Any]) -> Work:
    """Raises JournalError or DecodeError if something is lost or cannot be read."""
    if rest["id"] is None or rest["event"] is None:
        raise JournalError(f"Delivery {delivery.id} has lost its submission or event.")
    return Work(
        delivery=delivery,
        event=msgspec.json.decode(rest["event"], type=Event),
        submission=from_row(Submission, rest),
        receipts=_receipts(rest["receipts"]),
        parent=_receipts(rest["parent_receipts"]).get(delivery.destination),
    )


def _receipts(found: Sequence[str]) -> dict[str, Receipt]:
    pairs = (text.split("\n", 1) for text in found)
    return {name: msgspec.json.decode(receipt, type=Receipt) for name, receipt in pairs}
