"""Claims, each a transaction of its own: take what is due, begin its attempts, and read all they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from receiver.deliveries import Delivery, DestinationRecord, Receipt
from receiver.errors import JournalError
from receiver.events import Event, Submission
from receiver.journal import rules
from receiver.journal.base import Work
from receiver.journal.postgres import completions
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import row, rows
from receiver.journal.rows import from_row


async def claim(db: Connection, *, destination: str, owner: str, limit: int, now_ms: int, down: bool) -> list[Work]:
    """Take up to `limit`. `down`: the destination seems to be down, so look closely, one process at a time."""
    if down:
        limit = await _probes(db, destination, limit, now_ms)
    if not limit:
        return []
    values = {"destination": destination, "owner": owner, "limit": limit, "now_ms": now_ms}
    return await _begin(db, await rows(db, "claim", **values), now_ms)


async def _probes(db: Connection, destination: str, limit: int, now_ms: int) -> int:
    """How many may be claimed, asked under the lock of the destination: of two processes, one sends the probe."""
    found = await row(db, "lock_destination", name=destination)
    if found is None:
        return limit
    record = from_row(DestinationRecord, found)
    if record.paused(now_ms):
        return 0
    if not rules.is_down(record):
        return limit
    return 0 if await row(db, "any_running", destination=destination) else min(limit, 1)


async def claim_alone(db: Connection, *, destinations: Sequence[str], owner: str, now_ms: int) -> list[Work]:
    """Take the next one of those that run alone, if there is one."""
    due = await row(db, "alone_due", destinations=destinations, now_ms=now_ms)
    if due is None:
        return []
    taken = await rows(db, "claim_alone", id=due["id"], owner=owner, now_ms=now_ms)
    return await _begin(db, taken, now_ms)


async def _begin(db: Connection, taken: Sequence[Any], now_ms: int) -> list[Work]:
    """What the claimed ones need. One that cannot be read is dead, and holds up nobody."""
    if not taken:
        return []
    deliveries = [from_row(Delivery, found) for found in taken]
    needs = await _read(db, deliveries)
    works, dead = [], []
    for delivery in deliveries:
        try:
            works.append(needs.work(delivery))
        except (JournalError, msgspec.DecodeError) as exc:
            dead.append(rules.unreadable(delivery, now_ms, str(exc)))
    if dead:
        await completions.complete(db, dead)
    return works


class _Needs:
    """Rows, read for many deliveries at once, each made to a value when it is asked for."""

    def __init__(self, submissions: Sequence[Any], events: Sequence[Any], receipts: Sequence[Any]) -> None:
        self._submissions = {found["id"]: found for found in submissions}
        self._read: dict[str, Submission] = {}
        self._events = {found["id"]: found["body"] for found in events}
        self._receipts: dict[str, dict[str, str]] = {}
        for found in receipts:
            self._receipts.setdefault(found["submission_id"], {})[found["destination"]] = found["receipt"]

    def work(self, delivery: Delivery) -> Work:
        """Raises JournalError or DecodeError if something is lost or cannot be read."""
        if delivery.submission_id not in self._submissions or delivery.event_id not in self._events:
            raise JournalError(f"Delivery {delivery.id} has lost its submission or event.")
        submission = self._submission(delivery.submission_id)
        parent = self.receipts(submission.parent_id) if submission.parent_id else {}
        return Work(
            delivery=delivery,
            event=msgspec.json.decode(self._events[delivery.event_id], type=Event),
            submission=submission,
            receipts=self.receipts(submission.id),
            parent=parent.get(delivery.destination),
        )

    def _submission(self, id: str) -> Submission:
        if id not in self._read:
            self._read[id] = from_row(Submission, self._submissions[id])
        return self._read[id]

    def receipts(self, submission_id: str) -> dict[str, Receipt]:
        found = self._receipts.get(submission_id, {})
        return {name: msgspec.json.decode(text, type=Receipt) for name, text in found.items()}


async def _read(db: Connection, deliveries: Sequence[Delivery]) -> _Needs:
    ids = list({delivery.submission_id for delivery in deliveries})
    submissions = await rows(db, "get_submissions", ids=ids)
    parents = [found["parent_id"] for found in submissions if found["parent_id"]]
    return _Needs(
        submissions,
        await rows(db, "get_events", ids=[delivery.event_id for delivery in deliveries]),
        await rows(db, "list_receipts", ids=[*ids, *parents]),
    )
