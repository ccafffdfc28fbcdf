"""Tiles: a grid's four pictures, U1 to U4, cut once and kept beside the grid in the media store.

A picture is a foreign file, and 30 KB of PNG can claim a width of 60,000 pixels. So the header is read first, and a
picture that is too large is never decoded. One grid is cut at a time, in a thread, so that memory stays small. Pillow
comes with the extra `images` and is used here only.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.store import SingleFlight, Store

MAX_PIXELS = 25_000_000
"""The largest grid that is decoded (100 MB of memory). Midjourney's have 4 million pixels (PROTOCOL.md §9)."""
NEEDED = "To cut pictures into tiles, Pillow is needed:"
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Modes that PNG can hold without loss. Others become RGB."""


class Tiles:
    """Cuts grids of a media store. Concurrent callers share one cut of a grid."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cutting = SingleFlight[tuple[Media, ...]]()
        self._turn = asyncio.Lock()

    def path(self, grid: Media, number: int) -> Path:
        """Return the path of tile `number` (1 to 4) of a grid. It need not be there."""
        return self._store.tile_paths(grid.digest)[number - 1]

    async def of(self, grid: Media) -> tuple[Media, ...]:
        """Return the four pictures, U1 to U4, cut now if they are not there. Their `url` is the grid's.

        A MediaError is permanent if the grid cannot be cut. Otherwise its file or the disk failed.
        """

        async def made() -> tuple[Media, ...]:
            async with self._store.holding([grid]) as (source,), self._turn:
                return await in_thread(tiles, source)

        def tiles(source: Path) -> tuple[Media, ...]:
            paths = self._store.tile_paths(grid.digest)
            try:
                if not all(path.exists() for path in paths):
                    if _digest(source)[0] != grid.digest:
                        raise MediaError(f"The archived file {source} is damaged.")
                    for path, data in zip(paths, cut(source), strict=True):
                        self._store.write(path, data)
                described = [_digest(path) for path in paths]
            except OSError as exc:
                raise MediaError(
                    f"The tiles of {grid.digest[:12]} cannot be kept beside {source} ({exc.strerror or exc}). "
                    "Free space on its disk, or give this process write access."
                ) from exc
            return tuple(
                Media(digest=digest, type="image/png", size=size, extension=".png", url=grid.url, index=grid.index)
                for digest, size in described
            )

        return await self._cutting.run(grid.digest, made)


def cut(path: Path) -> Iterator[bytes]:
    """Yield the quarters of a picture as PNG, without loss, in reading order. Raises a permanent MediaError.

    An odd pixel goes to the right and to the bottom.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as exc:
        raise MediaError(f'{NEEDED} pip install "imagine-receiver[images]"', permanent=True) from exc
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size  # of the header: nothing is decoded yet
            if width * height > MAX_PIXELS:
                raise _uncut(f"it is {width} × {height} pixels large, and was not decoded")
            if width < 2 or height < 2:
                raise _uncut(f"it is only {width} × {height} pixels large")
            if getattr(picture, "is_animated", False):
                raise _uncut("it moves")
            picture.load()
            profile = picture.info.get("icc_profile")
            whole = picture if picture.mode in _MODES else picture.convert("RGB")
            for top, bottom in ((0, height // 2), (height // 2, height)):
                for left, right in ((0, width // 2), (width // 2, width)):
                    held = io.BytesIO()
                    # Level 3 takes a third of the time of the usual 6, and the files are about as large.
                    tile = whole.crop((left, top, right, bottom))
                    tile.save(held, "PNG", compress_level=3, icc_profile=profile)
                    yield held.getvalue()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _uncut("it is larger than any grid, and was not decoded") from exc
    except (OSError, SyntaxError, ValueError, EOFError) as exc:  # Pillow's errors for broken files
        raise _uncut("its file is broken, or no PNG, JPEG or WebP") from exc


def _digest(path: Path) -> tuple[str, int]:
    """Return SHA-256 and size of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _uncut(reason: str) -> MediaError:
    return MediaError(f"The picture was not cut into tiles: {reason}.", permanent=True)
