"""What a person or the calendar asks of a SQLite journal, beside its daily work: replay, delete by age, erase, check,
copy. Each write is one short transaction, so that it works beside a running engine."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from receiver.deliveries import Delivery
from receiver.errors import EngineRunning, JournalError
from receiver.events import Event
from receiver.journal.copying import NewRows, Rows
from receiver.journal.selection import Batch, Kind, Leftover, Order, Replayed, Selection
from receiver.journal.sqlite import backup, replaying, retention, soundness
from receiver.journal.sqlite.lock import EngineLock
from receiver.journal.sqlite.statements import SQL
from receiver.journal.sqlite.transfer import transfer

T = TypeVar("T")
Connection = sqlite3.Connection


class Upkeep(ABC):
    """The part of `SQLiteJournal` for upkeep; see `journal.base.Journal`."""

    _path: Path
    _lock: EngineLock

    # Replay

    async def select_deliveries(self, selection: Selection, *, after: str, limit: int) -> list[Delivery]:
        return await self._read(lambda db: replaying.select_deliveries(db, selection, after, limit))

    async def select_events(self, selection: Selection, *, after: int, limit: int) -> list[tuple[int, str]]:
        rows = await self._read(lambda db: replaying.select_events(db, selection, after, limit))
        return [(row["number"], row["id"]) for row in rows]

    async def event_deliveries(self, event: Event) -> list[Delivery]:
        return await self._read(lambda db: replaying.event_deliveries(db, event.id, event.submission_id, None))

    async def foresee(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        return await self._read(lambda db: replaying.foresee(db, orders, now_ms))

    async def replay(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        return await self._write(lambda db: replaying.replay(db, orders, now_ms))

    async def registered(self) -> dict[str, str]:
        rows = await self._read(lambda db: db.execute(SQL["list_registered"]).fetchall())
        return {row["name"]: row["handler"] for row in rows}

    # Deleting

    async def old(self, kind: Kind, before_ms: int, after: str) -> list[str]:
        return await self._read(lambda db: retention.old(db, kind, before_ms, after))

    async def delete(self, kind: Kind, keys: Sequence[str], *, problem: str) -> Batch:
        one: Mapping[Kind, retention.Delete] = {
            "callbacks": retention.delete_callback,
            "media": partial(retention.drop_files, problem=problem),
            "submissions": retention.delete_settled,
        }
        return await self._write(lambda db: retention.delete(db, keys, one[kind]))

    async def owed(self, submission_id: str) -> list[Delivery]:
        return await self._read(lambda db: retention.owed(db, submission_id))

    async def children(self, submission_id: str) -> list[str]:
        return await self._read(lambda db: retention.children(db, submission_id))

    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        return await self._write(lambda db: retention.erase(db, submission_id, force=force))

    async def leftovers(self, after: str) -> list[Leftover]:
        return await self._read(lambda db: retention.leftovers(db, after))

    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        await self._write(lambda db: retention.forget_leftovers(db, digests))

    # The file as a whole

    async def problems(self) -> list[str]:
        damages = await self._beside(soundness.damages)
        if damages:
            return damages
        return [*await self._beside(soundness.contradictions), *await self._abandoned()]

    async def _abandoned(self) -> list[str]:
        left = await self._beside(soundness.running)
        if not left or self._lock.held():
            return []
        return [
            f"{len(left):,} deliveries were under way when the engine died: {left[0]}, for one. "
            "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
        ]

    async def needed_files(self, after: str, limit: int) -> list[str]:
        rows = await self._read(lambda db: db.execute(SQL["needed_files"], {"after": after, "limit": limit}).fetchall())
        return [row["digest"] for row in rows]

    async def back_up(self, target: Path) -> int:
        size = await self._beside(lambda path: backup.copy(path, target))
        if damages := await self._beside(lambda _: soundness.damages(target)):
            raise JournalError(
                f"The copy {target} is not sound. Check the journal with: receiver journal check. {damages[0]}"
            )
        return size

    async def pause_of(self, destination: str) -> tuple[int, str] | None:
        rows = await self._read(lambda db: db.execute(SQL["get_pause"], {"name": destination}).fetchall())
        return (rows[0]["paused_until_ms"], rows[0]["paused_reason"] or "") if rows else None

    async def compact(self) -> tuple[int, int] | None:
        lock = EngineLock(self._path)  # of its own: ours may be held, because we are the engine
        try:
            lock.acquire("journal compact")
        except EngineRunning:
            return None
        try:
            return await self._beside(backup.compact)
        finally:
            lock.release()

    async def scrub(self, words: str) -> str | None:
        """What is deleted is overwritten, except where SQLite moved rows before. Where no engine runs the file is
        written anew; beside one, it is looked through."""
        if await self.compact() is not None:
            return None
        if await self.empty_log() and not await self.holds(words):
            return None
        return (
            "Its prompt still stands in the journal's file: another submission has the same, or unused space holds a "
            "trace. To overwrite all unused space, stop the engine and run: receiver journal compact"
        )

    def reading(self) -> AbstractAsyncContextManager[Rows]:
        return transfer(self._path, empty=False)

    def filling(self) -> AbstractAsyncContextManager[NewRows]:
        return transfer(self._path, empty=True)

    async def empty_log(self) -> bool:
        """Move what was written lately to its place, and empty the log. False: somebody reads it all the time."""
        return await self._beside(backup.empty_log)

    async def holds(self, words: str) -> bool:
        """Whether these words stand anywhere in the file or its log, be it in unused space."""
        spellings = {words.encode(errors="replace"), msgspec.json.encode(words)[1:-1]} if words else set()
        return any([await self._beside(partial(backup.holds, words=spelling)) for spelling in spellings])

    # Plumbing, which the journal has

    @abstractmethod
    async def _write(self, operation: Callable[[Connection], T]) -> T:
        """Run in a transaction of its own; on disk when this returns."""

    @abstractmethod
    async def _read(self, operation: Callable[[Connection], T]) -> T:
        """Run on the reader's connection."""

    @abstractmethod
    async def _beside(self, function: Callable[[Path], T]) -> T:
        """Run in a thread of its own, for what lasts."""
