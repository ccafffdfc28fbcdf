"""Errors of PostgreSQL, its driver and the network as sentences with a remedy."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from receiver.errors import JournalError

try:  # the only import of asyncpg, which is an extra
    import asyncpg as asyncpg  # type: ignore[import-untyped]  # noqa: PLC0414 - for the modules beside this one
except ImportError as exc:  # pragma: no cover - the tests have it
    raise ImportError("A journal on PostgreSQL needs asyncpg: pip install 'imagine-receiver[postgres]'") from exc

Connection = asyncpg.Connection
ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""All that the driver raises. InternalClientError: the server ended a connection that was about to be used."""
COLLIDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Undone to let another transaction through. The same again succeeds."""

_AGAIN = "A `serve` or `worker` that runs goes on by itself once that works."
_LOST = ("unreachable", _AGAIN)
_TABLES = ("missing", "Its tables are not there: run `receiver migrate`.")
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
    "42501": ("denied", "Give its user the right to do that: `CREATE SCHEMA receiver AUTHORIZATION <user>` is enough."),
    "42P01": _TABLES,
    "53100": ("full", f"Free some space on the server's disk; nothing already journalled is lost. {_AGAIN}"),
    "53200": ("full", f"Give the server more memory. {_AGAIN}"),
    "53300": ("crowded", f"Raise max_connections, or run fewer processes or connections. {_AGAIN}"),
    "55P03": ("locked", "Look for what holds it up in pg_locks, and try again."),
    "57": _LOST,
    "57014": ("locked", "Look for what holds it up in pg_stat_activity, and try again."),
    "58030": ("io", f"Look at the server's disk and its log. {_AGAIN}"),
}
"""(fault, remedy) by PostgreSQL's code, or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
_TLS = ("root certificate file", "`ssl", "direct TLS", "No such TLS", "Unsupported TLS")
"""Beginnings of the driver's sentences about TLS. They hold nothing else of the URL."""


def _remedy(state: str) -> tuple[str, str]:
    return _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or ("", "")


def is_lost(exc: BaseException) -> bool:
    """Return True if an error says that the connection is gone, or that there was none."""
    if isinstance(exc, asyncpg.PostgresError):
        return _remedy(exc.sqlstate or "")[0] in ("unreachable", "pooler")
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
    fault, remedy = _LOST
    if isinstance(exc, asyncpg.PostgresError):
        fault, remedy = _remedy(exc.sqlstate or "")
        text = str(exc).strip().rstrip(".")
        return JournalError(f"The journal at {where} cannot be used: {text}. {remedy}".strip(), fault=fault)
    if isinstance(exc, asyncpg.DataError):
        return JournalError(f"The journal at {where} cannot keep a value: {exc}.")
    if isinstance(exc, ssl.SSLCertVerificationError):
        text, fault = f"its certificate is not trusted ({exc.verify_message.rstrip('.')})", "denied"
        remedy = "Name the certificate that signed it in RECEIVER_DATABASE (sslrootcert), or its host as it has it."
    elif isinstance(exc, ValueError | asyncpg.ClientConfigurationError):
        text, fault = str(exc).partition("\n")[0], ""
        remedy = "See sslmode and sslrootcert (a certificate to check the server's with) in RECEIVER_DATABASE."
        if not text.startswith(_TLS):
            return JournalError(
                "RECEIVER_DATABASE is no address of a PostgreSQL database: postgresql://user:password@host:5432/name"
            )
    elif isinstance(exc, ConnectionError) and "rejected SSL upgrade" in str(exc):
        text, fault, remedy = "it does not offer TLS", "denied", "See sslmode in RECEIVER_DATABASE."
    elif isinstance(exc, TimeoutError):
        text = "it does not answer in time"
    elif isinstance(exc, ConnectionRefusedError | FileNotFoundError):  # no port, or no socket
        text = "nothing listens there"
    else:
        text = (isinstance(exc, OSError) and (exc.strerror or type(exc).__name__)) or "the connection is closed"
    return JournalError(f"The journal at {where} cannot be reached: {text}. {remedy}", fault=fault)


class translated:  # noqa: N801 - a context manager
    """Raise the driver's errors as sentences, and a row that cannot be read, too. (A generator would be slower.)"""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, ERRORS):
            raise sentence(exc, self._where) from exc
        if isinstance(exc, msgspec.DecodeError):
            raise JournalError(f"The journal at {self._where} holds what cannot be read: {exc}.") from exc
