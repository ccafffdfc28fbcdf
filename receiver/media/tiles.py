"""Pictures made once of an archived one, and kept beside it: a grid's tiles U1 to U4, and a thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from receiver import pictures
from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.store import SingleFlight, Store

MAX_REFUSED = 10_000
MAX_AHEAD = 1000
"""Thumbnails that are made ahead or wait for it."""


class Tiles:
    """Cuts grids of a media store. Concurrent callers share one cut of a grid."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cutting = SingleFlight[tuple[Media, ...]]()

    def path(self, grid: Media, number: int) -> Path:
        """Return the path of tile `number` (1 to 4) of a grid. It need not be there."""
        return self._store.tile_paths(grid.digest)[number - 1]

    async def of(self, grid: Media) -> tuple[Media, ...]:
        """Return the four pictures, U1 to U4, cut now if they are not there. Their `url` is the grid's.

        A MediaError is permanent if the grid cannot be cut. Otherwise its file or the disk failed.
        """
        paths = self._store.tile_paths(grid.digest)

        def are_there(source: Path) -> bool:
            if all(path.exists() for path in paths):
                return True
            if _digest(source)[0] != grid.digest:
                raise MediaError(f"The archived file {source} is damaged.")
            return False

        def write(cut: Iterator[bytes]) -> None:
            for path, data in zip(paths, cut, strict=True):
                self._store.write(path, data)

        async def made() -> tuple[Media, ...]:
            async with self._store.holding([grid]) as (source,):
                try:
                    if not await in_thread(are_there, source):
                        async with pictures.tiles(source) as cut:
                            await in_thread(write, cut)
                    found = await in_thread(lambda: [_digest(path) for path in paths])
                except OSError as exc:
                    raise MediaError(
                        f"The tiles of {grid.digest[:12]} cannot be kept beside {source} ({exc.strerror or exc}). "
                        "Free space on its disk, or give this process write access."
                    ) from exc
            return tuple(
                Media(digest=digest, type="image/png", size=size, extension=".png", url=grid.url, index=grid.index)
                for digest, size in found
            )

        return await self._cutting.run(grid.digest, made)


class Thumbnails:
    """Thumbnails of archived pictures. Each is made once, ahead of the first look at it if possible."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._making = SingleFlight[Path]()
        self._refused: dict[str, str] = {}
        """Pictures that cannot be decoded, so that each look does not try again."""

    def begin(self, file: Media) -> None:
        """Make the thumbnail of a file in the background, if it is a picture. A failure is left to the first look."""
        if pictures.AVAILABLE and file.type.startswith("image/") and len(self._making) < MAX_AHEAD:
            self._making.start(file.digest, partial(self._find_or_make, file))

    async def of(self, picture: Media) -> Path:
        """Return a WebP of at most 640 × 640 pixels, made now if it is not there.

        A MediaError is permanent if the picture cannot be decoded. Otherwise its file, the store or the disk failed.
        """
        return await self._making.run(picture.digest, partial(self._find_or_make, picture))

    async def aclose(self) -> None:
        """Cancel what is being made."""
        await self._making.aclose()

    async def _find_or_make(self, picture: Media) -> Path:
        if picture.digest in self._refused:
            raise MediaError(self._refused[picture.digest], permanent=True)
        if (path := await self._store.thumbnail(picture.digest)) is not None:
            return path
        try:
            async with self._store.holding([picture]) as (source,):
                data = await pictures.thumbnail(source)
        except MediaError as exc:
            if exc.permanent and len(self._refused) < MAX_REFUSED:
                self._refused[picture.digest] = str(exc)
            raise
        except OSError as exc:
            raise MediaError(f"The thumbnail of {picture.digest[:12]} was not made ({exc.strerror or exc}).") from exc
        return await self._store.keep_thumbnail(picture.digest, data)


def _digest(path: Path) -> tuple[str, int]:
    """Return SHA-256 and size of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
