"""What SQLite and the system say when a journal cannot be used, as sentences with a remedy."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from receiver.errors import JournalError, JournalLocked

_BACKUP = "Restore it from a backup, or name another file with RECEIVER_DATABASE."
_REMEDIES: Mapping[str, str] = {
    "damaged": _BACKUP,
    "full": "Free some space on its disk; nothing already journalled is lost, and Receiver goes on by itself.",
    "io": "Look at the disk and at the system's log; Receiver goes on by itself once the disk works.",
    "unopened": "Name a place that can be written with RECEIVER_DATABASE or RECEIVER_DATA.",
    "readonly": "Make it writable for this user, or name another file with RECEIVER_DATABASE.",
}
_FAULTS: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_READONLY: "readonly",
    sqlite3.SQLITE_CANTOPEN: "unopened",
}
"""By SQLite's primary result codes."""


def sentence(exc: sqlite3.Error, path: Path, busy_seconds: float) -> JournalError:
    """The error to raise for one of SQLite's."""
    fault = fault_of(exc)
    if fault == "locked":
        return JournalLocked(
            f"The journal {path} has been locked by another process for {busy_seconds:g} s. "
            "Look for a program that holds it open for writing, and try again."
        )
    return JournalError(f"The journal {path} cannot be used: {exc}. {_REMEDIES.get(fault, '')}".strip(), fault=fault)


def fault_of(exc: sqlite3.Error) -> str:
    """A name for what is wrong; "" where it is a fault of ours."""
    if isinstance(exc, sqlite3.ProgrammingError):
        return "closed" if "closed" in str(exc) else ""
    code = getattr(exc, "sqlite_errorcode", None)  # Python's own errors have none
    return "" if code is None else _FAULTS.get(code & 0xFF, "")
