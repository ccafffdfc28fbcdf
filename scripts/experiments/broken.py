"""Receiver with one seam replaced by something worse: what the experiments must not let pass.

usage: python -m experiments.broken BUILD serve …     runs the `receiver` command of that build
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from receiver.cli import main
from receiver.dispatcher import Dispatcher
from receiver.errors import JournalError
from receiver.intake import Intake


class LateCommit(sqlite3.Connection):
    """Says that a transaction is committed, and commits it 50 ms later with all that came meanwhile."""

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        self._lock = threading.RLock()
        self._owed = False
        self._waiting = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        with self._lock:
            if sql == "COMMIT":
                self._owed = True
                if not self._waiting:
                    self._waiting = True
                    threading.Timer(0.05, self._commit).start()
                return super().execute("SELECT 1")
            if sql.startswith("BEGIN") and self._owed:
                self._owed = False
                return super().execute("SELECT 1")
            return super().execute(sql, *values)

    def _commit(self) -> None:
        with self._lock:
            self._waiting = False
            if self._owed:
                self._owed = False
                super().execute("COMMIT")


def acknowledge_before_commit() -> None:
    """Callbacks are answered 200 while their transaction is still open."""
    sqlite3.connect = partial(sqlite3.connect, factory=LateCommit)  # type: ignore[assignment]


def acknowledge_failures() -> None:
    """Callbacks are answered 200 although the journal could not keep them."""
    received = Intake.received

    async def shrugging(self: Intake, *values: Any) -> bool:
        try:
            return await received(self, *values)
        except JournalError:
            return True

    Intake.received = shrugging  # type: ignore[method-assign, assignment]


def end_without_drain() -> None:
    """SIGTERM leaves what runs as it is."""

    async def nothing(self: Dispatcher, grace: float) -> None:
        return

    Dispatcher.drain = nothing  # type: ignore[method-assign]


BUILDS: dict[str, Callable[[], None]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "acknowledge-failures": acknowledge_failures,
    "end-without-drain": end_without_drain,
}


if __name__ == "__main__":
    BUILDS[sys.argv.pop(1)]()
    main()
