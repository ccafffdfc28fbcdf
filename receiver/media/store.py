"""The media store as a folder."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, ParamSpec, TypeVar

from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.draft import Draft, probe, receive, write
from receiver.media.kinds import EXTENSIONS
from receiver.media.layout import DIGEST, path_in, tile_paths_in
from receiver.media.links import place

_P = ParamSpec("_P")
_T = TypeVar("_T")

IDENTITY = ".id"
"""The file that makes this folder known from any other."""


class MediaStore:
    """A content-addressed folder; see `base.Store`. Where several machines share it over the network, it is one store
    for all of them."""

    remote: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def place(self) -> str:
        return str(self.folder)

    async def identity(self) -> str:
        """A random word, made at the first call and kept in the folder."""
        return await self._call(self._identity)

    def path(self, media: Media) -> Path:
        return path_in(self.folder, media.digest, media.extension)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        return tile_paths_in(self.folder, digest)

    async def local(self, media: Media) -> Path:
        """Its place in the folder. Whether it is undamaged, whoever reads it sees."""
        return await self._call(self._local, media)

    @asynccontextmanager
    async def holding(self, files: Sequence[Media]) -> AsyncIterator[tuple[Path, ...]]:
        """Only retention removes files here, and never one that is still needed."""
        yield tuple([await self.local(media) for media in files])

    def write(self, path: Path, data: bytes) -> None:
        write(self.folder, path, data)

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """File and folder are synced when this returns. The same content again replaces itself: that heals damage."""
        draft = Draft(self.folder)
        try:
            media_type, extension = await receive(
                chunks, lambda block: self._call(draft.add, block), source=place(url), max_bytes=max_bytes
            )
            await self._call(draft.keep_as, path_in(self.folder, draft.digest, extension))
        finally:
            await in_thread(draft.drop)
        return Media(digest=draft.digest, type=media_type, size=draft.size, extension=extension, url=url, index=index)

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        return await self.put(once(data), url=url, index=0, max_bytes=len(data))

    async def read(self, digest: str) -> bytes:
        return await self._call(self._read, digest)

    async def missing(self, digests: Iterable[str]) -> list[str]:
        return await self._call(lambda: [digest for digest in digests if not self._found(digest)])

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        return await self._call(self._remove, digest, unless_younger)

    async def check(self) -> None:
        """Also makes the folder."""
        await self._call(probe, self.folder)

    async def aclose(self) -> None:
        """Nothing is ever under way behind a caller's back."""

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a file call in a thread; what the disk says becomes a MediaError."""
        try:
            return await in_thread(function, *args, **kwargs)
        except OSError as exc:
            raise MediaError(
                f"The media folder {self.folder} cannot be used ({exc.strerror or exc}). "
                "Free space on its disk, give this process write access, or choose another folder."
            ) from exc

    def _identity(self) -> str:
        path = self.folder / IDENTITY
        if not path.exists():
            draft = Draft(self.folder)
            try:
                draft.add(uuid.uuid4().hex.encode())
                draft.finish()
                _name_once(draft, path)
            finally:
                draft.drop()
        return f"folder {path.read_text()}"

    def _local(self, media: Media) -> Path:
        path = self.path(media)
        if not path.exists():
            # An empty folder is rather a volume that is not mounted: then it is not the file that is gone.
            if not self.folder.is_dir() or not any(self.folder.iterdir()):
                raise MediaError(f"The media folder {self.folder} is empty. Mount its volume, or restore it.")
            raise MediaError(f"The archived file {path} is gone.", permanent=True)
        return path

    def _found(self, digest: str) -> list[Path]:
        paths = [path_in(self.folder, digest, extension) for extension in EXTENSIONS if DIGEST.match(digest)]
        return [path for path in paths if path.exists()]

    def _remove(self, digest: str, unless_younger: float) -> bool:
        gone = True
        for path in self._found(digest):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime < unless_younger:
                    gone = False
                else:
                    path.unlink()
        for tile in self.tile_paths(digest) if gone and DIGEST.match(digest) else ():
            tile.unlink(missing_ok=True)
        return gone

    def _read(self, digest: str) -> bytes:
        for extension in EXTENSIONS if DIGEST.match(digest) else ():
            with suppress(FileNotFoundError):
                data = path_in(self.folder, digest, extension).read_bytes()
                if hashlib.sha256(data).hexdigest() != digest:
                    raise MediaError(f"The file {digest} in {self.folder} is damaged.", permanent=True)
                return data
        raise MediaError(f"The file {digest[:64]} is not in the media folder {self.folder}.", permanent=True)


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Bytes as a stream of one chunk."""
    yield data


def _name_once(draft: Draft, path: Path) -> None:
    """Give a finished draft its name, unless another process was faster: whoever reads it, reads the same."""
    try:
        os.link(draft.path, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        draft.keep_as(path)
