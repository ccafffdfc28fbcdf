"""The store on one SQLite file: WAL, `synchronous=FULL`, one writer thread, one reader thread."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from receiver import metrics
from receiver.disk import Ballast, check_local_disk, in_thread
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.document import Document, Transition
from receiver.journal.membership import SingleMembership
from receiver.journal.pages import due_query, select
from receiver.journal.rows import REMOVED, counts_of, read_submission
from receiver.journal.sqlite import files, maintenance
from receiver.journal.sqlite.documents import DIALECT, SQL, RowCache, encode, load, read_page
from receiver.journal.sqlite.files import BUSY_SECONDS, connect, translated
from receiver.journal.store import Counts, DueKind, Filter, Key, RowKind, Rows, SharedValue, StoredRow

T = TypeVar("T")
Connection = sqlite3.Connection
Changed = Callable[[frozenset[str] | None], None]


class SQLiteStore:
    """See `receiver.journal.store.Store`. Opened by `open_store`.

    Attributes:
        membership: only one engine may run on a file.
    """

    shared: ClassVar[bool] = False
    cache_seconds = 1.0

    def __init__(self, path: Path, writer: Connection, reader: Connection, ballast: Ballast) -> None:
        self.place = str(path)
        self.membership = SingleMembership(path)
        self._path = path
        self._ballast = ballast
        self._damage: JournalError | None = None
        self._closed = False
        self._subscribers: list[tuple[asyncio.AbstractEventLoop, Changed]] = []
        self._watch = FileWatch(path)
        self._cache = RowCache()
        self._writer = Writer(writer, self._cache, begun=self._watch.check, committed=self._committed)
        self._reader = reader
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def aclose(self) -> None:
        self._closed = True
        await self._writer.aclose()
        self._readers.shutdown(wait=True)
        self._reader.close()
        self.membership.close()

    async def settle(self) -> None:
        """Nothing is swept up later."""

    async def check(self, *, space: bool = False) -> None:
        if space:
            await self._take_new()
            with translated(self._path):  # its folder may be gone
                nearly_full = await asyncio.to_thread(self._ballast.nearly_full)
            if nearly_full:
                raise self._full()
            return
        if self._damage is not None:
            raise self._damage

        def write(db: Connection) -> None:
            # An UPDATE that finds no row would write nothing, and would not notice a full disk.
            db.execute(SQL["insert_leftover"], ("",))
            db.execute("DELETE FROM leftovers WHERE digest = ''")

        await self._write(write)

    # Documents

    async def create(self, submission: Submission) -> Submission:
        await self._take_new()
        return await self._write(lambda db: self._cache.insert(db, submission))

    async def load(self, ids: Sequence[str]) -> dict[str, Document]:
        def read(db: Connection) -> dict[str, Document]:
            db.execute("BEGIN")
            try:
                return load(db, ids)
            finally:
                db.execute("COMMIT")

        return await self._read(read)

    async def update(self, id: str, transition: Transition[T]) -> T | None:
        if self._ballast.given_up:
            await asyncio.to_thread(self._ballast.make)

        def write(db: Connection) -> tuple[T | None, Exception | None]:
            try:
                document = self._cache.get(db, id)
                return None if document is None else self._apply(document, transition), None
            except sqlite3.Error:
                raise
            except Exception as exc:  # of the transition, which wrote nothing: the rest of the batch goes on
                return None, exc

        result, error = await self._run(write, id)
        if error is not None:
            with translated(self._path):
                raise error
        return result

    def _apply(self, document: Document, transition: Transition[T]) -> T:
        after, result = transition(document)
        if after is not document:
            if self._ballast.given_up and len(after.new_callbacks) > len(document.new_callbacks):
                raise self._full()
            self._cache.put(document, after)
        return result

    async def claim(
        self, destination: str, now_ms: int, limit: int, transition: Transition[T | None], *, fresh: float | None = None
    ) -> list[T]:
        statement = SQL["claimable" if fresh is None else "fresh"]
        values = {"destination": destination, "now_ms": now_ms, "fresh": fresh}

        def write(db: Connection) -> list[T]:
            results: list[T] = []
            found = db.execute(statement, values)
            while len(results) < limit and (rows := found.fetchmany(limit - len(results))):
                ids = dict.fromkeys(id for (id,) in rows)
                self._cache.fetch(db, ids)
                for id in ids:
                    try:
                        document = self._cache.get(db, id)
                    except msgspec.DecodeError:
                        continue  # its row cannot be read, which holds up no other
                    if document is not None and (result := self._apply(document, transition)) is not None:
                        results.append(result)
            return results

        return await self._write(write)

    async def remove(
        self, ids: Sequence[str], transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int]:
        def write(db: Connection) -> Mapping[str, int]:
            removed = dict.fromkeys(("kept", "files", *REMOVED), 0)
            decided: list[str] = []
            for id, document in load(db, ids).items():
                after = transition(document)
                if after is None:
                    removed["kept"] += 1
                    continue
                decided.append(id)
                if files_only and after is not document:
                    self._cache.put(document, after)
            values = (encode(decided),)
            removed["files"] = db.execute(SQL["leave_files"], values).rowcount
            db.execute(SQL["remove_files"], values)
            if not files_only:
                for kind in REMOVED:
                    removed[kind] = db.execute(SQL[f"remove_{kind}"], values).rowcount
                db.execute(SQL["remove_requests"], values)
                for id in decided:
                    self._cache.forget(id)
                self._cache.written.update(decided)
            return removed

        return await self._write(write)

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys: Sequence[Key]) -> int:
        found = encode([key[0] for key in keys])
        return await self._write(lambda db: db.execute(SQL[f"forget_{kind}"], (found,)).rowcount)

    # Reading

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        query = due_query(DIALECT, kind)
        return await self._read(lambda db: [read_submission(body) for (body,) in db.execute(query, (now_ms, limit))])

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        return await self._read(lambda db: read_page(db, kind, wanted, after, limit, newest_first=newest_first))

    async def counts(self, *, submissions: bool = False) -> Counts:
        displayed = SQL["count_submissions"]
        return await self._read(
            lambda db: counts_of(db.execute(SQL["count_deliveries"]), db.execute(displayed) if submissions else ())
        )

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        query = f"{select(DIALECT, 'values')} WHERE key >= ? AND key < ? ORDER BY key"
        rows = await self._read(lambda db: db.execute(query, (prefix, f"{prefix}\U0010ffff")).fetchall())
        return {row["key"]: SharedValue(**dict(row)) for row in rows}

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        delete = "DELETE FROM shared_values WHERE key = ? AND version = ?"

        def write(db: Connection) -> str | None:
            if version is not None and db.execute(delete, (key, int(version))).rowcount == 0:
                return None
            if data is None:
                return ""
            done = db.execute(SQL["insert_value"], (key, data))
            return str(done.lastrowid) if done.rowcount else None

        return await self._run(write)

    def subscribe(self, changed: Changed) -> None:
        self._subscribers.append((asyncio.get_running_loop(), changed))

    # The store as a whole

    async def problems(self, owners: frozenset[str]) -> list[str]:
        return await self._beside(maintenance.problems, owners)

    async def back_up(self, target: Path) -> int:
        return await self._beside(maintenance.back_up, target)

    async def compact(self) -> tuple[int, int] | None:
        return None if await self.membership.engines() else await self._beside(maintenance.compact)

    async def scrub(self, words: str) -> str | None:
        """Rewrite the file if no engine runs. Deleted rows are overwritten anyway, except copies that SQLite left when
        it moved rows."""
        if await self.compact() is not None:
            return None
        await self._beside(maintenance.empty_log)
        return (
            "Unused space of the journal's file may have traces of its prompt. To overwrite them, stop the engine, "
            "then run: receiver journal compact"
        )

    def transfer(self, *, fill: bool) -> AbstractAsyncContextManager[Rows]:
        return maintenance.transfer(self._path, fill=fill)

    # Connections

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that reads or writes rows by statements of its own."""

        def after_changes(db: Connection) -> T:
            self._cache.flush(db)
            return operation(db)

        return await self._run(after_changes)

    async def _run(self, operation: Callable[[Connection], T], id: str | None = None) -> T:
        """Run an operation that may come before the changes of the batch are written. See `Writer.run`."""
        try:
            return await self._writer.run(operation, id)
        except files.ERRORS as exc:
            error = files.journal_error(exc, self._path)
            if error.fault == "damaged":
                self._damage = error
            elif error.fault == "full":
                await asyncio.to_thread(self._ballast.give_up)
            raise error from exc

    def _committed(self) -> None:
        """Check that the commit is kept, then notify subscribers."""
        self._watch.check(committed=True)
        if self._cache.written:
            written = frozenset(self._cache.written)
            for loop, changed in self._subscribers:
                with suppress(RuntimeError):  # its loop is closed
                    loop.call_soon_threadsafe(changed, written)

    async def _take_new(self) -> None:
        """Raise JournalError from a full disk on, until there is room for more than what is owed already."""
        if self._ballast.given_up:
            await asyncio.to_thread(self._ballast.make)
            if self._ballast.given_up:
                raise self._full()

    def _full(self) -> JournalError:
        return JournalError(
            f"The journal {self._path} takes nothing new: its disk is full, or nearly. Free some space. Receiver then "
            "goes on by itself.",
            fault="full",
        )

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        with translated(self._path):
            if self._closed:
                raise sqlite3.ProgrammingError("the journal is closed")
            return await asyncio.get_running_loop().run_in_executor(self._readers, operation, self._reader)

    async def _beside(self, function: Callable[..., T], *args: Any) -> T:
        with translated(self._path):
            return await in_thread(function, self._path, *args)


# The writer

_Item = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]", str | None]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

MAX_BATCH = 500
IDLE_TURNS = 3
"""The next claim of deliveries comes so many turns after the ends of the last ones."""


class Writer:
    """Runs operations on its own connection, in order, those that wait together in one transaction. An operation may
    run twice, the first time undone.

    Args:
        connection: for this writer alone.
        cache: follows the transactions.
        begun: called before anything is written. It raises if what is written would be lost.
        committed: called after each commit, before any caller is answered. It raises if what was committed may be lost.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        cache: RowCache,
        *,
        begun: Callable[[], None] = lambda: None,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._begun, self._committed = begun, committed
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        self._queue: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T], id: str | None = None) -> T:
        """Return the operation's result after the commit that holds it. An error undoes this operation only.

        `id` is of the document that it changes. Those of a batch are read together, before its first operation.
        """
        if self._closed:
            raise sqlite3.ProgrammingError("the journal is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        gathered = self._gathered.setdefault(loop, [])
        gathered.append((operation, future, id))
        if len(gathered) == 1:
            loop.call_soon(self._hand_over, loop, 0)
        return await future

    def _hand_over(self, loop: asyncio.AbstractEventLoop, seen: int, idle: int = 0) -> None:
        """Wait until `IDLE_TURNS` turns of the loop have brought nothing more, so that all of it shares a commit. A
        writer that woke at the first item would compete with the loop for Python's lock, too."""
        gathered = self._gathered.get(loop, [])
        idle = idle + 1 if seen == len(gathered) else 0
        if idle < IDLE_TURNS and len(gathered) < MAX_BATCH:
            loop.call_soon(self._hand_over, loop, len(gathered), idle)
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
            began = time.perf_counter()
            for outcome in self._commit(batch):
                by_loop[outcome[0].get_loop()].append(outcome)
            if metrics.counting:
                metrics.committed(len(batch), began)
            for loop, outcomes in by_loop.items():  # each event loop is woken once for the whole batch
                with suppress(RuntimeError):  # the loop is closed, and has no waiter left
                    loop.call_soon_threadsafe(_resolve, outcomes)
        self._connection.close()

    def _commit(self, batch: list[_Item]) -> list[_Outcome]:
        """Run all in one transaction. If one of them fails, run each in its own, so that only that one gets the error.
        A savepoint for each would cost more: SQLite copies every page that is touched inside it."""
        db, running = self._connection, False
        try:
            db.execute("BEGIN IMMEDIATE")  # a deferred transaction that upgrades fails without waiting
            self._begun()
            self._cache.begin(db)
            running = True
            self._cache.fetch(db, [id for _, _, id in batch if id is not None])
            outcomes: list[_Outcome] = [(future, operation(db), None) for operation, future, _ in batch]
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
            return [(future, None, exc) for _, future, _ in batch]
        return outcomes


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue  # the caller was cancelled, and the write stays
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


# Changes by other programs


class FileWatch:
    """Notices that the file or its log was removed, replaced or cut: SQLite takes every write then, and keeps none.

    A log begins anew after a checkpoint, with another header, whose last bytes are a checksum. Zeros there are a hole
    of a log that was cut (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).
    """

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, f"{path}-wal"
        self._identities, _, _ = self._look()
        self._header, self._size = b"", 0

    def check(self, *, committed: bool = False) -> None:
        """Raise JournalError if they are not as we left them. Call before the first write of a commit, and after it."""
        identities, header, size = self._look()
        if committed and not self._identities.items() <= identities.items():
            raise JournalError(
                f"The journal {self._path} or its log has been removed or replaced since Receiver opened it. Nothing "
                "is kept now. Put the file back where it was, or restart Receiver to use the file that is there.",
                fault="replaced",
            )
        if size < self._size if header == self._header else committed and header and not any(header[28:]):
            raise JournalError(
                f"The log of the journal, {self._log}, was cut by another program since Receiver wrote it. "
                "Nothing is kept now. Restart Receiver, and look for what was lost with: receiver journal check",
                fault="cut",
            )
        if committed:
            self._header, self._size = header, size

    def _look(self) -> tuple[dict[str, tuple[int, int]], bytes, int]:
        """Return device and inode of each file that is there, and the log's header and size."""
        found = {}
        with suppress(FileNotFoundError):
            status = os.stat(self._path)
            found["file"] = status.st_dev, status.st_ino
        with suppress(FileNotFoundError), open(self._log, "rb", buffering=0) as log:
            status = os.fstat(log.fileno())
            found["log"] = status.st_dev, status.st_ino
            return found, log.read(32), status.st_size
        return found, b"", 0


async def open_store(
    path: Path, *, busy_seconds: float = BUSY_SECONDS, ballast: bool = False, anywhere: bool = False
) -> SQLiteStore:
    """Open or make the file, bring its schema up to date, start the threads.

    Args:
        path: the file; its folder is made too.
        busy_seconds: longest wait for another process that holds the write lock.
        ballast: keep a file beside it that is given up when the disk is full.
        anywhere: also on a network file system.

    Raises:
        JournalError: the file cannot be opened, is no SQLite database, was written by another version of Receiver, or
            is on a network file system.
        JournalLocked: another process holds the write lock.
    """
    if not anywhere:
        await asyncio.to_thread(check_local_disk, path)
    reserve = Ballast(Path(f"{path}.ballast"), enabled=ballast)
    with translated(path):
        writer = await asyncio.to_thread(connect, path, busy_seconds)
        reader = await asyncio.to_thread(connect, path, busy_seconds)
    await asyncio.to_thread(reserve.make)
    return SQLiteStore(path, writer, reader, reserve)
