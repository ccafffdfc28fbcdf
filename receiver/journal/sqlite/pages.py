"""Pages of rows: one query for each combination of conditions, so that SQLite uses an index where there is one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from receiver.deliveries import DELIVERY_STATUSES, AttemptRecord
from receiver.events import Callback, Event, first_id
from receiver.journal.document import delivery_from_row, from_row, to_json
from receiver.journal.sqlite.documents import SQL, submission_of
from receiver.journal.store import (
    REQUEST_CONDITIONS,
    Filter,
    Key,
    LeftFile,
    NeededFile,
    Record,
    RowKind,
    SharedValue,
    StoredRow,
)

_event = msgspec.json.Decoder(Event).decode


class Table(NamedTuple):
    """One kind of rows. `conditions`: fields of a filter that make sense for it."""

    keys: tuple[str, ...]
    read: Callable[[Any], Record]
    conditions: str
    select: str


_SHARED = "submission_id kinds labels words"
_LISTED = f"parent_id task_id part statuses due_after_ms called_back settled requests {_SHARED}"
TABLES: Mapping[RowKind, Table] = {
    "submissions": Table(("id",), submission_of, f"ids since_ms until_ms {_LISTED}", SQL["page_submissions"]),
    "callbacks": Table(
        ("number",), partial(from_row, Callback), "submission_id since_ms until_ms",
        "SELECT number, submission_id, received_ms, cause, CAST(body AS BLOB) AS body FROM callbacks",
    ),
    "events": Table(
        ("number",), lambda row: _event(row["body"]), f"ids types since_ms until_ms {_SHARED}",
        "SELECT number, body FROM events",
    ),
    "deliveries": Table(
        ("id",), delivery_from_row, f"ids part since_ms until_ms destination statuses due_after_ms {_SHARED}",
        "SELECT * FROM deliveries",
    ),
    "attempts": Table(
        ("delivery_id", "number"), partial(from_row, AttemptRecord), "delivery_id submission_id",
        "SELECT * FROM attempts",
    ),
    "files": Table(
        ("submission_id", "digest"), partial(from_row, NeededFile), "submission_id digest", "SELECT * FROM files"
    ),
    "leftovers": Table(
        ("digest",), partial(from_row, LeftFile), "",
        "SELECT *, EXISTS (SELECT 1 FROM files WHERE files.digest = leftovers.digest) AS needed FROM leftovers",
    ),
    "values": Table(
        ("key",), partial(from_row, SharedValue), "",
        "SELECT key, data, CAST(version AS TEXT) AS version FROM shared_values",
    ),
}  # fmt: skip
_CONDITIONS = {
    "ids": "id IN (SELECT value FROM json_each(:ids))",
    "since_ms": "id >= :since_id",
    "until_ms": "id < :until_id",
    "callbacks.since_ms": "received_ms >= :since_ms",
    "callbacks.until_ms": "received_ms < :until_ms",
    "events.since_ms": "created_ms >= :since_ms",
    "events.until_ms": "created_ms < :until_ms",
    "submissions.submission_id": "id = :submission_id",
    "events.submission_id": "id > :submission_id || '.' AND id < :submission_id || '/'",
    "attempts.submission_id": "delivery_id IN (SELECT id FROM deliveries WHERE submission_id = :submission_id)",
    "part": "(substr(id, 1, length(:part)) = :part OR substr(id, -length(:part)) = :part)",
    "submissions.statuses": "display IN (SELECT value FROM json_each(:statuses))",
    "deliveries.statuses": "status IN (SELECT value FROM json_each(:statuses))",
    "types": "type IN (SELECT value FROM json_each(:types))",
    "kinds": "json_extract(body, '$.kind') IN (SELECT value FROM json_each(:kinds))",
    "labels": "NOT EXISTS (SELECT 1 FROM json_each(:labels) AS pair WHERE NOT EXISTS ("
    "SELECT 1 FROM json_each(submissions.body, '$.labels') AS label"
    " WHERE label.key = json_extract(pair.value, '$[0]') AND label.value = json_extract(pair.value, '$[1]')))",
    "words": "NOT EXISTS (SELECT 1 FROM json_each(:words) AS word"
    " WHERE NOT instr(casefold(json_extract(submissions.body, '$.prompt')), casefold(word.value)))",
    "deliveries.due_after_ms": "status = 'pending' AND due_ms > :due_after_ms",
    "submissions.due_after_ms": "id IN (SELECT id FROM submissions WHERE send_due_ms > :due_after_ms"
    " UNION ALL SELECT id FROM submissions WHERE poll_due_ms > :due_after_ms"
    " UNION ALL SELECT id FROM submissions WHERE media_due_ms > :due_after_ms)",
    "requests": "display <> 'alert'",
    "called_back": "hooked = 1 AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')",
    "settled": "(ended IS NOT NULL OR status = 'refused') AND send_due_ms IS NULL AND poll_due_ms IS NULL"
    " AND media_due_ms IS NULL AND json_extract(body, '$.claim') IS NULL",
}
"""Conditions by field of the filter, for all kinds or for one. Any other field is a column of its name."""
_SELECTIVE = {"ids", "submission_id", "delivery_id", "parent_id", "task_id", "digest", "destination", "due_after_ms"}
_NEEDING = "(SELECT DISTINCT submission_id AS id FROM files) AS needing CROSS JOIN submissions USING (id)"
_OLD_CALLBACKS = (
    "number < coalesce((SELECT number FROM callbacks WHERE received_ms >= :until_ms AND received_ms <="
    " (SELECT received_ms FROM callbacks ORDER BY number DESC LIMIT 1) ORDER BY number LIMIT 1), 9223372036854775807)"
)
"""Ends the search for old callbacks at the first one that is not old, because they are numbered as they came. One dated
after the newest was written by a clock that was ahead, and ends nothing."""


def page_query(
    kind: RowKind, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool
) -> tuple[str, dict[str, Any]]:
    """Return the statement of a page, and its parameters."""
    keys, _, conditions, select = TABLES[kind]
    given = {
        name: value
        for name in conditions.split()
        if (value := getattr(wanted, name)) not in (None, False) and (value != () or name == "ids")
    }
    texts = {name: _condition(kind, name) for name in given}
    values = {name: to_json(value) if isinstance(value, tuple) else value for name, value in given.items()}
    values |= {f"{name[:5]}_id": first_id(given[name]) for name in ("since_ms", "until_ms") if name in given}
    if kind == "deliveries" and len(wanted.statuses) == 1 and wanted.statuses[0] in DELIVERY_STATUSES:
        texts["statuses"] = f"status = '{wanted.statuses[0]}'"  # as in the partial indexes
    if kind == "callbacks" and given.keys() == {"until_ms"} and not newest_first:
        texts["old"] = _OLD_CALLBACKS
    if kind == "submissions" and wanted.with_files:
        select = select.removesuffix("submissions") + _NEEDING
    if after is not None:
        # A `+` keeps SQLite from a search by key alone, in the order of the page, where another index finds few rows.
        compared = ", ".join(f"+{key}" if _SELECTIVE & given.keys() else key for key in keys)
        texts["after"] = f"({compared}) {'<' if newest_first else '>'} ({', '.join(f':after_{key}' for key in keys)})"
        values |= {f"after_{key}": value for key, value in zip(keys, after, strict=True)}
    where = f" WHERE {' AND '.join(texts.values())}" if texts else ""
    order = ", ".join(f"{key} DESC" if newest_first else key for key in keys)
    return f"{select}{where} ORDER BY {order} LIMIT :limit", {**values, "limit": limit}


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
    query, values = page_query(kind, wanted, after, limit, newest_first=newest_first)
    keys, read = TABLES[kind].keys, read or TABLES[kind].read
    return [StoredRow(tuple(row[key] for key in keys), read(row)) for row in db.execute(query, values)]


def delete_query(kind: RowKind) -> str:
    """Return the statement that deletes all rows of a submission."""
    return f"DELETE FROM {kind} WHERE {_condition(kind, 'submission_id')}"  # noqa: S608 - texts of ours


def _condition(kind: RowKind, name: str) -> str:
    text = _CONDITIONS.get(f"{kind}.{name}") or _CONDITIONS.get(name) or f"{name} = :{name}"
    if kind != "submissions" and name in REQUEST_CONDITIONS:
        return f"submission_id IN (SELECT id FROM submissions WHERE {text})"  # noqa: S608 - texts of ours
    return text
