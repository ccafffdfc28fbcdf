"""The store on one SQLite file: WAL, `synchronous=FULL`, one writer thread, one reader thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from receiver.disk import Ballast, check_local_disk, in_thread
from receiver.errors import EngineRunning, JournalError
from receiver.events import Submission
from receiver.journal.document import Document, Transition
from receiver.journal.membership import EngineLock
from receiver.journal.sqlite import files, maintenance
from receiver.journal.sqlite.documents import SQL, RowCache, load, submission_of
from receiver.journal.sqlite.files import BUSY_SECONDS, connect, identities, translated
from receiver.journal.sqlite.pages import TABLES, delete_query, read_page
from receiver.journal.sqlite.writer import Writer
from receiver.journal.store import Counts, DestinationCount, DueKind, Filter, Key, RowKind, Rows, SharedValue, StoredRow

T = TypeVar("T")
Connection = sqlite3.Connection
Changed = Callable[[frozenset[str] | None], None]

_KINDS: tuple[RowKind, ...] = ("attempts", "deliveries", "events", "callbacks", "submissions")


class SQLiteStore:
    """See `receiver.journal.store.Store`. Opened by `open_store`.

    Attributes:
        engine_lock: only one engine may run on a file.
    """

    shared: ClassVar[bool] = False
    cache_seconds = 1.0

    def __init__(self, path: Path, writer: Connection, reader: Connection, ballast: Ballast) -> None:
        self.place = str(path)
        self.engine_lock = EngineLock(path)
        self._path = path
        self._ballast = ballast
        self._damage: JournalError | None = None
        self._closed = False
        self._subscribers: list[tuple[asyncio.AbstractEventLoop, Changed]] = []
        self._identities = identities(path)
        self._cache = RowCache()
        self._writer = Writer(writer, self._cache, self._committed)
        self._reader = reader
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def aclose(self) -> None:
        self._closed = True
        await self._writer.aclose()
        self._readers.shutdown(wait=True)
        self._reader.close()
        self.engine_lock.release()

    async def settle(self) -> None:
        """Nothing is swept up later."""

    async def check(self, *, space: bool = False) -> None:
        if space:
            await self._take_new()
            if await asyncio.to_thread(self._ballast.nearly_full):
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
                return {id: found for id in ids if (found := load(db, id)) is not None}
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

        result, error = await self._run(write)
        if error is not None:
            with translated(self._path):
                raise error
        return result

    def _apply(self, document: Document, transition: Transition[T]) -> T:
        after, result = transition(document)
        if after is not document:
            if self._ballast.given_up and len(after.new_callbacks) > len(document.new_callbacks):
                raise self._full()
            self._cache.put(after)
        return result

    async def claim(self, destination: str, now_ms: int, limit: int, transition: Transition[T | None]) -> list[T]:
        values = {"destination": destination, "now_ms": now_ms}
        if not await self._read(lambda db: db.execute(f"{SQL['claimable']} LIMIT 1", values).fetchone()):
            return []  # an idle engine asks often: a read costs no commit

        def write(db: Connection) -> list[T]:
            results: list[T] = []
            seen: set[str] = set()
            for (id,) in db.execute(SQL["claimable"], values):
                if len(results) >= limit:
                    break
                if id in seen:
                    continue
                seen.add(id)
                try:
                    document = self._cache.get(db, id)
                except msgspec.DecodeError:
                    continue  # its row cannot be read, which holds up no other
                if document is not None and (result := self._apply(document, transition)) is not None:
                    results.append(result)
            return results

        return await self._write(write)

    async def remove(
        self, id: str, transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int] | None:
        def write(db: Connection) -> Mapping[str, int] | None:
            removed: dict[str, int] = dict.fromkeys(("files", *_KINDS), 0)
            document = self._cache.get(db, id)
            if document is None:
                return removed
            after = transition(document)
            if after is None:
                return None
            values = {"submission_id": id}
            removed["files"] = db.execute(SQL["leave_files"], values).rowcount
            db.execute(delete_query("files"), values)
            if not files_only:
                for kind in _KINDS:
                    removed[kind] = db.execute(delete_query(kind), values).rowcount
                self._cache.forget(id)
                self._cache.written.add(id)
            elif after is not document:
                self._cache.put(after)
            return removed

        return await self._write(write)

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys: Sequence[Key]) -> int:
        statement = f"DELETE FROM {kind} WHERE {TABLES[kind].keys[0]} = ?"  # noqa: S608 - a table of ours
        return await self._write(lambda db: db.executemany(statement, keys).rowcount) if keys else 0

    # Reading

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        query = f"{SQL['page_submissions']} WHERE {kind}_due_ms <= ? ORDER BY {kind}_due_ms LIMIT ?"
        return await self._read(lambda db: [submission_of(row) for row in db.execute(query, (now_ms, limit))])

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        return await self._read(lambda db: read_page(db, kind, wanted, after, limit, newest_first=newest_first))

    async def counts(self, *, submissions: bool = False) -> Counts:
        def read(db: Connection) -> Counts:
            found: dict[str, dict[str, int]] = {}
            for destination, status, number, due_ms in db.execute(SQL["count_deliveries"]):
                oldest = {"oldest_due_ms": due_ms} if status == "pending" else {}
                found.setdefault(destination, {}).update({status: number, **oldest})
            return Counts(
                submissions=dict(map(tuple, db.execute(SQL["count_submissions"]))) if submissions else {},
                destinations={name: DestinationCount(**counted) for name, counted in found.items()},
            )

        return await self._read(read)

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        query = f"{TABLES['values'].select} WHERE key >= ? AND key < ? ORDER BY key"
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
        lock = EngineLock(self._path)  # of its own: ours may be held, because we are the engine
        try:
            lock.acquire("journal compact")
            return await self._beside(maintenance.compact)
        except EngineRunning:
            return None
        finally:
            lock.release()

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

    async def _run(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that may come before the changes of the batch are written."""
        try:
            return await self._writer.run(operation)
        except files.ERRORS as exc:
            error = files.journal_error(exc, self._path)
            if error.fault == "damaged":
                self._damage = error
            elif error.fault == "full":
                await asyncio.to_thread(self._ballast.give_up)
            raise error from exc

    def _committed(self) -> None:
        if not self._identities.items() <= identities(self._path).items():
            raise JournalError(
                f"The journal {self._path} or its log has been removed or replaced since Receiver opened it. Nothing "
                "is kept now. Put the file back where it was, or restart Receiver to use the file that is there.",
                fault="replaced",
            )
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
