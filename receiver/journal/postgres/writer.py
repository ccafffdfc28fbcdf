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

_Item = tuple[Op, "asyncio.Future[Any]"]

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
        shares: into how many batches all is divided that waits or is under way. One more than there are under way: so
            that whoever has written one finds the next.
        key: what an operation is about; those about the same thing are carried out in order.
    """

    def __init__(
        self, run: Run[Op], *, width: int = 1, shares: int = 1, key: Callable[[Op], str] = lambda _: ""
    ) -> None:
        self._run = run
        self._shares = shares
        self._width = width
        self._key = key
        self._busy: set[str] = set()
        self._written = 0
        self._waiting: list[_Item[Op]] = []
        self._gathering = False
        self._turns: set[asyncio.Task[None]] = set()

    async def put(self, operation: Op) -> Any:
        """The operation's result, after the commit that holds it. An error undoes this operation only."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((operation, future))
        if not self._gathering and len(self._turns) < self._width:
            self._gathering = True
            loop.call_soon(self._gather, 0)
        return await future

    def _gather(self, seen: int) -> None:
        """What comes in one breath shares a commit: as long as each turn of the loop brings more, wait for it."""
        if seen < len(self._waiting) < MAX_BATCH:
            asyncio.get_running_loop().call_soon(self._gather, len(self._waiting))
            return
        self._gathering = False
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._turns) < self._width:
            share = math.ceil((len(self._waiting) + self._written) / self._shares)
            size = min(max(share, SMALL_BATCH), MAX_BATCH)
            batch, self._waiting = self._take(size)
            if not batch:
                return
            keys = {self._key(operation) for operation, _ in batch}
            self._busy |= keys
            self._written += len(batch)
            turn = asyncio.create_task(self._turn(batch, keys), name="journal writer")
            self._turns.add(turn)
            turn.add_done_callback(self._end)

    def _take(self, size: int) -> tuple[list[_Item[Op]], list[_Item[Op]]]:
        """What goes next, and what is left. Nothing overtakes another operation on the same thing."""
        batch: list[_Item[Op]] = []
        left: list[_Item[Op]] = []
        held = set(self._busy)
        for item in self._waiting:
            key = self._key(item[0])
            if len(batch) < size and key not in held:
                batch.append(item)
            else:
                left.append(item)
                held.add(key)
        return batch, left

    def _end(self, turn: asyncio.Task[None]) -> None:
        self._turns.discard(turn)
        self._begin()

    async def aclose(self) -> None:
        """Finish what is queued. Idempotent."""
        self._begin()
        while self._turns:
            await asyncio.wait(self._turns)
            await asyncio.sleep(0)  # whoever ended lets the next begin

    async def _turn(self, batch: list[_Item[Op]], keys: set[str]) -> None:
        try:
            outcomes = await self._commit([operation for operation, _ in batch])
        finally:
            self._busy -= keys
            self._written -= len(batch)
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
    asyncpg.PostgresIOError,
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
