"""The SQLite file as a whole: copy it, write it anew, empty its log, look what stands in it.

These functions block: call them in a thread.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from receiver.disk import sync_folder
from receiver.errors import InputError, JournalError
from receiver.journal.sqlite.soundness import BUSY_SECONDS, opened


def copy(path: Path, target: Path) -> int:
    """Copy the journal as it is at this moment, while others go on writing it. Returns the copy's size in bytes.

    `VACUUM INTO` reads one snapshot, which holds up no writer; SQLite's backup calls would begin anew after each write
    of another process. The copy has its name only when it is whole and on disk, and is for its owner only: it holds
    every prompt.

    Raises:
        InputError: something has that name already, or it is in a folder that is not there.
        JournalError: it cannot be written.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _check_name(target)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with opened(path) as db:
            db.execute("VACUUM INTO ?", (str(draft),))
        _sync(draft)
        _name(draft, target)
    except (sqlite3.OperationalError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise JournalError(f"The backup {target} could not be written: {reason}. Nothing of it was kept.") from exc
    finally:
        with suppress(OSError):
            draft.unlink()
    sync_folder(target.parent)
    return target.stat().st_size


def _check_name(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} is there already, and a backup replaces nothing. Give another name.")
    if not target.parent.is_dir():
        raise InputError(f"There is no folder {target.parent}. Make it first.")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _name(draft: Path, target: Path) -> None:
    """A hard link replaces nothing; where the file system knows none, a rename right after a look must do."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise InputError(f"{target} has come into being meanwhile. Give another name.") from None
    except OSError:
        if target.exists():
            raise InputError(f"{target} has come into being meanwhile. Give another name.") from None
        draft.rename(target)


def compact(path: Path) -> tuple[int, int]:
    """Write the file anew, without unused space and what was in it. Nobody else can write meanwhile. Returns its bytes
    before, and now."""
    before = path.stat().st_size
    with opened(path) as db:
        db.execute("VACUUM")
    empty_log(path)
    return before, path.stat().st_size


def empty_log(path: Path) -> bool:
    """Carry the log (`-wal`) over into the file and make it empty. False: a reader kept us from it all the time."""
    until = time.monotonic() + BUSY_SECONDS
    with opened(path) as db:
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    return True


def holds(path: Path, words: bytes) -> bool:
    """Whether the bytes stand anywhere in the file or its log, in rows or in unused space."""
    block = 1 << 20
    for part in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError), part.open("rb") as file:
            tail = b""
            while data := file.read(block):
                if words in tail + data:
                    return True
                tail = data[-len(words) :]
    return False
