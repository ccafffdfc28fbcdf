"""The media store keeps every archived file once, under the SHA-256 of its content: in a folder, or in a bucket."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, ParamSpec, Protocol, TypeVar

from receiver.bucket import read_url
from receiver.disk import in_thread
from receiver.errors import MediaError, SettingsError
from receiver.events import Media
from receiver.media.bucket_store import BucketStore
from receiver.media.cache import Cache
from receiver.media.files import (
    DIGEST,
    EXTENSIONS,
    IDENTITY,
    Draft,
    once,
    path_in,
    probe,
    receive,
    tile_paths_in,
    write,
)
from receiver.media.links import place_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

SETTING = "RECEIVER_MEDIA"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Store(Protocol):
    """A folder (`MediaStore`), or a bucket with a cache in a folder of this machine (`BucketStore`).

    Several processes may share it: content never changes.

    Attributes:
        remote: True for a service elsewhere, which may be unreachable while this machine works.
    """

    remote: ClassVar[bool]

    @property
    def place(self) -> str:
        """Its name in a sentence: the folder, or the URL."""

    async def identity(self) -> str:
        """Return a text that is the same for every user of this store, and differs for any other store.

        Raises:
            MediaError: the store cannot be read.
        """

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Keep a file. It is safe on return, and nothing is left otherwise.

        Raises:
            MediaError: larger than `max_bytes` (permanent), neither picture nor video, or the store cannot be written.
        """

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        """Keep a file that is in memory, e.g. a picture of a request. Raises as `put`."""

    async def read(self, digest: str) -> bytes:
        """Return the content whose SHA-256 is `digest`.

        Raises:
            MediaError: missing (permanent), damaged (permanent), or unreadable.
        """

    async def local(self, media: Media) -> Path:
        """Return a path on this machine with its content, downloaded if needed. See `holding`.

        Raises:
            MediaError: missing or damaged (permanent), or not available now.
        """

    def holding(self, files: Sequence[Media]) -> AbstractAsyncContextManager[tuple[Path, ...]]:
        """Return the paths of several files, as `local`. They stay until the end of the block.

        Concurrent callers share one download of a file.
        """

    def path(self, media: Media) -> Path:
        """Return the path that `local` uses. The file need not be there."""

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        """Return the paths of a grid's four tiles on this machine. They are removed together with the grid."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a derived file to one of `tile_paths`: durable under its name, or not there. Blocks.

        Raises:
            OSError: it cannot be written.
        """

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Return the digests whose file is not in the store.

        Raises:
            MediaError: the store cannot be read.
        """

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Remove a file that is not needed. Return True if it is gone.

        A file younger than that many seconds, by the store's own clock, stays: another process may just have put the
        same content, and not yet have journalled it.

        Raises:
            MediaError: the store cannot be written.
        """

    async def check(self) -> None:
        """Try to write and read, and remove drafts of killed processes.

        Raises:
            MediaError: the store does not work.
        """

    async def aclose(self) -> None:
        """Cancel what is under way. Idempotent."""


def open_store(where: str | Path, *, cache: Path, cache_bytes: int = 2**30) -> Store:
    """Return the media store at a path, or at `s3://BUCKET/FOLDER`, `gs://…`, `az://…`; see `bucket.read_url`.

    No request is made, and nothing is written.

    Args:
        where: the path or URL.
        cache: folder for local copies of a bucket's files.
        cache_bytes: its largest size.

    Raises:
        SettingsError: another URL, or the extra `s3` is missing.
    """
    scheme = match[1].lower() if (match := _URL.match(str(where))) else None
    if scheme is None or isinstance(where, Path):
        return MediaStore(Path(where))
    if scheme not in ("s3", "gs", "az"):
        raise SettingsError(
            f"{SETTING}: there are no pictures at {scheme}://; it is a folder, or s3://, gs:// or az://."
        )
    try:
        options, folder = read_url(str(where))
    except SettingsError as exc:
        raise SettingsError(f"{SETTING}: {exc}") from exc
    return BucketStore(options, folder, Cache(cache, cache_bytes))


class MediaStore:
    """A content-addressed folder; see `Store`. Machines that share it over the network share one store."""

    remote: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def place(self) -> str:
        return str(self.folder)

    async def identity(self) -> str:
        """Return a random word, made at the first call and kept in the folder."""
        return await self._call(self._identity)

    def path(self, media: Media) -> Path:
        return path_in(self.folder, media.digest, media.extension)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        return tile_paths_in(self.folder, digest)

    async def local(self, media: Media) -> Path:
        """Return its path in the folder. The content is not checked."""
        return await self._call(self._local, media)

    @asynccontextmanager
    async def holding(self, files: Sequence[Media]) -> AsyncIterator[tuple[Path, ...]]:
        """Return the paths. Only retention removes files here, and never one that is still needed."""
        yield tuple([await self.local(media) for media in files])

    def write(self, path: Path, data: bytes) -> None:
        write(self.folder, path, data)

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Return when file and folder are synced. The same content replaces itself, which repairs damage."""
        draft = Draft(self.folder)
        try:
            media_type, extension = await receive(
                chunks, lambda block: self._call(draft.add, block), source=place_of(url), max_bytes=max_bytes
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
        return await self._call(lambda: [digest for digest in digests if not self._paths(digest)])

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        return await self._call(self._remove, digest, unless_younger)

    async def check(self) -> None:
        await self._call(probe, self.folder)

    async def aclose(self) -> None:
        """Do nothing: no call goes on in the background."""

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a file call in a thread. Its OSError becomes a MediaError."""
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
                try:
                    os.link(draft.path, path)  # unlike a rename, it leaves the file of a process that was faster
                except FileExistsError:
                    pass
                except OSError:  # a file system without links
                    draft.keep_as(path)
            finally:
                draft.drop()
        return f"folder {path.read_text()}"

    def _local(self, media: Media) -> Path:
        path = self.path(media)
        if not path.exists():
            # An empty folder is more likely a volume that is not mounted, so the file may still exist.
            if not self.folder.is_dir() or not any(self.folder.iterdir()):
                raise MediaError(f"The media folder {self.folder} is empty. Mount its volume, or restore it.")
            raise MediaError(f"The archived file {path} is gone.", permanent=True)
        return path

    def _paths(self, digest: str) -> list[Path]:
        paths = [path_in(self.folder, digest, extension) for extension in EXTENSIONS if DIGEST.match(digest)]
        return [path for path in paths if path.exists()]

    def _remove(self, digest: str, unless_younger: float) -> bool:
        gone = True
        for path in self._paths(digest):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime < unless_younger:
                    gone = False
                else:
                    path.unlink()
        for tile in self.tile_paths(digest) if gone and DIGEST.match(digest) else ():
            tile.unlink(missing_ok=True)
        return gone

    def _read(self, digest: str) -> bytes:
        for path in self._paths(digest):
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest() != digest:
                    raise MediaError(f"The file {digest} in {self.folder} is damaged.", permanent=True)
                return data
        raise MediaError(f"The file {digest[:64]} is not in the media folder {self.folder}.", permanent=True)
