"""Files that survive a power cut, work in threads, and memory that goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

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
        await asyncio.wait([call])
    except asyncio.CancelledError:
        await asyncio.wait([call])
        call.exception()  # the cancellation is what counts now
        raise
    return call.result()


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, and sync each entry, so that a power cut removes none with its files."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, so that a power cut does not undo what was made or renamed in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def own_draft(path: Path) -> Iterator[BinaryIO]:
    """Open a new file at `path` for us alone. Rename it when it is complete, else it is removed at the end.

    A file that a killed process left there is removed. A symlink is never followed.

    Raises:
        BlockingIOError: another writer is at work there now.
    """
    _clear(path)
    with path.open("xb") as file:
        lock(file.fileno())
        try:
            if not lies_at(path, file.fileno()):  # cleared away before we had the lock
                raise BlockingIOError(errno.EWOULDBLOCK, "another writer is at work there", str(path))
            yield file
        finally:
            if lies_at(path, file.fileno()):
                with suppress(OSError):
                    path.unlink()


def _clear(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        lock(descriptor)
        if lies_at(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


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


def return_large_blocks() -> bool:
    """Make glibc return each large block of memory when it is freed. Return True if it can.

    By itself it raises the threshold up to 32 MiB (mallopt(3)), and each thread with a picture keeps that much.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE))
    except (AttributeError, OSError):
        return False
