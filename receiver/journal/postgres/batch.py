"""Group commit: transitions that wait together share a transaction.

A batch is optimistic. Documents come from a cache, or are read without locks, and are written only if they still have
the version that was read. After a conflict the batch runs again on rows that it has locked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Generic, TypeVar

import msgspec

from receiver import metrics
from receiver.deliveries import AttemptRecord
from receiver.events import Submission
from receiver.journal.document import Document, Transition, file_digests, replace
from receiver.journal.postgres import tables
from receiver.journal.postgres.connections import Connection, Connections, Transaction, asyncpg, is_outside
from receiver.journal.postgres.tables import Row, fetch, write_rows
from receiver.journal.rows import delivery_from_row, read_event, read_submission, request_row

CACHED = 4096  # documents in memory, a few kilobytes each
CONFLICTS = 5  # tries of a batch. Only names that are given away and freed at the same time take more than two


class Conflict(Exception):
    """A document was written by another transaction since it was read."""


class RowCache(dict[str, Document]):
    """Documents as they were last committed. A task calls back about ten times, and reading its document again costs
    more than deciding about it."""

    def keep(self, documents: Iterable[Document]) -> None:
        """Keep committed documents in place of those that were written longest ago."""
        for document in documents:
            old = self.pop(document.id, None)
            self[document.id] = document if old is None or old.version < document.version else old
            if len(self) > CACHED:
                del self[next(iter(self))]

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.pop(id, None)


async def load(db: Connection, ids: Sequence[str], *, skip: bool = False) -> dict[str, Document]:
    """Read documents without locks, all as of one moment. `skip`: leave out those that cannot be read."""
    rows, found = defaultdict(list), {}
    for row in await fetch(db, "load", ids, ["pending", "running"]) if ids else []:
        rows[row["document_id"]].append(row)
    for id, mine in rows.items():
        with suppress(*[msgspec.DecodeError] if skip else []):
            found[id] = _document(mine)
    return found


def _document(rows: Sequence[Mapping[str, Any]]) -> Document:
    document = tables.read_document(rows[0])
    if rows[0]["id"] is None:
        return document
    rows = sorted(rows, key=itemgetter("id"))
    events = {}
    for row in rows:
        with suppress(msgspec.DecodeError):  # an event that cannot be read counts as lost
            if row["event"] is not None and row["event_id"] not in events:
                events[row["event_id"]] = read_event(row["event"])
    attempts = tuple(
        AttemptRecord(
            delivery_id=row["id"], number=row["number"], started_ms=row["started_ms"], manual=row["attempt_manual"]
        )
        for row in rows if row["number"] is not None
    )  # fmt: skip
    deliveries = tuple(map(delivery_from_row, rows))
    return replace(document, deliveries=deliveries, events=tuple(events.values()), attempts=attempts)


def _stored(document: Document, body: str) -> Document:
    """Return a document as it will be read, where the text of its submission had to be cleaned."""
    return replace(document, submission=read_submission(body)) if "\ufffd" in body else document


def _add_difference(rows: Mapping[str, list[Row]], before: Document, after: Document) -> Document:
    """Add the rows to write, by part of the statement. Return the document as it will be read."""
    old, new = before.submission, after.submission
    same = after.known is before.known and after.newest is before.newest and after.receipts is before.receipts
    working, written = None if same else tables.working_text(after), after.written()
    if new is old:
        rows["update_working"].append((new.id, before.version, working))
    else:
        row = tables.update_row(new, before.version, working)
        rows["update_submission"].append(row)
        written = _stored(written, row[tables.BODY])
        if new.files is not old.files or new.reply is not old.reply:
            rows["files"] += [(new.id, digest) for digest in file_digests(new) - file_digests(old)]
    if after.new_events:
        rows["events"] += map(tables.event_row, after.new_events)
    if after.new_callbacks:
        rows["callbacks"] += map(tables.callback_row, after.new_callbacks)
    if after.new_attempts:
        attempts = {(item.delivery_id, item.number): item for item in after.new_attempts}
        rows["attempts"] += map(tables.attempt_row, attempts.values())
    if after.deliveries is not before.deliveries or after.closed:
        open_ = {item.id: item for item in before.deliveries}
        changed = {item.id: item for item in (*after.closed, *after.deliveries)}
        rows["deliveries"] += [tables.delivery_row(item) for id, item in changed.items() if open_.get(id) is not item]
    return written


async def write(transaction: Transaction, pairs: Sequence[tuple[Document, Document]]) -> list[Document]:
    """Write documents, each as it was and as it is now, and return them as they will be read. Raise Conflict if another
    transaction has written one since, and UniqueViolationError if the id of an event or a delivery is taken."""
    if not pairs:
        return []
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    # In one order for all, so that no two transactions wait for each other.
    written = [_add_difference(rows, *pair) for pair in sorted(pairs, key=lambda pair: pair[0].id)]
    result = await write_rows(transaction.db, rows)
    transaction.xid = result["xid"]
    if any(result[part] != len(rows[part]) for part in ("update_working", "update_submission") if rows[part]):
        raise Conflict
    if rows["deliveries"] and result["deliveries"] != len(rows["deliveries"]):
        raise asyncpg.UniqueViolationError("a delivery has the id of another one (UNIQUE id)")
    return written


async def _create(
    transaction: Transaction, created: Sequence[Submission]
) -> tuple[list[Document], dict[str, Submission]]:
    """Write new submissions. Return them, and by name the older ones that have the name of a new one. Raise Conflict if
    such a name has just come free, and UniqueViolationError if an id is taken."""
    documents = [Document(submission=row, version=1) for row in created]
    rows = [tables.submission_row(document) for document in documents]
    result = await write_rows(transaction.db, {"submissions": rows, "requests": [request_row(row) for row in created]})
    transaction.xid, ids = result["xid"], set(result["submissions"] or ())
    kept = [_stored(item, row[tables.BODY]) for item, row in zip(documents, rows, strict=True) if item.id in ids]
    if files := [(item.id, digest) for item in kept for digest in file_digests(item.submission)]:
        await write_rows(transaction.db, {"files": files})
    names = sorted({row.once for row in created if row.once is not None and row.id not in ids})
    taken = await fetch(transaction.db, "named", names) if names else []
    if len(taken) < len(names):
        raise Conflict
    return kept, {row["once"]: read_submission(row["body"]) for row in taken}


@dataclass(frozen=True, slots=True)
class Update:
    id: str
    transition: Transition[Any]


Operation = Submission | Update
"""A submission to create, or an update."""


async def commit(
    connections: Connections, cache: RowCache, operations: Sequence[Operation]
) -> tuple[list[Any], list[Document]]:
    """Run operations until they are written without a conflict. Return their outcomes in order (some are exceptions),
    and the documents after the commit. Raise the driver's errors."""
    ids = sorted({item.id for item in operations if isinstance(item, Update)})
    for attempt in range(CONFLICTS):
        try:
            return await connections.transact(partial(_run, cache, operations, ids, attempt > 0))
        except Conflict:
            pass  # another process was faster: read the rows anew, and decide again
        except asyncpg.UniqueViolationError:
            if attempt:
                raise  # at first, the document may have been out of date
        cache.forget(ids)
    raise asyncpg.SerializationError("other processes change the same rows all the time")


async def _run(
    cache: RowCache, operations: Sequence[Operation], ids: Sequence[str], locked: bool, transaction: Transaction
) -> tuple[list[Any], list[Document]]:
    if locked:
        await fetch(transaction.db, "lock", ids)
    known = {} if locked else {id: cache[id] for id in ids if id in cache}
    before = known | await load(transaction.db, [id for id in ids if id not in known])
    after, outcomes = dict(before), list[Any]()
    for item in operations:
        result: Any = item if isinstance(item, Submission) else None
        if isinstance(item, Update) and item.id in after:
            try:
                after[item.id], result = item.transition(after[item.id])
            except Exception as exc:
                result = exc
        outcomes.append(result)
    if any(after[id] is before[id] for id in known):
        raise Conflict  # the write checks no version of it, and it may be out of date
    pairs = [(before[id], after[id]) for id in before if after[id] is not before[id]]
    created = [item for item in operations if isinstance(item, Submission)]
    created += [row for _, document in pairs for row in document.additions]
    kept: list[Document] = []
    if created:
        kept, taken = await _create(transaction, created)
        outcomes = [
            taken.get(item.once or "", item) if isinstance(item, Submission) else outcome
            for item, outcome in zip(operations, outcomes, strict=True)
        ]
    return outcomes, [*kept, *await write(transaction, pairs)]


MAX_BATCH = 500
SMALL_BATCH = 64  # fewer operations are not worth a transaction of their own
Op = TypeVar("Op")
_Item = tuple[Op, "asyncio.Future[Any]"]


class Writer(Generic[Op]):
    """Gathers operations into batches. A batch that fails is halved until the failing operation is alone.

    Args:
        run: carries out a batch in one transaction and returns the results in order, some of them exceptions.
        width: batches in flight at once. What waits is divided into one share more, so that a batch that has been
            written finds the next one waiting.
        key: the document of an operation. Operations on one document are carried out in order, never at once.
    """

    def __init__(
        self, run: Callable[[Sequence[Op]], Awaitable[list[Any]]], *, width: int, key: Callable[[Op], str]
    ) -> None:
        self._run, self._width, self._key = run, width, key
        self._busy: set[str] = set()
        self._waiting: list[_Item[Op]] = []
        self._gathering = False
        self._turns: dict[asyncio.Task[None], int] = {}

    async def put(self, operation: Op) -> Any:
        """Return the operation's result, after the commit that holds it."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((operation, future))
        if not self._gathering and len(self._turns) < self._width:
            self._gathering = True
            loop.call_soon(self._gather, 0)
        return await future

    def _gather(self, seen: int) -> None:
        """Wait as long as each turn of the event loop brings more operations."""
        if seen < len(self._waiting) < MAX_BATCH:
            asyncio.get_running_loop().call_soon(self._gather, len(self._waiting))
        else:
            self._gathering = False
            self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._turns) < self._width:
            share = math.ceil((len(self._waiting) + sum(self._turns.values())) / (self._width + 1))
            size = min(max(share, SMALL_BATCH), MAX_BATCH)
            batch, left, held = list[_Item[Op]](), list[_Item[Op]](), set(self._busy)
            for item in self._waiting:  # none overtakes another one on the same document
                key = self._key(item[0])
                if len(batch) < size and key not in held:
                    batch.append(item)
                else:
                    left.append(item)
                    held.add(key)
            if not batch:
                return
            self._waiting = left
            self._busy |= {self._key(operation) for operation, _ in batch}
            turn = asyncio.create_task(self._turn(batch), name="journal writer")
            self._turns[turn] = len(batch)
            turn.add_done_callback(self._end)

    def _end(self, turn: asyncio.Task[None]) -> None:
        del self._turns[turn]
        self._begin()

    async def aclose(self) -> None:
        """Finish all that waits. Idempotent."""
        self._begin()
        while self._turns:
            await asyncio.wait(self._turns)
            await asyncio.sleep(0)  # the callback of one that ended begins the next

    async def _turn(self, batch: Sequence[_Item[Op]]) -> None:
        try:
            began = time.perf_counter()
            outcomes = await self._commit([operation for operation, _ in batch])
            if metrics.counting:
                metrics.committed(len(batch), began)
        finally:
            self._busy -= {self._key(operation) for operation, _ in batch}
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # the caller was cancelled, and the write is kept
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _commit(self, operations: Sequence[Op]) -> list[Any]:
        try:
            return await self._run(operations)
        except Exception as exc:
            if len(operations) == 1 or is_outside(exc):
                return [exc] * len(operations)
        half = len(operations) // 2
        return [*await self._commit(operations[:half]), *await self._commit(operations[half:])]
