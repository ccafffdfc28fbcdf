"""Connections to one PostgreSQL database, and transactions.

A connection can break during COMMIT, so that it is not known if the transaction was committed. Then another connection
asks the server for the status of the transaction's id (`pg_xact_status`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from receiver.errors import JournalError
from receiver.journal.postgres import faults
from receiver.journal.postgres.faults import COLLIDED, ERRORS, Connection, asyncpg, is_lost, translated

T = TypeVar("T")

CONNECT_SECONDS = 5.0
COLLISIONS = 5
"""Tries of a transaction that the server undoes to let another one through."""
OLDEST_SERVER = 14
LEFT_OUT = frozenset(
    {
        "channel_binding", "client_encoding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count",
        "keepalives_idle", "keepalives_interval", "load_balance_hosts", "sslcompression", "sslsni",
    }
)  # fmt: skip
"""Parameters of libpq that providers write into their URLs and the driver does not know. It would pass them on, and the
server would refuse them. That is right for parameters that ask for a check (`require_auth`)."""

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
"""Settings of each transaction behind a pooler."""
SETTINGS = {"application_name": "receiver", **LOCAL}
"""Settings of each connection."""


def read_address(url: str) -> str:
    """Return the address for the driver.

    Raises:
        JournalError: it names a file that does not exist.
    """
    base, _, query = url.partition("?")
    for name, value in parse_qsl(query):
        if name in ("sslrootcert", "sslcert", "sslkey", "sslcrl") and not Path(value).is_file():
            raise JournalError(
                f"RECEIVER_DATABASE names a file with {name} that is not there: {value}. Name one that is."
            )
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in LEFT_OUT]
    return f"{base}?{'&'.join(kept)}" if any(kept) else base


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
    """Raise JournalError where the server is too old."""
    if major < OLDEST_SERVER:
        raise JournalError(
            f"The server at {where} is PostgreSQL {major}; Receiver needs {OLDEST_SERVER} or newer. Upgrade it, or "
            "name another one with RECEIVER_DATABASE.",
            fault="old",
        )


@dataclass(slots=True)
class Transaction:
    """A transaction that runs.

    Attributes:
        db: its connection.
        xid: its id at the server; None where its operation has not asked for it.
    """

    db: Connection
    xid: str | None = None


class _Bare(Connection):  # type: ignore[misc]
    """A connection on which nothing is left behind, so that nothing has to be tidied up after each use."""

    def get_reset_query(self) -> str:
        return ""


class Connections:
    """The connections of one process.

    Args:
        url: see `read_address`.
        maximum: of the pool.
        statements: let the server keep prepared statements, and give it our settings at the start of a connection.
            False behind a pooler.
        busy_seconds: to wait for one of our connections while all are busy.
        answer_seconds: for one statement, and for the question if a transaction was committed.
    """

    def __init__(self, url: str, *, maximum: int, statements: bool, busy_seconds: float, answer_seconds: float) -> None:
        self.where = faults.place(url)
        self._url, self._maximum = url, maximum
        self._statements, self._busy_seconds, self._answer_seconds = statements, busy_seconds, answer_seconds
        self._arguments: dict[str, Any] = {
            "timeout": min(CONNECT_SECONDS, answer_seconds),
            "command_timeout": answer_seconds,
            **({"server_settings": SETTINGS} if statements else {"statement_cache_size": 0}),
        }
        local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in LOCAL.items())
        self._begin = "BEGIN" if statements else f"BEGIN{local}"
        self._pool: Any = None
        self._closing = False

    async def open(self, connected: Callable[[], None]) -> None:
        """Open the pool, and look at the server. `connected` is called with each new connection.

        Raises:
            JournalError: it cannot be reached, does not let us in, is too old, or does not keep what it has committed.
        """

        async def begin(db: Connection) -> None:
            connected()

        with translated(self.where):
            try:
                self._url = read_address(self._url)
                self._pool = await asyncpg.create_pool(
                    self._url, init=begin, min_size=0, max_size=self._maximum, connection_class=_Bare,
                    max_inactive_connection_lifetime=0, **self._arguments,
                )  # fmt: skip
                async with self.acquire() as db:
                    await _check_server(db, self.where)
            except BaseException as exc:
                await self.aclose()
                # A certificate that is not trusted is a ValueError, too.
                if isinstance(exc, ValueError | asyncpg.ClientConfigurationError) and not isinstance(exc, OSError):
                    raise faults.misconfigured(exc, self.where) from exc
                raise

    def close_soon(self) -> None:
        """Let `check_open` raise from now on. What has begun goes on."""
        self._closing = True

    async def aclose(self) -> None:
        """Close all, after what runs on them has ended. Idempotent."""
        self._closing = True
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), self._answer_seconds)
            except (TimeoutError, OSError, asyncpg.InterfaceError):
                self._pool.terminate()

    def check_open(self) -> None:
        """Raise JournalError while it is being closed."""
        if self._closing:
            raise JournalError(f"The journal at {self.where} is closed.", fault="closed")

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection. Raise the driver's errors, and JournalError where none comes free."""
        try:
            db = await self._pool.acquire(timeout=self._busy_seconds)
        except TimeoutError as exc:
            if self._pool.get_size() < self._maximum:
                raise  # it was connecting
            raise JournalError(
                f"The journal at {self.where} is busy: no connection came free within {self._busy_seconds:g} s. Look "
                "for slow statements in pg_stat_activity, or allow more connections.",
                fault="crowded",
            ) from exc
        try:
            yield db
        except BaseException as exc:
            if is_lost(exc):
                with suppress(asyncpg.InterfaceError):  # the pool has noticed by itself
                    db.terminate()
            raise
        finally:
            with suppress(*ERRORS):
                await self._pool.release(db)

    async def _run(self, db: Connection, operation: Callable[[], Awaitable[T]]) -> T:
        """Begin a transaction and run an operation in it. If that fails, undo it."""
        await db.execute(self._begin)
        try:
            return await operation()
        except BaseException as exc:
            if not is_lost(exc):
                with suppress(*ERRORS):
                    await db.execute("ROLLBACK")
            raise

    async def read(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run an operation that only reads, or may happen twice. A broken connection is replaced once."""
        self.check_open()
        with translated(self.where):
            try:
                return await self._read(operation)
            except Exception as exc:
                if self._closing or not is_lost(exc):
                    raise
            return await self._read(operation)

    async def _read(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.acquire() as db:
            if self._statements:
                return await operation(db)
            # Behind a pooler, a statement and its plan meet only in a transaction.
            result = await self._run(db, lambda: operation(db))
            await db.execute("COMMIT")
            return result

    async def write(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run an operation in a transaction of its own, committed when this returns. If it raises, nothing was kept.
        The operation may run again after it was undone."""
        self.check_open()
        with translated(self.where):
            return await self.transact(lambda transaction: operation(transaction.db))

    async def transact(self, operation: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do the same, and raise the driver's errors. An operation may note the transaction's id by itself."""
        broken, tries = False, 0
        while True:
            tries += 1
            try:
                return await self._transact(operation)
            except COLLIDED:
                if tries >= COLLISIONS:
                    raise
            except Exception as exc:
                if self._closing or broken or not is_lost(exc):
                    raise
                broken = True  # it was broken before, most likely: one more try on another connection

    async def _transact(self, operation: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self.acquire() as db:
            transaction = Transaction(db)

            async def numbered() -> T:
                result = await operation(transaction)
                if transaction.xid is None:
                    transaction.xid = await db.fetchval("SELECT pg_current_xact_id_if_assigned()::text")
                return result

            result = await self._run(db, numbered)
            try:
                await db.execute("COMMIT")
                return result
            except Exception as exc:
                if not is_lost(exc):
                    raise
                with suppress(asyncpg.InterfaceError):
                    db.terminate()
                problem = exc
        if transaction.xid is None or await self.is_committed(transaction.xid):
            return result
        raise problem

    async def is_committed(self, xid: str) -> bool:
        """Return True if a transaction was committed. While it may still be, wait: the server ends it within 10 s.

        Raises:
            JournalError: the server cannot be reached (fault `uncertain`).
        """
        until = asyncio.get_running_loop().time() + self._answer_seconds
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
        """Return a connection outside of the pool, to be closed by the caller. Raise the driver's errors."""
        return await asyncpg.connect(self._url, **self._arguments)

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
