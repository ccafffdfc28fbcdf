"""Pages of rows of the file, and rows as records."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from receiver.deliveries import AttemptRecord
from receiver.events import Callback, Event
from receiver.journal.document import delivery_from_row, from_row, to_json
from receiver.journal.pages import KEYS, Dialect, page_query, requests_query
from receiver.journal.sqlite.documents import SQL, submission_of
from receiver.journal.store import Filter, Key, LeftFile, NeededFile, Record, RowKind, SharedValue, StoredRow

DIALECT = Dialect(
    schema="",
    mark="?",
    among="IN (SELECT value FROM json_each({value}))",
    contains="instr",
    events_of="number IN (SELECT number FROM json_each({value}) CROSS JOIN events"
    " ON events.id > value || '.' AND events.id < value || '/')",
    in_index={},
    to_list=to_json,
)


class Table(NamedTuple):
    """One kind of rows."""

    read: Callable[[Any], Record]
    select: str


_event = msgspec.json.Decoder(Event).decode
TABLES: Mapping[RowKind, Table] = {
    "submissions": Table(submission_of, SQL["page_submissions"]),
    "callbacks": Table(
        partial(from_row, Callback),
        "SELECT number, submission_id, received_ms, cause, CAST(body AS BLOB) AS body FROM callbacks",
    ),
    "events": Table(lambda row: _event(row["body"]), "SELECT number, body FROM events"),
    "deliveries": Table(delivery_from_row, "SELECT * FROM deliveries"),
    "attempts": Table(partial(from_row, AttemptRecord), "SELECT * FROM attempts"),
    "files": Table(partial(from_row, NeededFile), "SELECT * FROM files"),
    "leftovers": Table(
        partial(from_row, LeftFile),
        "SELECT *, EXISTS (SELECT 1 FROM files WHERE files.digest = leftovers.digest) AS needed FROM leftovers",
    ),
    "values": Table(
        partial(from_row, SharedValue), "SELECT key, data, CAST(version AS TEXT) AS version FROM shared_values"
    ),
}
_NEEDING = "(SELECT DISTINCT submission_id AS id FROM files) AS needing CROSS JOIN submissions USING (id)"


def read_page(
    db: sqlite3.Connection,
    kind: RowKind,
    wanted: Filter,
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
    read: Callable[[Any], Record] | None = None,
) -> list[StoredRow]:
    """Read the rows of a page, with a reader of its own if one is given."""
    few = None
    if found := requests_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first):
        few = found.few([id for (id,) in db.execute(found.text, found.values)])
    query = listing(kind, wanted, after, limit, newest_first=newest_first, few=few)
    keys, read = KEYS[kind], read or TABLES[kind].read
    return [StoredRow(tuple(row[key] for key in keys), read(row)) for row in db.execute(*query)]


def listing(kind: RowKind, wanted: Filter, after: Key | None, limit: int, **given: Any) -> tuple[str, list[Any]]:
    """Return the statement of a page, and its parameters."""
    select = TABLES[kind].select
    if kind == "submissions" and wanted.with_files:
        select = select.removesuffix("submissions") + _NEEDING
    return page_query(DIALECT, kind, wanted, after, limit, select=select, **given)
