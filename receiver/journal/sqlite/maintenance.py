"""The SQLite file as a whole: check it, copy it, rewrite it, move its rows.

Except for `Transfer`, these functions block: call them in a thread. Each has a connection of its own, so that the
writer and the reader continue.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from receiver.disk import in_thread, sync_folder
from receiver.errors import InputError, JournalError
from receiver.journal.document import Document
from receiver.journal.rows import TABLES, read_document
from receiver.journal.sqlite import documents
from receiver.journal.sqlite.documents import SQL, read_page
from receiver.journal.sqlite.files import opened, translated
from receiver.journal.store import EVERYTHING, Key, RowKind, StoredRow
from receiver.journal.transitions import CONTRADICTIONS, contradiction_sentences

T = TypeVar("T")
Connection = sqlite3.Connection


def damages(path: Path) -> list[str]:
    """Return the findings of SQLite's check of the whole file. Where there are any, no row can be trusted."""
    with opened(path) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    return [] if found == ["ok"] else [f"The file is damaged: {line}. Restore a backup." for line in found]


def problems(path: Path, owners: frozenset[str]) -> list[str]:
    """Return what is wrong with the file or its rows. `owners`: engines that run."""
    if damaged := damages(path):
        return damaged
    with opened(path) as db:
        found = {name: [str(row["id"]) for row in db.execute(SQL[name])] for name in CONTRADICTIONS}
        running = db.execute("SELECT id, owner FROM deliveries WHERE status = 'running'")
        left = [row["id"] for row in running if row["owner"] not in owners]
    return contradiction_sentences(found, left)


def back_up(path: Path, target: Path) -> int:
    """Copy the journal as it is at this moment, while others write it. Return the copy's size in bytes.

    `VACUUM INTO` reads one snapshot and holds up no writer. The copy gets its name when it is whole, checked and on
    disk. Only its owner may read it, because it has every prompt.

    Raises:
        InputError: something has that name already, or its folder is missing.
        JournalError: it cannot be written, or is not sound.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    taken = InputError(f"{target} is there already, and a backup replaces nothing. Give another name.")
    try:
        if target.exists():
            raise taken
        if not target.parent.is_dir():
            raise InputError(f"There is no folder {target.parent}. Make it first.", page="backup")
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with opened(path) as db:
            db.execute("VACUUM INTO ?", (str(draft),))
        if damaged := damages(draft):
            raise JournalError(f"The copy is not sound. Run: receiver journal check. {damaged[0]}")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(draft, target)
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without hard links
            draft.rename(target)
        sync_folder(target.parent)
    except (sqlite3.OperationalError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise JournalError(f"The backup {target} could not be written: {reason}. Nothing of it was kept.") from exc
    finally:
        with suppress(OSError):
            draft.unlink()
    return target.stat().st_size


def compact(path: Path) -> tuple[int, int]:
    """Rewrite the file without unused space. All others wait. Return its bytes before and after."""
    before = path.stat().st_size
    with opened(path) as db:
        db.execute("VACUUM")
    empty_log(path)
    return before, path.stat().st_size


def empty_log(path: Path) -> None:
    """Carry the log (`-wal`) over into the file and truncate it, unless a reader prevents it for too long."""
    with opened(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# A copy into another store, or out of one

_ROWS: dict[RowKind, tuple[str, Callable[[Any, Key], tuple[object, ...]]]] = {
    "callbacks": ("insert_callback", lambda record, key: documents.callback_row(record, int(key[0]))),
    "events": ("insert_event", lambda record, key: documents.event_row(record, int(key[0]))),
    "deliveries": ("write_delivery", lambda record, key: documents.delivery_row(record)),
    "attempts": ("write_attempt", lambda record, key: documents.attempt_row(record)),
    "files": ("insert_file", lambda record, key: key),
    "leftovers": ("insert_leftover", lambda record, key: key),
    "values": ("insert_value", lambda record, key: (record.key, record.data)),
}


class Transfer:
    """All rows of a file, within one transaction that keeps all others from writing. See `store.Rows`."""

    def __init__(self, db: Connection, path: Path) -> None:
        self._db = db
        self._path = path

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[StoredRow]:
        read = read_document if kind == "submissions" else None
        return await self.run(lambda db: read_page(db, kind, EVERYTHING, after, limit, read=read))

    async def put(self, kind: RowKind, rows: Sequence[StoredRow]) -> None:
        if kind == "submissions":
            await self.run(lambda db: [documents.insert_document(db, cast(Document, row.record)) for row in rows])
        else:
            statement, columns = _ROWS[kind]
            await self.run(lambda db: db.executemany(SQL[statement], [columns(row.record, row.key) for row in rows]))

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run in a thread, with errors as sentences."""
        with translated(self._path):
            return await in_thread(function, self._db)


@asynccontextmanager
async def transfer(path: Path, *, fill: bool) -> AsyncIterator[Transfer]:
    """Committed when the block has ended well. Undone if it fails, or the process ends."""

    def begin(db: Connection) -> None:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        if fill:
            if any(read_page(db, kind, EVERYTHING, None, 1) for kind in TABLES if kind != "values"):
                problem = f"{path} holds something already, and only an empty journal takes a copy."
                raise InputError(problem, page="backup")
            db.execute("DELETE FROM shared_values")

    with opened(path) as db:
        rows = Transfer(db, path)
        await rows.run(begin)
        yield rows
        await rows.run(lambda db: db.execute("COMMIT"))
