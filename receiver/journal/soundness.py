"""Is a SQLite journal sound: what SQLite's own check finds, and rows that say what cannot be.

These functions block: call them in a thread. Each opens a connection of its own, because it lasts: the writer's and the
reader's go on meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from receiver.journal.statements import SQL

BUSY_SECONDS = 10.0
MAX_NAMED = 3
"""Examples named in a sentence."""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that lasts as long as the block."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        yield db


def damages(path: Path) -> list[str]:
    """What SQLite's own check of the whole file finds; nothing else about it can be trusted then."""
    with opened(path) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    return [] if found == ["ok"] else [f"The file is damaged: {line}. Restore a backup." for line in found]


_CONTRADICTIONS = {
    "deliveries_without_event": "{n} have no event, so nothing can be delivered",
    "deliveries_without_submission": "{n} belong to no submission",
    "events_without_submission": "{n} belong to no submission",
    "callbacks_without_submission": "{n} belong to no submission",
    "attempts_without_delivery": "{n} have attempts but are gone themselves",
    "tasks_without_event": "{n} have their task in an event that is gone",
    "ends_without_event": "{n} have ended without an event that says so, so their results reach nobody",
    "unfinished_attempts": "{n} do not run, but have an attempt without an end",
}
_NOUNS = {
    "events_without_submission": "events",
    "callbacks_without_submission": "callbacks",
    "tasks_without_event": "submissions",
    "ends_without_event": "submissions",
}


def contradictions(path: Path) -> list[str]:
    """Rows that say what cannot be, as sentences."""
    found = []
    with opened(path) as db:
        for name, text in _CONTRADICTIONS.items():
            ids = [str(row["id"]) for row in db.execute(SQL[name])]
            if ids:
                noun = _NOUNS.get(name, "deliveries")
                found.append(f"{text.format(n=f'{len(ids):,} {noun}')}: {_some(ids)}. Please report this.")
    return found


def running(path: Path) -> list[str]:
    """Ids of the deliveries that an engine has claimed."""
    with opened(path) as db:
        return [row["id"] for row in db.execute(SQL["running_deliveries"])]


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - MAX_NAMED:,} more" if len(ids) > MAX_NAMED else ""
    return f"{', '.join(ids[:MAX_NAMED])}{more}"
