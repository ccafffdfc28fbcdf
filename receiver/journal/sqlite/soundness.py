"""Is a SQLite journal sound: what SQLite's own check finds, and rows that say what cannot be.

These functions block: call them in a thread. Each opens a connection of its own, because it lasts: the writer's and the
reader's go on meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from receiver.journal.contradictions import CONTRADICTIONS, sentences
from receiver.journal.sqlite.statements import SQL

BUSY_SECONDS = 10.0


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


def contradictions(path: Path) -> list[str]:
    """Rows that say what cannot be, as sentences."""
    with opened(path) as db:
        found = {name: [str(row["id"]) for row in db.execute(SQL[name])] for name in CONTRADICTIONS if name in SQL}
    return sentences(found)


def running(path: Path) -> list[str]:
    """Ids of the deliveries that an engine has claimed."""
    with opened(path) as db:
        return [row["id"] for row in db.execute(SQL["running_deliveries"])]
