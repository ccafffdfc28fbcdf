"""The journal on a watched disk: APSW's SQLite behind the part of Python's `sqlite3` that Receiver uses.

Python's own `sqlite3` offers no VFS. So `sqlite3.connect` is replaced while an experiment runs, and all above it is
Receiver's: its statements, its pragmas, its migrations, its writer with the group commit. What differs is the SQLite
below: the one inside APSW instead of the one Python was built with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import apsw

AUTOCHECKPOINT = 1000
"""Pages, as SQLite's own default."""


class Row(tuple[Any, ...]):
    """A row like `sqlite3.Row`: values by position and by name."""

    names: tuple[str, ...]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        return list(self.names)


def _named(cursor: apsw.Cursor, values: apsw.SQLiteValues) -> Any:
    row = Row(values)
    row.names = tuple(column[0] for column in cursor.get_description())
    return row


def _checkpoint(db: apsw.Connection, name: str, pages: int) -> int:
    """Checkpoint after a commit, as SQLite does by itself. An error is ignored, because the commit stands. APSW would
    raise it."""
    if pages >= AUTOCHECKPOINT:
        with suppress(apsw.Error):
            db.wal_checkpoint(name, apsw.SQLITE_CHECKPOINT_PASSIVE)
    return apsw.SQLITE_OK


class Cursor:
    """The rows of one statement, all read."""

    def __init__(self, rows: list[Any], rowcount: int, lastrowid: int = 0) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class Connection:
    """A connection of APSW that looks like one of `sqlite3` in autocommit mode.

    Args:
        path: the database.
        disk: the name of the VFS.
        timeout: seconds to wait for a lock.
        instead: statements to be replaced by others, for a broken build.
    """

    def __init__(self, path: str, *, disk: str, timeout: float, instead: Mapping[str, str]) -> None:
        self.row_factory: Any = None
        self._instead = instead
        with translated():
            self._db = apsw.Connection(path, vfs=disk)
            self._db.set_busy_timeout(int(timeout * 1000))
            self._db.set_row_trace(_named)
            self._db.set_wal_hook(_checkpoint)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, sql: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Cursor:
        with translated():
            cursor = self._db.cursor()
            cursor.execute(self._instead.get(sql, sql), values)
            return Cursor(list(cursor), self._db.changes(), self._db.last_insert_rowid())

    def executemany(self, sql: str, many: Iterable[Mapping[str, Any]]) -> Cursor:
        count = sum(self.execute(sql, values).rowcount for values in many)
        return Cursor([], count)

    def create_function(self, name: str, narg: int, func: Callable[..., Any], *, deterministic: bool = False) -> None:
        self._db.create_scalar_function(name, func, narg, deterministic=deterministic)

    def close(self) -> None:
        """Close. The last connection checkpoints. APSW raises an error of that, which SQLite ignores."""
        with suppress(apsw.Error):
            self._db.close()


@contextmanager
def on_disk(disk: str, instead: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let `sqlite3.connect` open databases on that disk while the block runs."""
    original = sqlite3.connect

    def connect(path: Any, timeout: float = 5.0, **_: Any) -> Any:
        return Connection(str(path), disk=disk, timeout=timeout, instead=instead or {})

    sqlite3.connect = connect  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = original


@contextmanager
def translated() -> Iterator[None]:
    """Raise APSW's errors as Python's own module does."""
    try:
        yield
    except apsw.Error as exc:
        kind, text, code = _ERRORS.get(type(exc), (sqlite3.OperationalError, str(exc), sqlite3.SQLITE_ERROR))
        error = kind(text)
        error.sqlite_errorcode = code
        raise error from exc


_ERRORS: dict[type[apsw.Error], tuple[type[sqlite3.Error], str, int]] = {
    apsw.BusyError: (sqlite3.OperationalError, "database is locked", sqlite3.SQLITE_BUSY),
    apsw.FullError: (sqlite3.OperationalError, "database or disk is full", sqlite3.SQLITE_FULL),
    apsw.IOError: (sqlite3.OperationalError, "disk I/O error", sqlite3.SQLITE_IOERR),
    apsw.CantOpenError: (sqlite3.OperationalError, "unable to open database file", sqlite3.SQLITE_CANTOPEN),
    apsw.CorruptError: (sqlite3.DatabaseError, "database disk image is malformed", sqlite3.SQLITE_CORRUPT),
    apsw.NotADBError: (sqlite3.DatabaseError, "file is not a database", sqlite3.SQLITE_NOTADB),
    apsw.ConstraintError: (sqlite3.IntegrityError, "a constraint failed", sqlite3.SQLITE_CONSTRAINT),
}
