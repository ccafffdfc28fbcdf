"""The journal's files: connections, schema, SQLite's errors as sentences, file systems, the ballast.

These functions block: call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import structlog

from receiver.errors import JournalError, JournalLocked
from receiver.journal import statements

log = structlog.get_logger("receiver.journal")

Connection = sqlite3.Connection
BUSY_SECONDS = 10.0
"""Longest wait for another process that holds the write lock."""
APPLICATION_ID = 0x49524A31
"""`IRJ1` in the header of the file: a journal of this layout."""


# Connections


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Connection]:
    """A connection of its own for one piece of work."""
    with contextlib.closing(
        sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    ) as db:
        db.row_factory = sqlite3.Row
        yield db


def connect(path: Path, busy_seconds: float) -> Connection:
    """Open the file, or make it with its folder, for durable writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.create_function("casefold", 1, str.casefold, deterministic=True)
    try:
        # Before the file is made. A commit writes whole pages with two system calls each, and our rows are large.
        connection.execute("PRAGMA page_size = 16384")
        # The log is carried over at 4 MB, as it is by default with pages of 4 KB. 16 MB would fill a small disk.
        connection.execute("PRAGMA wal_autocheckpoint = 256")
        _use_wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        # What SQLite sorts, or copies when it writes the file anew, may hold prompts: it goes into no temporary file.
        connection.execute("PRAGMA temp_store = MEMORY")
        # What is deleted or overwritten is zeroed, so that an erased prompt does not stay in unused space.
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: Connection, busy_seconds: float) -> None:
    """Switch to WAL. On a new file this fails at once while another process does the same: SQLite's busy time-out does
    not cover it."""
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
    """Bring the schema up to date: each migration in one transaction with its number in `user_version`.

    Raises:
        JournalError: another version of Receiver, or another program, wrote the file.
    """
    available = statements.migrations("sqlite")
    newest = available[-1][0]
    if _version(db, path, newest) == newest:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, path, newest)
        for number, script in available:
            if number > version:
                for statement in _split(script):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number:d}")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _version(db: Connection, path: Path, newest: int) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        raise JournalError(
            f"{path} was written by a newer Receiver (schema {version}, this one knows {newest}). "
            "Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    if version and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(
            f"{path} was written by an earlier development version of Receiver, and only that version reads it. "
            "To start anew, name another database with RECEIVER_DATABASE.",
            fault="older",
        )
    return version


def _split(script: str) -> Iterator[str]:
    """Yield the statements of a script. `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


# Errors

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


@contextlib.contextmanager
def translated(path: Path, busy_seconds: float = BUSY_SECONDS) -> Iterator[None]:
    """Turn errors of SQLite, the system and unreadable rows into JournalError."""
    try:
        yield
    except (sqlite3.Error, OSError, msgspec.DecodeError) as exc:
        raise journal_error(exc, path, busy_seconds) from exc


def journal_error(
    exc: sqlite3.Error | OSError | msgspec.DecodeError, path: Path, busy_seconds: float = BUSY_SECONDS
) -> JournalError:
    """Return the sentence for an error, with its remedy."""
    if isinstance(exc, msgspec.DecodeError):
        return JournalError(f"The journal {path} holds a row that cannot be read: {exc}. Restore a backup.")
    if isinstance(exc, OSError):
        return JournalError(
            f"The journal {path} cannot be used: {exc.strerror}. Name a place that can be written with "
            "RECEIVER_DATABASE or RECEIVER_DATA."
        )
    fault = fault_of(exc)
    if fault == "locked":
        return JournalLocked(
            f"The journal {path} has been locked by another process for {busy_seconds:g} s. "
            "Look for a program that holds it open for writing, and try again."
        )
    return JournalError(f"The journal {path} cannot be used: {exc}. {_REMEDIES.get(fault, '')}".strip(), fault=fault)


def fault_of(exc: sqlite3.Error) -> str:
    """Return a name for the cause; "" where it is a fault of ours."""
    if isinstance(exc, sqlite3.ProgrammingError):
        return "closed" if "closed" in str(exc) else ""
    code = getattr(exc, "sqlite_errorcode", None)  # Python's own errors have none
    return "" if code is None else _FAULTS.get(code & 0xFF, "")


# Files that were removed or replaced


class SameFiles:
    """The identity of the journal's file and its log, as they are now.

    A file that was removed or replaced takes every write and keeps none: what we hold open has no name any more.
    A check costs two `stat` calls, cheap enough for each commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = {name: found for name in (str(path), f"{path}-wal") if (found := _identity(name)) is not None}

    def check(self) -> None:
        """Raise JournalError if one of them is gone, or another file."""
        for name, opened_as in self._files.items():
            if _identity(name) != opened_as:
                raise JournalError(
                    f"{name} has been removed or replaced since Receiver opened the journal {self._path}, so nothing "
                    "is kept now. Put the file back where it was, or start Receiver again on the one that lies there.",
                    fault="replaced",
                )


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# Network file systems have no shared memory and no dependable locks, which SQLite's write-ahead log needs
# (https://sqlite.org/wal.html §2.1; https://sqlite.org/howtocorrupt.html §2.1).

MOUNTS = Path("/proc/self/mounts")
"""The mounted file systems, on Linux. Elsewhere there is no such file, and nothing is known."""
_NETWORK = (
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("orangefs", "pvfs2", "smb2", "smb3", "smbfs"),
)
_LOCAL_FUSE = ("fuse.bindfs", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g")
"""Every other `fuse.…` counts as a bucket or another machine: sshfs, s3fs, gcsfuse, rclone, blobfuse, juicefs …"""
_OCTAL = re.compile(r"\\([0-7]{3})")


def check_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise JournalError if `path` is, or would be, on a network file system."""
    kind = file_system(path, mounts)
    if kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        raise JournalError(
            f"The journal {path} would lie on a network file system ({kind}), where SQLite cannot promise to keep what "
            "it wrote: a callback answered 200 could be lost. Name a local disk with RECEIVER_DATABASE; pictures may "
            "stay where they are. If only this machine uses the file and you accept the risk, set "
            "RECEIVER_DISK=network."
        )


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that `path` is on, as `mount` names it; "" where it is unknown."""
    path = path.resolve()
    found, longest = "", -1
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, place, kind, *_ = [*line.split(" "), "", "", ""]
            folder = _OCTAL.sub(lambda match: chr(int(match[1], 8)), place)
            if path.is_relative_to(folder or "/nowhere") and len(folder) >= longest:  # the last of two covers the first
                found, longest = kind, len(folder)
    return found


# The ballast

BALLAST_BYTES = 1024 * 1024
"""Some hundred commits, and SQLite's log begins anew in its own space after a thousand pages."""
SPARE_BYTES = 16 * 1024 * 1024
"""Free bytes beside the ballast without which it is not made again, or the next write would be the last one."""
_SHARE = 16
"""The part of a small disk that both may take, each."""
LOOK_SECONDS = 1.0


class Ballast:
    """`<journal>.ballast`, a small file that is given up when the disk is full.

    On a full disk SQLite cannot even delete, because deleting writes too. The freed space is for what is already owed:
    attempts are recorded and old rows removed, while new callbacks and submissions are refused until it is there again.

    Attributes:
        given_up: the disk was full, and the ballast could not be made again since.
    """

    def __init__(self, journal: Path) -> None:
        self._path = Path(f"{journal}.ballast")
        self._looked = float("-inf")
        self.given_up = False

    @property
    def worth_a_look(self) -> bool:
        """True if the last look at the disk was some time ago."""
        return time.monotonic() - self._looked >= LOOK_SECONDS

    def make(self) -> bool:
        """Make the file if there is room for it. Return True if it is there now."""
        self._looked = time.monotonic()
        try:
            whole = self._path.exists() or self._fill()
        except OSError as exc:
            log.debug("ballast.not_made", problem=str(exc))
            return False
        if whole and self.given_up:
            self.given_up = False
            log.info("ballast.made")
        return whole

    def give_up(self) -> None:
        """Free its space. Idempotent."""
        if not self.given_up:
            log.error("ballast.given_up", remedy="free some space on the journal's disk")
        self.given_up = True
        self._looked = time.monotonic()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def nearly_full(self) -> bool:
        """Return True if less is free than the ballast would be made with."""
        usage = shutil.disk_usage(self._path.parent)
        return usage.free < min(SPARE_BYTES, usage.total // _SHARE)

    def _fill(self) -> bool:
        usage = shutil.disk_usage(self._path.parent)
        size = min(BALLAST_BYTES, usage.total // _SHARE)
        if usage.free < size + min(SPARE_BYTES, usage.total // _SHARE):
            return False
        draft = self._path.with_name(self._path.name + ".part")
        try:
            file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file, 0, size)  # blocks on disk, not a hole
                else:
                    os.pwrite(file, bytes(size), 0)
                os.fsync(file)
            finally:
                os.close(file)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        return True
