"""Submissions as the writing connection last read or wrote them: a task calls back about ten times, and reading its row
anew costs more than deciding about it."""

from __future__ import annotations

import sqlite3

from receiver.events import Submission

REMEMBERED = 4096
"""Rows; a few kilobytes each."""


class Recent:
    """True only inside a transaction that began with `refresh`: SQLite counts the commits of every other connection,
    and nobody else commits while we hold the write lock. For the writer's thread alone."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._rows: dict[str, Submission] = {}
        self._version = -1

    def refresh(self, db: sqlite3.Connection) -> None:
        """Forget everything if another connection has written since the last transaction."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._rows.clear()
            self._version = version

    def get(self, submission_id: str) -> Submission | None:
        """The row, if it is remembered."""
        return self._rows.get(submission_id)

    def keep(self, row: Submission) -> None:
        """Remember a row as it was just read or written."""
        if len(self._rows) >= self._limit and row.id not in self._rows:
            del self._rows[next(iter(self._rows))]  # the one that came first
        self._rows[row.id] = row

    def forget(self) -> None:
        """Forget everything: something was undone, or written past us."""
        self._rows.clear()
