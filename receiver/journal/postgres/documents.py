"""Documents in tables: read them, write their difference in batches. Pages of their rows.

Transitions that wait together share a transaction. A batch is optimistic: documents come from a cache, or are read
without locks, and are written only if they still have the version that was read. After a conflict the batch runs again
on rows that it has locked.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec
from msgspec.structs import astuple

from receiver import metrics
from receiver.deliveries import AttemptRecord, Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal.document import Document, Transition, changed_rows, file_digests, open_deadline, replace, to_json
from receiver.journal.pages import Dialect, page_query, requests_query
from receiver.journal.postgres.connections import Connection, Connections, Transaction, asyncpg, is_outside
from receiver.journal.rows import documents_of, queries, read_submission, request_row, stored_rows, working_set
from receiver.journal.store import Filter, Key, Record, RowKind, StoredRow
from receiver.tasks import clean_text

_COMMENT = re.compile(r"--[^\n]*\n?")
SQL: Mapping[str, str] = {name: _COMMENT.sub("", text).strip() for name, text in queries("postgres").items()}
"""The named statements of `queries.sql`."""
Row = tuple[Any, ...]


async def fetch(db: Connection, statement: str, *values: Any) -> list[Any]:
    """Return the rows of a statement, or of a named one."""
    return await db.fetch(SQL.get(statement, statement), *map(_clean, values))  # type: ignore[no-any-return]


async def execute(db: Connection, statement: str, *values: Any) -> int:
    """Return the number of rows that a named statement has changed."""
    status: str = await db.execute(SQL[statement], *map(_clean, values))
    return int(status.rpartition(" ")[2])


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    return [*map(_clean, value)] if isinstance(value, list | tuple) else value


# Records to rows

SUBMISSION_COLUMNS = (
    "id", "version", "task_id", "once", "status", "display", "task_status", "ended", "hooked", "settled",
    "send_due_ms", "poll_due_ms", "media_due_ms", "deadline_due_ms", "working", "body",
)  # fmt: skip
"""Columns of a submission that a write may change, and those that tell which one it is."""
BODY = SUBMISSION_COLUMNS.index("body")


def submission_row(document: Document, version: int, *, working: bool = True, body: bool = True) -> Row:
    """Return the row of a submission. Texts that are not wanted are None, and stay as they are in the database."""
    row = document.submission
    return (
        row.id, version, row.task_id, row.once, row.status, row.display_status, row.task_status, row.ended, row.hooked,
        row.settled, row.send_due_ms, row.poll_due_ms, row.media_due_ms, open_deadline(row),
        to_json(working_set(document)) if working else None, to_json(row) if body else None, row.parent_id,
    )  # fmt: skip


def event_row(event: Event) -> Row:
    return event.id, event.submission_id, event.type, event.created_ms, to_json(event)


def callback_row(item: Callback) -> Row:
    return item.submission_id, item.received_ms, item.cause, item.body.decode(errors="replace")


def delivery_row(item: Delivery) -> Row:
    return astuple(item if item.receipt is None else replace(item, receipt=to_json(item.receipt)))


class Table(NamedTuple):
    """Columns to be written, and the function that makes a row of a record."""

    columns: tuple[str, ...]
    write: Callable[[Any], Row]


TABLES: Mapping[str, Table] = {
    "submissions": Table(
        (*SUBMISSION_COLUMNS, "parent_id"), lambda document: submission_row(document, document.version)
    ),
    "requests": Table(("id", "kind", "labels", "prompt"), request_row),
    "callbacks": Table(("submission_id", "received_ms", "cause", "body"), callback_row),
    "events": Table(("id", "submission_id", "type", "created_ms", "body"), event_row),
    "deliveries": Table(Delivery.__struct_fields__, delivery_row),
    "attempts": Table(AttemptRecord.__struct_fields__, astuple),
    "files": Table(("submission_id", "digest"), attrgetter("submission_id", "digest")),
    "leftovers": Table(("digest",), lambda item: (item.digest,)),
    "values": Table(("key", "data", "version"), lambda item: (item.key, item.data.decode(), item.version)),
}

# Statements that write rows

_LONG = frozenset({"body", "working", "prompt", "labels", "receipt"})
"""Columns with long texts or quotes, whose values go to the driver as a list."""


def array(values: Sequence[Any]) -> str:
    """Return a list as the server writes it, quicker than the driver. That is JSON with other brackets, as long as
    nothing is escaped (PostgreSQL's documentation, "Array Input and Output Syntax")."""
    try:
        text = msgspec.json.encode(values)[1:-1].decode()
    except UnicodeEncodeError:
        text = "\\"
    if "\\" in text:
        texts = [None if value is None else clean_text(str(value)) for value in values]
        texts = [text and text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
        text = ",".join("NULL" if text is None else f'"{text}"' for text in texts)
    return f"{{{text}}}"


def _insert(table: str, end: str = "") -> str:
    return f"INSERT INTO receiver.{table} ({', '.join(TABLES[table].columns)}) SELECT * FROM {{rows}} {end}"  # noqa: S608


# Only documents that still have the version we know. A text that is NULL stays as it is.
_CHANGED = ", ".join(
    f"{name} = coalesce(new.{name}, old.{name})" if name in ("working", "body") else f"{name} = new.{name}"
    for name in SUBMISSION_COLUMNS[2:]
)
_PROGRESS = Delivery.__struct_fields__[5:]  # behind its ids, destination and time of creation
PARTS: Mapping[str, str] = {
    "update": (
        f"UPDATE receiver.submissions AS old SET version = old.version + 1, {_CHANGED} FROM {{rows}} AS new "  # noqa: S608
        f"({', '.join(TABLES['submissions'].columns)}) WHERE old.id = new.id AND old.version = new.version RETURNING 1"
    ),
    "submissions": _insert("submissions"),
    "requests": _insert("requests"),
    "callbacks": _insert("callbacks"),
    "events": _insert("events"),
    # Only a replay opens a delivery again, and only one of its own submission.
    "deliveries": _insert(
        "deliveries",
        f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _PROGRESS)} "
        "WHERE deliveries.submission_id = excluded.submission_id AND "
        "(deliveries.status IN ('pending', 'running') OR excluded.manual) RETURNING 1",
    ),
    "attempts": _insert(
        "attempts",
        "ON CONFLICT (delivery_id, number) DO UPDATE SET finished_ms = excluded.finished_ms, "
        "outcome = excluded.outcome, detail = excluded.detail, traceback = excluded.traceback",
    ),
    "files": _insert("files", "ON CONFLICT DO NOTHING"),
}
"""Statements in which `{rows}` are the rows to write, with the columns of a table."""


@cache
def write_statement(parts: tuple[str, ...]) -> str:
    """Return one statement that writes these parts. It returns counts of rows, and its transaction's id."""
    numbers, written, results = itertools.count(1), [], ["pg_current_xact_id()::text AS xid"]
    for part in parts:
        given = []
        for name in _columns(part):
            number = name.endswith("_ms") or name in ("version", "attempt", "failures", "number")
            kind = "boolean" if name in ("hooked", "settled", "manual") else "bigint" if number else "text"
            given.append(f"${next(numbers)}{'' if name in _LONG else '::text'}::{kind}[]")
        rows = f"unnest({', '.join(given)})"
        written.append(f"{part}_rows AS ({PARTS[part].format(rows=rows)})")
        if "RETURNING" in PARTS[part]:
            results.append(f"(SELECT count(*) FROM {part}_rows) AS {part}")  # noqa: S608
    return f"WITH {', '.join(written)} SELECT {', '.join(results)}"


def _columns(part: str) -> tuple[str, ...]:
    return TABLES["submissions" if part == "update" else part].columns


async def write_rows(db: Connection, rows: Mapping[str, Sequence[Row]]) -> Mapping[str, Any]:
    """Write rows by part, and return the result of `write_statement`."""
    parts, values = tuple(part for part in PARTS if rows.get(part)), []
    for part in parts:
        for column, given in zip(_columns(part), zip(*rows[part], strict=True), strict=True):
            values.append(list(given) if column in _LONG else array(given))
    return await db.fetchrow(write_statement(parts), *values)  # type: ignore[no-any-return]


# Documents, and batches of operations on them

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
    row = submission_row(after, before.version, working=not same, body=new is not old)
    rows["update"].append(row)
    for kind, items in changed_rows(before, after).items():
        rows[kind] += items if kind == "files" else map(TABLES[kind].write, items)
    return _stored(after.written(), row)


def _add_new(rows: dict[str, list[Row]], submission: Submission) -> Document:
    document = Document(submission=submission, version=1)
    rows["submissions"].append(submission_row(document, 1))
    rows["requests"].append(request_row(submission))
    rows["files"] += [(document.id, digest) for digest in file_digests(submission)]
    return _stored(document, rows["submissions"][-1])


def _stored(document: Document, row: Row) -> Document:
    """Return a document as it will be read, where the text of its submission had to be cleaned."""
    body = row[BODY]
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


# Pages of rows

DIALECT = Dialect(
    schema="receiver.",
    mark="$",
    among="= ANY ({value})",
    contains="strpos",
    # An array for each submission, so that the planner cannot begin with all events.
    events_of="number = ANY (ARRAY(SELECT unnest(ARRAY(SELECT number FROM receiver.events"
    " WHERE events.id > few || '.' AND events.id < few || '/')) FROM unnest({value}::text[]) AS few))",
    # So that the planner cannot take the key's own index.
    in_index={"id": "id || ''", "number": "number + 0"},
    to_list=list,
    as_bytes="convert_to({column}, 'UTF8') AS {column}",
)


async def fetch_page(
    db: Connection,
    kind: RowKind,
    wanted: Filter,
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
    read: Callable[[Any], Record] | None = None,
) -> list[StoredRow]:
    """Return a page of rows in order of key, or against it, with a reader of its own if one is given."""
    few = None
    if found := requests_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first):
        few = found.few([row[0] for row in await fetch(db, found.text, *found.values)])
    text, values = page_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first, few=few)
    return stored_rows(kind, await fetch(db, text, *values), read)
