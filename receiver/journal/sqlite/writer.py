"""The one thread that writes a SQLite file. Writes that queued during the last commit share the next one ("group
commit"): an fsync is what a write costs, and one serves many."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from receiver.journal.sqlite.documents import RowCache

T = TypeVar("T")
_Item = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

MAX_BATCH = 500


class Writer:
    """Runs operations on its own connection, in order, those that wait together in one transaction. An operation may
    run twice, the first time undone.

    Args:
        connection: for this writer alone.
        cache: follows the transactions.
        committed: called after each commit, before any caller is answered. It raises if what was committed may be lost.
    """

    def __init__(
        self, connection: sqlite3.Connection, cache: RowCache, committed: Callable[[], None] = lambda: None
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._committed = committed
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        self._queue: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
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
        gathered.append((operation, future))
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
        rest: list[_Item] = []
        ended = False
        while True:
            while not ended and len(rest) < MAX_BATCH:
                try:
                    items = self._queue.get(block=not rest)
                except queue.Empty:
                    break
                ended = items is None
                rest += items or ()
            if not rest:
                break
            batch, rest = rest[:MAX_BATCH], rest[MAX_BATCH:]
            by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = defaultdict(list)
            for outcome in self._commit(batch):
                by_loop[outcome[0].get_loop()].append(outcome)
            for loop, outcomes in by_loop.items():  # each event loop is woken once for the whole batch
                with suppress(RuntimeError):  # the loop is closed, and has no waiter left
                    loop.call_soon_threadsafe(_resolve, outcomes)
        self._connection.close()

    def _commit(self, batch: list[_Item]) -> list[_Outcome]:
        """Run all in one transaction. If one of them fails, run each in its own, so that only that one gets the error.

        A savepoint for each would cost more than the rest: SQLite copies every page that is touched inside it.
        """
        db, running = self._connection, False
        try:
            db.execute("BEGIN IMMEDIATE")  # a deferred transaction that upgrades fails without waiting
            self._cache.begin(db)
            running = True
            outcomes: list[_Outcome] = [(future, operation(db), None) for operation, future in batch]
            self._cache.flush(db)
            running = False
            db.execute("COMMIT")
            self._committed()
        except BaseException as exc:
            self._cache.forget()
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")  # fails where the transaction is gone, and then the next BEGIN reports it
            if running and len(batch) > 1 and isinstance(exc, Exception):
                return [self._commit([item])[0] for item in batch]
            return [(future, None, exc) for _, future in batch]
        return outcomes


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue  # the caller was cancelled, and the write stays
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
