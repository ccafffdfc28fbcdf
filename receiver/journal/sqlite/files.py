"""Whether the journal's files are still the ones we opened.

A file that was removed or replaced takes every write, and keeps none: what we hold open has no name any more, and is
gone with the process.
"""

from __future__ import annotations

import os
from pathlib import Path

from receiver.errors import JournalError

_Identity = tuple[int, int]


class SameFiles:
    """Remembers the journal's file and its log as they are now. Cheap enough for each commit: two `stat` calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = {name: found for name in (str(path), f"{path}-wal") if (found := _identity(name)) is not None}

    def check(self) -> None:
        """Raises JournalError if one of them is gone, or another file."""
        for name, opened in self._files.items():
            if _identity(name) != opened:
                raise JournalError(
                    f"{name} has been removed or replaced since Receiver opened the journal {self._path}, so nothing "
                    "is kept now. Put the file back where it was, or start Receiver again on the one that lies there.",
                    fault="replaced",
                )


def _identity(name: str) -> _Identity | None:
    """Device and number of a file; None if there is none."""
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
