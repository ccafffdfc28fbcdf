"""The SQLite file as a whole: check it, copy it, rewrite it, empty its log, move its rows.

Except for `Transfer`, these functions block: call them in a thread. Each has a connection of its own, because it
lasts: the writer's and the reader's go on meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from receiver.disk import in_thread, sync_folder
from receiver.errors import InputError, JournalError
from receiver.journal.sqlite.documents import (
    SQL,
    attempt_row,
    callback_row,
    delivery_row,
    document_of,
    event_row,
    insert_document,
    write_deliveries,
)
from receiver.journal.sqlite.files import BUSY_SECONDS, opened, translated
from receiver.journal.sqlite.pages import read_page
from receiver.journal.store import EVERYTHING, Key, RowKind, StoredRow
from receiver.journal.transitions import CONTRADICTIONS, contradiction_sentences

T = TypeVar("T")
Connection = sqlite3.Connection


def damages(path: Path) -> list[str]:
    """Return what SQLite's own check of the whole file finds. Nothing else about the file can be trusted then."""
    with opened(path) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    return [] if found == ["ok"] else [f"The file is damaged: {line}. Restore a backup." for line in found]


def problems(path: Path, owners: frozenset[str]) -> list[str]:
    """Return what is wrong with the file or its rows. `owners`: engines that are alive."""
    if damaged := damages(path):
        return damaged
    with opened(path) as db:
        found = {name: [str(row["id"]) for row in db.execute(SQL[name])] for name in CONTRADICTIONS}
        left = [row["id"] for row in db.execute(SQL["running_deliveries"]) if row["owner"] not in owners]
    abandoned = (
        f"{len(left):,} deliveries were under way when their engine ended: {left[0]}, for one. "
        "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
        if left
        else None
    )
    return [*contradiction_sentences(found), *([abandoned] if abandoned else [])]


def back_up(path: Path, target: Path) -> int:
    """Copy the journal as it is at this moment, while others go on writing it. Return the copy's size in bytes.

    `VACUUM INTO` reads one snapshot, which holds up no writer; SQLite's backup calls would begin anew after each write
    of another process. The copy has its name only when it is whole and on disk, and is for its owner only: it holds
    every prompt.

    Raises:
        InputError: something has that name already, or its folder is missing.
        JournalError: it cannot be written, or is not sound.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists():
            raise InputError(f"{target} is there already, and a backup replaces nothing. Give another name.")
        if not target.parent.is_dir():
            raise InputError(f"There is no folder {target.parent}. Make it first.")
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with opened(path) as db:
            db.execute("VACUUM INTO ?", (str(draft),))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        _name(draft, target)
    except (sqlite3.OperationalError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise JournalError(f"The backup {target} could not be written: {reason}. Nothing of it was kept.") from exc
    finally:
        with suppress(OSError):
            draft.unlink()
    sync_folder(target.parent)
    if damaged := damages(target):
        raise JournalError(
            f"The copy {target} is not sound. Check the journal with: receiver journal check. {damaged[0]}"
        )
    return target.stat().st_size


def _name(draft: Path, target: Path) -> None:
    """A hard link replaces nothing. Where the file system has none, a rename right after a look must do."""
    try:
        os.link(draft, target)
    except OSError as exc:
        if isinstance(exc, FileExistsError) or target.exists():
            raise InputError(f"{target} has come into being meanwhile. Give another name.") from None
        draft.rename(target)


def compact(path: Path) -> tuple[int, int]:
    """Write the file anew, without unused space and its traces. All others wait. Return its bytes before and after."""
    before = path.stat().st_size
    with opened(path) as db:
        db.execute("VACUUM")
    empty_log(path)
    return before, path.stat().st_size


def empty_log(path: Path) -> bool:
    """Carry the log (`-wal`) over into the file and make it empty. False: a reader prevented it all the time."""
    until = time.monotonic() + BUSY_SECONDS
    with opened(path) as db:
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    return True


def holds(path: Path, words: bytes) -> bool:
    """Return True if the bytes are anywhere in the file or its log, in rows or in unused space."""
    block = 1 << 20
    for part in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError), part.open("rb") as file:
            tail = b""
            while data := file.read(block):
                if words in tail + data:
                    return True
                tail = data[-len(words) :]
    return False


# A copy into another store, or out of one

_PUTS: Mapping[RowKind, tuple[str, Callable[[Any, Key], tuple[object, ...]]]] = {
    "callbacks": ("insert_callback", lambda record, key: callback_row(record, int(key[0]))),
    "events": ("insert_event", lambda record, key: event_row(record, int(key[0]))),
    "attempts": ("write_attempt", lambda record, key: attempt_row(record)),
    "files": ("insert_file", lambda record, key: (record.submission_id, record.digest)),
    "leftovers": ("insert_leftover", lambda record, key: (record.digest,)),
    "values": ("insert_value", lambda record, key: (record.key, record.data)),
}


class Transfer:
    """All rows of a file, within one transaction that keeps all others from writing. See `store.Rows`."""

    def __init__(self, db: Connection, path: Path) -> None:
        self._db = db
        self._path = path

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[StoredRow]:
        read = document_of if kind == "submissions" else None
        return await self.run(lambda db: read_page(db, kind, EVERYTHING, after, limit, read=read))

    async def put(self, kind: RowKind, rows: Sequence[StoredRow]) -> None:
        await self.run(lambda db: _put(db, kind, rows))

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run in a thread, with errors as sentences."""
        with translated(self._path):
            return await in_thread(function, self._db)


def _put(db: Connection, kind: RowKind, rows: Sequence[StoredRow]) -> None:
    if kind == "submissions":
        for row in rows:
            insert_document(db, row.record)  # type: ignore[arg-type]
    elif kind == "deliveries":
        write_deliveries(db, [delivery_row(row.record) for row in rows])  # type: ignore[arg-type]
    else:
        statement, columns = _PUTS[kind]
        db.executemany(SQL[statement], [columns(row.record, row.key) for row in rows])


@asynccontextmanager
async def transfer(path: Path, *, fill: bool) -> AsyncIterator[Transfer]:
    """Committed when the block has ended well; undone if it fails, or the process ends."""
    with translated(path):
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
    rows = Transfer(db, path)
    try:
        await rows.run(lambda db: db.execute("PRAGMA synchronous = FULL"))
        await rows.run(lambda db: db.execute("BEGIN IMMEDIATE"))
        if fill:
            if await rows.run(lambda db: db.execute(SQL["holds_rows"]).fetchone()[0]):
                raise InputError(f"{path} holds something already, and only an empty journal takes a copy.")
            await rows.run(lambda db: db.execute(SQL["delete_values"]))
        yield rows
        await rows.run(lambda db: db.execute("COMMIT"))
    finally:
        await in_thread(db.close)
