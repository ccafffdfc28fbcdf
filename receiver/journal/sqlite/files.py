"""The journal's file: connections, schema, SQLite's errors as sentences, and its identity.

These functions block: call them in a thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from receiver.errors import JournalError, JournalLocked
from receiver.journal.rows import migrations

Connection = sqlite3.Connection
BUSY_SECONDS = 10.0
"""Longest wait for another process that holds the write lock."""
APPLICATION_ID = 0x49524A32
"""`IRJ2` in the header of the file: a journal of this layout."""


def opened(path: Path) -> closing[Connection]:
    """Return a connection for one piece of work, as a context manager."""
    return closing(_open(path, BUSY_SECONDS))


def _open(path: Path, busy_seconds: float) -> Connection:
    db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    return db


def connect(path: Path, busy_seconds: float) -> Connection:
    """Open the file for durable writes, or make it with its folder. Bring its schema up to date.

    Raises:
        JournalError: another version of Receiver, or another program, wrote the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # It has every prompt. The files beside it get its mode from SQLite. What cannot be made is told by SQLite.
    # A file that is there is not opened: closing it would drop SQLite's own locks in this process (fcntl(2)).
    with suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
    db, available = _open(path, busy_seconds), migrations("sqlite")
    try:
        _version(db, path, available[-1][0])  # a file that is no journal keeps its mode
        for name in (path, f"{path}-wal", f"{path}-shm"):
            with suppress(OSError):
                os.chmod(name, 0o600)
        # Before the file is made. A commit writes whole pages with two system calls each, and our rows are large.
        db.execute("PRAGMA page_size = 32768")
        # The log is carried over at 4 MB, as it is by default with pages of 4 KB. 16 MB would fill a small disk.
        db.execute("PRAGMA wal_autocheckpoint = 128")
        until = time.monotonic() + busy_seconds
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as exc:  # at once, if another process does the same to a new file
                if "locked" not in str(exc) or time.monotonic() >= until:
                    raise
                time.sleep(0.01)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -8000")  # KiB: an update of any recent submission finds its page
        # Sorted rows and a rewritten file may hold prompts, so they go into no temporary file.
        db.execute("PRAGMA temp_store = MEMORY")
        # Deleted and overwritten rows are zeroed, so that an erased prompt does not stay in unused space.
        db.execute("PRAGMA secure_delete = ON")
        _migrate(db, path, available)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: Connection, path: Path, available: Sequence[tuple[int, str]]) -> None:
    newest = available[-1][0]
    if _version(db, path, newest) == newest:
        return
    db.execute("BEGIN IMMEDIATE")  # undone when the connection is closed
    current = _version(db, path, newest)
    for number, script in available:
        if number > current:
            for statement in script.split(";\n"):  # `executescript` would commit the transaction
                db.execute(statement)
    db.execute(f"PRAGMA user_version = {newest:d}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
    db.execute("COMMIT")


def _version(db: Connection, path: Path, newest: int) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    if found > newest:
        raise JournalError(
            f"{path} was written by a newer Receiver (schema {found}, this one knows {newest}). "
            "Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    if found and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(
            f"{path} was written by an earlier development version of Receiver, and only that version reads it. "
            "To start anew, name another database with RECEIVER_DATABASE.",
            fault="older",
        )
    return found


# Errors

_RESTORE = "Restore it from a backup, or name another file with RECEIVER_DATABASE."
_PLACE = "Name a place that can be written with RECEIVER_DATABASE or RECEIVER_DATA."
_FAULTS: Mapping[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("full", "Free some space on its disk. Receiver then goes on by itself, and nothing is lost."),
    sqlite3.SQLITE_IOERR: ("io", "Look at the disk and at the system's log. Receiver goes on once the disk works."),
    sqlite3.SQLITE_CORRUPT: ("damaged", _RESTORE),
    sqlite3.SQLITE_NOTADB: ("damaged", _RESTORE),
    sqlite3.SQLITE_READONLY: ("readonly", "Make it writable for this user, or name another with RECEIVER_DATABASE."),
    sqlite3.SQLITE_CANTOPEN: ("unopened", _PLACE),
}
"""Name and remedy of a fault, by SQLite's primary result code."""


ERRORS = (sqlite3.Error, OSError, msgspec.DecodeError)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, the system and unreadable rows into JournalError."""
    try:
        yield
    except ERRORS as exc:
        raise journal_error(exc, path) from exc


def journal_error(exc: Exception, path: Path) -> JournalError:
    """Return the sentence for one of `ERRORS`, with its remedy."""
    if isinstance(exc, msgspec.DecodeError):
        return JournalError(f"The journal {path} holds a row that cannot be read: {exc}. Restore a backup.")
    if isinstance(exc, OSError):
        fault = "unopened" if isinstance(exc, FileNotFoundError) else ""
        return JournalError(f"The journal {path} cannot be used: {exc.strerror}. {_PLACE}", fault=fault)
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # Python's own errors have none
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalLocked(
            f"The journal {path} is locked by another process. Look for a program that holds it open for writing, and "
            "try again."
        )
    closed = isinstance(exc, sqlite3.ProgrammingError) and "closed" in str(exc)
    fault, remedy = ("closed", "") if closed else _FAULTS.get(code, ("", ""))
    return JournalError(f"The journal {path} cannot be used: {exc}. {remedy}".strip(), fault=fault)
