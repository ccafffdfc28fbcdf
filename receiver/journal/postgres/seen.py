"""Submissions as they were last read or written here: a task calls back about ten times, and to read its row anew costs
more than to decide about it.

A row's version is the number of the transaction that wrote it (`xmin`). One that is still of the version we know is as
we know it, whoever else writes. Numbers mean nothing on another server, so with each new connection all is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

from receiver.events import Submission

REMEMBERED = 4096
"""Rows; a few kilobytes each."""


class Seen:
    """Rows by id, each with its version."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._rows: dict[str, tuple[str, Submission]] = {}

    def get(self, id: str, version: str) -> Submission | None:
        """The row, if it is known in this version."""
        known = self._rows.get(id)
        return known[1] if known is not None and known[0] == version else None

    def known(self, id: str) -> tuple[str, Submission] | None:
        """The row as we know it, and which version that is."""
        return self._rows.get(id)

    def keep(self, rows: Mapping[str, tuple[str, Submission]]) -> None:
        """Remember rows as they are committed, with their versions."""
        for id, row in rows.items():
            if len(self._rows) >= self._limit and id not in self._rows:
                del self._rows[next(iter(self._rows))]  # the one that came first
            self._rows[id] = row

    def forget(self) -> None:
        self._rows.clear()
