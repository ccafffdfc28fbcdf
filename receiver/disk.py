"""Files that must outlive a power cut, written off the event loop."""

from __future__ import annotations

import asyncio
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


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread; when cancelled, end only after the thread has.

    A thread cannot be stopped: one that goes on unseen could make again what a cleaning-up has removed, or overwrite
    what came after it. A plain future, not `asyncio.to_thread`: at its end a loop cancels every task, and then we would
    wait no longer.
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
    """Make `folder` and its parents, each entry synced: a folder that a power cut removes takes its files along."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: what was made or renamed in it stays."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def own_draft(path: Path) -> Iterator[BinaryIO]:
    """A new file at `path` that is ours alone, to be renamed when it is complete; without that it is gone at the end.

    What a killed process left there is removed: its lock has ended with it. A symlink is never followed.

    Raises:
        BlockingIOError: somebody else is writing there now.
    """
    _clear(path)
    with path.open("xb") as file:
        lock(file.fileno())
        try:
            if not lies_at(path, file.fileno()):  # cleared away before we had the lock
                raise BlockingIOError(errno.EWOULDBLOCK, "somebody else writes there", str(path))
            yield file
        finally:
            if lies_at(path, file.fileno()):
                with suppress(OSError):
                    path.unlink()


def _clear(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        path.unlink(missing_ok=True)
        return
    try:
        lock(descriptor)
        if lies_at(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""A file system without locks; there, one engine at a time has to be enough."""


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file until it is closed, against all processes; several may hold it `shared`.

    Raises:
        BlockingIOError: somebody else has locked it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise


def lies_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one under that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
