"""Submissions as the writing connection last read or wrote them, and what they were owed last: a task calls back about
ten times, and reading its row anew costs more than deciding about it."""

from __future__ import annotations

import sqlite3

from receiver.deliveries import Delivery
from receiver.events import Submission

REMEMBERED = 4096
"""Rows; a few kilobytes each."""


class Recent:
    """True only inside a transaction that began with `refresh`: SQLite counts the commits of every other connection,
    and nobody else commits while we hold the write lock. For the writer's thread alone."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._rows: dict[str, Submission] = {}
        self._owed: dict[str, dict[str, str]] = {}
        self._version = -1

    def refresh(self, db: sqlite3.Connection) -> None:
        """Forget everything if another connection has written since the last transaction."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.forget()
            self._version = version

    def get(self, submission_id: str) -> Submission | None:
        """The row, if it is remembered."""
        return self._rows.get(submission_id)

    def keep(self, row: Submission) -> None:
        """Remember a row as it was just read or written."""
        if len(self._rows) >= self._limit and row.id not in self._rows:
            first = next(iter(self._rows))  # the one that came first
            del self._rows[first]
            self._owed.pop(first, None)
        self._rows[row.id] = row

    def owe(self, delivery: Delivery) -> str | None:
        """Remember a delivery as the newest to its (submission, destination). Returns the id of the one that was it, if
        that is remembered."""
        newest = self._owed.setdefault(delivery.submission_id, {})
        before = newest.get(delivery.destination)
        newest[delivery.destination] = delivery.id
        return before

    def forget(self) -> None:
        """Forget everything: something was undone, or written past us."""
        self._rows.clear()
        self._owed.clear()
