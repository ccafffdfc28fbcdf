"""A cache of a bucket's files in a folder of this machine: bounded, checked, and harmless to lose at any time.

Its layout is that of a folder store. Several processes may share it: a reader holds a shared lock on its file, and only
files without a lock are removed. A lock ends with its process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from receiver.disk import lies_at, lock
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.files import EXTENSIONS, IDENTITY, Draft, derived_paths_in, path_in, probe, write

KEEP_SECONDS = 24 * 3600.0
"""A file that was not used for so long is removed even if there is room: its submission may have been erased."""
SPARE_SECONDS = 10.0
"""A file that was used so recently stays, so that a caller with its path can open it."""
LOOK_SECONDS = 3600.0
"""Interval between two searches for old files."""
FULL, EMPTIER = 16, 0.9
"""Room is made, down to nine tenths of the limit, when a sixteenth of it has come in since the last search."""
LEFT_FREE = 0.1
"""Share of the disk that stays free for others: the journal may be there."""
_OURS = re.compile(r"([0-9a-f]{64})(\.u[1-4]?\.(?:png|webp)|\.[a-z0-9]{1,5})\Z")

Signature = tuple[int, int, int]
"""Inode, size and time of change. As long as they are the same, so is the content."""


@dataclass(slots=True)
class _Group:
    """A file and its tiles, which are removed together."""

    size: int = 0
    used: float = 0.0
    originals: list[Path] = field(default_factory=list)
    tiles: list[Path] = field(default_factory=list)


class Cache:
    """A folder of local copies. Methods block: call them in a thread. All raise OSError if the folder cannot be used.

    `limit` is the largest size in bytes, less if the disk is nearly full. Files in use and very recent ones may exceed
    it. `disk` returns (size, used, free) of a folder's disk in bytes, and is the seam for tests.
    """

    def __init__(
        self, folder: Path, limit: int, *, disk: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
    ) -> None:
        self.folder = folder.absolute()
        self._limit = limit
        self._disk = disk
        self._known: dict[str, Signature] = {}
        self._new = limit  # so the first file starts a search for what earlier processes left
        self._looked = float("-inf")
        self._looking = threading.Lock()

    def path(self, media: Media) -> Path:
        """Return the path of a file. It need not be there."""
        return path_in(self.folder, media.digest, media.extension)

    def keep(self, draft: Draft, media: Media) -> None:
        """Keep a draft as the content of `media`, whose digest was compared. An existing file stays: it may be held."""
        path = self.path(media)
        draft.finish()
        if not path.exists():
            draft.keep_as(path)
            self._known[media.digest] = _signature(path.stat())
            self._grown(media.size)

    def write(self, path: Path, data: bytes) -> None:
        """Write a tile. It is durable, because no digest of it is known."""
        write(self.folder, path, data)
        self._grown(len(data))

    def hold(self, media: Media, held: ExitStack) -> bool:
        """Return True if the file is here and undamaged. It then stays until `held` is closed, and counts as used."""
        path = self.path(media)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            try:
                lock(descriptor, shared=True)
            except BlockingIOError:  # it is being removed
                return False
            found = os.fstat(descriptor)
            if not lies_at(path, descriptor):
                return False
            if self._known.get(media.digest) != _signature(found):
                with open(descriptor, "rb", closefd=False) as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != media.digest:
                        path.unlink(missing_ok=True)
                        return False
            self._known[media.digest] = _signature(found)
            os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
            held.push(opened.pop_all().__exit__)
        return True

    def read(self, digest: str) -> bytes | None:
        """Return a file by its digest alone, or None if it is not here or damaged."""
        for extension in EXTENSIONS:
            with suppress(FileNotFoundError):
                data = path_in(self.folder, digest, extension).read_bytes()
                return data if hashlib.sha256(data).hexdigest() == digest else None
        return None

    def drop(self, digest: str) -> None:
        """Remove a file, its tiles and its thumbnail, unless it is held."""
        self._known.pop(digest, None)
        originals = [path_in(self.folder, digest, extension) for extension in EXTENSIONS]
        _removed(_Group(tiles=list(derived_paths_in(self.folder, digest)), originals=originals))

    def check(self) -> None:
        """Make the folder, try to write in it, and remove old files. Raise MediaError if it is a media store itself."""
        if (self.folder / IDENTITY).exists():
            raise MediaError(
                f"The cache cannot be in {self.folder}: that folder is a media store itself. Set "
                "RECEIVER_MEDIA_CACHE to another one."
            )
        probe(self.folder)
        self.make_room()

    def make_room(self) -> None:
        """Remove old files, and the least recently used ones if there are too many. One search runs at a time."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._new, self._looked = 0, time.monotonic()
            groups: dict[str, _Group] = defaultdict(_Group)
            for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
                if match := _OURS.match(path.name):
                    with suppress(FileNotFoundError):
                        found, group = path.stat(), groups[match[1]]
                        group.size += found.st_size
                        group.used = max(group.used, found.st_atime)
                        (group.tiles if match[2].startswith(".u") else group.originals).append(path)
            self._known = {digest: known for digest, known in self._known.items() if digest in groups}
            total = sum(group.size for group in groups.values())
            size, _, free = self._disk(self.folder) if groups else (0, 0, 0)
            limit = min(self._limit, total + free - size * LEFT_FREE)
            enough = limit if total <= limit else limit * EMPTIER
            now = time.time()
            for group in sorted(groups.values(), key=lambda group: group.used):
                unused = now - group.used
                if unused <= KEEP_SECONDS and (total <= enough or 0 <= unused < SPARE_SECONDS):
                    return
                if _removed(group):
                    total -= group.size
        finally:
            self._looking.release()

    def _grown(self, size: int) -> None:
        self._new += size
        if self._new * FULL >= self._limit or time.monotonic() - self._looked > LOOK_SECONDS:
            self.make_room()


def _signature(found: os.stat_result) -> Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _removed(group: _Group) -> bool:
    """Remove a group unless one of its files is held. Return True if it is gone."""
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
