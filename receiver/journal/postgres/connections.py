"""A few connections to one PostgreSQL database, and transactions on them whose end is always known.

A connection can break while its COMMIT is under way: then nobody has said whether it happened. So each transaction
leaves a mark of its own (a row in `commits`), and after a broken COMMIT another connection tries to leave the same
mark: if it is there, the transaction was committed; if not, it never can be any more, because the mark is taken. (Who
asks leaves one that can be told from the transaction's: the answer may be lost as well, and then it is asked again.)
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from receiver.errors import JournalError
from receiver.journal.postgres.address import understood
from receiver.journal.postgres.connecting import LOCAL, Options, check_server, connect, connect_first
from receiver.journal.postgres.driver import Connection, asyncpg
from receiver.journal.postgres.faults import COLLIDED, ERRORS, is_lost, misconfigured, place, translated
from receiver.journal.postgres.seen import Seen
from receiver.journal.postgres.statements import rows, run

T = TypeVar("T")
Operation = Callable[[Connection], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a transaction leaves in `commits`, and the marks it may wipe off meanwhile."""

    mark: str
    needless: list[str]

    @property
    def values(self) -> dict[str, Any]:
        """Parameters of a statement that leaves it."""
        return {"mark": self.mark, "needless": self.needless}

    async def leave(self, db: Connection) -> None:
        await run(db, "mark", **self.values)


Marking = Callable[[Connection, Mark], Awaitable[T]]
"""An operation that leaves the mark itself, with a statement it makes anyway."""

COLLISIONS = 5
"""How often a transaction is tried that the server undid to let another one through."""

WIPE_SECONDS = 3600.0
"""How often a process wipes off old marks, beside what it writes anyway; its first write does, too."""


class _Bare(Connection):  # type: ignore[misc]
    """A connection on which nothing is left behind, so that nothing has to be tidied up after each use."""

    def get_reset_query(self) -> str:
        return ""


class Connections:
    """Made by `connect`."""

    def __init__(self, url: str, pool: Any, options: Options, seen: Seen) -> None:
        self.seen = seen
        self.where = place(url)
        self._url = url
        self._pool = pool
        self._options = options
        self.process = secrets.token_hex(8)
        """A name nobody else has."""
        self._numbers = itertools.count(1)
        self._done: list[str] = []
        self._wipe_at = 0.0
        local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in LOCAL.items())
        self._begin = "BEGIN" if options.statements else f"BEGIN{local}"
        self._closing = False
        self._closed = False

    def close_soon(self) -> None:
        """From now on `check_open` raises; what has begun goes on."""
        self._closing = True

    async def aclose(self) -> None:
        """Close them all, after what runs on them has ended. Idempotent."""
        self._closing = self._closed = True
        try:
            await asyncio.wait_for(self._pool.close(), self._options.answer_seconds)
        except (TimeoutError, OSError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """One of the connections, for a short while. Raises the driver's errors, and JournalError where none comes
        free."""
        try:
            db = await self._pool.acquire(timeout=self._options.busy_seconds)
        except TimeoutError as exc:
            if self._pool.get_size() < self._pool.get_max_size():
                raise  # it was connecting
            raise JournalError(
                f"The journal at {self.where} is busy: no connection came free within "
                f"{self._options.busy_seconds:g} s. Look for slow statements in pg_stat_activity, or allow more "
                "connections.",
                fault="crowded",
            ) from exc
        try:
            yield db
        except asyncpg.InternalClientError:
            db.terminate()  # the driver has lost track of what the server said last, and would never find it again
            raise
        finally:
            with suppress(*ERRORS):
                await self._pool.release(db)

    def check_open(self) -> None:
        """Raises JournalError when it is being closed."""
        if self._closing:
            raise JournalError(f"The journal at {self.where} is closed.", fault="closed")

    async def read(self, operation: Operation[T]) -> T:
        """Run what only reads, or may happen twice. A connection that turns out to be broken is replaced once."""
        self.check_open()
        with translated(self.where):
            try:
                return await self._read(operation)
            except Exception as exc:
                if self._closed or not is_lost(exc):
                    raise
            return await self._read(operation)

    async def _read(self, operation: Operation[T]) -> T:
        """What it does is committed when this returns, so that others hear what it tells them."""
        async with self.acquire() as db:
            if self._options.statements:
                return await operation(db)
            await db.execute(self._begin)  # behind a pooler, a statement and its plan may meet in a transaction only
            try:
                result = await operation(db)
            except BaseException as exc:
                await _undo(db, exc)
                raise
            await db.execute("COMMIT")
            return result

    async def write(self, operation: Operation[T]) -> T:
        """Run in a transaction of its own, committed when this returns; whatever it raises, nothing was kept. It may
        be run more than once, each time after everything was undone."""

        async def marking(db: Connection, mark: Mark) -> T:
            result = await operation(db)
            await self._wipe(db)
            await mark.leave(db)
            return result

        with translated(self.where):
            return await self.transact(marking)

    async def _wipe(self, db: Connection) -> None:
        """Now and then, wipe off the marks of processes that are no more: each leaves its last ones."""
        now = asyncio.get_running_loop().time()
        if now >= self._wipe_at:
            self._wipe_at = now + WIPE_SECONDS
            await run(db, "wipe_marks")

    async def transact(self, operation: Marking[T]) -> T:
        """The same for an operation that leaves the mark itself, and with the driver's errors as they are."""
        return await self._repeated(lambda: self._transact(operation))

    async def state(self, operation: Marking[T], again: Operation[T]) -> T:
        """The same for an operation that is one statement, and so a transaction by itself.

        Args:
            again: finds out what the statement had returned, where the connection broke although it was kept.
        """
        return await self._repeated(lambda: self._state(operation, again))

    async def _repeated(self, attempt: Callable[[], Awaitable[T]]) -> T:
        broken, tries = False, 0
        while True:
            tries += 1
            try:
                return await attempt()
            except COLLIDED:
                if tries >= COLLISIONS:
                    raise
            except Exception as exc:
                if self._closed or broken or not is_lost(exc):
                    raise
                broken = True  # it had broken before, most likely: one more chance on another one

    async def _transact(self, operation: Marking[T]) -> T:
        with self._mark() as mark:
            async with self.acquire() as db:
                await db.execute(self._begin)
                try:
                    result = await operation(db, mark)
                except BaseException as exc:
                    await _undo(db, exc)
                    raise
                try:
                    await db.execute("COMMIT")
                except Exception as exc:
                    if not is_lost(exc):
                        raise
                    problem = exc
                else:
                    return result
            if await self._committed(mark.mark):
                return result
            raise problem

    async def _state(self, operation: Marking[T], again: Operation[T]) -> T:
        if not self._options.statements:  # behind a pooler, a statement and its plan may meet in a transaction only
            return await self._transact(operation)
        with self._mark() as mark:
            async with self.acquire() as db:
                try:
                    return await operation(db, mark)
                except Exception as exc:
                    if not is_lost(exc):
                        raise
                    problem = exc
            if not await self._committed(mark.mark):
                raise problem
        return await self._read(again)

    @contextmanager
    def _mark(self) -> Iterator[Mark]:
        """A new one. Those that it was to wipe off wait for the next one where its transaction was undone."""
        needless, self._done = self._done, []
        mark = Mark(f"{self.process}.{next(self._numbers)}", needless)
        try:
            yield mark
        except BaseException:
            self._done += needless
            raise
        self._done.append(mark.mark)

    async def _committed(self, mark: str) -> bool:
        """Whether the transaction with that mark was committed. If not, it never will be."""

        async def claim(db: Connection) -> bool:
            [found] = await rows(db, "claim_mark", mark=mark)
            return bool(found["kept"])

        until = asyncio.get_running_loop().time() + self._options.answer_seconds
        while True:
            try:
                async with asyncio.timeout_at(until):
                    return await self._read(claim)
            except (*ERRORS, JournalError) as exc:
                if asyncio.get_running_loop().time() >= until:
                    raise JournalError(
                        f"The journal at {self.where} cannot be reached any more, and whether it kept the last change "
                        "is not known.",
                        fault="uncertain",
                    ) from exc
            await asyncio.sleep(0.1)

    async def lone(self) -> Connection:
        """A connection of one's own, to be closed by whoever asked. Raises the driver's errors."""
        return await connect(self._url, self._options)


async def _undo(db: Connection, exc: BaseException) -> None:
    """End a transaction that failed; where the connection is gone, that is its end."""
    if is_lost(exc):
        db.terminate()
        return
    with suppress(*ERRORS):
        await db.execute("ROLLBACK")


async def open_connections(url: str, options: Options) -> Connections:
    """Open the connections' pool, after a look at the server.

    Raises:
        JournalError: it cannot be reached, does not let us in, is too old, or does not keep what it has committed.
    """
    where = place(url)
    with translated(where):
        try:
            url, seconds = understood(url)
            options = replace(options, connect_seconds=seconds or options.connect_seconds)
            db, options = await connect_first(url, options)
        except (ValueError, asyncpg.ClientConfigurationError) as exc:
            if isinstance(exc, OSError):  # a certificate that is not trusted is both
                raise
            raise misconfigured(exc, where) from exc
        try:
            await check_server(db, where)
        finally:
            await db.close()
        seen = Seen()

        async def begin(db: Connection) -> None:
            seen.forget()
            await options.set_up(db)

        pool = await asyncpg.create_pool(
            url,
            init=begin,
            min_size=0,
            max_size=options.connections,
            connection_class=_Bare,
            max_inactive_connection_lifetime=0,
            **options.asked,
        )
    return Connections(url, pool, options, seen)
