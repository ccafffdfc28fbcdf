"""The media store: a folder that keeps every archived file once, under the SHA-256 of its content.

Layout: `<first two hex digits>/<digest><extension>`, and `<digest>.u1.png` to `.u4.png` where a grid was cut into
tiles; while a file is coming in, it is `.<random>.part` beside them.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from receiver.disk import in_thread, make_folder, sync_folder
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.kinds import EXTENSIONS, HEAD, looks_like, sniff
from receiver.media.links import place

_P = ParamSpec("_P")
_T = TypeVar("_T")

BLOCK = 256 * 1024
"""Bytes handed to a thread at once: few hops, little memory."""
LEFTOVER_SECONDS = 24 * 3600
"""A `.part` older than this belongs to a process that was killed."""
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class MediaStore:
    """A content-addressed folder. Several processes may share it: nothing in it ever changes its content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def path(self, media: Media) -> Path:
        """Where `media` lies, or would lie."""
        return _place_of(self.folder, media.digest, media.extension)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        """Where the four tiles of a grid lie, or would lie: beside it, and gone with it."""
        return tuple(_place_of(self.folder, digest, f".u{number}.png") for number in range(1, 5))

    def write(self, path: Path, data: bytes) -> None:
        """Something made of what is kept here: whole and on disk under its name, or not there. A blocking call.

        Raises:
            OSError: the folder cannot be written.
        """
        draft = _Draft(self.folder)
        try:
            draft.add(data)
            draft.keep_as(path)
        finally:
            draft.drop()

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Keep what `chunks` yields; on disk (file and folder synced) when this returns, and nothing is left otherwise.

        Raises:
            MediaError: larger than `max_bytes` (permanent), neither picture nor video, or the folder cannot be written.
        """
        draft = _Draft(self.folder)
        try:
            media_type, extension = await self._receive(draft, chunks, place(url), max_bytes)
            digest = await self._call(draft.keep, extension)
        finally:
            await in_thread(draft.drop)
        return Media(digest=digest, type=media_type, size=draft.size, extension=extension, url=url, index=index)

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        """Keep a file already in memory, e.g. a picture to be sent with a request. Raises as `put`."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.put(once(), url=url, index=0, max_bytes=len(data))

    async def read(self, digest: str) -> bytes:
        """The content whose SHA-256 is `digest`.

        Raises:
            MediaError: not there (permanent), damaged (permanent), or unreadable.
        """
        return await self._call(self._read, digest)

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the digests whose file is not there."""
        return await self._call(lambda: [digest for digest in digests if not self._found(digest)])

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Remove a file nobody needs. Returns whether it is gone.

        One younger than that many seconds stays: somebody may just have put the same content there, and not said so
        in the journal yet.

        Raises:
            MediaError: the folder cannot be written.
        """
        return await self._call(self._remove, digest, unless_younger)

    async def check(self) -> None:
        """Make the folder, try to write in it, and clear away what killed processes left.

        Raises:
            MediaError: the folder cannot be made or written.
        """
        await self._call(self._check)

    async def _receive(
        self, draft: _Draft, chunks: AsyncIterator[bytes], source: str, max_bytes: int
    ) -> tuple[str, str]:
        kind: tuple[str, str] | None = None
        async with aclosing(_blocks(chunks, source, max_bytes)) as blocks:
            async for block in blocks:
                kind = kind or _kind(block, source)  # before the first byte is written, and before the rest is fetched
                await self._call(draft.add, block)
        return kind or _kind(b"", source)

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a file call in a thread; what the disk says becomes a MediaError."""
        try:
            return await in_thread(function, *args, **kwargs)
        except OSError as exc:
            raise MediaError(
                f"The media folder {self.folder} cannot be used ({exc.strerror or exc}). "
                "Free space on its disk, give this process write access, or choose another folder."
            ) from exc

    def _found(self, digest: str) -> list[Path]:
        paths = [_place_of(self.folder, digest, extension) for extension in EXTENSIONS if _DIGEST.match(digest)]
        return [path for path in paths if path.exists()]

    def _remove(self, digest: str, unless_younger: float) -> bool:
        gone = True
        for path in self._found(digest):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime < unless_younger:
                    gone = False
                else:
                    path.unlink()
        for tile in self.tile_paths(digest) if gone and _DIGEST.match(digest) else ():
            tile.unlink(missing_ok=True)
        return gone

    def _read(self, digest: str) -> bytes:
        for extension in EXTENSIONS if _DIGEST.match(digest) else ():
            with suppress(FileNotFoundError):
                data = _place_of(self.folder, digest, extension).read_bytes()
                if hashlib.sha256(data).hexdigest() != digest:
                    raise MediaError(f"The file {digest} in {self.folder} is damaged.", permanent=True)
                return data
        raise MediaError(f"The file {digest[:64]} is not in the media folder {self.folder}.", permanent=True)

    def _check(self) -> None:
        draft = _Draft(self.folder)
        try:
            draft.add(b"receiver")
            draft.sync()
        finally:
            draft.drop()
        oldest = time.time() - LEFTOVER_SECONDS
        for leftover in self.folder.glob(".*.part"):
            with suppress(FileNotFoundError):  # another process clears away too
                if leftover.stat().st_mtime < oldest:
                    leftover.unlink()


class _Draft:
    """A file coming in: hashed while written, renamed when complete. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._folder = folder
        self._path = folder / f".{uuid.uuid4().hex}.part"
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    def add(self, block: bytes) -> None:
        if self._file is None:
            make_folder(self._folder)
            self._file = self._path.open("xb")
        self._file.write(block)
        self._sha256.update(block)
        self.size += len(block)

    def sync(self) -> None:
        """Every byte on disk, the file closed."""
        if self._file is not None and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def keep(self, extension: str) -> str:
        """Give the file its name and return its digest. The same content again replaces itself: that heals damage."""
        self.sync()
        digest = self._sha256.hexdigest()
        self.keep_as(_place_of(self._folder, digest, extension))
        return digest

    def keep_as(self, path: Path) -> None:
        """Give the file that name."""
        self.sync()
        make_folder(path.parent)
        os.replace(self._path, path)
        sync_folder(path.parent)

    def drop(self) -> None:
        """Leave nothing behind. Without effect on a file that was kept."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk close() fails once more, and the file must go all the same
                self._file.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _place_of(folder: Path, digest: str, extension: str) -> Path:
    return folder / digest[:2] / f"{digest}{extension}"


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
