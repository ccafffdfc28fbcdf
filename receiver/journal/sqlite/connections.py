"""Connections to the file: how each is set up, the schema brought up to date, SQLite's errors as sentences."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from receiver.errors import JournalError
from receiver.journal import statements
from receiver.journal.sqlite.faults import sentence

Connection = sqlite3.Connection

BUSY_SECONDS = 10.0
"""How long we wait for another process that holds the write lock."""


def connect(path: Path, busy_seconds: float) -> Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        # Before the file is made. A commit writes whole pages with two system calls each, and our rows are large.
        connection.execute("PRAGMA page_size = 16384")
        # The log is brought home at 4 MB, as it is by default with pages of 4 KB; 16 would fill a small disk.
        connection.execute("PRAGMA wal_autocheckpoint = 256")
        _use_wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        # What SQLite sorts, or copies when it writes the file anew, may hold prompts: it goes into no temporary file.
        connection.execute("PRAGMA temp_store = MEMORY")
        # What is deleted or overwritten is zeroed, so that `erase` leaves no prompt behind in unused space.
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: Connection, busy_seconds: float) -> None:
    """A new file's change to WAL fails at once while another process makes the same one; SQLite's own busy time-out
    does not cover it."""
    until = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def migrate(db: Connection, path: Path) -> None:
    """Each migration in one transaction with its number in `user_version`."""
    available = statements.migrations("sqlite")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > available[-1][0]:
        raise JournalError(
            f"{path} was written by a newer Receiver (schema {version}, this one knows {available[-1][0]}). "
            "Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    if version == available[-1][0]:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for number, script in available:
            if number > version:
                for statement in _split(script):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number:d}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _split(script: str) -> Iterator[str]:
    """The statements of a script. `executescript` would commit the transaction we are in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextlib.contextmanager
def translated(path: Path, busy_seconds: float) -> Iterator[None]:
    """SQLite's errors as sentences; what a row holds that cannot be read is one, too."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise told(exc, path, busy_seconds) from exc
    except msgspec.DecodeError as exc:
        raise JournalError(f"The journal {path} holds a row that cannot be read: {exc}. Restore a backup.") from exc


def told(exc: sqlite3.Error | OSError, path: Path, busy_seconds: float) -> JournalError:
    if isinstance(exc, sqlite3.Error):
        return sentence(exc, path, busy_seconds)
    return JournalError(
        f"The journal {path} cannot be used: {exc.strerror}. Name a place that can be written with "
        "RECEIVER_DATABASE or RECEIVER_DATA."
    )
