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
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from receiver.errors import JournalError
from receiver.journal.postgres.address import understood
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

CONNECT_SECONDS = 5.0
"""How long a new connection may take where the address does not say (`connect_timeout`)."""

COLLISIONS = 5
"""How often a transaction is tried that the server undid to let another one through."""

WIPE_SECONDS = 3600.0
"""How often a process wipes off old marks, beside what it writes anyway; its first write does, too."""

PROBES = 5
"""How often each of two connections is asked which of the server's it has."""

OLDEST_SERVER = 14

PLANS = dict.fromkeys(
    ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_sort", "jit"), "off"
)
"""Each of our statements has an index to use, always, and takes from it in order no more than it needs. The planner
would like to do otherwise where tables are empty or seem so, and it keeps its plans when they have grown."""

LOCAL = {
    **PLANS,
    # A process that is cut off from the server in the middle of a transaction holds its rows no longer than this.
    "idle_in_transaction_session_timeout": "10s",
}
"""What a transaction needs, also behind a pooler."""

SETTINGS = {
    "application_name": "receiver",
    **LOCAL,
    "plan_cache_mode": "force_generic_plan",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to connect.

    Attributes:
        connections: at most.
        statements: let the server keep prepared statements, and give it our settings.
        pooled: a pooler in session mode stands before it, which takes no settings at the start of a connection.
        connect_seconds: how long a new connection may take.
        busy_seconds: how long to wait for one of our connections while all are busy.
        answer_seconds: how long one statement may take; and how long we ask whether a transaction was committed whose
            connection broke.
    """

    connections: int
    statements: bool = True
    pooled: bool = False
    connect_seconds: float = CONNECT_SECONDS
    busy_seconds: float = 10.0
    answer_seconds: float = 30.0

    @property
    def asked(self) -> dict[str, Any]:
        """Of the driver. Transaction poolers take no settings, and give each transaction another server connection."""
        times = {"timeout": min(self.connect_seconds, self.answer_seconds), "command_timeout": self.answer_seconds}
        if not self.statements:
            return times | {"statement_cache_size": 0}
        return times if self.pooled else times | {"server_settings": SETTINGS}

    async def set_up(self, db: Connection) -> None:
        """What a new connection has not been told yet."""
        if self.statements and self.pooled:
            await db.execute(";".join(f"SET {name} = '{value}'" for name, value in SETTINGS.items()))


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
        return await _connect(self._url, self._options)


async def _undo(db: Connection, exc: BaseException) -> None:
    """End a transaction that failed; where the connection is gone, that is its end."""
    if is_lost(exc):
        db.terminate()
        return
    with suppress(*ERRORS):
        await db.execute("ROLLBACK")


async def _connect(url: str, options: Options) -> Connection:
    db = await asyncpg.connect(url, **options.asked)
    try:
        await options.set_up(db)
    except BaseException:
        db.terminate()
        raise
    return db


async def _first(url: str, options: Options) -> tuple[Connection, Options]:
    """A connection, and how to make the others."""
    try:
        return await _connect(url, options), options
    except asyncpg.ProtocolViolationError:  # a pooler refuses our settings
        if not options.statements or not await _keeps_sessions(url, options):
            raise
    options = replace(options, pooled=True)
    return await _connect(url, options), options


async def _keeps_sessions(url: str, options: Options) -> bool:
    """Whether a pooler gives each connection one of the server's for as long as it lasts. Otherwise two in turn get the
    same one, the one that came free last; or, in a crowd, one gets another each time."""
    bare = replace(options, statements=False)
    found: tuple[set[int], set[int]] = (set(), set())
    async with AsyncExitStack() as stack:
        pair = []
        for _ in found:
            pair.append(await _connect(url, bare))
            stack.push_async_callback(pair[-1].close)
        for _ in range(PROBES):
            for db, pids in zip(pair, found, strict=True):
                async with db.transaction():
                    pids.add(await db.fetchval("SELECT pg_backend_pid()"))
    one, other = found
    return len(one) == len(other) == 1 and one != other


async def connect(url: str, options: Options) -> Connections:
    """Open the connections' pool, after a look at the server.

    Raises:
        JournalError: it cannot be reached, does not let us in, is too old, or does not keep what it has committed.
    """
    where = place(url)
    with translated(where):
        try:
            url, seconds = understood(url)
            options = replace(options, connect_seconds=seconds or options.connect_seconds)
            db, options = await _first(url, options)
        except (ValueError, asyncpg.ClientConfigurationError) as exc:
            if isinstance(exc, OSError):  # a certificate that is not trusted is both
                raise
            raise misconfigured(exc, where) from exc
        try:
            await _check(db, where)
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


async def _check(db: Connection, where: str) -> None:
    """Refuse a server that would break our promises."""
    check_version(db.get_server_version().major, where)
    row = await db.fetchrow(
        "SELECT current_setting('synchronous_commit') AS commit, current_setting('server_encoding') AS encoding"
    )
    if row["commit"] == "off":
        raise JournalError(
            f"The database at {where} has synchronous_commit = off: it answers before anything is on disk, and a crash "
            "would lose what Receiver has acknowledged. Set it to on, for the database or for Receiver's user: "
            "ALTER ROLE <user> SET synchronous_commit = on."
        )
    if row["encoding"] != "UTF8":
        raise JournalError(
            f"The database at {where} is encoded in {row['encoding']}; prompts need UTF8. Make another one: "
            "CREATE DATABASE receiver ENCODING 'UTF8' TEMPLATE template0."
        )


def check_version(major: int, where: str) -> None:
    """Raises JournalError where the server is too old."""
    if major < OLDEST_SERVER:
        raise JournalError(
            f"The server at {where} is PostgreSQL {major}; Receiver needs {OLDEST_SERVER} or newer. Upgrade it, or "
            "name another one with RECEIVER_DATABASE.",
            fault="old",
        )
