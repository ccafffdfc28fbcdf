"""Connections to one PostgreSQL database: the address as libpq takes it, settings, poolers, transactions.

A connection can break during COMMIT, so that it is not known if the transaction was committed. Then another connection
asks the server for the status of the transaction's id (`pg_xact_status`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from receiver.errors import JournalError
from receiver.journal.postgres.faults import (
    COLLIDED,
    ERRORS,
    Connection,
    asyncpg,
    is_lost,
    misconfigured,
    place,
    translated,
)

T = TypeVar("T")

CONNECT_SECONDS = 5.0
"""Time for a new connection where the address does not say (`connect_timeout`)."""
COLLISIONS = 5
"""Tries of a transaction that the server undoes to let another one through."""
OLDEST_SERVER = 14

# The address

LEFT_OUT = frozenset(
    {
        "channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation",
        "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
        "max_protocol_version", "min_protocol_version", "sslcompression", "sslsni",
    }
)  # fmt: skip
"""Parameters of libpq's own side of a connection. The driver passes on what it does not know, and the server refuses
it. That is right for parameters that ask for a check the driver cannot make (require_auth, requirepeer, sslcrldir …).
`channel_binding` is the exception, because hosters write it into their URLs."""


def read_address(url: str) -> tuple[str, float | None]:
    """Return the address for the driver, and the seconds that a new connection may take; None: it does not say.

    Raises:
        JournalError: it names a file that does not exist.
        ValueError: it is no address.
    """
    base, _, query = url.partition("?")
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        if name in given and not Path(given[name]).is_file():
            raise JournalError(
                f"RECEIVER_DATABASE names a file with {name} that is not there: {given[name]}. Name one that is."
            )
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in LEFT_OUT]
    seconds = int(given.get("connect_timeout", 0))
    return f"{base}?{'&'.join(kept)}" if any(kept) else base, seconds if seconds > 0 else None


# Settings

PLANS = dict.fromkeys(
    ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_sort", "jit"), "off"
)
"""Each of our statements has an index to use, and reads no more of it than it needs. The planner prefers other plans
while tables are empty or seem so, and keeps them when the tables have grown."""
LOCAL = {
    **PLANS,
    "plan_cache_mode": "force_generic_plan",
    # A process that is cut off from the server in the middle of a transaction holds its rows no longer than this.
    "idle_in_transaction_session_timeout": "10s",
}
"""Settings of each transaction, also behind a pooler."""
SETTINGS = {
    "application_name": "receiver",
    **LOCAL,
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of all connections.

    Attributes:
        connections: maximum.
        statements: let the server keep prepared statements, and give it our settings.
        pooled: a pooler in session mode is in front, which takes no settings at the start of a connection.
        connect_seconds: for a new connection.
        busy_seconds: to wait for one of our connections while all are busy.
        answer_seconds: for one statement, and for the question if a transaction was committed.
    """

    connections: int
    statements: bool = True
    pooled: bool = False
    connect_seconds: float = CONNECT_SECONDS
    busy_seconds: float = 10.0
    answer_seconds: float = 30.0

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for the driver. Transaction poolers take no settings, and give each transaction another connection
        of the server's."""
        times = {"timeout": min(self.connect_seconds, self.answer_seconds), "command_timeout": self.answer_seconds}
        if not self.statements:
            return times | {"statement_cache_size": 0}
        return times if self.pooled else times | {"server_settings": SETTINGS}

    async def set_up(self, db: Connection) -> None:
        """Make the settings that a new connection could not be given at its start."""
        if self.statements and self.pooled:
            await db.execute(";".join(f"SET {name} = '{value}'" for name, value in SETTINGS.items()))


async def connect(url: str, options: Options) -> Connection:
    """Raises the driver's errors."""
    db = await asyncpg.connect(url, **options.arguments)
    try:
        await options.set_up(db)
    except BaseException:
        db.terminate()
        raise
    return db


async def _connect_first(url: str, options: Options) -> tuple[Connection, Options]:
    """Return a connection, and the options for the others."""
    try:
        return await connect(url, options), options
    except asyncpg.ProtocolViolationError:  # a pooler refuses our settings
        if not options.statements or not await _keeps_sessions(url, options):
            raise
    options = replace(options, pooled=True)
    return await connect(url, options), options


async def _keeps_sessions(url: str, options: Options) -> bool:
    """Return True if a pooler gives each connection one of the server's for as long as it lasts. In transaction mode,
    two in turn get the same one, or one of them gets several."""
    bare = replace(options, statements=False)
    found: tuple[set[int], set[int]] = (set(), set())
    async with AsyncExitStack() as stack:
        pair = []
        for _ in found:
            pair.append(await connect(url, bare))
            stack.push_async_callback(pair[-1].close)
        for _ in range(5):
            for db, pids in zip(pair, found, strict=True):
                async with db.transaction():
                    pids.add(await db.fetchval("SELECT pg_backend_pid()"))
    one, other = found
    return len(one) == len(other) == 1 and one != other


async def _check_server(db: Connection, where: str) -> None:
    """Refuse a server on which our promises do not hold."""
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


# The pool


@dataclass(slots=True)
class Transaction:
    """A transaction that runs.

    Attributes:
        db: its connection.
        xid: its id at the server; None while it has written nothing.
    """

    db: Connection
    xid: str | None = None


class _Bare(Connection):  # type: ignore[misc]
    """A connection on which nothing is left behind, so that nothing has to be tidied up after each use."""

    def get_reset_query(self) -> str:
        return ""


class Connections:
    """The connections of one process. Made by `open_connections`."""

    def __init__(self, url: str, pool: Any, options: Options) -> None:
        self.where = place(url)
        self._url = url
        self._pool = pool
        self._options = options
        local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in LOCAL.items())
        self._begin = "BEGIN" if options.statements else f"BEGIN{local}"
        self._closing = False
        self._closed = False

    def close_soon(self) -> None:
        """Let `check_open` raise from now on. What has begun goes on."""
        self._closing = True

    async def aclose(self) -> None:
        """Close all, after what runs on them has ended. Idempotent."""
        self._closing = self._closed = True
        try:
            await asyncio.wait_for(self._pool.close(), self._options.answer_seconds)
        except (TimeoutError, OSError, asyncpg.InterfaceError):
            self._pool.terminate()

    def check_open(self) -> None:
        """Raises JournalError while it is being closed."""
        if self._closing:
            raise JournalError(f"The journal at {self.where} is closed.", fault="closed")

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection. Raises the driver's errors, and JournalError where none comes free."""
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
            db.terminate()  # the driver has lost track of the server's answers
            raise
        finally:
            with suppress(*ERRORS):
                await self._pool.release(db)

    async def read(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run an operation that only reads, or may happen twice. A broken connection is replaced once."""
        self.check_open()
        with translated(self.where):
            try:
                return await self._read(operation)
            except Exception as exc:
                if self._closed or not is_lost(exc):
                    raise
            return await self._read(operation)

    async def _read(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._acquire() as db:
            if self._options.statements:
                return await operation(db)
            await db.execute(self._begin)  # behind a pooler, a statement and its plan meet only in a transaction
            try:
                result = await operation(db)
            except BaseException as exc:
                await _undo(db, exc)
                raise
            await db.execute("COMMIT")
            return result

    async def write(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run an operation in a transaction of its own, committed when this returns. If it raises, nothing was kept.
        The operation may run again after it was undone."""
        self.check_open()

        async def numbered(transaction: Transaction) -> T:
            result = await operation(transaction.db)
            transaction.xid = await transaction.db.fetchval("SELECT pg_current_xact_id()::text")
            return result

        with translated(self.where):
            return await self.transact(numbered)

    async def transact(self, operation: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do the same for an operation that notes the transaction's id itself, and raise the driver's errors."""
        broken, tries = False, 0
        while True:
            tries += 1
            try:
                return await self._transact(operation)
            except COLLIDED:
                if tries >= COLLISIONS:
                    raise
            except Exception as exc:
                if self._closed or broken or not is_lost(exc):
                    raise
                broken = True  # it was broken before, most likely: one more try on another connection

    async def _transact(self, operation: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self._acquire() as db:
            transaction = Transaction(db)
            await db.execute(self._begin)
            try:
                result = await operation(transaction)
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
        if transaction.xid is None or await self.is_committed(transaction.xid):
            return result
        raise problem

    async def is_committed(self, xid: str) -> bool:
        """Return True if a transaction was committed. While it may still be, wait: the server ends it within 10 s.

        Raises:
            JournalError: the server cannot be reached (fault `uncertain`).
        """
        until = asyncio.get_running_loop().time() + self._options.answer_seconds
        problem: Exception | None = None
        while True:
            try:
                async with asyncio.timeout_at(until):
                    status = await self._read(lambda db: db.fetchval("SELECT pg_xact_status($1::text::xid8)", xid))
                if status != "in progress":
                    return bool(status == "committed")
            except asyncpg.InvalidParameterValueError:
                return False  # a server that took over has never seen it
            except (*ERRORS, JournalError) as exc:
                problem = exc
            if asyncio.get_running_loop().time() >= until:
                raise JournalError(
                    f"The journal at {self.where} cannot be reached any more, and it is not known if it kept the last "
                    "change.",
                    fault="uncertain",
                ) from problem
            await asyncio.sleep(0.1)

    async def connect(self) -> Connection:
        """Return a connection outside of the pool, to be closed by the caller. Raises the driver's errors."""
        return await connect(self._url, self._options)

    @asynccontextmanager
    async def separate(self) -> AsyncIterator[Connection]:
        """Lend a connection outside of the pool, for work that takes long."""
        with translated(self.where):
            db = await self.connect()
        try:
            yield db
        finally:
            with suppress(*ERRORS):
                await db.close(timeout=1)


async def _undo(db: Connection, exc: BaseException) -> None:
    """End a transaction that failed. Where the connection is gone, that is its end."""
    if is_lost(exc):
        db.terminate()
        return
    with suppress(*ERRORS):
        await db.execute("ROLLBACK")


async def open_connections(url: str, options: Options, connected: Callable[[], None]) -> Connections:
    """Open the pool, after a look at the server. `connected` is called with each new connection.

    Raises:
        JournalError: it cannot be reached, does not let us in, is too old, or does not keep what it has committed.
    """
    where = place(url)
    with translated(where):
        try:
            url, seconds = read_address(url)
            options = replace(options, connect_seconds=seconds or options.connect_seconds)
            db, options = await _connect_first(url, options)
        except (ValueError, asyncpg.ClientConfigurationError) as exc:
            if isinstance(exc, OSError):  # a certificate that is not trusted is both
                raise
            raise misconfigured(exc, where) from exc
        try:
            await _check_server(db, where)
        finally:
            await db.close()

        async def begin(db: Connection) -> None:
            connected()
            await options.set_up(db)

        pool = await asyncpg.create_pool(
            url,
            init=begin,
            min_size=0,
            max_size=options.connections,
            connection_class=_Bare,
            max_inactive_connection_lifetime=0,
            **options.arguments,
        )
    return Connections(url, pool, options)
