"""What every part of the journal on PostgreSQL stands on: reading and writing by name."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec

from receiver.journal.listings import Listings
from receiver.journal.postgres import statements
from receiver.journal.postgres.connections import Connections, Operation
from receiver.journal.postgres.waking import Waking

T = TypeVar("T")
Row = TypeVar("Row", bound=msgspec.Struct)


class Plumbing(Listings):
    """A part of `PostgresJournal`. Everything here raises JournalError."""

    def __init__(self, connections: Connections, *, listen: bool) -> None:
        self._connections = connections
        self._waking = Waking(connections, enabled=listen)
        self._writes: set[asyncio.Future[Any]] = set()

    async def _write(self, operation: Operation[T]) -> T:
        """Run in a transaction of its own, committed when this returns. It may be run more than once, each time after
        everything was undone. It goes on when whoever asked is cancelled."""
        self._connections.check_open()
        task = asyncio.ensure_future(self._connections.write(operation))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Future[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone, and then nobody else takes it

    def _tell(self) -> None:
        """Something that is due now was committed: other processes may look."""
        self._waking.tell()

    async def _finish(self) -> None:
        """Wait for what is being written."""
        while self._writes:
            await asyncio.wait(self._writes)

    async def _read(self, operation: Operation[T]) -> T:
        return await self._connections.read(operation)

    async def _rows(self, name: str, **values: Any) -> list[Any]:
        return await self._read(lambda db: statements.rows(db, name, **values))

    async def _select(self, type: type[Row], name: str, **values: Any) -> list[Row]:
        return await self._read(lambda db: statements.select(db, type, name, **values))
