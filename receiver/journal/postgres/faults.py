"""What PostgreSQL, its driver and the network say when a journal cannot be used, as sentences with a remedy."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from receiver.errors import JournalError
from receiver.journal.postgres.driver import asyncpg

_AGAIN = "A `serve` or `worker` that runs goes on by itself once that works."
_REMEDIES: Mapping[str, tuple[str, str]] = {
    "08P01": (
        "pooler",
        "It may be a transaction pooler that stands before the server. For one, set RECEIVER_DATABASE_LISTEN=false and "
        "RECEIVER_DATABASE_STATEMENTS=false.",
    ),
    "28P01": ("denied", "Its password, or the user's name, is wrong: look at RECEIVER_DATABASE."),
    "28000": ("denied", "The server does not let this user in from here: look at RECEIVER_DATABASE and pg_hba.conf."),
    "3D000": ("missing", "Make the database (createdb), or name another one with RECEIVER_DATABASE."),
    "42501": ("denied", "Give its user the right to do that; `CREATE SCHEMA receiver AUTHORIZATION <user>` is enough."),
    "25006": ("readonly", "Name the primary server with RECEIVER_DATABASE: this one only reads."),
    "53100": ("full", "Free some space on the server's disk; nothing already journalled is lost. " + _AGAIN),
    "53200": ("full", "Give the server more memory. " + _AGAIN),
    "53300": ("crowded", "Raise max_connections, or run fewer processes or connections. " + _AGAIN),
    "57014": ("locked", "Look for what holds it up in pg_stat_activity, and try again."),
    "55P03": ("locked", "Look for what holds it up in pg_locks, and try again."),
    "58030": (
        "io",
        "Look at the server's disk and its log. " + _AGAIN,
    ),
    "42P01": ("missing", "Its tables are not there: run `receiver migrate`."),
    "3F000": ("missing", "Its tables are not there: run `receiver migrate`."),
}
"""(fault, remedy) by PostgreSQL's code (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

LOST = (
    OSError,
    TimeoutError,
    EOFError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended it in the moment in which it was to be used
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # restarted, stopped, starting up …
    asyncpg.IdleInTransactionSessionTimeoutError,
)
"""The connection is gone, not the statement wrong. (A cancelled statement is the exception: see `is_lost`.)"""

COLLIDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Undone to let another transaction through; the same again succeeds."""

ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""Whatever the driver raises. (TimeoutError is an OSError.)"""


def is_lost(exc: BaseException) -> bool:
    """Whether an error says that the connection is gone, or that there was none."""
    if isinstance(exc, (asyncpg.DataError, asyncpg.QueryCanceledError)):
        return False
    return isinstance(exc, LOST)


def place(url: str) -> str:
    """`host:port/database` of a URL: where, without the password or anything else that might be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "RECEIVER_DATABASE"
    return f"{parts.hostname or 'local'}{port}/{parts.path.strip('/') or parts.username or ''}"


_TLS = ("root certificate file", "`ssl", "direct TLS", "No such TLS", "Unsupported TLS")
"""How the driver begins what it says of TLS before it connects; nothing else of the URL stands in it."""


def misconfigured(exc: Exception, where: str) -> JournalError:
    """The error to raise for an address that the driver makes nothing of."""
    said = str(exc).partition("\n")[0]
    if said.startswith(_TLS):
        return JournalError(
            f"The journal at {where} cannot be reached as RECEIVER_DATABASE asks for it: {said}. See sslmode and "
            "sslrootcert (a certificate to check the server's with) in it."
        )
    return JournalError(
        "RECEIVER_DATABASE is no address of a PostgreSQL database: postgresql://user:password@host:5432/name"
    )


def sentence(exc: BaseException, where: str) -> JournalError:
    """The error to raise for one of the driver's. What the server says holds no password; what the driver says of a
    URL might, so it is not repeated."""
    if isinstance(exc, asyncpg.PostgresError) and exc.sqlstate is not None:
        fault, remedy = _REMEDIES.get(exc.sqlstate, ("unreachable" if is_lost(exc) else "", ""))
        said = str(exc).strip().rstrip(".")
        remedy = remedy or (_AGAIN if fault else "")
        return JournalError(f"The journal at {where} cannot be used: {said}. {remedy}".strip(), fault=fault)
    if isinstance(exc, asyncpg.DataError):
        return JournalError(f"The journal at {where} cannot keep a value: {exc}.")
    if isinstance(exc, TimeoutError):
        return JournalError(f"The journal at {where} does not answer in time. {_AGAIN}", fault="unreachable")
    if isinstance(exc, ssl.SSLCertVerificationError):
        return JournalError(
            f"The journal at {where} cannot be trusted: {exc.verify_message.rstrip('.')}. Name the certificate that "
            "signed its server's in RECEIVER_DATABASE (sslrootcert), or its host as the certificate has it.",
            fault="denied",
        )
    if isinstance(exc, ConnectionError) and "rejected SSL upgrade" in str(exc):
        return JournalError(
            f"The journal at {where} cannot be reached with TLS, which sslmode in RECEIVER_DATABASE asks for: its "
            "server does not offer it.",
            fault="denied",
        )
    if isinstance(exc, (ConnectionRefusedError, FileNotFoundError)):  # no port, or no socket
        said = "nothing listens there"
    elif isinstance(exc, OSError):
        said = exc.strerror or type(exc).__name__
    else:
        said = "the connection is closed"
    return JournalError(f"The journal at {where} cannot be reached: {said}. {_AGAIN}", fault="unreachable")


class translated:  # noqa: N801
    """The driver's errors as sentences; what a row holds that cannot be read is one, too. (A class, because a generator
    costs a microsecond more, and each callback and each attempt goes through several.)"""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, ERRORS):
            raise sentence(exc, self._where) from exc
        if isinstance(exc, msgspec.DecodeError):
            raise JournalError(f"The journal at {self._where} holds what cannot be read: {exc}.") from exc
