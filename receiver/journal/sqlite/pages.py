"""Pages of rows: one query for each combination of conditions, so that SQLite uses an index where there is one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from receiver.deliveries import DELIVERY_STATUSES, AttemptRecord
from receiver.events import Callback, Event, first_id
from receiver.journal.rows import delivery_from_row, from_row, to_json
from receiver.journal.sqlite.documents import SQL, submission_of
from receiver.journal.store import Filter, Key, LeftFile, NeededFile, Record, RowKind, SharedValue, StoredRow

KEYS: Mapping[RowKind, tuple[str, ...]] = {
    "submissions": ("id",),
    "callbacks": ("number",),
    "events": ("number",),
    "deliveries": ("id",),
    "attempts": ("delivery_id", "number"),
    "files": ("submission_id", "digest"),
    "leftovers": ("digest",),
    "values": ("key",),
}
_event = msgspec.json.Decoder(Event).decode
_READERS: Mapping[RowKind, Callable[[Any], Record]] = {
    "submissions": submission_of,
    "callbacks": lambda row: from_row(Callback, row),
    "events": lambda row: _event(row["body"]),
    "deliveries": delivery_from_row,
    "attempts": lambda row: from_row(AttemptRecord, row),
    "files": lambda row: from_row(NeededFile, row),
    "leftovers": lambda row: LeftFile(digest=row["digest"], needed=bool(row["needed"])),
    "values": lambda row: from_row(SharedValue, row),
}

_IDS = "id IN (SELECT value FROM json_each(:ids))"
_SINCE, _UNTIL = "id >= :since_id", "id < :until_id"
_CONDITIONS: Mapping[RowKind, Mapping[str, str]] = {
    "submissions": {
        "ids": _IDS,
        "submission_id": "id = :submission_id",
        "parent_id": "parent_id = :parent_id",
        "task_id": "task_id = :task_id",
        "part": "(substr(id, 1, length(:part)) = :part OR substr(id, -length(:part)) = :part)",
        "statuses": "EXISTS (SELECT 1 FROM json_each(:statuses) AS word WHERE submissions.status = word.value"
        " OR submissions.ended = 'task.' || word.value OR submissions.task_status = upper(word.value))",
        "kinds": "json_extract(body, '$.kind') IN (SELECT value FROM json_each(:kinds))",
        "labels": "NOT EXISTS (SELECT 1 FROM json_each(:labels) AS pair WHERE NOT EXISTS ("
        "SELECT 1 FROM json_each(submissions.body, '$.labels') AS label"
        " WHERE label.key = json_extract(pair.value, '$[0]') AND label.value = json_extract(pair.value, '$[1]')))",
        "words": "NOT EXISTS (SELECT 1 FROM json_each(:words) AS word"
        " WHERE NOT instr(casefold(json_extract(submissions.body, '$.prompt')), casefold(word.value)))",
        "since_ms": _SINCE,
        "until_ms": _UNTIL,
        "due_after_ms": "id IN (SELECT id FROM submissions WHERE send_due_ms > :due_after_ms"
        " UNION ALL SELECT id FROM submissions WHERE poll_due_ms > :due_after_ms"
        " UNION ALL SELECT id FROM submissions WHERE media_due_ms > :due_after_ms)",
        "called_back": "hooked = 1 AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')",
        "settled": "(ended IS NOT NULL OR status = 'refused') AND send_due_ms IS NULL AND poll_due_ms IS NULL"
        " AND media_due_ms IS NULL AND json_extract(body, '$.claim') IS NULL",
    },
    "callbacks": {
        "submission_id": "submission_id = :submission_id",
        "since_ms": "received_ms >= :since_ms",
        "until_ms": "received_ms < :until_ms",
    },
    "events": {
        "ids": _IDS,
        "submission_id": "id > :submission_id || '.' AND id < :submission_id || '/'",
        "types": "type IN (SELECT value FROM json_each(:types))",
        "since_ms": "created_ms >= :since_ms",
        "until_ms": "created_ms < :until_ms",
    },
    "deliveries": {
        "ids": _IDS,
        "submission_id": "submission_id = :submission_id",
        "destination": "destination = :destination",
        "statuses": "status IN (SELECT value FROM json_each(:statuses))",
        "due_after_ms": "status = 'pending' AND due_ms > :due_after_ms",
        "since_ms": _SINCE,
        "until_ms": _UNTIL,
    },
    "attempts": {
        "delivery_id": "delivery_id = :delivery_id",
        "submission_id": "delivery_id IN (SELECT id FROM deliveries WHERE submission_id = :submission_id)",
    },
    "files": {"submission_id": "submission_id = :submission_id", "digest": "digest = :digest"},
    "leftovers": {},
    "values": {},
}
_SELECTIVE = {"ids", "submission_id", "delivery_id", "parent_id", "task_id", "digest", "destination", "due_after_ms"}
_OLD_CALLBACKS = (
    "number < coalesce((SELECT number FROM callbacks WHERE received_ms >= :until_ms AND received_ms <="
    " (SELECT received_ms FROM callbacks ORDER BY number DESC LIMIT 1) ORDER BY number LIMIT 1), 9223372036854775807)"
)
"""Ends the search for old callbacks at the first one that is not old. They are numbered as they came, so none behind it
is old. One dated after the newest was written by a clock that was ahead, and ends nothing."""


def page_query(
    kind: RowKind, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool
) -> tuple[str, dict[str, Any]]:
    """Return the statement of a page, and its parameters."""
    texts = _CONDITIONS[kind]
    given = {name: value for name in texts if (value := getattr(wanted, name)) not in (None, (), False)}
    if wanted.ids is not None and "ids" in texts:
        given["ids"] = wanted.ids
    conditions = [texts[name] for name in given]
    if kind == "deliveries" and len(wanted.statuses) == 1 and wanted.statuses[0] in DELIVERY_STATUSES:
        conditions[list(given).index("statuses")] = f"status = '{wanted.statuses[0]}'"  # as in the partial indexes
    if kind == "callbacks" and "until_ms" in given and len(given) == 1 and not newest_first:
        conditions.append(_OLD_CALLBACKS)
    values = {name: to_json(value) if isinstance(value, tuple) else value for name, value in given.items()}
    for name in ("since", "until"):
        if (moment := given.get(f"{name}_ms")) is not None:
            values[f"{name}_id"] = first_id(moment)
    keys = KEYS[kind]
    if after is not None:
        names = [f"after_{index}" for index in range(len(keys))]
        compare = "<" if newest_first else ">"
        # A `+` keeps SQLite from a search by key alone, in the order of the page, where another index finds few rows.
        compared = [f"+{key}" if _SELECTIVE & given.keys() else key for key in keys]
        conditions.append(f"({', '.join(compared)}) {compare} ({', '.join(f':{name}' for name in names)})")
        values |= dict(zip(names, after, strict=True))
    select = SQL["page_submissions_with_files" if kind == "submissions" and wanted.with_files else f"page_{kind}"]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
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
    keys, read = KEYS[kind], read or _READERS[kind]
    return [StoredRow(tuple(row[key] for key in keys), read(row)) for row in db.execute(query, values)]
