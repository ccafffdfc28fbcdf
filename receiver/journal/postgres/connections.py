"""Connections to one PostgreSQL database: errors, transactions, notifications between processes (LISTEN/NOTIFY)."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from receiver.errors import JournalError
from receiver.extras import install
from receiver.telemetry import Log

try:  # the only import of asyncpg, which is an extra
    import asyncpg as asyncpg  # type: ignore[import-untyped]  # noqa: PLC0414 - for the modules beside this one
except ImportError as exc:  # pragma: no cover - the tests have it
    raise ImportError(f"A journal on PostgreSQL needs asyncpg: {install('postgres')}") from exc

Connection: TypeAlias = Any  # asyncpg.Connection, which has no types
ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""All that the driver raises. InternalClientError: the server ended a connection that was about to be used."""
COLLIDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Undone to let another transaction through. The same again succeeds."""

_AGAIN = "A `serve` or `worker` that runs goes on by itself once that works."
_LOST = ("unreachable", _AGAIN)
_TABLES = ("missing", "Its tables are not there: run `receiver migrate`.")
_TLS = ("denied", "See sslmode and sslrootcert (a certificate to check the server's with) in RECEIVER_DATABASE.")
_ON_TLS = ("root certificate file", "`ssl", "direct TLS", "No such TLS", "Unsupported TLS")
"""Beginnings of the driver's sentences about TLS."""
_REMEDIES: Mapping[str, tuple[str, str]] = {
    "08": _LOST,
    "08P01": (
        "pooler",
        "It may be a pooler before the server. For one, set RECEIVER_DATABASE_STATEMENTS=false, and in transaction "
        "mode RECEIVER_DATABASE_LISTEN=false as well.",
    ),
    "25006": ("readonly", "Name the primary server with RECEIVER_DATABASE: this one only reads."),
    "25P03": _LOST,
    "28": ("denied", "Its password, user or host is refused: look at RECEIVER_DATABASE and pg_hba.conf."),
    "3D": ("missing", "Make the database (createdb), or name another one with RECEIVER_DATABASE."),
    "3F": _TABLES,
    "42704": ("denied", "If that is a parameter behind the ? of RECEIVER_DATABASE, remove it there."),
    "42501": ("denied", "Give its user the right to do that: `CREATE SCHEMA receiver AUTHORIZATION <user>` is enough."),
    "42P01": _TABLES,
    "53": ("full", f"Give the server more disk or memory; nothing already journalled is lost. {_AGAIN}"),
    "53300": ("crowded", f"Raise max_connections, or run fewer processes or connections. {_AGAIN}"),
    "55P03": ("locked", "Look for what holds it up in pg_locks, and try again."),
    "57": _LOST,
    "57014": ("locked", "Look for what holds it up in pg_stat_activity, and try again."),
    "58030": ("io", f"Look at the server's disk and its log. {_AGAIN}"),
}
"""(fault, remedy) by PostgreSQL's code, or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""


def _remedy(exc: asyncpg.PostgresError) -> tuple[str, str]:
    state = exc.sqlstate or ""
    return _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or ("", "")


def is_lost(exc: BaseException) -> bool:
    """Return True if an error says that the connection is gone, or that there was none."""
    if isinstance(exc, asyncpg.PostgresError):
        return _remedy(exc)[0] in ("unreachable", "pooler")
    return isinstance(exc, ERRORS) and not isinstance(exc, asyncpg.DataError)


def is_outside(exc: BaseException) -> bool:
    """Return True if no single write of a batch can have caused an error, but the connection, rights, locks or disk."""
    state = (exc.sqlstate or "") if isinstance(exc, asyncpg.PostgresError) else ""
    return isinstance(exc, JournalError) or is_lost(exc) or state[:2] in ("25", "40", "42", "53", "55", "57", "58")


def place(url: str) -> str:
    """Return `host:port/database` of a URL, without the password or anything else that might be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "RECEIVER_DATABASE"
    return f"{parts.hostname or 'local'}{port}/{parts.path.strip('/') or parts.username or ''}"


def sentence(exc: BaseException, where: str) -> JournalError:
    """Return the error to raise for one of the driver's. Its words about a URL may hold a password: leave them out."""
    if isinstance(exc, asyncpg.PostgresError):
        fault, remedy = _remedy(exc)
        text = str(exc).strip().rstrip(".")
        return JournalError(f"The journal at {where} cannot be used: {text}. {remedy}".strip(), fault=fault)
    if isinstance(exc, asyncpg.DataError):
        return JournalError(f"The journal at {where} cannot keep a value: {exc}.")
    (fault, remedy), text = _LOST, "the connection is closed"
    if isinstance(exc, ssl.SSLCertVerificationError):
        (fault, remedy), text = _TLS, f"its certificate is not trusted ({exc.verify_message.rstrip('.')})"
    elif "rejected SSL upgrade" in str(exc):
        (fault, remedy), text = _TLS, "it does not offer TLS"
    elif isinstance(exc, ValueError | asyncpg.ClientConfigurationError):
        (fault, remedy), text = _TLS, str(exc).partition("\n")[0]
        if not text.startswith(_ON_TLS):  # other sentences may hold more of the URL
            return JournalError(
                "RECEIVER_DATABASE is no address of a PostgreSQL database: postgresql://user:password@host:5432/name"
            )
    elif isinstance(exc, TimeoutError):
        text = "it does not answer in time"
    elif isinstance(exc, ConnectionRefusedError | FileNotFoundError):  # no port, or no socket
        text = "nothing listens there"
    elif isinstance(exc, OSError):
        text = exc.strerror or type(exc).__name__
    return JournalError(f"The journal at {where} cannot be reached: {text}. {remedy}", fault=fault)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise the driver's errors as sentences, and a row that cannot be read, too."""
    try:
        yield
    except ERRORS as exc:
        raise sentence(exc, where) from exc
    except msgspec.DecodeError as exc:
        raise JournalError(f"The journal at {where} holds what cannot be read: {exc}.") from exc


# Connections

T = TypeVar("T")
Changed = Callable[[frozenset[str] | None], None]

log = Log("receiver.journal")

CONNECT_SECONDS = 5.0
COLLISIONS = 5
"""Tries of a transaction that the server undoes to let another one through."""
OLDEST_SERVER = 14
LEFT_OUT = frozenset((
    # of libpq
    "channel_binding", "client_encoding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "load_balance_hosts", "sslcompression", "sslsni",
    # of other drivers, ORMs and hosters
    "binary_parameters", "connection_limit", "pgbouncer", "pool_timeout", "preparethreshold", "schema",
    "socket_timeout", "ssl", "statement_cache_size", "supa", "uselibpqcompat",
))  # fmt: skip
"""Parameters that the driver does not know and the server refuses. None of them asks for a check of the server."""
TLS_MODES = {"no-verify": "require", "true": "require", "1": "require", "false": "disable", "0": "disable"}
"""Modes as other drivers write them, and libpq's name for the same."""
PLANS = dict.fromkeys(
    ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_sort", "jit"), "off"
)
"""Each statement has an index to use. The planner prefers other plans for empty tables, and keeps them."""
# The timeout frees the rows of a process that is cut off in the middle of a transaction.
LOCAL = {**PLANS, "plan_cache_mode": "force_generic_plan", "idle_in_transaction_session_timeout": "10s"}
"""Settings of each transaction behind a pooler."""
SETTINGS = {"application_name": "receiver", **LOCAL}
"""Settings of each connection."""


def read_address(url: str) -> tuple[str, bool]:
    """Return the address for the driver, and True if it says that a pooler in transaction mode is before the server.
    Raise JournalError if it names a file that does not exist."""
    base, _, query = url.partition("?")
    scheme, mark, rest = base.partition("://")
    base = f"{scheme.partition('+')[0]}{mark}{rest}"  # SQLAlchemy names a driver there
    given = dict(parse_qsl(query))
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        if name in given and not Path(given[name]).is_file():
            raise JournalError(f"RECEIVER_DATABASE names a file with {name} that is not there: {given[name]}.")
    kept = {name: value for name, value in given.items() if name.lower() not in LEFT_OUT}
    if mode := given.get("sslmode") or given.get("ssl"):
        kept["sslmode"] = TLS_MODES.get(mode.lower(), mode)
    pooled = given.get("pgbouncer", "").lower() in ("true", "1") or "pooler" in given.get("supa", "")
    return f"{base}?{urlencode(kept, quote_via=quote)}" if kept else base, pooled


async def _check_server(db: Connection, where: str) -> None:
    """Refuse a server on which our promises do not hold."""
    if (major := db.get_server_version().major) < OLDEST_SERVER:
        raise JournalError(
            f"The server at {where} is PostgreSQL {major}; Receiver needs {OLDEST_SERVER} or newer. Upgrade it, or "
            "name another one with RECEIVER_DATABASE.",
            fault="old",
        )
    commit, encoding = await db.fetchrow(
        "SELECT current_setting('synchronous_commit'), current_setting('server_encoding')"
    )
    if commit == "off":
        raise JournalError(
            f"The database at {where} has synchronous_commit = off: a crash would lose what Receiver has acknowledged. "
            "Set it to on: ALTER ROLE <user> SET synchronous_commit = on."
        )
    if encoding != "UTF8":
        raise JournalError(
            f"The database at {where} is encoded in {encoding}; prompts need UTF8. Make another one: "
            "CREATE DATABASE receiver ENCODING 'UTF8' TEMPLATE template0."
        )


@dataclass(slots=True)
class Transaction:
    """A transaction that runs. `xid`: its id at the server, None where its operation has not asked for it."""

    db: Connection
    xid: str | None = None


Operation = Callable[[Connection], Awaitable[T]]


class _Bare(asyncpg.Connection):  # type: ignore[misc]
    """A connection on which nothing is left behind, so that nothing has to be tidied up after each use."""

    def get_reset_query(self) -> str:
        return ""


class Connections:
    """The connections of one process. While it is `closing`, nothing new begins.

    Args:
        statements: let the server keep prepared statements and settings. False behind a pooler.
        busy_seconds: to wait for one of our connections while all are busy.
        answer_seconds: for one statement, and for the question if a transaction was committed.
    """

    def __init__(self, url: str, *, maximum: int, statements: bool, busy_seconds: float, answer_seconds: float) -> None:
        self.where = place(url)
        self._url, self._maximum = url, maximum
        self._busy_seconds, self._answer_seconds = busy_seconds, answer_seconds
        self._arguments: dict[str, Any] = {
            "timeout": min(CONNECT_SECONDS, answer_seconds),
            "command_timeout": answer_seconds,
            **({"server_settings": SETTINGS} if statements else {"statement_cache_size": 0}),
        }
        local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in LOCAL.items())
        # Behind a pooler, a statement and its plan meet only in a transaction.
        self._begin, self._begin_read = ("BEGIN", "") if statements else (f"BEGIN{local}", f"BEGIN{local}")
        self._pool: Any = None
        self.closing = False

    async def open(self, connected: Callable[[], None]) -> None:
        """Open the pool, and check the server. `connected` is called after each new connection."""

        async def begin(db: Connection) -> None:
            connected()

        try:
            with translated(self.where):
                self._pool = await asyncpg.create_pool(
                    self._url, init=begin, min_size=0, max_size=self._maximum, connection_class=_Bare,
                    max_inactive_connection_lifetime=0, **self._arguments,
                )  # fmt: skip
                async with self.acquire() as db:
                    await _check_server(db, self.where)
        except BaseException as exc:
            await self.aclose()
            if isinstance(exc, ValueError):
                raise sentence(exc, self.where) from exc
            raise

    async def aclose(self) -> None:
        """Close all, after what runs on them has ended. Idempotent."""
        self.closing = True
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), self._answer_seconds)
            except (TimeoutError, OSError, asyncpg.InterfaceError):
                self._pool.terminate()

    def check_open(self) -> None:
        """Raise JournalError while it is being closed."""
        if self.closing:
            raise JournalError(f"The journal at {self.where} is closed.", fault="closed")

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection, and undo its transaction after an error. Raise the driver's errors, and JournalError where
        none comes free."""
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
            with suppress(*ERRORS):  # the pool has noticed by itself
                if is_lost(exc):
                    db.terminate()
                elif db.is_in_transaction():
                    await db.execute("ROLLBACK")
            raise
        finally:
            with suppress(*ERRORS):
                await self._pool.release(db)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only reads, or may happen twice. A broken connection is replaced once."""
        self.check_open()
        with translated(self.where):
            return await self._run(lambda transaction: operation(transaction.db), self._begin_read)

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction of its own, committed when this returns. If it raises, nothing was kept.
        The operation may run again after it was undone."""
        self.check_open()
        with translated(self.where):
            return await self.transact(lambda transaction: operation(transaction.db))

    async def transact(self, operation: Callable[[Transaction], Awaitable[T]], *, patient: bool = False) -> T:
        """Do the same, and raise the driver's errors. An operation may note the transaction's id by itself. `patient`:
        wait without limit to learn that it was committed."""
        return await self._run(operation, self._begin, patient=patient)

    async def _run(self, operation: Callable[[Transaction], Awaitable[T]], begin: str, *, patient: bool = False) -> T:
        """Run an operation again after collisions, and once after a connection that broke. If it broke during COMMIT,
        another connection asks the server for the status of the transaction."""
        collisions, broken = 0, False
        while True:
            committing = False
            try:
                async with self.acquire() as db:
                    transaction = Transaction(db)
                    if begin:
                        await db.execute(begin)
                    result = await operation(transaction)
                    if begin:
                        xid = transaction.xid or await db.fetchval("SELECT pg_current_xact_id_if_assigned()::text")
                        committing = True
                        await db.execute("COMMIT")
                    return result
            except COLLIDED:
                if (collisions := collisions + 1) >= COLLISIONS:
                    raise
            except Exception as exc:
                if committing and is_lost(exc) and (xid is None or await self._is_committed(xid, patient=patient)):
                    return result
                if self.closing or broken or not is_lost(exc):
                    raise
                broken = True

    async def _is_committed(self, xid: str, *, patient: bool) -> bool:
        """Return True if a transaction was committed. While it runs, wait: the server ends it within 10 s. Raise
        JournalError (fault `uncertain`) if the server cannot be reached."""
        problem: Exception | None = None
        question = "SELECT pg_xact_status($1::text::xid8)"
        with suppress(TimeoutError):
            async with asyncio.timeout(None if patient else self._answer_seconds):
                while not (patient and self.closing):
                    try:
                        status = await self._run(lambda asking: asking.db.fetchval(question, xid), self._begin_read)
                        if status != "in progress":
                            return bool(status == "committed")
                    except asyncpg.InvalidParameterValueError:
                        return False  # a server that took over has never seen it
                    except (*ERRORS, JournalError) as exc:
                        problem = exc
                    await asyncio.sleep(0.1)
        raise JournalError(
            f"The journal at {self.where} cannot be reached any more, and it is not known if it kept the last change.",
            fault="uncertain",
        ) from problem

    @asynccontextmanager
    async def separate(self) -> AsyncIterator[Connection]:
        """Lend a connection outside of the pool, for work that takes long. Raise the driver's errors as sentences."""
        with translated(self.where):
            db = await asyncpg.connect(self._url, **self._arguments)
            try:
                yield db
            finally:
                with suppress(*ERRORS):
                    await db.close(timeout=1)


# Notifications

CHANNEL = "receiver"
MOST = 200  # ids in one notification, which holds 8,000 bytes. Of more it says only that there are many
PAUSE_SECONDS = 0.025  # between two notifications. Writes in between share the next one
RETRY_SECONDS = 1.0  # until a listening connection that broke is replaced
ALIVE_SECONDS = 5.0  # between two checks that a listening connection still works


class Notifier:
    """Notifies subscribers in this process at once, and in others by a connection that listens (`listening` is set
    while it works). A notification may get lost: all poll, too."""

    def __init__(self, connections: Connections, *, enabled: bool) -> None:
        self._connections, self._enabled = connections, enabled
        self._process = secrets.token_hex(8)
        self._subscribers: list[Changed] = []
        self._written: set[str] = set()
        self._sender: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    def subscribe(self, changed: Changed) -> None:
        self._subscribers.append(changed)
        if self._enabled and self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="journal listener")

    def notify(self, ids: Iterable[str]) -> None:
        """Notify all of documents that were committed."""
        if not (changed := frozenset(ids)):
            return
        self._call(changed)
        if self._enabled:
            self._written |= changed
            if self._sender is None or self._sender.done():
                self._sender = asyncio.create_task(self._send(), name="journal notifier")

    def _call(self, changed: frozenset[str] | None) -> None:
        for subscriber in self._subscribers:
            subscriber(changed)

    async def flush(self) -> None:
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def aclose(self) -> None:
        await self.flush()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def _send(self) -> None:
        while self._written:
            ids, self._written = self._written, set()
            payload = f"{self._process} {' '.join(ids) if len(ids) <= MOST else ''}"
            with suppress(JournalError, *ERRORS):
                async with self._connections.acquire() as db:
                    await db.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _listen(self) -> None:
        logged = False
        while True:
            try:
                async with self._connections.separate() as db:
                    await db.add_listener(CHANNEL, self._heard)
                    logged = False
                    self.listening.set()
                    self._call(None)  # notifications before this were missed
                    while True:
                        await asyncio.sleep(ALIVE_SECONDS)
                        await db.execute("SELECT 1", timeout=ALIVE_SECONDS)
            except JournalError as exc:
                if not logged:
                    log.warning("journal.listener_lost", problem=str(exc))
                logged = True
            self.listening.clear()
            await asyncio.sleep(RETRY_SECONDS)

    def _heard(self, db: Connection, pid: int, channel: str, payload: Any) -> None:
        process, *ids = str(payload).split()
        if process != self._process:
            self._call(frozenset(ids) or None)
