"""Group commit: transitions that wait together share a transaction.

A batch is optimistic. Documents come from a cache, or are read without locks, and are written only if they still have
the version that was read. After a conflict the batch runs again on rows that it has locked.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from receiver.deliveries import AttemptRecord, Delivery
from receiver.events import Event, Submission
from receiver.journal.document import Document, Transition, file_digests, open_deadline, replace
from receiver.journal.postgres.connections import Connections, Transaction
from receiver.journal.postgres.faults import OUTSIDE, Connection, asyncpg, is_lost
from receiver.journal.postgres.statements import (
    Working,
    fetch,
    label_text,
    read_document,
    read_event,
    read_submission,
    write_statement,
)
from receiver.journal.rows import delivery_from_row, to_json
from receiver.tasks import clean_text

CACHED = 4096
"""Documents in memory, a few kilobytes each."""
CONFLICTS = 5
"""Tries of a batch. Only names that are given away and freed at the same time take more than two."""


class Conflict(Exception):
    """A document was written by another transaction since it was read."""


class RowCache:
    """Documents as they were last committed. A task calls back about ten times, and reading its document again costs
    more than deciding about it."""

    def __init__(self, limit: int = CACHED) -> None:
        self._limit = limit
        self._documents: dict[str, Document] = {}

    def get(self, id: str) -> Document | None:
        return self._documents.get(id)

    def put(self, documents: Iterable[Document]) -> None:
        """Keep committed documents in place of those that were written longest ago."""
        for document in documents:
            old = self._documents.pop(document.id, None)
            if old is None and len(self._documents) >= self._limit:
                del self._documents[next(iter(self._documents))]
            self._documents[document.id] = document if old is None or old.version < document.version else old

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._documents.pop(id, None)

    def clear(self) -> None:
        """Forget all: a new connection may lead to a server that took over, with older rows."""
        self._documents.clear()


# Documents and rows


async def load(db: Connection, ids: Sequence[str]) -> dict[str, Document]:
    """Read documents without locks, all as of one moment."""
    found: dict[str, list[Any]] = {}
    for row in await fetch(db, "load", ids=[clean_text(id) for id in ids], open=["pending", "running"]):
        found.setdefault(row["document_id"], []).append(row)
    return {id: _document(rows) for id, rows in found.items()}


def _document(rows: Sequence[Mapping[str, Any]]) -> Document:
    document = read_document(rows[0])
    if rows[0]["id"] is None:
        return document
    return replace(
        document,
        deliveries=tuple(delivery_from_row(row) for row in rows),
        events=tuple(_events({row["event_id"]: row["event"] for row in rows if row["event"] is not None}.values())),
        attempts=tuple(
            AttemptRecord(
                delivery_id=row["id"], number=row["attempt"], started_ms=row["started_ms"], manual=row["attempt_manual"]
            )
            for row in rows
            if row["started_ms"] is not None
        ),
    )


def _events(bodies: Iterable[str]) -> Iterator[Event]:
    """An event that cannot be read counts as lost."""
    for body in bodies:
        with suppress(msgspec.DecodeError):
            yield read_event(body)


Row = tuple[Any, ...]
DELIVERY = tuple(Delivery.__struct_fields__)
CHANGING = (
    "task_id", "once", "status", "display", "task_status", "ended", "hooked", "settled", "send_due_ms", "poll_due_ms",
    "media_due_ms", "deadline_due_ms", "body", "working", "id", "version",
)  # fmt: skip
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "written": CHANGING,
    "submissions": (*CHANGING, "kind", "prompt", "labels", "parent_id"),
    "events": ("id", "submission_id", "type", "created_ms", "body"),
    "callbacks": ("submission_id", "received_ms", "cause", "body"),
    "owed": DELIVERY,
    "moved": DELIVERY,
    "deliveries": DELIVERY,
    "attempts": ("delivery_id", "number", "started_ms", "finished_ms", "outcome", "detail", "manual"),
    "files": ("submission_id", "digest"),
}
"""Columns of the rows that these functions return, by table or part of a write."""


BODY = CHANGING.index("body")


def _changing(row: Submission, body: str | None, working: str | None, version: int) -> Row:
    ended = row.ended is not None or row.status == "refused"
    waits = row.send_due_ms, row.poll_due_ms, row.media_due_ms
    return (
        row.task_id, row.once, row.status, row.display_status, row.task_status, row.ended, row.hooked,
        ended and waits == (None, None, None) and row.claim is None, *waits, open_deadline(row), body, working, row.id,
        version,
    )  # fmt: skip


def submission_row(document: Document, version: int = 1) -> Row:
    row = document.submission
    return (
        *_changing(row, to_json(row), _working(document), version), row.kind, clean_text(row.prompt).casefold(),
        label_text(row.labels), row.parent_id,
    )  # fmt: skip


def _working(document: Document) -> str:
    return to_json(Working(document.known, document.newest, document.receipts))


def event_row(event: Event) -> Row:
    return event.id, event.submission_id, event.type, event.created_ms, to_json(event)


def delivery_row(item: Delivery) -> Row:
    detail = None if item.detail is None else clean_text(item.detail)
    receipt = None if item.receipt is None else to_json(item.receipt)
    return (
        item.id, item.event_id, item.submission_id, item.destination, item.created_ms, item.due_ms, item.status,
        item.attempt, item.failures, item.owner, detail, receipt, item.finished_ms, item.manual,
    )  # fmt: skip


def attempt_row(item: AttemptRecord) -> Row:
    detail = None if item.detail is None else clean_text(item.detail)
    return item.delivery_id, item.number, item.started_ms, item.finished_ms, item.outcome, detail, item.manual


def difference(before: Document, after: Document, rows: Mapping[str, list[Row]]) -> None:
    """Add the rows to write, by part of the statement (see `queries.sql`)."""
    old, new = before.submission, after.submission
    same = (before.known, before.newest, before.receipts) == (after.known, after.newest, after.receipts)
    body, working = None if new is old else to_json(new), None if same else _working(after)
    rows["written"].append(_changing(new, body, working, before.version))
    rows["events"].extend(map(event_row, after.new_events))
    rows["callbacks"].extend(
        (item.submission_id, item.received_ms, item.cause, item.body) for item in after.new_callbacks
    )
    attempts = {(item.delivery_id, item.number): item for item in after.new_attempts}
    rows["attempts"].extend(map(attempt_row, attempts.values()))
    was = {item.id: item for item in before.deliveries}
    for id, item in {item.id: item for item in (*after.closed, *after.deliveries)}.items():
        if (one := was.get(id)) is not item:
            rows["owed" if one is None else "moved"].append(delivery_row(item))
    if new is not old and (new.media is not old.media or new.reply is not old.reply):
        rows["files"].extend((new.id, digest) for digest in file_digests(new) - file_digests(old))


async def write(transaction: Transaction, pairs: Sequence[tuple[Document, Document]]) -> list[Document]:
    """Write documents, each as it was and as it is now. Return them as they will be read.

    Raises:
        Conflict: one of them does not have the version that was read.
        UniqueViolationError: the id of an event or a delivery is taken.
    """
    if not pairs:
        return []
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    # In one order for all, so that no two transactions wait for each other.
    pairs = sorted(pairs, key=lambda pair: pair[0].id)
    for before, after in pairs:
        difference(before, after, rows)
    parts = [part for part in COLUMNS if rows[part]]
    values = {
        f"{part}_{name}": column
        for part in parts
        for name, column in zip(COLUMNS[part], zip(*rows[part], strict=True), strict=True)
    }
    (counts,) = await fetch(transaction.db, write_statement(tuple(parts)), **values)
    if counts["written"] != len(pairs):
        raise Conflict
    if rows["owed"] and counts["owed"] != len(rows["owed"]):
        raise asyncpg.UniqueViolationError("a delivery has the id of another one (UNIQUE id)")
    transaction.xid = counts["xid"]
    return [_as_stored(after.written(), row[BODY]) for (_, after), row in zip(pairs, rows["written"], strict=True)]


def _as_stored(document: Document, body: str | None) -> Document:
    """Return a document as it will be read, where the text of its submission had to be cleaned."""
    if body is None or "\ufffd" not in body:
        return document
    return replace(document, submission=read_submission(body))


async def create(
    transaction: Transaction, created: Sequence[Submission]
) -> tuple[list[Document], dict[str, Submission]]:
    """Write new submissions. Return them, and those that had a name before one of the new ones could take it, by name.

    Raises:
        UniqueViolationError: an id is taken.
        Conflict: a name was taken and has just come free.
    """
    rows = [submission_row(Document(submission=row)) for row in created]
    values = dict(zip(COLUMNS["submissions"], zip(*rows, strict=True), strict=True))
    found = {row["id"]: row["xid"] for row in await fetch(transaction.db, "create", **values)}
    transaction.xid = next(iter(found.values()), transaction.xid)
    kept = [
        _as_stored(Document(submission=submission, version=1), row[BODY])
        for submission, row in zip(created, rows, strict=True)
        if submission.id in found
    ]
    files = [(item.id, digest) for item in kept for digest in file_digests(item.submission)]
    if files:
        ids, digests = zip(*files, strict=True)
        await fetch(transaction.db, "files", files_submission_id=ids, files_digest=digests)
    names = {row.once for row in created if row.once is not None and row.id not in found}
    taken = await fetch(transaction.db, "named", names=sorted(names)) if names else []
    if len(taken) < len(names):
        raise Conflict
    return kept, {row["once"]: read_submission(row["body"]) for row in taken}


# Batches


@dataclass(frozen=True, slots=True)
class Create:
    submission: Submission

    @property
    def id(self) -> str:
        return self.submission.id


@dataclass(frozen=True, slots=True)
class Update:
    id: str
    transition: Transition[Any]


Operation = Create | Update


class Batch:
    """Some operations, and their outcomes.

    Attributes:
        outcomes: in order. An exception is the outcome of its own operation only.
        written: documents as they are after the commit.
        created: the same for new submissions.
    """

    def __init__(self, operations: Sequence[Operation], cache: RowCache) -> None:
        self._operations = operations
        self._cache = cache
        self._ids = sorted({item.id for item in operations if isinstance(item, Update)})
        self.outcomes: list[Any] = []
        self.written: list[Document] = []
        self.created: list[Document] = []

    async def commit(self, connections: Connections) -> None:
        """Run until it is written without a conflict. Raises the driver's errors."""
        for attempt in range(CONFLICTS):
            try:
                await connections.transact(self._locked if attempt else self._optimistic)
                return
            except Conflict:
                self._cache.forget(self._ids)
                if attempt == CONFLICTS - 1:
                    raise asyncpg.SerializationError("other processes change the same rows all the time") from None
            except asyncpg.UniqueViolationError:
                self._cache.forget(self._ids)
                if attempt:
                    raise  # at first, the document may have been out of date

    async def _locked(self, transaction: Transaction) -> None:
        await fetch(transaction.db, "lock", ids=self._ids)
        await self._run(transaction, {}, await load(transaction.db, self._ids))

    async def _optimistic(self, transaction: Transaction) -> None:
        cached = {id: document for id in self._ids if (document := self._cache.get(id)) is not None}
        unknown = [id for id in self._ids if id not in cached]
        await self._run(transaction, cached, await load(transaction.db, unknown) if unknown else {})

    async def _run(
        self, transaction: Transaction, cached: Mapping[str, Document], loaded: Mapping[str, Document]
    ) -> None:
        before = {**cached, **loaded}
        after = dict(before)
        self.outcomes = [self._outcome(item, after) for item in self._operations]
        pairs = [(before[id], after[id]) for id in before if after[id] is not before[id]]
        same = {id: cached[id].version for id in cached if after[id] is before[id]}
        if same:  # not checked by the write
            found = await fetch(transaction.db, "versions", ids=list(same))
            if {row["id"]: row["version"] for row in found} != same:
                raise Conflict
        created = [item.submission for item in self._operations if isinstance(item, Create)]
        created += [row for _, document in pairs for row in document.additions]
        if created:
            self.created, taken = await create(transaction, created)
            for number, item in enumerate(self._operations):
                if isinstance(item, Create):
                    self.outcomes[number] = taken.get(item.submission.once or "", item.submission)
        self.written = await write(transaction, pairs)

    def _outcome(self, item: Operation, documents: dict[str, Document]) -> Any:
        document = documents.get(item.id) if isinstance(item, Update) else None
        if document is None or not isinstance(item, Update):
            return None
        try:
            documents[item.id], result = item.transition(document)
        except Exception as exc:
            return exc
        return result


MAX_BATCH = 500
SMALL_BATCH = 16
"""Fewer operations are not worth a transaction of their own."""
Op = TypeVar("Op")
Run = Callable[[Sequence[Op]], Awaitable[list[Any]]]
"""Carries out a batch in one transaction. Results are in order. An exception among them is the error of its operation.
An error that is raised undoes the batch."""
_Item = tuple[Op, "asyncio.Future[Any]"]


class Writer(Generic[Op]):
    """Gathers operations into batches.

    A batch that fails because of one operation is halved until that one is alone, and only it gets the error.

    Args:
        run: see `Run`.
        width: batches in flight at once.
        shares: the number of batches into which all is divided that waits or is in flight. One more than `width`, so
            that a batch that has been written finds the next one waiting.
        key: the document of an operation. Operations on one document are carried out in order, never at once.
    """

    def __init__(
        self, run: Run[Op], *, width: int = 1, shares: int = 1, key: Callable[[Op], str] = lambda _: ""
    ) -> None:
        self._run, self._width, self._shares, self._key = run, width, shares, key
        self._busy: set[str] = set()
        self._in_flight = 0
        self._waiting: list[_Item[Op]] = []
        self._gathering = False
        self._turns: set[asyncio.Task[None]] = set()

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
            return
        self._gathering = False
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._turns) < self._width:
            share = math.ceil((len(self._waiting) + self._in_flight) / self._shares)
            batch = self._take(min(max(share, SMALL_BATCH), MAX_BATCH))
            if not batch:
                return
            self._busy |= {self._key(operation) for operation, _ in batch}
            self._in_flight += len(batch)
            turn = asyncio.create_task(self._turn(batch), name="journal writer")
            self._turns.add(turn)
            turn.add_done_callback(self._end)

    def _take(self, size: int) -> list[_Item[Op]]:
        """Take the next operations. None overtakes another one on the same document."""
        batch: list[_Item[Op]] = []
        left: list[_Item[Op]] = []
        held = set(self._busy)
        for item in self._waiting:
            key = self._key(item[0])
            if len(batch) < size and key not in held:
                batch.append(item)
            else:
                left.append(item)
                held.add(key)
        self._waiting = left
        return batch

    def _end(self, turn: asyncio.Task[None]) -> None:
        self._turns.discard(turn)
        self._begin()

    async def aclose(self) -> None:
        """Finish all that waits. Idempotent."""
        self._begin()
        while self._turns:
            await asyncio.wait(self._turns)
            await asyncio.sleep(0)  # the callback of one that ended begins the next

    async def _turn(self, batch: Sequence[_Item[Op]]) -> None:
        try:
            outcomes = await self._commit([operation for operation, _ in batch])
        finally:
            self._busy -= {self._key(operation) for operation, _ in batch}
            self._in_flight -= len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # the caller was cancelled; the write stands
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _commit(self, operations: Collection[Op]) -> list[Any]:
        operations = list(operations)
        try:
            return await self._run(operations)
        except Exception as exc:
            if len(operations) == 1 or is_lost(exc) or isinstance(exc, OUTSIDE):
                return [exc] * len(operations)
        half = len(operations) // 2
        return [*await self._commit(operations[:half]), *await self._commit(operations[half:])]
