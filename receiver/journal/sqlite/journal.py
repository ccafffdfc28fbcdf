"""The journal on one SQLite file: WAL, `synchronous=FULL`, one writer thread, one reader thread."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from receiver.deliveries import Completion
from receiver.disk import in_thread
from receiver.errors import JournalError
from receiver.events import Callback, Event, EventType, Submission
from receiver.journal import Changed, Decide, Trouble, Work
from receiver.journal.listings import Listings
from receiver.journal.rows import from_row, to_json, to_row
from receiver.journal.sqlite import operations
from receiver.journal.sqlite.ballast import Ballast
from receiver.journal.sqlite.connections import BUSY_SECONDS, connect, migrate, told, translated
from receiver.journal.sqlite.files import SameFiles
from receiver.journal.sqlite.filesystems import check_file_system
from receiver.journal.sqlite.lock import EngineLock, OneEngine
from receiver.journal.sqlite.recent import Recent
from receiver.journal.sqlite.staged import Staged
from receiver.journal.sqlite.statements import SQL
from receiver.journal.sqlite.upkeep import Upkeep
from receiver.journal.sqlite.writer import Writer

T = TypeVar("T")
Row = TypeVar("Row", bound=msgspec.Struct)
Connection = sqlite3.Connection


class SQLiteJournal(OneEngine, Listings, Upkeep):
    """See `journal.base.Journal`. Made by `open_journal`."""

    def __init__(
        self, path: Path, writer: Connection, reader: Connection, *, busy_seconds: float, ballast: Ballast | None
    ) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._ballast = ballast
        self._damage: JournalError | None = None
        self._closed = False
        self._lock = EngineLock(path)
        self._recent = Recent()
        self._staged = Staged(self._recent)
        self._writer = Writer(
            writer, begun=self._begun, ending=self._staged.flush, undone=self._undone, guard=SameFiles(path).check
        )
        self._reader = reader
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")

    async def aclose(self) -> None:
        self._closed = True
        await self._writer.aclose()
        self._readers.shutdown(wait=True)
        self._reader.close()
        self._lock.release()

    async def check(self) -> None:
        if self._damage is not None:
            raise self._damage
        await self._write_beside(operations.check)

    async def check_space(self) -> None:
        if self._ballast is not None and (
            await asyncio.to_thread(self._ballast.nearly_full) or not await self._has_room(self._ballast)
        ):
            raise self._full()

    # Submissions

    async def add(self, submission: Submission) -> Submission:
        await self._make_room()
        return await self._write_beside(lambda db: operations.add(db, submission))

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        def operation(db: Connection) -> Changed | None:
            return operations.change(db, self._recent, self._staged, submission_id, decide=decide, callback=callback)

        if callback is None:
            return await self._run(operation)
        if self._ballast is not None and self._ballast.given_up:
            await self._make_room()
        try:
            return await self._run(operation)
        except Exception as exc:
            if isinstance(exc, JournalError) and exc.fault:
                raise  # the store cannot keep anything now
            problem = exc
        return await self._write_beside(lambda db: operations.keep_undecided(db, callback, problem))

    async def get(self, submission_id: str) -> Submission | None:
        return await self._read(lambda db: operations.get(db, submission_id))

    # Callbacks and events

    async def callbacks(self, submission_id: str, *, limit: int | None = None) -> list[Callback]:
        found = await self._select(Callback, "last_callbacks", submission_id=submission_id, limit=limit or -1)
        return found[::-1]

    async def events(
        self, *, limit: int, submission_id: str | None = None, type: EventType | None = None
    ) -> list[Event]:
        name = "list_events" if submission_id is None else "list_submission_events"
        rows = await self._rows(name, limit=limit, submission_id=submission_id, type=type)
        with translated(self._path, self._busy_seconds):
            return [msgspec.json.decode(row["body"], type=Event) for row in rows]

    async def event(self, event_id: str) -> Event | None:
        rows = await self._rows("get_event", id=event_id)
        with translated(self._path, self._busy_seconds):
            return msgspec.json.decode(rows[0]["body"], type=Event) if rows else None

    # Troubles

    async def note(self, trouble: Trouble) -> None:
        await self._write(lambda db: db.execute(SQL["note_trouble"], to_row(trouble)))

    async def clear(self, name: str) -> None:
        await self._write(lambda db: db.execute(SQL["clear_trouble"], {"name": name}))

    # Deliveries

    async def register(self, destinations: Mapping[str, str]) -> None:
        rows = [{"name": name, "handler": handler} for name, handler in destinations.items()]
        await self._write_beside(lambda db: db.executemany(SQL["register_destination"], rows))

    async def pause(self, destination: str, until_ms: int, reason: str) -> None:
        values = {"name": destination, "until_ms": until_ms, "reason": reason}
        await self._write_beside(lambda db: db.execute(SQL["pause_destination"], values))

    async def resume(self, destination: str) -> bool:
        values = {"name": destination}

        def write(db: sqlite3.Connection) -> bool:
            db.execute(SQL["end_wait"], values)
            return db.execute(SQL["resume_destination"], values).rowcount == 1

        return await self._write_beside(write)

    async def claim(self, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        values = {"destination": destination, "owner": owner, "limit": limit, "now_ms": now_ms}
        if not await self._read(lambda db: operations.any_due(db, values)):
            return []  # an idle engine asks often: a read costs no commit
        return await self._write_beside(lambda db: operations.claim(db, self._recent, values))

    async def alone_due(self, destinations: Collection[str], now_ms: int) -> bool:
        return bool(await self._rows("alone_due", destinations=to_json(list(destinations)), now_ms=now_ms))

    async def claim_alone(self, destinations: Collection[str], *, owner: str, now_ms: int) -> Work | None:
        values = {"destinations": to_json(list(destinations)), "owner": owner, "now_ms": now_ms}
        return await self._write_beside(lambda db: operations.claim_alone(db, self._recent, values))

    async def complete(self, completion: Completion) -> bool:
        return await self._write_beside(lambda db: operations.complete(db, completion))

    async def free_running(self, owner: str, now_ms: int) -> int:
        return await self._write(lambda db: operations.free_running(db, owner, now_ms))

    def accuse(self, delivery_id: str) -> None:
        with (
            translated(self._path, self._busy_seconds),
            contextlib.closing(sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)) as db,
        ):
            db.execute(SQL["accuse"], {"id": delivery_id})

    async def advance(self, now_ms: int, *, step_ms: int = 0) -> int:
        return await self._write(lambda db: operations.advance(db, now_ms, step_ms))

    # Plumbing

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        """For what may write submissions by statements of its own."""

        def forgetting(db: Connection) -> T:
            self._recent.forget()
            return operation(db)

        return await self._write_beside(forgetting)

    async def _write_beside(self, operation: Callable[[Connection], T]) -> T:
        """For what writes no submissions, or keeps `_recent` true itself."""

        def seeing_all(db: Connection) -> T:
            self._staged.flush(db)
            return operation(db)

        return await self._run(seeing_all)

    async def _run(self, operation: Callable[[Connection], T]) -> T:
        """For what may come before what is staged is written."""
        try:
            return await self._writer.run(operation)
        except JournalError as exc:
            await self._learn(exc)
            raise
        except (sqlite3.Error, OSError) as exc:
            error = told(exc, self._path, self._busy_seconds)
            await self._learn(error)
            raise error from exc

    def _begun(self, db: Connection, operations: int) -> None:
        self._recent.refresh(db)
        self._staged.begin(operations)

    def _undone(self) -> None:
        self._recent.forget()
        self._staged.drop()

    async def _learn(self, exc: JournalError) -> None:
        """What a failed write says about those to come."""
        if exc.fault == "damaged":
            self._damage = exc
        elif exc.fault == "full" and self._ballast is not None and not self._ballast.given_up:
            await asyncio.to_thread(self._ballast.give_up)

    async def _make_room(self) -> None:
        """Once the disk was full, what is new is refused until there is room for more than it: the rest is for what is
        owed already."""
        if self._ballast is not None and not await self._has_room(self._ballast):
            raise self._full()

    async def _has_room(self, ballast: Ballast) -> bool:
        if ballast.given_up and ballast.worth_a_look:
            await asyncio.to_thread(ballast.make)
        return not ballast.given_up

    def _full(self) -> JournalError:
        return JournalError(
            f"The journal {self._path} takes nothing new: its disk is full, or nearly. Free some space; Receiver goes "
            "on by itself.",
            fault="full",
        )

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        with translated(self._path, self._busy_seconds):
            if self._closed:
                raise sqlite3.ProgrammingError("the journal is closed")
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, operation, self._reader)

    async def _beside(self, function: Callable[[Path], T]) -> T:
        with translated(self._path, self._busy_seconds):
            return await in_thread(function, self._path)

    async def _rows(self, name: str, **values: Any) -> list[sqlite3.Row]:
        return await self._read(lambda db: db.execute(SQL[name], values).fetchall())

    async def _select(self, type: type[Row], name: str, **values: Any) -> list[Row]:
        return await self._read(lambda db: [from_row(type, row) for row in db.execute(SQL[name], values)])


async def open_journal(
    path: Path, *, busy_seconds: float = BUSY_SECONDS, ballast: bool = False, anywhere: bool = False
) -> SQLiteJournal:
    """Open or make the file, bring its schema up to date, start the threads.

    Args:
        path: the file; its folder is made too.
        busy_seconds: how long to wait for another process that holds the write lock.
        ballast: keep a file beside it that is given up when the disk is full.
        anywhere: also on a network file system.

    Raises:
        JournalError: the file cannot be opened, is no SQLite database, was written by a newer Receiver, or lies on a
            network file system.
        JournalLocked: another process holds the write lock.
    """
    if not anywhere:
        await asyncio.to_thread(check_file_system, path)
    weight = Ballast(path) if ballast else None
    with translated(path, busy_seconds):
        writer = await asyncio.to_thread(connect, path, busy_seconds)
        try:
            await asyncio.to_thread(migrate, writer, path)
            reader = await asyncio.to_thread(connect, path, busy_seconds)
        except BaseException:
            writer.close()
            raise
    if weight is not None:
        await asyncio.to_thread(weight.make)
    return SQLiteJournal(path, writer, reader, busy_seconds=busy_seconds, ballast=weight)
