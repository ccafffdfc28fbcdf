"""Group commit: transitions that wait together share a transaction.

A batch is optimistic. Documents come from a cache, or are read without locks, and are written only if they still have
the version that was read. After a conflict the batch runs again on rows that it has locked.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from receiver import metrics
from receiver.events import Submission
from receiver.journal.document import Document, Transition, changed_rows, file_digests, replace
from receiver.journal.postgres import tables
from receiver.journal.postgres.connections import Connection, Connections, Transaction, asyncpg, is_outside
from receiver.journal.postgres.tables import Row, fetch, write_rows
from receiver.journal.rows import documents_of, read_submission, request_row

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
    return documents_of(await fetch(db, "load", ids, ["pending", "running"]) if ids else [], skip=skip)


def _add_difference(rows: dict[str, list[Row]], before: Document, after: Document) -> Document:
    """Add the rows to write, by part of the statement. Return the document as it will be read."""
    old, new = before.submission, after.submission
    same = after.known is before.known and after.newest is before.newest and after.receipts is before.receipts
    row = tables.submission_row(after, before.version, working=not same, body=new is not old)
    rows["update"].append(row)
    for kind, items in changed_rows(before, after).items():
        rows[kind] += items if kind == "files" else map(tables.TABLES[kind].write, items)
    return _stored(after.written(), row)


def _add_new(rows: dict[str, list[Row]], submission: Submission) -> Document:
    document = Document(submission=submission, version=1)
    rows["submissions"].append(tables.submission_row(document, 1))
    rows["requests"].append(request_row(submission))
    rows["files"] += [(document.id, digest) for digest in file_digests(submission)]
    return _stored(document, rows["submissions"][-1])


def _stored(document: Document, row: Row) -> Document:
    """Return a document as it will be read, where the text of its submission had to be cleaned."""
    body = row[tables.BODY]
    return replace(document, submission=read_submission(body)) if body and "\ufffd" in body else document


async def write(
    transaction: Transaction, pairs: Sequence[tuple[Document, Document]], created: Sequence[Submission] = ()
) -> list[Document]:
    """Write new submissions, and documents, each as it was and as it is now. Return them as they will be read. Raise
    Conflict if another transaction has written one since, and UniqueViolationError if an id or a name is taken."""
    if not pairs and not created:
        return []
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    written = [_add_new(rows, row) for row in created]
    # In one order for all, so that no two transactions wait for each other.
    written += [_add_difference(rows, *pair) for pair in sorted(pairs, key=lambda pair: pair[0].id)]
    result = await write_rows(transaction.db, rows)
    transaction.xid = result["xid"]
    if pairs and result["update"] != len(pairs):
        raise Conflict
    if rows["deliveries"] and result["deliveries"] != len(rows["deliveries"]):
        raise asyncpg.UniqueViolationError("a delivery has the id of another one (UNIQUE id)")
    return written


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
                raise  # at first, the document may have been out of date, or a name just taken
        cache.forget(ids)
    raise asyncpg.SerializationError("other processes change the same rows all the time")


async def _run(
    cache: RowCache, operations: Sequence[Operation], ids: Sequence[str], locked: bool, transaction: Transaction
) -> tuple[list[Any], list[Document]]:
    db = transaction.db
    if locked:
        await fetch(db, "lock", ids)
    known = {} if locked else {id: cache[id] for id in ids if id in cache}
    before = known | await load(db, [id for id in ids if id not in known])
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
    names = sorted({row.once for row in created if row.once is not None})
    owners = {row["once"]: read_submission(row["body"]) for row in (await fetch(db, "named", names) if names else [])}
    created = [row for row in created if row.once is None or owners.setdefault(row.once, row) is row]
    outcomes = [
        owners.get(item.once or "", item) if isinstance(item, Submission) else outcome
        for item, outcome in zip(operations, outcomes, strict=True)
    ]
    return outcomes, await write(transaction, pairs, created)


MAX_BATCH = 500
SMALL_BATCH = 64  # fewer operations wait for the end of a batch, because each batch costs as much as some of them
WIDTH = 3  # batches in flight at once
Op = TypeVar("Op")


class Writer(Generic[Op]):
    """Gathers operations into batches. A batch that fails is halved until the failing operation is alone. `run` carries
    out a batch in one transaction and returns the results in order, some of them exceptions."""

    def __init__(self, run: Callable[[Sequence[Op]], Awaitable[list[Any]]]) -> None:
        self._run = run
        self._waiting: list[tuple[Op, asyncio.Future[Any]]] = []
        self._writing: set[asyncio.Task[None]] = set()
        self._gathering = False

    async def put(self, operation: Op) -> Any:
        """Return the operation's result, after the commit that holds it."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        enough = len(self._waiting) >= SMALL_BATCH and len(self._writing) < WIDTH
        if not self._gathering and (enough or not self._writing):
            self._writing.add(asyncio.create_task(self._write(), name="journal writer"))
        return await future

    async def aclose(self) -> None:
        """Finish all that waits. Idempotent."""
        while self._writing:
            await asyncio.wait(self._writing)

    async def _write(self) -> None:
        while self._waiting and not self._gathering:
            self._gathering, seen = True, 0
            while seen < len(self._waiting) < MAX_BATCH:  # as long as each turn of the event loop brings more
                seen = len(self._waiting)
                await asyncio.sleep(0)
            self._gathering = False
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            began = time.perf_counter()
            outcomes = await self._commit([operation for operation, _ in batch])
            if metrics.counting:
                metrics.committed(len(batch), began)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue  # the caller was cancelled, and the write is kept
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._writing.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _commit(self, operations: Sequence[Op]) -> list[Any]:
        try:
            return await self._run(operations)
        except Exception as exc:
            if len(operations) == 1 or is_outside(exc):
                return [exc] * len(operations)
        half = len(operations) // 2
        return [*await self._commit(operations[:half]), *await self._commit(operations[half:])]
