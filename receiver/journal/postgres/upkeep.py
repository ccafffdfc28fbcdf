"""What a person or the calendar asks of a journal on PostgreSQL, beside its daily work: replay, delete by age, erase,
check, copy. Each write is one short transaction, so that it works beside running engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from receiver.deliveries import Delivery
from receiver.errors import EngineRunning, InputError
from receiver.events import Event, new_id
from receiver.journal import EngineRecord
from receiver.journal.beating import beating
from receiver.journal.copying import NewRows, Rows
from receiver.journal.postgres import replaying, retention, soundness
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.faults import translated
from receiver.journal.postgres.plumbing import Plumbing
from receiver.journal.postgres.statements import SQL, rows, run
from receiver.journal.postgres.transfer import transfer
from receiver.journal.postgres.waking import CHANNEL
from receiver.journal.selection import Batch, Kind, Leftover, Order, Replayed, Selection


class Upkeep(Plumbing, ABC):
    """The part of `PostgresJournal` for upkeep; see `journal.base.Journal`."""

    # Replay

    async def select_deliveries(self, selection: Selection, *, after: str, limit: int) -> list[Delivery]:
        return await self._read(lambda db: replaying.select_deliveries(db, selection, after, limit))

    async def select_events(self, selection: Selection, *, after: int, limit: int) -> list[tuple[int, str]]:
        return await self._read(lambda db: replaying.select_events(db, selection, after, limit))

    async def event_deliveries(self, event: Event) -> list[Delivery]:
        return await self._read(lambda db: replaying.event_deliveries(db, event.id, event.submission_id))

    async def foresee(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        return await self._read(lambda db: replaying.foresee(db, orders, now_ms))

    async def replay(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        async def write(db: Connection) -> list[Replayed]:
            done = await replaying.replay(db, orders, now_ms)
            await rows(db, "tell", channel=CHANNEL, process=self._connections.process)  # heard when it is committed
            return done

        return await self._write(write)

    async def registered(self) -> dict[str, str]:
        return {row["name"]: row["handler"] for row in await self._rows("list_registered")}

    async def pause_of(self, destination: str) -> tuple[int, str] | None:
        found = await self._read(lambda db: rows(db, "get_pause", name=destination))
        return (found[0]["paused_until_ms"], found[0]["paused_reason"] or "") if found else None

    # Deleting

    async def old(self, kind: Kind, before_ms: int, after: str) -> list[str]:
        return await self._read(lambda db: retention.old(db, kind, before_ms, after))

    async def delete(self, kind: Kind, keys: Sequence[str], *, problem: str) -> Batch:
        return await self._write(lambda db: retention.delete(db, kind, keys, problem))

    async def owed(self, submission_id: str) -> list[Delivery]:
        return await self._read(lambda db: retention.owed(db, submission_id))

    async def children(self, submission_id: str) -> list[str]:
        return await self._read(lambda db: retention.children(db, submission_id))

    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        return await self._write(lambda db: retention.erase(db, submission_id, force=force))

    async def leftovers(self, after: str) -> list[Leftover]:
        return await self._read(lambda db: retention.leftovers(db, after))

    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        await self._write(lambda db: run(db, "forget_leftovers", digests=list(digests)))

    # The database as a whole

    async def problems(self) -> list[str]:
        async with self._lone() as db:
            return await soundness.problems(db)

    async def needed_files(self, after: str, limit: int) -> list[str]:
        return [row["digest"] for row in await self._rows("needed_files", after=after, limit=limit)]

    async def back_up(self, target: Path) -> int:
        raise InputError(
            f"The journal at {self._connections.where} is backed up with PostgreSQL's own tools, beside running "
            f"servers: pg_dump --format=custom --schema=receiver --file={target} and the database's URL. Restore it "
            "with pg_restore."
        )

    def reading(self) -> AbstractAsyncContextManager[Rows]:
        return transfer(self._connections, empty=False)

    def filling(self) -> AbstractAsyncContextManager[NewRows]:
        return transfer(self._connections, empty=True)

    async def compact(self) -> tuple[int, int] | None:
        """`VACUUM FULL` of our tables: each is locked, also for reading, while it is written anew. No engine begins
        meanwhile, however long that takes."""
        owner = f"compact-{new_id(0)}"
        try:
            await self.become_engine("journal compact", owner, store="")
        except EngineRunning:
            return None
        try:
            async with beating(self, owner, self._connections.where), self._lone() as db:
                before = (await rows(db, "bytes_used"))[0]["bytes"]
                await db.execute(SQL["vacuum_full"].text, timeout=soundness.LONG_SECONDS)
                return before, (await rows(db, "bytes_used"))[0]["bytes"]
        finally:
            await self.resign(owner)

    async def scrub(self, words: str) -> str | None:
        """`VACUUM` of our tables: nobody waits for it, and what was deleted is free to be overwritten afterwards."""
        async with self._lone() as db:
            await db.execute(SQL["vacuum"].text, timeout=soundness.LONG_SECONDS)
        if not words:
            return None
        return (
            "PostgreSQL may still hold its prompt where nothing reads it: in space of its tables that is free and not "
            "overwritten yet, in its write-ahead log, in replicas and in backups, until their time is over. To write "
            "the tables anew, stop Receiver everywhere and run: receiver journal compact"
        )

    @asynccontextmanager
    async def _lone(self) -> AsyncIterator[Connection]:
        """A connection of its own, for what lasts."""
        with translated(self._connections.where):
            db = await self._connections.lone()
            try:
                yield db
            finally:
                await db.close()

    # Engines, which the journal has

    @abstractmethod
    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        """See `journal.base.Journal`."""

    @abstractmethod
    async def beat(self, owner: str) -> bool:
        """See `journal.base.Journal`."""

    @abstractmethod
    async def engines(self) -> list[EngineRecord]:
        """See `journal.base.Journal`."""

    @abstractmethod
    async def resign(self, owner: str) -> None:
        """See `journal.base.Journal`."""
