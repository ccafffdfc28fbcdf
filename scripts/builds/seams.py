"""Receiver with one seam replaced: by something worse, which no experiment may let pass, or by a clock of ours."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from receiver.clock_steps import ClockSteps

from builds import postgres
from builds.clocks import SetClock
from builds.replacing import replaced
from receiver.app import opening
from receiver.engine.dispatcher import Dispatcher
from receiver.errors import Ambiguous, JournalError
from receiver.intake import Intake
from receiver.journal import Work
from receiver.journal.sqlite import SQLiteJournal
from receiver.provider import Accepted, Provider
from receiver.watchdog import Watchdog

LATE_SECONDS = 0.3


class LateCommit(sqlite3.Connection):
    """Says that a transaction is committed, and commits it some time later with all that came meanwhile."""

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
                    threading.Timer(LATE_SECONDS, self._commit).start()
                return super().execute("SELECT 1")
            if sql.startswith("BEGIN") and self._owed:
                self._owed = False
                return super().execute("SELECT 1")
            return super().execute(sql, *values)

    def close(self) -> None:
        with self._lock:
            self._owed = False
            super().close()

    def _commit(self) -> None:
        with self._lock:
            self._waiting = False
            if self._owed:
                self._owed = False
                super().execute("COMMIT")


def acknowledge_before_commit() -> AbstractContextManager[None]:
    """Callbacks are answered 200 while their transaction is still open."""
    return replaced(sqlite3, "connect", partial(sqlite3.connect, factory=LateCommit))


def acknowledge_failures() -> AbstractContextManager[None]:
    """Callbacks are answered 200 although the journal could not keep them."""
    received = Intake.received

    async def shrugging(self: Intake, *values: Any) -> bool:
        try:
            return await received(self, *values)
        except JournalError:
            return True

    return replaced(Intake, "received", shrugging)


@contextmanager
def acknowledge_locked() -> Iterator[None]:
    """Whoever holds the lock for half a second makes callbacks be answered 200 without a row."""
    connect = sqlite3.connect

    def impatient(*values: Any, **more: Any) -> Any:
        return connect(*values, **{**more, "timeout": 0.5})

    with replaced(sqlite3, "connect", impatient), acknowledge_failures():
        yield


def end_without_drain() -> AbstractContextManager[None]:
    """SIGTERM ends the process where it would drain."""

    async def end(self: Dispatcher, grace: float) -> None:
        os._exit(0)

    return replaced(Dispatcher, "drain", end)


def send_again() -> AbstractContextManager[None]:
    """A submit whose answer was lost is sent once more."""
    submit = Provider.submit

    async def twice(self: Provider, kind: str, body: Mapping[str, Any], *, speed: str | None) -> Accepted:
        try:
            return await submit(self, kind, body, speed=speed)
        except Ambiguous:
            return await submit(self, kind, body, speed=speed)

    return replaced(Provider, "submit", twice)


def greedy() -> AbstractContextManager[None]:
    """Claims all that is due at once."""
    claim = SQLiteJournal.claim

    async def all_of_it(self: SQLiteJournal, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        return await claim(self, destination, owner=owner, limit=1_000_000, now_ms=now_ms)

    return replaced(SQLiteJournal, "claim", all_of_it)


def unwatched() -> AbstractContextManager[None]:
    """Nobody looks whether the event loop still turns."""

    async def nothing(self: Watchdog) -> None:
        return

    return replaced(Watchdog, "run", nothing)


def set_clock() -> AbstractContextManager[None]:
    """Not broken: lives by a clock that is faster, and that an experiment sets."""
    return replaced(opening, "Clock", SetClock)


def ignore_clock_steps() -> AbstractContextManager[None]:
    """Nobody notices that the clock was set."""

    async def nothing(self: ClockSteps) -> int:
        return 0

    return replaced(ClockSteps, "check_once", nothing)


BUILDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "acknowledge-failures": acknowledge_failures,
    "acknowledge-locked": acknowledge_locked,
    "send-again": send_again,
    "ignore-clock-steps": ignore_clock_steps,
    "set-clock": set_clock,
    "greedy": greedy,
    "unwatched": unwatched,
    "end-without-drain": end_without_drain,
    **postgres.BUILDS,
}
