"""The journal on PostgreSQL: what queues while a batch is written goes together in the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from receiver.errors import JournalError
from receiver.events import Callback, Event, EventType, Submission
from receiver.journal import Changed, Decide, Trouble
from receiver.journal.postgres import changes, statements
from receiver.journal.postgres.connecting import Options
from receiver.journal.postgres.connections import Connections, open_connections
from receiver.journal.postgres.deliveries import Deliveries
from receiver.journal.postgres.engines import Engines
from receiver.journal.postgres.faults import translated
from receiver.journal.postgres.migrations import check_schema
from receiver.journal.postgres.migrations import migrate as run_migrations
from receiver.journal.postgres.operations import (
    Add,
    Alter,
    Applied,
    Keep,
    Operation,
    Operations,
    Stale,
    submission_of,
)
from receiver.journal.postgres.seen import Seen
from receiver.journal.postgres.upkeep import Upkeep
from receiver.journal.postgres.writer import Writer
from receiver.journal.rows import to_row

CONNECTIONS = 5
"""Connections of one process, the one that listens included."""


DOUBT = 8
"""So many batches lock their rows first after one that did not was in vain."""


class PostgresJournal(Deliveries, Engines, Upkeep):
    """See `journal.base.Journal`. Made by `open_postgres`."""

    shared: ClassVar[bool] = True

    def __init__(self, connections: Connections, *, listen: bool) -> None:
        super().__init__(connections, listen=listen)
        self._doubt = 0
        self._changes: Writer[Operation] = Writer(self._change_all, width=3, shares=4, key=submission_of)

    async def aclose(self) -> None:
        self._connections.close_soon()
        await asyncio.gather(self._changes.aclose(), self._completions.aclose(), self._finish(), self._waking.aclose())
        await self._connections.aclose()

    async def resign(self, owner: str) -> None:
        await self.give_back(owner)
        await super().resign(owner)

    def listen(self, woken: Callable[[], None]) -> None:
        self._waking.listen(woken)

    async def check(self) -> None:
        await self._write(changes.check)

    async def check_space(self) -> None:
        """The server's disk is its operator's; a full one fails `check`."""

    # Submissions

    async def add(self, submission: Submission) -> Submission:
        return await self._put(Add(submission))  # type: ignore[no-any-return]

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        operation = Alter(submission_id, decide, callback)
        if callback is None:
            return await self._put(operation)  # type: ignore[no-any-return]
        try:
            return await self._put(operation)  # type: ignore[no-any-return]
        except Exception as exc:
            if isinstance(exc, JournalError) and exc.fault:
                raise  # the store cannot keep anything now
            problem = exc
        return await self._put(Keep(callback, problem))  # type: ignore[no-any-return]

    async def _put(self, operation: Operation) -> Any:
        self._connections.check_open()
        with translated(self._connections.where):
            return await self._changes.put(operation)

    async def _change_all(self, operations: Operations) -> list[Any]:
        seen = self._connections.seen
        applied = await self._hopefully(operations, seen)
        if applied is None:
            applied = await self._connections.transact(lambda db, mark: changes.apply(db, operations, mark, seen))
        seen.keep(applied.known)
        seen.keep_new(applied.added)
        if applied.news:
            self._tell()
        return applied.results

    async def _hopefully(self, operations: Operations, seen: Seen) -> Applied | None:
        """Write a batch without locks, in one statement; None: that cannot be. Where other processes change the same
        rows, it is tried now and then only."""
        if self._doubt:
            self._doubt -= 1
            return None
        try:
            batch = changes.Hopeful(operations, seen)
        except Stale:
            return None
        try:
            return await self._connections.state(batch.write, batch.written)
        except Stale:
            self._doubt = DOUBT
            return None

    async def get(self, submission_id: str) -> Submission | None:
        rows = await self._select(Submission, "get_submission", id=submission_id)
        return rows[0] if rows else None

    # Callbacks and events

    async def callbacks(self, submission_id: str, *, limit: int | None = None) -> list[Callback]:
        found = await self._select(Callback, "last_callbacks", submission_id=submission_id, limit=limit)
        return found[::-1]

    async def events(
        self, *, limit: int, submission_id: str | None = None, type: EventType | None = None
    ) -> list[Event]:
        name = "list_events" if submission_id is None else "list_submission_events"
        rows = await self._rows(name, limit=limit, submission_id=submission_id, type=type)
        with translated(self._connections.where):
            return [msgspec.json.decode(row["body"], type=Event) for row in rows]

    async def event(self, event_id: str) -> Event | None:
        rows = await self._rows("get_event", id=event_id)
        with translated(self._connections.where):
            return msgspec.json.decode(rows[0]["body"], type=Event) if rows else None

    # Troubles

    async def note(self, trouble: Trouble) -> None:
        await self._write(lambda db: statements.run(db, "note_trouble", **to_row(trouble)))

    async def clear(self, name: str) -> None:
        await self._write(lambda db: statements.run(db, "clear_trouble", name=name))


async def open_postgres(
    url: str,
    *,
    connections: int = CONNECTIONS,
    listen: bool = True,
    statements: bool = True,
    migrate: bool = True,
    busy_seconds: float = 10.0,
    answer_seconds: float = 30.0,
) -> PostgresJournal:
    """Connect, and bring the tables up to date.

    Args:
        url: `postgresql://user:password@host:port/database`, with any parameter libpq knows; see `address`.
        connections: of this process at most, the one that listens included.
        listen: hear from other processes what is due. False where a transaction pooler stands before the server.
        statements: let the server keep prepared statements, and give it our settings. False as above.
        busy_seconds: how long to wait for one of our connections while all are busy.
        answer_seconds: how long the server may take for a statement.
        migrate: make or change the tables where they are missing or older.

    Raises:
        JournalError: the server cannot be reached, does not let us in, is too old, does not keep what it commits, or
            has tables of another Receiver.
    """
    listen = listen and connections > 1
    options = Options(
        connections=max(1, connections - listen),
        statements=statements,
        busy_seconds=busy_seconds,
        answer_seconds=answer_seconds,
    )
    opened = await open_connections(url, options)
    try:
        if migrate:
            await run_migrations(opened)
        await check_schema(opened)
    except BaseException:
        await opened.aclose()
        raise
    return PostgresJournal(opened, listen=listen)
