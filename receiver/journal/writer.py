"""The one thread that writes a SQLite file. What queued while the last commit ran shares the next one ("group commit"):
an fsync is what a write costs, and one serves many."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
_Item = tuple[Operation, asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

MAX_BATCH = 500


class Writer:
    """Runs operations on its own connection, in order, each in a savepoint of its batch's transaction.

    Args:
        connection: which nobody else uses.
        guard: called after each commit, before anybody is told of it; it raises if what was committed may be lost.
    """

    def __init__(self, connection: sqlite3.Connection, guard: Callable[[], None] | None = None) -> None:
        self._connection = connection
        self._guard = guard or (lambda: None)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """The operation's result, after the commit that holds it. An error undoes this operation only."""
        if self._closed:
            raise sqlite3.ProgrammingError("the journal is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((operation, loop, future))
        return await future

    async def aclose(self) -> None:
        """Finish what is queued, then close the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._take()
            if batch:
                self._settle(batch, self._commit(batch))
        self._connection.close()

    def _take(self) -> tuple[list[_Item], bool]:
        """Wait for one item, then take what else has queued. False: the last batch."""
        item = self._queue.get()
        batch: list[_Item] = []
        while item is not None:
            batch.append(item)
            if len(batch) == MAX_BATCH:
                return batch, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: list[_Item]) -> list[_Outcome]:
        """BEGIN IMMEDIATE, because a deferred transaction that upgrades fails at once, ignoring the busy time-out."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._one(operation, future) for operation, _, future in batch]
            connection.execute("COMMIT")
            self._guard()
        except BaseException as exc:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # fails where the transaction is gone; the next BEGIN will tell
            return [(future, None, exc) for _, _, future in batch]
        return outcomes

    def _one(self, operation: Operation, future: asyncio.Future[Any]) -> _Outcome:
        self._connection.execute("SAVEPOINT one")
        try:
            result = operation(self._connection)
        except Exception as exc:
            if not self._connection.in_transaction:
                raise  # the whole transaction is gone (disk full): nothing of the batch can be kept
            self._connection.execute("ROLLBACK TO one")
            self._connection.execute("RELEASE one")
            return future, None, exc
        self._connection.execute("RELEASE one")
        return future, result, None

    @staticmethod
    def _settle(batch: list[_Item], outcomes: list[_Outcome]) -> None:
        """Wake each event loop once for the whole batch."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for (_, loop, _), outcome in zip(batch, outcomes, strict=True):
            by_loop.setdefault(loop, []).append(outcome)
        for loop, mine in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, mine)


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue  # whoever asked was cancelled; the write stands
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
