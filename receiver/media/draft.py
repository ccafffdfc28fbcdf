"""A file coming in: hashed while it is written, and under its name only when it is whole."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO

from receiver.disk import make_folder, sync_folder
from receiver.errors import MediaError
from receiver.media.kinds import HEAD, looks_like, sniff
from receiver.media.layout import DRAFTS

BLOCK = 256 * 1024
"""Bytes handed to a thread at once: few hops, little memory."""
LEFTOVER_SECONDS = 24 * 3600
"""A draft older than this belongs to a process that was killed."""


class Draft:
    """A file in `folder` without a name yet. Its methods block: call them in a thread.

    Args:
        durable: whether what is kept must outlive a power cut: the file and its folder are synced then.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.size = 0
        self.path = folder / f".{uuid.uuid4().hex}.part"
        self._folder = folder
        self._durable = durable
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of what has been added so far."""
        return self._sha256.hexdigest()

    def add(self, block: bytes) -> None:
        """Write more of it."""
        if self._file is None:
            make_folder(self._folder)
            self._file = self.path.open("xb")
        self._file.write(block)
        self._sha256.update(block)
        self.size += len(block)

    def finish(self) -> None:
        """Every byte handed to the system, or on disk where it is to be durable; the file closed."""
        if self._file is not None and not self._file.closed:
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()

    def keep_as(self, path: Path) -> None:
        """Give the file that name. What lies there is replaced."""
        self.finish()
        make_folder(path.parent)
        os.replace(self.path, path)
        if self._durable:
            sync_folder(path.parent)

    def drop(self) -> None:
        """Leave nothing behind. Without effect on a file that was kept."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk close() fails once more, and the file must go all the same
                self._file.close()
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Make the folder, try to write in it, and clear away drafts of killed processes. Blocks; raises OSError."""
    draft = Draft(folder)
    try:
        draft.add(b"receiver")
        draft.finish()
    finally:
        draft.drop()
    oldest = time.time() - LEFTOVER_SECONDS
    for leftover in folder.glob(DRAFTS):
        with suppress(FileNotFoundError):  # another process clears away too
            if leftover.stat().st_mtime < oldest:
                leftover.unlink()


async def receive(
    chunks: AsyncIterator[bytes], add: Callable[[bytes], Awaitable[None]], *, source: str, max_bytes: int
) -> tuple[str, str]:
    """Hand what `chunks` yields to `add` in blocks, and return what it is: (media type, extension).

    Args:
        source: where it comes from, for errors.
        max_bytes: the cap.

    Raises:
        MediaError: larger than the cap (permanent), or neither picture nor video; told before anything is written and
            before the rest is fetched.
    """
    kind: tuple[str, str] | None = None
    async with aclosing(_blocks(chunks, source, max_bytes)) as blocks:
        async for block in blocks:
            kind = kind or _kind(block, source)
            await add(block)
    return kind or _kind(b"", source)


def _kind(head: bytes, source: str) -> tuple[str, str]:
    kind = sniff(head)
    if kind is None:
        raise MediaError(f"What {source} holds is neither picture nor video, but {looks_like(head)}.")
    return kind


async def _blocks(chunks: AsyncIterator[bytes], source: str, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Chunks regrouped: first enough to tell the kind, then `BLOCK` bytes at a time, under the cap."""
    held, size, wanted = bytearray(), 0, HEAD
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise too_large(source, max_bytes)
        held += chunk
        if len(held) >= wanted:
            yield bytes(held)
            held.clear()
            wanted = BLOCK
    if held:
        yield bytes(held)


def too_large(source: str, max_bytes: int) -> MediaError:
    """The error for a file beyond the cap. Asking again cannot help."""
    return MediaError(f"What {source} holds is larger than the limit of {max_bytes:,} bytes.", permanent=True)


def write(folder: Path, path: Path, data: bytes) -> None:
    """A whole file in such a folder: on disk under its name, or not there. A blocking call.

    Raises:
        OSError: it cannot be written.
    """
    draft = Draft(folder)
    try:
        draft.add(data)
        draft.keep_as(path)
    finally:
        draft.drop()
