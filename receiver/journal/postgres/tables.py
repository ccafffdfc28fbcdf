"""The tables: columns of each kind of row, records as rows, and the statements made of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from receiver.deliveries import AttemptRecord, Delivery
from receiver.events import Callback, Event
from receiver.journal.document import Document, open_deadline, replace, to_json
from receiver.journal.pages import Dialect, page_query, requests_query
from receiver.journal.postgres.connections import Connection
from receiver.journal.rows import queries, request_row, stored_rows, working_set
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
