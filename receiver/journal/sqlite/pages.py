"""Pages of rows of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from receiver.journal.document import to_json
from receiver.journal.pages import Dialect, page_query, requests_query
from receiver.journal.rows import stored_rows
from receiver.journal.store import Filter, Key, Record, RowKind, StoredRow

DIALECT = Dialect(
    schema="",
    mark="?",
    among="IN (SELECT value FROM json_each({value}))",
    contains="instr",
    events_of="number IN (SELECT number FROM json_each({value}) CROSS JOIN events"
    " ON events.id > value || '.' AND events.id < value || '/')",
    in_index={},
    to_list=to_json,
    as_bytes="CAST({column} AS BLOB) AS {column}",
    with_files="(SELECT DISTINCT submission_id AS id FROM files) AS needing CROSS JOIN submissions USING (id)",
)


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
    query = page_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first, few=few)
    return stored_rows(kind, db.execute(*query), read)
