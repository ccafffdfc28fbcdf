"""Rows as records, and SQL as package data, for every database that speaks SQL."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

import msgspec

from receiver.deliveries import AttemptRecord, Delivery, Receipt
from receiver.events import Callback, Event, Submission
from receiver.journal.document import Document, LastReceipt, replace, to_json
from receiver.journal.store import (
    Counts,
    DestinationCount,
    LeftFile,
    NeededFile,
    Record,
    RowKind,
    SharedValue,
    StoredRow,
)
from receiver.tasks import clean_text

S = TypeVar("S", bound=msgspec.Struct)
Row = Mapping[str, Any]

read_submission = msgspec.json.Decoder(Submission).decode
read_event = msgspec.json.Decoder(Event).decode
_read_receipt = msgspec.json.Decoder(Receipt).decode


def from_row(type: type[S], row: Row) -> S:
    """Make a struct of a row that has a column for each field."""
    return msgspec.convert(dict(row), type, strict=False)  # SQLite's booleans are 0 and 1


def delivery_from_row(row: Row) -> Delivery:
    """Make a delivery of a row. A receipt that cannot be read is left out, so that the delivery can still be ended."""
    receipt, values = row["receipt"], dict(row)
    values["receipt"] = None
    with suppress(msgspec.DecodeError):
        values["receipt"] = None if receipt is None else _read_receipt(receipt)
    return msgspec.convert(values, Delivery, strict=False)


working_set = attrgetter("known", "newest", "receipts")
"""The fields of a document that its row holds in the column `working`, as JSON."""
_read_working = msgspec.json.Decoder(tuple[tuple[str, ...], dict[str, str], dict[str, LastReceipt]]).decode


def read_document(row: Row) -> Document:
    """Return the document of a row, without deliveries, events and attempts."""
    known, newest, receipts = _read_working(row["working"])
    return Document(
        submission=read_submission(row["body"]), version=row["version"], known=known, newest=newest, receipts=receipts
    )


def documents_of(rows: Iterable[Row], *, skip: bool = False) -> dict[str, Document]:
    """Return the documents in the rows of `load`, by id. It has a row for each open delivery, and one for a document
    without any. An event that cannot be read counts as lost. `skip`: leave out documents that cannot be read."""
    by_id, found = defaultdict[str, list[Row]](list), {}
    for row in rows:
        by_id[row["document_id"]].append(row)
    for id, mine in by_id.items():
        with suppress(*[msgspec.DecodeError] if skip else []):
            found[id] = read_document(mine[0])
            if mine[0]["id"] is not None:
                found[id] = replace(found[id], **_open_rows(sorted(mine, key=itemgetter("id"))))
    return found


def _open_rows(rows: Sequence[Row]) -> dict[str, Any]:
    events = {}
    for row in rows:
        with suppress(msgspec.DecodeError):
            if row["event"] is not None and row["event_id"] not in events:
                events[row["event_id"]] = read_event(row["event"])
    attempts = (
        AttemptRecord(
            delivery_id=row["id"], number=row["number"], started_ms=row["started_ms"], manual=row["attempt_manual"]
        )
        for row in rows if row["number"] is not None
    )  # fmt: skip
    return {
        "deliveries": tuple(map(delivery_from_row, rows)),
        "events": tuple(events.values()),
        "attempts": tuple(attempts),
    }


class Table(NamedTuple):
    """One kind of rows.

    Attributes:
        read: makes a record of a row.
        key: columns of the sort key.
        columns: to be read. `{body}` and `{data}` are columns as bytes, `{schema}` is before a table's name.
        name: of the table.
    """

    read: Callable[[Any], Record]
    key: tuple[str, ...]
    columns: str
    name: str


TABLES: Mapping[RowKind, Table] = {
    "submissions": Table(
        lambda row: read_submission(row["body"]), ("id",), "id, version, working, body", "submissions"
    ),
    "callbacks": Table(
        partial(from_row, Callback), ("number",), "number, submission_id, received_ms, cause, {body}", "callbacks"
    ),
    "events": Table(lambda row: read_event(row["body"]), ("number",), "number, body", "events"),
    "deliveries": Table(delivery_from_row, ("id",), ", ".join(Delivery.__struct_fields__), "deliveries"),
    "attempts": Table(
        partial(from_row, AttemptRecord), ("delivery_id", "number"), ", ".join(AttemptRecord.__struct_fields__),
        "attempts",
    ),
    "files": Table(partial(from_row, NeededFile), ("submission_id", "digest"), "submission_id, digest", "files"),
    "leftovers": Table(
        partial(from_row, LeftFile), ("digest",),
        "digest, EXISTS (SELECT 1 FROM {schema}files WHERE files.digest = leftovers.digest) AS needed", "leftovers",
    ),
    "values": Table(
        partial(from_row, SharedValue), ("key",), "key, {data}, CAST(version AS text) AS version", "shared_values"
    ),
}  # fmt: skip


def stored_rows(kind: RowKind, found: Iterable[Any], read: Callable[[Any], Record] | None = None) -> list[StoredRow]:
    """Return rows with their keys. `read` makes other records than usual."""
    table = TABLES[kind]
    return [StoredRow(tuple(row[name] for name in table.key), (read or table.read)(row)) for row in found]


def counts_of(deliveries: Iterable[Any], submissions: Iterable[Any]) -> Counts:
    """Return the counts in the rows of `count_deliveries` and `count_submissions`."""
    found: dict[str, dict[str, int | None]] = {}
    for destination, status, number, due_ms in deliveries:
        oldest = {"oldest_due_ms": due_ms} if status == "pending" else {}
        found.setdefault(destination, {}).update({status: number, **oldest})
    return Counts(
        submissions=dict(map(tuple, submissions)),
        destinations={name: DestinationCount(**counted) for name, counted in found.items()},  # type: ignore[arg-type]
    )


def request_row(row: Submission) -> tuple[str, str, str, str]:
    """Return a submission's row of `requests`: its id, kind, labels, and its prompt in one case."""
    return row.id, row.kind, label_text(row.labels.items()), clean_text(row.prompt).casefold()


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as the column holds them. Each begins with a comma, so that one is found in many."""
    return "".join(f",{to_json({name: value})[1:-1]}" for name, value in labels)


# SQL: named queries and numbered migrations

REMOVED = ("attempts", "deliveries", "events", "callbacks", "submissions")
"""Kinds of rows that a submission has, in the order in which the statements `remove_…` delete them."""
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def queries(dialect: str) -> dict[str, str]:
    """Return the statements of `sql/<dialect>/queries.sql` and `sql/queries.sql` by name."""
    folder = files(__package__).joinpath("sql")
    shared = _in_dialect(dialect, folder.joinpath("queries.sql").read_text())
    parts = _NAME.split(folder.joinpath(dialect, "queries.sql").read_text())[1:] + _NAME.split(shared)[1:]
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations(dialect: str) -> list[tuple[int, str]]:
    """Return (number, script) of each `sql/<dialect>/NNNN_*.sql`, in order. The file of that name in `sql`, which is of
    both databases, comes before it."""
    folder, found = files(__package__).joinpath("sql"), []
    for item in folder.joinpath(dialect).iterdir():
        if item.name[:4].isdigit():
            shared = folder.joinpath(item.name)
            before = _in_dialect(dialect, shared.read_text()) if shared.is_file() else ""
            found.append((int(item.name[:4]), before + item.read_text()))
    return sorted(found)


_IN_SQLITE = (
    (r"receiver\.", ""),
    (r"= ANY \(\$(\d)\)", r"IN (SELECT value FROM json_each(?\1))"),
    ("bigint GENERATED BY DEFAULT AS IDENTITY", "INTEGER"),
    (' COLLATE "C"', ""),
    (r"\((\w+) (\|\| ''|\+ 0)\)", r"\1"),  # such a key is for PostgreSQL's planner
    (r"/\* WITHOUT ROWID \*/", "WITHOUT ROWID"),
)


def _in_dialect(dialect: str, text: str) -> str:
    """Return SQL of both databases, which is written for PostgreSQL, as one of them takes it."""
    for pattern, words in _IN_SQLITE if dialect == "sqlite" else ():
        text = re.sub(pattern, words, text)
    return text
