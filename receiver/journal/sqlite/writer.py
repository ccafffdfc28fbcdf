"""The one thread that writes a SQLite file. Writes that queued during the last commit share the next one ("group
commit"): an fsync is what a write costs, and one serves many."""

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


class _Failed(Exception):
    """One operation of a batch failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Writer:
    """Runs operations on its own connection, in order, those that wait together in one transaction. An operation may
    run twice, the first time undone.

    Args:
        connection: for this writer alone.
        begun: called when a transaction has begun and holds the write lock.
        ending: called before the commit. An error counts as one of the operations'.
        undone: called when something was rolled back.
        committed: called after each commit, before any caller is answered. It raises if what was committed may be lost.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        begun: Operation = lambda connection: None,
        ending: Operation = lambda connection: None,
        undone: Callable[[], None] = lambda: None,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._begun = begun
        self._ending = ending
        self._undone = undone
        self._committed = committed
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        self._queue: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._rest: list[_Item] = []
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Return the operation's result after the commit that holds it. An error undoes this operation only."""
        if self._closed:
            raise sqlite3.ProgrammingError("the journal is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        gathered = self._gathered.setdefault(loop, [])
        gathered.append((operation, loop, future))
        if len(gathered) == 1:
            loop.call_soon(self._hand_over, loop, 0)
        return await future

    def _hand_over(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        """Wait as long as each turn of the loop brings more, so that all of it shares a commit. A writer that woke at
        the first item would compete with the loop for Python's lock, too."""
        gathered = self._gathered.get(loop, [])
        if seen < len(gathered) < MAX_BATCH:
            loop.call_soon(self._hand_over, loop, len(gathered))
        elif self._gathered.pop(loop, None):
            self._queue.put(gathered)

    async def aclose(self) -> None:
        """Finish what is queued, then close the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            for gathered in self._gathered.values():
                self._queue.put(gathered)
            self._gathered.clear()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._take():
            outcomes = self._commit(batch)
            by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
            for (_, loop, _), outcome in zip(batch, outcomes, strict=True):
                by_loop.setdefault(loop, []).append(outcome)
            for loop, mine in by_loop.items():  # each event loop is woken once for the whole batch
                with contextlib.suppress(RuntimeError):  # the loop is closed, and has no waiter left
                    loop.call_soon_threadsafe(_resolve, mine)
        self._connection.close()

    def _take(self) -> list[_Item]:
        """Wait for something to do, then take what else has queued. Empty: it was the last batch."""
        while not self._ended and len(self._rest) < MAX_BATCH:
            try:
                items = self._queue.get(block=not self._rest)
            except queue.Empty:
                break
            self._ended = items is None
            self._rest.extend(items or ())
        batch, self._rest = self._rest[:MAX_BATCH], self._rest[MAX_BATCH:]
        return batch

    def _commit(self, batch: list[_Item]) -> list[_Outcome]:
        """Run all in one transaction. If one of them fails, run each in its own, so that only that one gets the error.

        A savepoint for each would cost more than the rest: SQLite copies every page that is touched inside it.
        """
        try:
            return self._transact(batch)
        except _Failed as failure:
            if len(batch) == 1:
                return [(batch[0][2], None, failure.error)]
            return [self._commit([item])[0] for item in batch]
        except BaseException as exc:
            return [(future, None, exc) for _, _, future in batch]

    def _transact(self, batch: list[_Item]) -> list[_Outcome]:
        """Run a batch in BEGIN IMMEDIATE: a deferred transaction that upgrades fails at once, ignoring the busy
        time-out.

        Raises:
            _Failed: an operation did.
            BaseException: the transaction itself could not begin or end.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._begun(connection)
            outcomes: list[_Outcome] = [(future, _run(operation, connection), None) for operation, _, future in batch]
            _run(self._ending, connection)
            connection.execute("COMMIT")
            self._committed()
        except BaseException:
            self._undone()
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # fails where the transaction is gone; the next BEGIN will tell
            raise
        return outcomes


def _run(operation: Operation, connection: sqlite3.Connection) -> Any:
    try:
        return operation(connection)
    except Exception as exc:
        raise _Failed(exc) from exc


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue  # the caller was cancelled; the write stays
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
