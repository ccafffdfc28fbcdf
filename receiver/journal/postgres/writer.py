"""Group commit: what queued while the last batch ran goes together in the next. A commit is what a write costs, and one
serves many."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from receiver.errors import JournalError
from receiver.journal.postgres.driver import asyncpg
from receiver.journal.postgres.faults import COLLIDED, is_lost

Op = TypeVar("Op")
Run = Callable[[Sequence[Op]], Awaitable[list[Any]]]
"""Carries out a batch in one transaction. The results in order; one that is an exception is that operation's error,
though the batch stands. Whatever it raises undoes the batch."""

MAX_BATCH = 500
SMALL_BATCH = 16
"""What is not worth a transaction of its own."""


class Writer(Generic[Op]):
    """Gathers operations of one kind into batches. Where several may be under way they share what waits, so that one is
    written while the next is decided.

    A batch that fails for what one of them holds is halved until the guilty one stands alone: it gets the error.

    Args:
        run: see `Run`.
        width: batches under way at once.
    """

    def __init__(self, run: Run[Op], *, width: int = 1) -> None:
        self._run = run
        self._width = width
        self._waiting: list[tuple[Op, asyncio.Future[Any]]] = []
        self._turns: set[asyncio.Task[None]] = set()

    async def put(self, operation: Op) -> Any:
        """The operation's result, after the commit that holds it. An error undoes this operation only."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((operation, future))
        if len(self._waiting) == 1 and len(self._turns) < self._width:
            loop.call_soon(self._begin, 0)
        return await future

    def _begin(self, seen: int) -> None:
        """What comes in one breath shares a commit: as long as each turn of the loop brings more, wait for it."""
        if seen < len(self._waiting) < MAX_BATCH:
            asyncio.get_running_loop().call_soon(self._begin, len(self._waiting))
            return
        while self._waiting and len(self._turns) < self._width:
            share = math.ceil(len(self._waiting) / (self._width - len(self._turns)))
            size = min(max(share, SMALL_BATCH), MAX_BATCH)
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            turn = asyncio.create_task(self._turn(batch), name="journal writer")
            self._turns.add(turn)
            turn.add_done_callback(self._end)

    def _end(self, turn: asyncio.Task[None]) -> None:
        self._turns.discard(turn)
        self._begin(len(self._waiting))

    async def aclose(self) -> None:
        """Finish what is queued. Idempotent."""
        self._begin(len(self._waiting))
        while self._turns:
            await asyncio.wait(self._turns)
            await asyncio.sleep(0)  # whoever ended lets the next begin

    async def _turn(self, batch: list[tuple[Op, asyncio.Future[Any]]]) -> None:
        outcomes = await self._commit([operation for operation, _ in batch])
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # whoever asked was cancelled; the write stands
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _commit(self, operations: list[Op]) -> list[Any]:
        try:
            return await self._run(operations)
        except Exception as exc:
            if len(operations) == 1 or _nobodys_fault(exc):
                return [exc] * len(operations)
        half = len(operations) // 2
        return [*await self._commit(operations[:half]), *await self._commit(operations[half:])]


_NOBODYS = (
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    *COLLIDED,
)


def _nobodys_fault(exc: Exception) -> bool:
    """Whether a batch failed for what is outside of it, so that halves of it would fail alike."""
    return is_lost(exc) or isinstance(exc, (*_NOBODYS, JournalError))
