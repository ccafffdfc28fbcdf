"""Tiles: a grid's four pictures, U1 to U4, cut once for everybody and kept beside the grid in the media store.

A picture is somebody else's file, and 30 KB of PNG can say that it is 60,000 pixels wide: what it says of its size is
read first, and a picture that is too large is never decoded. Pillow comes with the extra `images` and is used here
only; one grid is cut at a time, in a thread, so that memory stays small.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.store import Store

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 25_000_000
"""The largest grid that is decoded (100 MB of memory). Midjourney's have 4 million pixels (PROTOCOL.md §9)."""
NEEDED = "To cut pictures into tiles, Pillow is needed:"
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""What PNG can say without loss; anything else becomes RGB."""


class Tiles:
    """Cuts grids of a media store. Whoever asks for the same grid meanwhile waits for the same cut."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cutting: dict[str, asyncio.Task[tuple[Media, ...]]] = {}
        self._turn = asyncio.Lock()

    def path(self, grid: Media, number: int) -> Path:
        """Where tile `number` (1 to 4) of a grid lies, or would lie."""
        return self._store.tile_paths(grid.digest)[number - 1]

    async def of(self, grid: Media) -> tuple[Media, ...]:
        """The four pictures, U1 to U4; made now unless they lie there already. Their `url` is the grid's.

        Raises:
            MediaError: permanent where the grid cannot be cut: too large, moving, damaged, no picture; otherwise its
                file or the disk failed us, and asking again may help.
        """
        if grid.digest not in self._cutting:
            task = asyncio.create_task(self._made(grid), name=f"cut {grid.digest[:12]}")
            self._cutting[grid.digest] = task
            task.add_done_callback(lambda done: self._cut(grid.digest, done))
        # Shielded: an attempt that is cancelled must not take the cut from others.
        return await asyncio.shield(self._cutting[grid.digest])

    def _cut(self, digest: str, task: asyncio.Task[tuple[Media, ...]]) -> None:
        del self._cutting[digest]
        if not task.cancelled():
            task.exception()  # whoever waits is told; if nobody does any more, nobody needs to know

    async def _made(self, grid: Media) -> tuple[Media, ...]:
        async with self._store.holding([grid]) as (source,), self._turn:
            return await in_thread(self._there_or_cut, grid, source)

    def _there_or_cut(self, grid: Media, source: Path) -> tuple[Media, ...]:
        paths = self._store.tile_paths(grid.digest)
        try:
            if not all(path.exists() for path in paths):
                self._write(grid, source, paths)
            return tuple(_described(path, grid) for path in paths)
        except OSError as exc:
            raise MediaError(
                f"The tiles of {grid.digest[:12]} cannot be kept beside {source} ({exc.strerror or exc}). "
                "Free space on its disk, or give this process write access."
            ) from exc

    def _write(self, grid: Media, source: Path, paths: tuple[Path, ...]) -> None:
        with source.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != grid.digest:
                raise MediaError(f"The archived file {source} is damaged.")
        for path, data in zip(paths, cut(source), strict=True):
            self._store.write(path, data)


def cut(path: Path) -> Iterator[bytes]:
    """The quarters of a picture as PNG: top left, top right, bottom left, bottom right. An odd pixel goes to the right
    and to the bottom. PNG whatever the grid is, because cutting must lose nothing.

    Raises:
        MediaError: permanent; it cannot be cut, and why.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as exc:
        raise MediaError(f'{NEEDED} pip install "imagine-receiver[images]"', permanent=True) from exc
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            _check(picture)
            picture.load()
            profile = picture.info.get("icc_profile")
            whole = picture if picture.mode in _MODES else picture.convert("RGB")
            for box in _boxes(*picture.size):
                yield _png(whole.crop(box), profile)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _uncut("it is larger than any grid, and was not decoded") from exc
    except (OSError, SyntaxError, ValueError, EOFError) as exc:  # what Pillow raises at broken files
        raise _uncut("its file is broken, or no PNG, JPEG or WebP") from exc


def _check(picture: Image.Image) -> None:
    """By its header alone: nothing is decoded yet."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _uncut(f"it is {width} × {height} pixels large, and was not decoded")
    if width < 2 or height < 2:
        raise _uncut(f"it is only {width} × {height} pixels large")
    if getattr(picture, "is_animated", False):
        raise _uncut("it moves")


def _boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    middle, half = width // 2, height // 2
    for top, bottom in ((0, half), (half, height)):
        for left, right in ((0, middle), (middle, width)):
            yield left, top, right, bottom


def _png(tile: Image.Image, profile: bytes | None) -> bytes:
    # Level 3 takes a third of the time of the usual 6, and the files are about as large.
    held = io.BytesIO()
    tile.save(held, "PNG", compress_level=3, icc_profile=profile)
    return held.getvalue()


def _described(path: Path, grid: Media) -> Media:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return Media(digest=digest, type="image/png", size=size, extension=".png", url=grid.url, index=grid.index)


def _uncut(why: str) -> MediaError:
    return MediaError(f"The picture was not cut into tiles: {why}.", permanent=True)
