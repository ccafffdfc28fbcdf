"""A small file that is given up when the disk is full.

On a full disk SQLite cannot even delete, because deleting writes, too. What the ballast frees is for what is already
owed: attempts are recorded and old rows removed, while new callbacks and submissions are refused until it lies there
again.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger("receiver.journal")

SIZE = 1024 * 1024
"""Bytes: some hundred commits, and SQLite's log begins anew in its own space after a thousand pages."""
SPARE = 16 * 1024 * 1024
"""Bytes that must be free beside the ballast before it is made again, or the next write would be the last one."""
_SHARE = 16
"""The part of a small disk that both may take, each."""
LOOK_SECONDS = 1.0


class Ballast:
    """`<journal>.ballast`. Its methods block: call them in a thread.

    Attributes:
        given_up: the disk was full, and the ballast could not be made again since.
    """

    def __init__(self, journal: Path) -> None:
        self._path = Path(f"{journal}.ballast")
        self._looked = float("-inf")
        self.given_up = False

    @property
    def worth_a_look(self) -> bool:
        """Whether the last look at the disk was some time ago."""
        return time.monotonic() - self._looked >= LOOK_SECONDS

    def make(self) -> bool:
        """Make the file if there is room for it; whether it lies there now."""
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
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def nearly_full(self) -> bool:
        """Whether less is free than the ballast would be made with."""
        usage = shutil.disk_usage(self._path.parent)
        return usage.free < min(SPARE, usage.total // _SHARE)

    def _fill(self) -> bool:
        usage = shutil.disk_usage(self._path.parent)
        size = min(SIZE, usage.total // _SHARE)
        if usage.free < size + min(SPARE, usage.total // _SHARE):
            return False
        draft = self._path.with_name(self._path.name + ".part")
        try:
            file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _allocate(file, size)
                os.fsync(file)
            finally:
                os.close(file)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        return True


def _allocate(file: int, size: int) -> None:
    """Blocks on disk, not a hole; written where the system cannot reserve them."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.pwrite(file, bytes(size), 0)
