"""Builds of Receiver with one function replaced: broken ones, which must fail, and one with another clock."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, BinaryIO

from PIL import Image

from builds import clocks, postgres
from builds.replacing import replaced
from receiver import pictures
from receiver.app import factory
from receiver.disk import in_thread
from receiver.engine import engine
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.watchdog import Watchdog
from receiver.errors import Ambiguous, JournalError
from receiver.intake import Intake
from receiver.journal import Journal, Work
from receiver.pictures import program
from receiver.provider import Accepted, Provider

LATE_SECONDS = 0.3


class LateCommit(sqlite3.Connection):
    """Report a transaction as committed, and commit it later with all that came meanwhile."""

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
    """Answer callbacks 200 while their transaction is still open."""
    return replaced(sqlite3, "connect", partial(sqlite3.connect, factory=LateCommit))


def acknowledge_failures() -> AbstractContextManager[None]:
    """Answer callbacks 200 although the journal could not keep them."""
    received = Intake.received

    async def shrugging(self: Intake, *values: Any) -> bool:
        try:
            return await received(self, *values)
        except JournalError:
            return True

    return replaced(Intake, "received", shrugging)


@contextmanager
def acknowledge_locked() -> Iterator[None]:
    """Wait half a second for the lock, then answer callbacks 200 without a row."""
    connect = sqlite3.connect

    def impatient(*values: Any, **more: Any) -> Any:
        return connect(*values, **{**more, "timeout": 0.5})

    with replaced(sqlite3, "connect", impatient), acknowledge_failures():
        yield


def end_without_drain() -> AbstractContextManager[None]:
    """End the process at SIGTERM where it would drain."""

    async def end(self: Dispatcher, grace: float) -> None:
        os._exit(0)

    return replaced(Dispatcher, "drain", end)


def send_again() -> AbstractContextManager[None]:
    """Send a submit whose answer was lost once more."""
    submit = Provider.submit

    async def twice(self: Provider, kind: str, body: Mapping[str, Any], *, speed: str | None) -> Accepted:
        try:
            return await submit(self, kind, body, speed=speed)
        except Ambiguous:
            return await submit(self, kind, body, speed=speed)

    return replaced(Provider, "submit", twice)


def greedy() -> AbstractContextManager[None]:
    """Claim all that is due at once."""
    claim = Journal.claim

    async def all_of_it(self: Journal, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        return await claim(self, destination, owner=owner, limit=1_000_000, now_ms=now_ms)

    return replaced(Journal, "claim", all_of_it)


def unwatched() -> AbstractContextManager[None]:
    """Let the event loop stand still without end."""

    async def nothing(self: Watchdog) -> None:
        return

    return replaced(Watchdog, "run", nothing)


def decode_inside() -> AbstractContextManager[None]:
    """Decode pictures in a thread of this process, one at a time, without limits."""
    turn = asyncio.Lock()

    def decode(file: BinaryIO, operation: str, path: str) -> None:
        for data in program.OPERATIONS[operation](Image.open(path)):
            file.write(len(data).to_bytes(4, "big") + data)

    async def run(file: BinaryIO, operation: str, path: str, *_: int) -> int:
        async with turn:
            await in_thread(decode, file, operation, path)
        return 0

    return replaced(pictures, "_run", run)


@contextmanager
def set_clock() -> Iterator[None]:
    """Not broken: use a clock that is faster, and that an experiment sets."""
    clamp = engine.CLAMP_SECONDS / clocks.SPEED  # five minutes of that clock
    with replaced(factory, "Clock", clocks.SetClock), replaced(engine, "CLAMP_SECONDS", clamp):
        yield


def unclamped() -> AbstractContextManager[None]:
    """Leave due times where a wrong clock has put them."""

    async def nothing(self: Journal, now_ms: int, poll_ms: int = 0) -> int:
        return 0

    return replaced(Journal, "clamp", nothing)


BUILDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "acknowledge-before-commit": acknowledge_before_commit,
    "acknowledge-failures": acknowledge_failures,
    "acknowledge-locked": acknowledge_locked,
    "send-again": send_again,
    "set-clock": set_clock,
    "unclamped": unclamped,
    "greedy": greedy,
    "unwatched": unwatched,
    "decode-inside": decode_inside,
    "end-without-drain": end_without_drain,
    **postgres.BUILDS,
}
