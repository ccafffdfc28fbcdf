"""How one connection to a PostgreSQL database is made: what it is told, what poolers take of that, and which servers
are refused."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from receiver.errors import JournalError
from receiver.journal.postgres.driver import Connection, asyncpg

CONNECT_SECONDS = 5.0
"""How long a new connection may take where the address does not say (`connect_timeout`)."""

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


async def connect(url: str, options: Options) -> Connection:
    db = await asyncpg.connect(url, **options.asked)
    try:
        await options.set_up(db)
    except BaseException:
        db.terminate()
        raise
    return db


async def connect_first(url: str, options: Options) -> tuple[Connection, Options]:
    """A connection, and how to make the others."""
    try:
        return await connect(url, options), options
    except asyncpg.ProtocolViolationError:  # a pooler refuses our settings
        if not options.statements or not await _keeps_sessions(url, options):
            raise
    options = replace(options, pooled=True)
    return await connect(url, options), options


async def _keeps_sessions(url: str, options: Options) -> bool:
    """Whether a pooler gives each connection one of the server's for as long as it lasts. Otherwise two in turn get the
    same one, the one that came free last; or, in a crowd, one gets another each time."""
    bare = replace(options, statements=False)
    found: tuple[set[int], set[int]] = (set(), set())
    async with AsyncExitStack() as stack:
        pair = []
        for _ in found:
            pair.append(await connect(url, bare))
            stack.push_async_callback(pair[-1].close)
        for _ in range(PROBES):
            for db, pids in zip(pair, found, strict=True):
                async with db.transaction():
                    pids.add(await db.fetchval("SELECT pg_backend_pid()"))
    one, other = found
    return len(one) == len(other) == 1 and one != other


async def check_server(db: Connection, where: str) -> None:
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
