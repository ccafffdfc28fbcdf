"""The tables: columns of each kind of row, rows to records and back, and the statements made of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from receiver.deliveries import AttemptRecord, Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal.document import Document, LastReceipt, open_deadline, to_json
from receiver.journal.pages import Dialect, page_query, requests_query
from receiver.journal.postgres.connections import Connection
from receiver.journal.rows import queries, read_submission, request_row, stored_rows
from receiver.journal.store import Filter, Key, Record, RowKind, StoredRow
from receiver.tasks import clean_text

_COMMENT = re.compile(r"--[^\n]*\n?")
SQL: Mapping[str, str] = {name: _COMMENT.sub("", text).strip() for name, text in queries("postgres").items()}
"""The named statements of `queries.sql`."""
Row = tuple[Any, ...]


async def fetch(db: Connection, statement: str, *values: Any) -> list[Any]:
    """Return the rows of a statement, or of a named one."""
    return await db.fetch(SQL.get(statement, statement), *map(_clean, values))  # type: ignore[no-any-return]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    return [*map(_clean, value)] if isinstance(value, list | tuple) else value


# Records to rows and back

WORKING_COLUMNS = ("id", "version", "working")
SUBMISSION_COLUMNS = (
    *WORKING_COLUMNS, "task_id", "once", "status", "display", "task_status", "ended", "hooked", "settled",
    "send_due_ms", "poll_due_ms", "media_due_ms", "deadline_due_ms", "body",
)  # fmt: skip
"""Columns of a submission that a write may change, and those that tell which one it is."""
BODY = SUBMISSION_COLUMNS.index("body")
_DELIVERY = tuple(name for name in Delivery.__struct_fields__ if name != "receipt")
_delivery = attrgetter(*_DELIVERY)
attempt_row = attrgetter(*AttemptRecord.__struct_fields__)


class Working(msgspec.Struct, frozen=True):
    known: tuple[str, ...] = ()
    newest: dict[str, str] = {}
    receipts: dict[str, LastReceipt] = {}


_read_working = msgspec.json.Decoder(Working).decode


def read_document(row: Mapping[str, Any]) -> Document:
    """Return a document without deliveries."""
    working = _read_working(row["working"])
    return Document(
        submission=read_submission(row["body"]), version=row["version"], known=working.known, newest=working.newest,
        receipts=working.receipts,
    )  # fmt: skip


def working_text(document: Document) -> str:
    return to_json(Working(document.known, document.newest, document.receipts))


def update_row(row: Submission, version: int, working: str | None) -> Row:
    return (
        row.id, version, working, row.task_id, row.once, row.status, row.display_status, row.task_status, row.ended,
        row.hooked, row.settled, row.send_due_ms, row.poll_due_ms, row.media_due_ms, open_deadline(row), to_json(row),
    )  # fmt: skip


def submission_row(document: Document) -> Row:
    row = document.submission
    changing = update_row(row, document.version, working_text(document))
    return (*changing, row.parent_id)


def event_row(event: Event) -> Row:
    return event.id, event.submission_id, event.type, event.created_ms, to_json(event)


def callback_row(item: Callback) -> Row:
    return item.submission_id, item.received_ms, item.cause, item.body.decode(errors="replace")


def delivery_row(item: Delivery) -> Row:
    return (*_delivery(item), None if item.receipt is None else to_json(item.receipt))


class Table(NamedTuple):
    """Columns to be written, and the function that makes a row of a record."""

    columns: tuple[str, ...]
    write: Callable[[Any], Row]


TABLES: Mapping[str, Table] = {
    "submissions": Table((*SUBMISSION_COLUMNS, "parent_id"), submission_row),
    "requests": Table(("id", "kind", "labels", "prompt"), request_row),
    "callbacks": Table(("submission_id", "received_ms", "cause", "body"), callback_row),
    "events": Table(("id", "submission_id", "type", "created_ms", "body"), event_row),
    "deliveries": Table((*_DELIVERY, "receipt"), delivery_row),
    "attempts": Table(AttemptRecord.__struct_fields__, attempt_row),
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


def _update(columns: Sequence[str]) -> str:
    """Return the update of documents that still have the version we know. A working set that is NULL stays as it is."""
    changed = "".join(f", {name} = new.{name}" for name in columns if name not in WORKING_COLUMNS)
    return (
        f"UPDATE receiver.submissions SET version = submissions.version + 1, "  # noqa: S608
        f"working = coalesce(new.working, submissions.working){changed} FROM {{rows}} AS new ({', '.join(columns)}) "
        "WHERE submissions.id = new.id AND submissions.version = new.version RETURNING 1"
    )


PARTS: Mapping[str, str] = {
    "update_working": _update(WORKING_COLUMNS),
    "update_submission": _update(SUBMISSION_COLUMNS),
    "callbacks": _insert("callbacks"),
    "events": _insert("events"),
    # Only a replay opens a delivery again, and only one of its own submission.
    "deliveries": _insert(
        "deliveries",
        f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _DELIVERY[5:])}, "
        "receipt = excluded.receipt WHERE deliveries.submission_id = excluded.submission_id AND "
        "(deliveries.status IN ('pending', 'running') OR excluded.manual) RETURNING 1",
    ),
    "attempts": _insert(
        "attempts",
        "ON CONFLICT (delivery_id, number) DO UPDATE SET finished_ms = excluded.finished_ms, "
        "outcome = excluded.outcome, detail = excluded.detail, traceback = excluded.traceback",
    ),
    "files": _insert("files", "ON CONFLICT DO NOTHING"),
    # A name (`once`) that is taken keeps the new submission out.
    "submissions": _insert("submissions", "ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING RETURNING id"),
    "requests": _insert("requests", "AS new (id) WHERE id IN (SELECT id FROM submissions_rows)"),
}
"""Statements in which `{rows}` are the rows to write."""


def _columns(part: str) -> tuple[str, ...]:
    """Return the columns that a part of the statement writes."""
    updated = {"update_working": WORKING_COLUMNS, "update_submission": SUBMISSION_COLUMNS}
    return updated.get(part) or TABLES[part].columns


@cache
def write_statement(parts: tuple[str, ...]) -> str:
    """Return one statement that writes these parts. It returns counts of rows, ids of new submissions, and its xid."""
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
            result = "array_agg(id)" if part == "submissions" else "count(*)"
            results.append(f"(SELECT {result} FROM {part}_rows) AS {part}")  # noqa: S608
    return f"WITH {', '.join(written)} SELECT {', '.join(results)}"


async def write_rows(db: Connection, rows: Mapping[str, Sequence[Row]]) -> Mapping[str, Any]:
    """Write rows by part, and return the result of `write_statement`."""
    parts, values = tuple(part for part in PARTS if rows.get(part)), []
    for part in parts:
        for column, given in zip(_columns(part), zip(*rows[part], strict=True), strict=True):
            values.append(list(given) if column in _LONG else array(given))
    return await db.fetchrow(write_statement(parts), *values)  # type: ignore[no-any-return]


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
