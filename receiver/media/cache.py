"""A cache of a bucket's files in a folder of this machine: bounded, checked, and lost without harm at any time.

Laid out like the folder that is a media store. Several processes may share one: whoever reads a file holds a shared
lock on it, and who makes room removes only what nobody holds; the lock ends with its process, however that ends.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from receiver.disk import lies_at, lock
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.files import EXTENSIONS, IDENTITY, Draft, path_in, probe, tile_paths_in, write

KEEP_SECONDS = 24 * 3600.0
"""What nobody has used for so long goes, however much room there is: its submission may have been erased."""
SPARE_SECONDS = 10.0
"""What was used so recently stays, so that who was told its path can open it."""
LOOK_SECONDS = 3600.0
"""Between two looks for what is old."""
FULL, EMPTIER = 16, 0.9
"""Room is made when a sixteenth of the limit has come in since the last look, and down to nine tenths of it."""
LEFT_FREE = 0.1
"""Share of the disk that we leave to others: the journal may lie there."""
_OURS = re.compile(r"([0-9a-f]{64})(\.u[1-4]\.png|\.[a-z0-9]{1,5})\Z")

Signature = tuple[int, int, int]
"""Inode, size and time of change: while it is the same, so is the content."""


@dataclass(slots=True)
class _Group:
    """A file and its tiles, which go together."""

    size: int = 0
    used: float = 0.0
    originals: list[Path] = field(default_factory=list)
    tiles: list[Path] = field(default_factory=list)


class Cache:
    """Its methods block: call them in a thread. All raise OSError where the folder cannot be used.

    Args:
        folder: where; made when needed.
        limit: bytes it may hold, but for what is being read and what has just come; less where the disk is nearly full.
        disk: tells (size, used, free) of a folder's disk in bytes; the seam for tests.
    """

    def __init__(
        self, folder: Path, limit: int, *, disk: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
    ) -> None:
        self.folder = folder.absolute()
        self._limit = limit
        self._disk = disk
        self._known: dict[str, Signature] = {}
        self._new = limit  # the first that comes has us look at what earlier processes left
        self._looked = float("-inf")
        self._looking = threading.Lock()

    def path(self, media: Media) -> Path:
        """Where a file lies, or would lie."""
        return path_in(self.folder, media.digest, media.extension)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        """Where its tiles lie, or would lie."""
        return tile_paths_in(self.folder, digest)

    def draft(self) -> Draft:
        """For a file that comes in. Not durable: after a power cut its digest tells whether it is whole."""
        return Draft(self.folder, durable=False)

    def keep(self, draft: Draft, media: Media) -> None:
        """Take a draft in as the content of `media`, whose digest has been compared. The first of two stays: somebody
        may hold it."""
        path = self.path(media)
        draft.finish()
        if not path.exists():
            draft.keep_as(path)
            self._known[media.digest] = _signature(path.stat())
            self._grown(media.size)

    def write(self, path: Path, data: bytes) -> None:
        """A tile, durable: nobody knows the digest it should have."""
        write(self.folder, path, data)
        self._grown(len(data))

    def hold(self, media: Media, held: ExitStack) -> bool:
        """Whether it is here and undamaged; then it stays until `held` is closed."""
        try:
            descriptor = os.open(self.path(media), os.O_RDONLY)
        except FileNotFoundError:
            return False
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            if not self._usable(self.path(media), descriptor, media.digest):
                return False
            held.push(opened.pop_all().__exit__)
        return True

    def read(self, digest: str) -> bytes | None:
        """A whole file by its digest alone; None if it is not here."""
        for extension in EXTENSIONS:
            with suppress(FileNotFoundError):
                data = path_in(self.folder, digest, extension).read_bytes()
                return data if hashlib.sha256(data).hexdigest() == digest else None
        return None

    def drop(self, digest: str) -> None:
        """Let go of a file and its tiles, unless somebody holds it."""
        group = _Group(tiles=list(self.tile_paths(digest)))
        group.originals = [path_in(self.folder, digest, extension) for extension in EXTENSIONS]
        self._known.pop(digest, None)
        _removed(group)

    def check(self) -> None:
        """Make the folder, try to write in it, and let go of what is old.

        Raises:
            MediaError: the folder is a media store itself; in time, all in it would be removed.
        """
        if (self.folder / IDENTITY).exists():
            raise MediaError(
                f"The cache cannot lie in {self.folder}: that folder is a media store itself. Set "
                "RECEIVER_MEDIA_CACHE to another one."
            )
        probe(self.folder)
        self.make_room()

    def make_room(self) -> None:
        """Remove what is old, and what was used longest ago where there is too much. One look at a time suffices."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._new, self._looked = 0, time.monotonic()
            groups = _groups(self.folder)
            self._known = {digest: known for digest, known in self._known.items() if digest in groups}
            self._remove_some(groups.values())
        finally:
            self._looking.release()

    def _grown(self, size: int) -> None:
        self._new += size
        if self._new * FULL >= self._limit or time.monotonic() - self._looked > LOOK_SECONDS:
            self.make_room()

    def _remove_some(self, groups: Iterable[_Group]) -> None:
        groups = sorted(groups, key=lambda group: group.used)
        total = sum(group.size for group in groups)
        size, _, free = self._disk(self.folder) if groups else (0, 0, 0)
        limit = min(self._limit, total + free - size * LEFT_FREE)
        enough = limit if total <= limit else limit * EMPTIER
        now = time.time()
        for group in groups:
            unused = now - group.used
            if unused <= KEEP_SECONDS and (total <= enough or 0 <= unused < SPARE_SECONDS):
                return
            if _removed(group):
                total -= group.size

    def _usable(self, path: Path, descriptor: int, digest: str) -> bool:
        """Locks it, looks whether it is what it should be, and notes that it was used."""
        try:
            lock(descriptor, shared=True)
        except BlockingIOError:  # it is being removed
            return False
        found = os.fstat(descriptor)
        if not lies_at(path, descriptor):
            return False
        if self._known.get(digest) != _signature(found) and not _has(descriptor, digest):
            path.unlink(missing_ok=True)
            return False
        self._known[digest] = _signature(found)
        os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
        return True


def _signature(found: os.stat_result) -> Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _has(descriptor: int, digest: str) -> bool:
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _groups(folder: Path) -> dict[str, _Group]:
    """By digest. Files that are none of ours are none of our business."""
    groups: dict[str, _Group] = defaultdict(_Group)
    for path in folder.glob("[0-9a-f][0-9a-f]/*"):
        if match := _OURS.match(path.name):
            with suppress(FileNotFoundError):
                found = path.stat()
                group = groups[match[1]]
                group.size += found.st_size
                group.used = max(group.used, found.st_atime)
                (group.tiles if match[2].startswith(".u") else group.originals).append(path)
    return dict(groups)


def _removed(group: _Group) -> bool:
    """Whether it could be removed: nobody holds it."""
    with ExitStack() as opened:
        for path in group.originals:
            try:
                descriptor = os.open(path, os.O_RDWR)  # network file systems lock only what may be written
            except FileNotFoundError:
                continue
            opened.callback(os.close, descriptor)
            try:
                lock(descriptor)
            except BlockingIOError:
                return False
        for path in (*group.tiles, *group.originals):
            path.unlink(missing_ok=True)
    return True
