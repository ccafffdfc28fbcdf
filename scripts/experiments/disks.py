"""A disk that reports what SQLite does to it, and can refuse: a VFS of APSW between SQLite and the file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

NAME = "receiver-experiments"
_CREATES = apsw.SQLITE_OPEN_CREATE


class Operation(NamedTuple):
    """An operation that is about to be done to a file of the journal."""

    kind: str
    """`open` (made if it is missing), `write`, `truncate`, `sync` or `delete`."""
    file: str
    """Its name in its folder."""
    offset: int = 0
    """Of a write; the new size of a truncate."""
    data: bytes = b""


Watch = Callable[[Operation], None]
"""Called before each operation. SQLite gets an exception as the operation's error."""


@contextmanager
def watched(watch: Watch) -> Iterator[str]:
    """A VFS by this name, while the block runs, tells `watch` everything."""
    disk = _Disk(watch)
    try:
        yield NAME
    finally:
        disk.unregister()


class _Disk(apsw.VFS):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        super().__init__(NAME, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is not None and flags[0] & _CREATES:
            self._watch(Operation("open", _short(name)))
        return _File(name, flags, self._watch)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._watch(Operation("delete", _short(filename)))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], watch: Watch) -> None:
        self._name = "" if name is None else _short(name)
        self._watch = watch
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._watch(Operation("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._watch(Operation("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._watch(Operation("sync", self._name))
        super().xSync(flags)


def _short(name: str | apsw.URIFilename) -> str:
    return Path(name if isinstance(name, str) else name.filename()).name
