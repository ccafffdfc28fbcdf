"""Files that survive a power cut, disks that are full or elsewhere, work in threads, and memory that goes back."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from receiver.errors import JournalError
from receiver.telemetry import Log

log = Log("receiver.journal")

P = ParamSpec("P")
T = TypeVar("T")

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of a file system without locks, which must do with one engine at a time."""
LARGE = 1024 * 1024
"""Bytes from which on a block of memory goes back to the system as soon as it is freed."""
_M_MMAP_THRESHOLD = -3  # malloc.h


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a thread. A cancelled call ends only after the thread has.

    A thread cannot be stopped, and an unseen one could write again what a clean-up has removed. The call is a plain
    future, not `asyncio.to_thread`, because a loop cancels every task at its end.
    """
    call = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        call.exception()  # the cancellation is what counts now
        raise


def size(number: float) -> str:
    """Return a number of bytes for people: `0 B`, `4.5 MB`, `12 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make `folder` and its parents, and sync each entry, so that a power cut removes none with its files."""
    if not folder.is_dir():
        make_folder(folder.parent, mode=mode)
        folder.mkdir(exist_ok=True, mode=mode)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a power cut does not undo what was made or renamed in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copied(path: Path, target: BinaryIO, size: int) -> bool:
    """Copy a file of `size` bytes into an empty one in the kernel (copy_file_range(2)), which shares its blocks where
    the file system has reflinks. False, with nothing in the target: another size, or no such copy here."""
    try:
        with path.open("rb", buffering=0) as source:
            while os.copy_file_range(source.fileno(), target.fileno(), size):
                pass
        if os.fstat(target.fileno()).st_size == size:
            return True
    except (AttributeError, OSError):  # macOS, and some file systems; what else fails here fails again
        pass
    target.seek(0)
    target.truncate()
    return False


def sizes_in(folder: Path, pattern: str) -> list[tuple[int, int]]:
    """Return the time in epoch milliseconds and the bytes of each file in a folder that fits. Blocks."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            seen = path.lstat()
            if stat.S_ISREG(seen.st_mode):
                found.append((int(seen.st_mtime * 1000), seen.st_size))
    return found


@contextmanager
def own_draft(path: Path) -> Iterator[BinaryIO]:
    """Open a new file at `path` for us alone. Rename it when it is complete, else it is removed at the end.

    A file that a killed process left there is removed. A symlink is never followed.

    Raises:
        BlockingIOError: another writer is at work there now.
    """
    try:
        file = path.open("xb")
    except FileExistsError:
        _remove_left(path)
        file = path.open("xb")
    with file:
        lock(file.fileno())
        try:
            if not lies_at(path, file.fileno()):  # cleared away before we had the lock
                raise BlockingIOError(errno.EWOULDBLOCK, "another writer is at work there", str(path))
            yield file
        finally:
            if lies_at(path, file.fileno()):
                with suppress(OSError):
                    path.unlink()


def _remove_left(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_symlink():
            path.unlink()
            return
        with path.open("r+b") as left:
            lock(left.fileno())
            if lies_at(path, left.fileno()):
                path.unlink()


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file against all processes until it is closed. Several may hold it `shared`.

    Raises:
        BlockingIOError: it is locked already.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise


def lies_at(path: Path, descriptor: int) -> bool:
    """Return True if the open file is still the one under that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


MOUNTS = Path("/proc/self/mounts")
"""The mounted file systems, on Linux. Elsewhere there is no such file, and nothing is known."""
_NETWORK = re.compile(
    r"afs|beegfs|ceph|cifs|coda|davfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|orangefs|pvfs2|smb[23]|smbfs"
    r"|fuse\.(?!(bindfs|fuse-overlayfs|lxcfs|mergerfs|ntfs|ntfs-3g)$).*"
)
"""Any other `fuse.…` is a bucket or another machine: sshfs, s3fs, gcsfuse, rclone, blobfuse, juicefs …"""


def network_disk(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the kind of network file system that `path` is on, or would be. None for a local disk."""
    found, longest = "", -1
    with suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            _, place, kind, *_ = [*line.split(" "), "", "", ""]
            folder = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
            inside = path.resolve().is_relative_to(folder or "/nowhere")
            if inside and len(folder) >= longest:  # the last of two covers the first
                found, longest = kind, len(folder)
    return found if _NETWORK.fullmatch(found) else None


def check_local_disk(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise JournalError if `path` is, or would be, on a network file system."""
    if (found := network_disk(path, mounts)) is not None:
        raise JournalError(
            f"The journal {path} would be on a network file system ({found}), where SQLite cannot promise to keep what "
            "it wrote: a callback answered 200 could be lost. Name a local disk with RECEIVER_DATABASE. Pictures may "
            "stay where they are. If only this machine uses the file and you accept the risk, set "
            "RECEIVER_DISK=network."
        )


BALLAST_BYTES = 1024 * 1024
SPARE_BYTES = 16 * 1024 * 1024
"""Free bytes beside the ballast below which a disk counts as nearly full. At most a 16th of the disk."""
LOOK_SECONDS = 1.0
"""Time between two looks at a full disk."""


class Ballast:
    """File that is deleted when its disk is full. The freed space is for records of work that is already owed.

    Attributes:
        given_up: True from a full disk until there is room for the file again.
    """

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self._path = path
        self._enabled = enabled
        self._looked = 0.0
        self.given_up = False

    def make(self) -> None:
        """Make the file if there is room for more than it. On a full disk, look at most once a second."""
        if not self._enabled or (self.given_up and time.monotonic() - self._looked < LOOK_SECONDS):
            return
        self._looked = time.monotonic()
        try:
            if self.nearly_full():
                return
            if not self._path.exists():
                with self._path.open("wb") as file:
                    file.write(os.urandom(BALLAST_BYTES))  # zeros could be compressed to nothing
                    os.fsync(file.fileno())
        except OSError:  # the disk filled up meanwhile, or is read only
            with suppress(OSError):
                self._path.unlink()
            return
        if self.given_up:
            self.given_up = False
            log.info("ballast.made")

    def give_up(self) -> None:
        """Free its space. Idempotent."""
        if not self._enabled or self.given_up:
            return
        log.error("ballast.given_up", remedy="free some space on the journal's disk")
        self.given_up, self._looked = True, time.monotonic()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def nearly_full(self) -> bool:
        """Return True if too little would be free beside the file."""
        if not self._enabled:
            return False
        usage = shutil.disk_usage(self._path.parent)
        held = BALLAST_BYTES if self._path.exists() else 0
        return usage.free + held < BALLAST_BYTES + min(SPARE_BYTES, usage.total // 16)


def return_large_blocks() -> bool:
    """Make glibc return each large block of memory when it is freed. Return True if it can.

    By itself it raises the threshold up to 32 MiB (mallopt(3)), and each thread with a picture keeps that much.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE))
    except (AttributeError, OSError):
        return False
