"""The tables: columns of each kind of row, rows to records and back, and the statements made of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec

from receiver.deliveries import DELIVERY_STATUSES, AttemptRecord, Delivery, Receipt
from receiver.events import Callback, Event, Submission, first_id
from receiver.journal.document import Document, LastReceipt, open_deadline
from receiver.journal.postgres.faults import Connection
from receiver.journal.rows import to_json
from receiver.journal.statements import queries
from receiver.journal.store import Filter, Key, LeftFile, NeededFile, RowKind, SharedValue, StoredRow
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


# Records to rows

DELIVERY = Delivery.__struct_fields__
ATTEMPT = AttemptRecord.__struct_fields__
TOUCHED = ("id", "version", "working")
CHANGING = (
    *TOUCHED, "task_id", "once", "status", "display", "task_status", "ended", "hooked", "settled", "send_due_ms",
    "poll_due_ms", "media_due_ms", "deadline_due_ms", "body",
)  # fmt: skip
"""Columns of a submission that a write may change, and those that tell which one it is."""
BODY = len(CHANGING) - 1
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "touched": TOUCHED,
    "written": CHANGING,
    "submissions": (*CHANGING, "kind", "prompt", "labels", "parent_id"),
    "events": ("id", "submission_id", "type", "created_ms", "body"),
    "callbacks": ("submission_id", "received_ms", "cause", "body"),
    "deliveries": DELIVERY,
    "attempts": ATTEMPT,
    "files": ("submission_id", "digest"),
    "leftovers": ("digest",),
    "shared_values": ("key", "data", "version"),
}
"""Columns of the rows that are written, by table or part of a write (see `write_statement`)."""

_delivery = attrgetter(*DELIVERY)
attempt_row: Callable[[AttemptRecord], Row] = attrgetter(*ATTEMPT)
_RECEIPT = DELIVERY.index("receipt")


class Working(msgspec.Struct, frozen=True):
    """The working set of a document, as it is stored."""

    known: tuple[str, ...] = ()
    newest: dict[str, str] = {}
    receipts: dict[str, LastReceipt] = {}


read_submission = msgspec.json.Decoder(Submission).decode
read_event = msgspec.json.Decoder(Event).decode
_read_receipt = msgspec.json.Decoder(Receipt).decode
_read_working = msgspec.json.Decoder(Working).decode


def working_text(document: Document) -> str:
    return to_json(Working(document.known, document.newest, document.receipts))


def changing_row(row: Submission, version: int, working: str | None) -> Row:
    ended = row.ended is not None or row.status == "refused"
    waits = row.send_due_ms, row.poll_due_ms, row.media_due_ms
    return (
        row.id, version, working, row.task_id, row.once, row.status, row.display_status, row.task_status, row.ended,
        row.hooked, ended and waits == (None, None, None) and row.claim is None, *waits, open_deadline(row),
        to_json(row),
    )  # fmt: skip


def submission_row(document: Document, version: int = 1) -> Row:
    row = document.submission
    changing = changing_row(row, version, working_text(document))
    return (*changing, row.kind, clean_text(row.prompt).casefold(), label_text(row.labels), row.parent_id)


def label_text(labels: Mapping[str, str]) -> str:
    """Return labels as the column holds them. Each begins with a comma, so that one is found in many."""
    return "".join(f",{to_json({name: value})[1:-1]}" for name, value in labels.items())


def event_row(event: Event) -> Row:
    return event.id, event.submission_id, event.type, event.created_ms, to_json(event)


def callback_row(item: Callback) -> Row:
    return item.submission_id, item.received_ms, item.cause, item.body.decode(errors="replace")


def delivery_row(item: Delivery) -> Row:
    row: Row = _delivery(item)
    if item.receipt is None:
        return row
    return (*row[:_RECEIPT], to_json(item.receipt), *row[_RECEIPT + 1 :])


# Statements that write rows

_LONG = frozenset({"body", "working", "prompt", "labels", "receipt"})
"""Columns with long texts or quotes, whose values go to the driver as a list."""


def array(values: Sequence[Any]) -> str:
    """Return a list as the server writes it. (The driver needs half a microsecond for each element of a list.)

    That is JSON with other brackets, as long as nothing is escaped (PostgreSQL's documentation, "Array Input and Output
    Syntax").
    """
    try:
        text = msgspec.json.encode(values)[1:-1].decode()
    except UnicodeEncodeError:
        text = "\\"
    if "\\" in text:
        texts = [None if value is None else clean_text(str(value)) for value in values]
        texts = [text and text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
        text = ",".join("NULL" if text is None else f'"{text}"' for text in texts)
    return f"{{{text}}}"


def _unnest(columns: Sequence[str], numbers: Iterator[int]) -> str:
    given = []
    for name in columns:
        number = name.endswith("_ms") or name in ("version", "attempt", "failures", "number")
        kind = "boolean" if name in ("hooked", "settled", "manual") else "bigint" if number else "text"
        given.append(f"${next(numbers)}{'' if name in _LONG else '::text'}::{kind}[]")
    return f"unnest({', '.join(given)})"


def _insert(table: str, end: str = "") -> str:
    columns = ", ".join(COLUMNS[table])
    return f"INSERT INTO receiver.{table} ({columns}) SELECT * FROM {{rows}} {end}"  # noqa: S608


def _update(columns: Sequence[str]) -> str:
    """Return the update of documents that still have the version we know. A working set that is NULL stays as it is."""
    changed = "".join(f", {name} = new.{name}" for name in columns if name not in TOUCHED)
    return (
        f"UPDATE receiver.submissions SET version = submissions.version + 1, "  # noqa: S608
        f"working = coalesce(new.working, submissions.working){changed} FROM {{rows}} AS new ({', '.join(columns)}) "
        "WHERE submissions.id = new.id AND submissions.version = new.version RETURNING 1"
    )


def _upsert(table: str, key: str, columns: Sequence[str], end: str = "") -> str:
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return _insert(table, f"ON CONFLICT ({key}) DO UPDATE SET {changed} {end}")


PARTS: Mapping[str, str] = {
    "touched": _update(TOUCHED),
    "written": _update(CHANGING),
    "callbacks": _insert("callbacks"),
    "events": _insert("events"),
    # Only a replay opens a delivery again, and only one of its own submission.
    "deliveries": _upsert(
        "deliveries",
        "id",
        DELIVERY[5:],
        "WHERE deliveries.submission_id = excluded.submission_id AND "
        "(deliveries.status IN ('pending', 'running') OR excluded.manual) RETURNING 1",
    ),
    "attempts": _upsert("attempts", "delivery_id, number", ("finished_ms", "outcome", "detail")),
    "files": _insert("files", "ON CONFLICT DO NOTHING"),
    # A name (`once`) that is taken keeps the new submission out.
    "submissions": _insert("submissions", "ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING RETURNING id"),
}
"""Statements in which `{rows}` are the rows to write."""
_RESULTS = {
    **{part: f"(SELECT count(*) FROM {part}_rows) AS {part}" for part in ("touched", "written", "deliveries")},  # noqa: S608
    "submissions": "(SELECT array_agg(id) FROM submissions_rows) AS created",
}


@cache
def write_statement(parts: tuple[str, ...]) -> str:
    """Return one statement that writes these parts. Its row has the number of rows written of some, the ids of new
    submissions, and the transaction's id."""
    numbers = itertools.count(1)
    written = [f"{part}_rows AS ({PARTS[part].format(rows=_unnest(COLUMNS[part], numbers))})" for part in parts]
    results = [_RESULTS[part] for part in parts if part in _RESULTS]
    return f"WITH {', '.join(written)} SELECT {', '.join([*results, 'pg_current_xact_id()::text AS xid'])}"


async def write_rows(db: Connection, rows: Mapping[str, Sequence[Row]]) -> Mapping[str, Any]:
    """Write rows by part, and return the result of `write_statement`."""
    parts, values = tuple(part for part in PARTS if rows.get(part)), []
    for part in parts:
        for column, given in zip(COLUMNS[part], zip(*rows[part], strict=True), strict=True):
            values.append(list(given) if column in _LONG else array(given))
    return await db.fetchrow(write_statement(parts), *values)  # type: ignore[no-any-return]


# Rows to records


def read_document(row: Mapping[str, Any]) -> Document:
    """Return a document without deliveries."""
    working = _read_working(row["working"])
    return Document(
        submission=read_submission(row["body"]), version=row["version"], known=working.known, newest=working.newest,
        receipts=working.receipts,
    )  # fmt: skip


def read_delivery(row: Any) -> Delivery:
    """Return the delivery in the last columns of a row. A receipt that cannot be read is left out: the delivery can be
    listed, freed and ended all the same."""
    values = dict(zip(DELIVERY, row[-len(DELIVERY) :], strict=True))
    if (text := values["receipt"]) is not None:
        values["receipt"] = None
        with suppress(msgspec.DecodeError):
            values["receipt"] = _read_receipt(text)
    return Delivery(**values)


def read_value(row: Mapping[str, Any]) -> SharedValue:
    return SharedValue(key=row["key"], data=row["data"].encode(), version=row["version"])


def _read_callback(row: Mapping[str, Any]) -> Callback:
    return Callback(
        submission_id=row["submission_id"], received_ms=row["received_ms"], cause=row["cause"],
        body=row["body"].encode(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """The way in which one kind of rows is read: its key, its columns, and the record of a row."""

    key: tuple[str, ...]
    columns: str
    record: Callable[[Mapping[str, Any]], Any]
    name: str = ""


_NEEDED = "EXISTS (SELECT FROM receiver.files WHERE files.digest = leftovers.digest) AS needed"
TABLES: Mapping[str, Table] = {
    "submissions": Table(("id",), "id, body", lambda row: read_submission(row["body"])),
    "documents": Table(("id",), "id, version, body, working", read_document, name="submissions"),
    "callbacks": Table(("number",), "number, submission_id, received_ms, cause, body", _read_callback),
    "events": Table(("number",), "number, body", lambda row: read_event(row["body"])),
    "deliveries": Table(("id",), ", ".join(DELIVERY), read_delivery),
    "attempts": Table(("delivery_id", "number"), ", ".join(ATTEMPT), lambda row: AttemptRecord(**row)),
    "files": Table(("submission_id", "digest"), "submission_id, digest", lambda row: NeededFile(**row)),
    "leftovers": Table(("digest",), f"digest, {_NEEDED}", lambda row: LeftFile(**row)),
    "values": Table(("key",), "key, data, version", read_value, name="shared_values"),
}

# Pages of rows

_IDS = {"ids": "id = ANY (?)"}
_CONDITIONS: Mapping[str, Mapping[str, str]] = {
    "submissions": {
        **_IDS,
        "submission_id": "id = ?",
        "parent_id": "parent_id = ?",
        "task_id": "task_id = ?",
        "part": "(starts_with(id, ?) OR right(id, length(?::text)) = ?)",
        "statuses": "(status = ANY (?) OR substr(ended, 6) = ANY (?) OR task_status = ANY (upper(?::text)::text[]))",
        "kinds": "kind = ANY (?)",
        "labels": "NOT EXISTS (SELECT FROM unnest(?::text[]) AS label WHERE strpos(labels, label) = 0)",
        "words": "NOT EXISTS (SELECT FROM unnest(?::text[]) AS word WHERE strpos(prompt, word) = 0)",
        "due_after_ms": "id = ANY (ARRAY(SELECT id FROM receiver.submissions WHERE send_due_ms > ?"
        " UNION ALL SELECT id FROM receiver.submissions WHERE poll_due_ms > ?"
        " UNION ALL SELECT id FROM receiver.submissions WHERE media_due_ms > ?))",
        "called_back": "hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')",
        "settled": "settled",
        "with_files": "(SELECT 1 FROM receiver.files WHERE submission_id = submissions.id LIMIT 1) IS NOT NULL",
        "since_ms": "id >= ?",
        "until_ms": "id < ?",
    },
    "callbacks": {"submission_id": "submission_id = ?", "since_ms": "received_ms >= ?", "until_ms": "received_ms < ?"},
    "events": {
        **_IDS,
        "submission_id": "id > ? || '.' AND id < ? || '/'",  # event ids start with their submission's
        "types": "type = ANY (?)",
        "since_ms": "created_ms >= ?",
        "until_ms": "created_ms < ?",
    },
    "deliveries": {
        **_IDS,
        "submission_id": "submission_id = ?",
        "destination": "destination = ?",
        "statuses": "status = ANY (?)",
        "due_after_ms": "status = 'pending' AND due_ms > ?",
        "since_ms": "id >= ?",
        "until_ms": "id < ?",
    },
    "attempts": {
        "delivery_id": "delivery_id = ?",
        "submission_id": "delivery_id = ANY (ARRAY(SELECT id FROM receiver.deliveries WHERE submission_id = ?))",
    },
    "files": {"submission_id": "submission_id = ?", "digest": "digest = ?"},
}
"""Conditions by kind and field of the filter, in which `?` is the field's value."""
_FEW = ("ids", "submission_id", "parent_id", "task_id", "digest", "due_after_ms")
"""Fields by which an index other than the key's finds few rows."""


def page_query(
    kind: str, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool
) -> tuple[str, list[Any]]:
    """Return the query for a page of rows, and its arguments. It has conditions only for what is given."""
    table, texts, values = TABLES[kind], list[str](), list[Any]()
    conditions = _CONDITIONS.get(kind, {})
    given = {
        field: value
        for field in conditions
        if (value := getattr(wanted, field)) not in (None, (), False) or (field == "ids" and value is not None)
    }
    few = any(field in given for field in _FEW)
    for field, value in given.items():
        text = conditions[field]
        if kind == "deliveries" and field == "statuses" and not few:  # as literals, so that partial indexes fit
            known = ", ".join(f"'{status}'" for status in DELIVERY_STATUSES if status in value)
            text, few = f"status IN ({known})" if known else "false", known == "'running'"
        if "?" in text:
            values.append(_argument(kind, field, value))
            texts.append(text.replace("?", f"${len(values)}"))
        else:
            texts.append(text)
    key = ", ".join(table.key)
    if after is not None:
        numbers = ", ".join(f"${len(values) + number}" for number in range(1, len(after) + 1))
        texts.append(f"({key}) {'<' if newest_first else '>'} ({numbers})")
        values += after
    hint = (" + 0" if table.key == ("number",) else " || ''") if few else ""  # see `queries.sql`
    order = [f"{table.key[0]}{hint}", *table.key[1:]]
    direction = " DESC" if newest_first else ""
    return (
        f"SELECT {table.columns} FROM receiver.{table.name or kind} "  # noqa: S608
        f"{'WHERE ' if texts else ''}{' AND '.join(texts)} "
        f"ORDER BY {', '.join(column + direction for column in order)} LIMIT ${len(values) + 1}"
    ), [*values, limit]


def _argument(kind: str, field: str, value: Any) -> Any:
    """Return the value of a condition's `?`."""
    if field == "labels":
        return [label_text({name: text}) for name, text in value]
    if field == "words":
        return [word.casefold() for word in value]
    if field in ("since_ms", "until_ms") and kind in ("submissions", "deliveries"):
        return first_id(value)
    return value


def due_query(kind: str) -> str:
    """Return the query for submissions with work of a kind that is due at $1."""
    column = f"{kind}_due_ms"
    return f"SELECT body FROM receiver.submissions WHERE {column} <= $1 ORDER BY {column} LIMIT $2"  # noqa: S608


async def fetch_page(
    db: Connection, kind: RowKind | str, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool = False
) -> list[StoredRow]:
    """Return a page of rows in order of key, or against it."""
    text, values = page_query(kind, wanted, after, limit, newest_first=newest_first)
    table = TABLES[kind]
    return [
        StoredRow(tuple(row[name] for name in table.key), table.record(row)) for row in await fetch(db, text, *values)
    ]
