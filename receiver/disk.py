"""Files that must outlive a power cut, written off the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

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
