"""The media store keeps every archived file once, under the SHA-256 of its content: in a folder, or in a bucket.

A bucket (extra `s3`) has a cache in a folder of this machine. Every file passes through the cache: on its way in
because its key is the digest of all of it, on its way out because handlers read paths. Puts need no conditions. The key
determines the content, so that a second put changes nothing but the object's age, as it must (see `remove`).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from receiver.bucket import BucketError, BucketOptions, open_bucket, read_url
from receiver.disk import in_thread, network_disk, sizes_in
from receiver.errors import MediaError, SettingsError
from receiver.events import Media
from receiver.media.cache import Cache
from receiver.media.files import (
    DIGEST,
    EXTENSIONS,
    IDENTITY,
    THUMBNAIL,
    Draft,
    derived_paths_in,
    key_of,
    once,
    path_in,
    probe,
    receive,
    thumbnail_path_in,
    tile_paths_in,
    write,
)
from receiver.media.links import place_of

if TYPE_CHECKING:
    from receiver.bucket.client import ObjectHead

_P = ParamSpec("_P")
_T = TypeVar("_T")

SETTING = "RECEIVER_MEDIA"
REQUEST_SECONDS, TRANSFER_SECONDS = 20.0, 600.0
"""Limits of a small request (a look, a removal, a page of a list) and of a transfer of one file."""
CHECK_SECONDS, FAILED_SECONDS = 30.0, 3.0
"""Validity of a check that succeeded, and of one that failed. Requests cost money, and many callers may ask."""
CLOCK_SECONDS = 300.0
"""Validity of our reading of the store's clock."""
WHOLE = 8 * 1024 * 1024
"""Bytes up to which a file is put in one request."""
TRIES = 3
"""Downloads of one file before its cache is given up: another process may empty it."""
_NEEDS = (
    "write, read, list and delete objects (on S3: s3:PutObject, s3:GetObject and s3:DeleteObject on them, "
    "s3:ListBucket on the bucket)"
)
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class SingleFlight(Generic[_T]):
    """One call per key at a time. Callers that come meanwhile get its result."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[_T]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, key: str, call: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start `call` unless one is under way for the key. Return the one that is."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(call(), name=f"for {key[:12]}")
            # Read the error, so that asyncio does not log it: each caller that waits gets it.
            task.add_done_callback(lambda done: (self._running.pop(key), done.cancelled() or done.exception()))
        return task

    async def run(self, key: str, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return the result of `call`, or of the call that is under way for the key."""
        # Shielded: a cancelled caller must not take the result from others, and the work is not lost.
        return await asyncio.shield(self.start(key, call))

    async def aclose(self) -> None:
        """Cancel the calls that are under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Store(ABC):
    """A folder (`MediaStore`), or a bucket with a cache in a folder of this machine (`BucketStore`).

    Several processes may share it: content never changes. Methods raise MediaError if the store cannot be used.
    """

    remote: ClassVar[bool]  # True for a service elsewhere, which may be unreachable while this machine works
    folder: Path  # the folder, or that of the cache
    _unusable: ClassVar[str]
    """Sentence for a folder that cannot be used, with `{folder}` and `{reason}`."""
    _ground = False
    """True once the folder around ours has been seen."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Its name in a sentence: the folder, or the URL."""

    @abstractmethod
    async def identity(self) -> str:
        """Return a text that is the same for every user of this store, and differs for any other store."""

    def path(self, media: Media) -> Path:
        """Return the path that `local` uses. The file need not be there."""
        return path_in(self.folder, media.digest, media.extension)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        """Return the paths of a grid's four tiles on this machine. They are removed together with the grid."""
        return tile_paths_in(self.folder, digest)

    @abstractmethod
    async def thumbnail(self, digest: str) -> Path | None:
        """Return the path of a picture's thumbnail on this machine, or None if the store has none."""

    @abstractmethod
    async def keep_thumbnail(self, digest: str, data: bytes) -> Path:
        """Keep a thumbnail beside its picture, with which it is removed. Return its path on this machine."""

    @abstractmethod
    def write(self, path: Path, data: bytes) -> None:
        """Write what was made of a file beside it: durable under its name, or not there. Blocks, and raises OSError."""

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Keep a file. It is safe on return, and nothing is left otherwise. A MediaError says why."""
        draft = Draft(self.folder, durable=not self.remote)
        try:
            media_type, extension = await receive(
                chunks, lambda block: self._call(draft.add, block), source=place_of(url), max_bytes=max_bytes
            )
            await self._call(draft.finish)
            media = Media(
                digest=draft.digest, type=media_type, size=draft.size, extension=extension, url=url, index=index
            )
            await self._keep(draft, media)
        finally:
            await in_thread(draft.drop)
        return media

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        """Keep a file that is in memory, e.g. a picture of a request. Raises as `put`."""
        return await self.put(once(data), url=url, index=0, max_bytes=len(data))

    @abstractmethod
    async def _keep(self, draft: Draft, media: Media) -> None: ...

    @abstractmethod
    async def read(self, digest: str) -> bytes:
        """Return the content whose SHA-256 is `digest`. Missing and damaged files are a permanent MediaError."""

    async def local(self, media: Media) -> Path:
        """Return a path on this machine with its content, downloaded if needed.

        Open it soon: a cache removes it when room is needed. Missing and damaged files are a permanent MediaError.
        """
        async with self.holding([media]) as (path,):
            return path

    @asynccontextmanager
    async def holding(self, files: Sequence[Media]) -> AsyncIterator[tuple[Path, ...]]:
        """Return the paths of several files, as `local`. They stay until the end of the block."""
        with ExitStack() as held:
            yield await self.hold(files, held)

    @abstractmethod
    async def hold(self, files: Sequence[Media], held: ExitStack) -> tuple[Path, ...]:
        """Return the paths of several files, as `local`. They stay until `held` is closed."""

    @abstractmethod
    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Return the digests whose file is not in the store."""

    @abstractmethod
    async def sizes(self) -> list[tuple[int, int]]:
        """Return the time in epoch milliseconds and the bytes of each file."""

    @abstractmethod
    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Remove a file that is not needed. Return True if it is gone.

        A file younger than that many seconds, by the store's own clock, stays: another process may just have put the
        same content, and not yet have journalled it.
        """

    @abstractmethod
    async def check(self) -> None:
        """Try to write and read, and remove drafts of killed processes."""

    async def aclose(self) -> None:  # noqa: B027 - a folder has nothing to cancel
        """Cancel what is under way. Idempotent."""

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a file call in a thread. Its OSError becomes a MediaError."""

        def call() -> _T:
            # A data folder that has gone is not made anew: the journal is not in it.
            self._ground = self._ground or self.folder.parent.is_dir()
            if self._ground and not self.folder.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, f"{self.folder.parent} is gone")
            return function(*args, **kwargs)

        try:
            return await in_thread(call)
        except OSError as exc:
            raise MediaError(self._unusable.format(folder=self.folder, reason=exc.strerror or exc)) from exc


class MediaStore(Store):
    """A content-addressed folder. Machines that share it over the network share one store."""

    remote: ClassVar[bool] = False
    _unusable: ClassVar[str] = (
        "The media folder {folder} cannot be used ({reason}). Free space on its disk, give this process write access, "
        "or choose another folder."
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._may_hang = network_disk(self.folder) is not None

    @property
    def place(self) -> str:
        return str(self.folder)

    async def identity(self) -> str:
        """Return a random word, made at the first call and kept in the folder."""

        def identity() -> str:
            path = self.folder / IDENTITY
            if not path.exists():
                with Draft(self.folder) as draft:
                    draft.add(uuid.uuid4().hex.encode())
                    draft.finish()
                    try:
                        os.link(draft.path, path)  # unlike a rename, it leaves the file of a process that was faster
                    except FileExistsError:
                        pass  # its word is read below
                    except OSError:  # a file system without links
                        draft.keep_as(path)
            return f"folder {path.read_text()}"

        return await self._call(identity)

    async def thumbnail(self, digest: str) -> Path | None:
        path = thumbnail_path_in(self.folder, digest)
        return path if await self._call(path.exists) else None

    async def keep_thumbnail(self, digest: str, data: bytes) -> Path:
        path = thumbnail_path_in(self.folder, digest)
        await self._call(self.write, path, data)
        return path

    def write(self, path: Path, data: bytes) -> None:
        write(self.folder, path, data)

    async def _keep(self, draft: Draft, media: Media) -> None:
        """Name and sync the file. The same content replaces itself, which repairs damage."""
        await self._call(draft.keep_as, self.path(media))

    async def read(self, digest: str) -> bytes:
        def read() -> bytes:
            for path in self._paths(digest):
                with suppress(FileNotFoundError):
                    data = path.read_bytes()
                    if hashlib.sha256(data).hexdigest() != digest:
                        raise MediaError(f"The file {digest} in {self.folder} is damaged.", permanent=True)
                    return data
            raise MediaError(f"The file {digest[:64]} is not in the media folder {self.folder}.", permanent=True)

        return await self._call(read)

    async def hold(self, files: Sequence[Media], held: ExitStack) -> tuple[Path, ...]:
        """Return the paths, without a check of content. Only retention removes files, and never one in use."""
        paths = tuple(self.path(media) for media in files)

        def check() -> None:
            if (gone := next((path for path in paths if not path.exists()), None)) is None:
                return
            # An empty folder is more likely a volume that is not mounted, so the file may still exist.
            if not self.folder.is_dir() or not any(self.folder.iterdir()):
                raise MediaError(f"The media folder {self.folder} is empty. Mount its volume, or restore it.")
            raise MediaError(f"The archived file {gone} is gone.", permanent=True)

        if self._may_hang or not all(map(os.path.exists, paths)):  # a thread costs more than a look at a local disk
            await self._call(check)
        return paths

    async def missing(self, digests: Iterable[str]) -> list[str]:
        return await self._call(
            lambda: [digest for digest in digests if not any(path.exists() for path in self._paths(digest))]
        )

    async def sizes(self) -> list[tuple[int, int]]:
        return await self._call(sizes_in, self.folder, "**/*")

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        def remove() -> bool:
            gone = True
            for path in self._paths(digest):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime < unless_younger:
                        gone = False
                    else:
                        path.unlink()
            for made in derived_paths_in(self.folder, digest) if gone and DIGEST.match(digest) else ():
                made.unlink(missing_ok=True)
            return gone

        return await self._call(remove)

    async def check(self) -> None:
        await self._call(probe, self.folder)

    def _paths(self, digest: str) -> list[Path]:
        return [path_in(self.folder, digest, extension) for extension in EXTENSIONS if DIGEST.match(digest)]


class BucketStore(Store):
    """A content-addressed folder of a bucket. No request is made before the first call."""

    remote: ClassVar[bool] = True
    _unusable: ClassVar[str] = (
        "The media cache {folder} cannot be used ({reason}). Free space on its disk, give this process write access, "
        "or set RECEIVER_MEDIA_CACHE to another folder."
    )

    def __init__(
        self, options: BucketOptions, folder: str, cache: Cache, *, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._bucket = open_bucket(
            options, folder, why=f"{SETTING} with a bucket",
            seconds=REQUEST_SECONDS, transfer_seconds=TRANSFER_SECONDS, needs=_NEEDS,
        )  # fmt: skip
        self.folder = cache.folder
        self._cache = cache
        self._check_seconds = check_seconds
        self._downloads = SingleFlight[None]()
        self._checking = asyncio.Lock()
        self._checked: tuple[float, MediaError | None] = float("-inf"), None
        self._away = float("-inf"), ""
        self._clock: tuple[float, float] | None = None

    @property
    def place(self) -> str:
        return self._bucket.url

    async def identity(self) -> str:
        """Return the URL, with the server unless that is the service's own."""
        return self._bucket.identity

    async def thumbnail(self, digest: str) -> Path | None:
        path = thumbnail_path_in(self.folder, digest)
        if not await self._call(path.exists):
            content = bytearray()
            with self._unless_away(), self._translated():
                if await self._bucket.download(key_of(digest, THUMBNAIL), content.extend) is None:
                    return None
            await self._call(self.write, path, bytes(content))
        return path

    async def keep_thumbnail(self, digest: str, data: bytes) -> Path:
        path = thumbnail_path_in(self.folder, digest)
        with self._translated():
            await self._bucket.put(key_of(digest, THUMBNAIL), data, {"Content-Type": "image/webp"})
        await self._call(self.write, path, data)
        return path

    def write(self, path: Path, data: bytes) -> None:
        self._cache.write(path, data)

    async def _keep(self, draft: Draft, media: Media) -> None:
        """Put the file into the bucket, and into the cache because its delivery comes next."""
        key, attributes = key_of(media.digest, media.extension), {"Content-Type": media.type}
        with self._translated():
            if media.size > WHOLE:
                await self._bucket.upload(key, draft.path, attributes)
            else:
                await self._bucket.put(key, await self._call(draft.path.read_bytes), attributes)
        with suppress(MediaError):  # the file is safe; a reader will report a cache that cannot be used
            await self._call(self._cache.keep, draft, media)

    async def hold(self, files: Sequence[Media], held: ExitStack) -> tuple[Path, ...]:
        for media in files:
            for _ in range(TRIES):
                if await self._call(self._cache.hold, media, held):
                    break
                with self._unless_away():
                    await self._downloads.run(media.digest, partial(self._download, media))
            else:
                raise MediaError(
                    f"The media cache {self.folder} loses files faster than they are read. "
                    "Let no other program empty it."
                )
        return tuple(self.path(media) for media in files)

    @contextmanager
    def _unless_away(self) -> Iterator[None]:
        """Fail at once for some seconds while the store is away: a backlog must not hold the slots of its
        destination."""
        until, problem = self._away
        if time.monotonic() < until:
            raise MediaError(problem)
        try:
            yield
        except MediaError as exc:
            if not exc.permanent:
                self._away = time.monotonic() + min(self._check_seconds, FAILED_SECONDS), str(exc)
            raise

    async def _download(self, media: Media) -> None:
        draft = Draft(self.folder, durable=False)  # after a power cut its digest shows damage

        async def add(block: bytes) -> None:
            if draft.size + len(block) > media.size:
                raise self._damaged(media.digest)
            await self._call(draft.add, block)

        try:
            with self._translated():
                found = await self._bucket.download(key_of(media.digest, media.extension), add)
            if found is None:
                raise MediaError(f"The archived file {media.digest} is gone from {self.place}.", permanent=True)
            if draft.digest != media.digest:
                raise self._damaged(media.digest)
            await self._call(self._cache.keep, draft, media)
        finally:
            await in_thread(draft.drop)

    async def read(self, digest: str) -> bytes:
        data = await self._call(self._cache.read, digest) if DIGEST.match(digest) else None
        if data is not None:
            return data
        found = await self._find(digest)
        content = bytearray()
        with self._translated():
            if found is None or await self._bucket.download(found.key, content.extend) is None:
                raise MediaError(f"The file {digest[:64]} is not in the media store {self.place}.", permanent=True)
        if await in_thread(lambda: hashlib.sha256(content).hexdigest()) != digest:
            raise self._damaged(digest)
        return bytes(content)

    # --- maintenance ---

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Compare with the store's own list, a thousand objects at a time."""
        wanted = sorted(set(digests))
        there: set[str] = set()
        if wanted:
            first, last = key_of(wanted[0], ""), key_of(wanted[-1], "~")
            with self._translated():
                async with aclosing(self._bucket.pages("", after=first)) as pages:
                    async for page in pages:
                        names = (item.key.rpartition("/")[2] for item in page)
                        there.update(name.partition(".")[0] for name in names if not name.endswith(THUMBNAIL))
                        if page and page[-1].key > last:
                            break
        return [digest for digest in wanted if digest not in there]

    async def sizes(self) -> list[tuple[int, int]]:
        with self._translated():
            async with aclosing(self._bucket.pages("")) as pages:
                return [(item.modified_ms, item.size) async for page in pages for item in page]

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Compare its age first. A put of the same content between that request and the removal is lost, because S3
        removes nothing conditionally."""
        found = await self._find(digest)
        if found is not None:
            if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_SECONDS:
                self._clock = await self._probe()
            now_ms = self._clock[0] + (time.monotonic() - self._clock[1]) * 1000
            if unless_younger and now_ms - found.modified_ms < unless_younger * 1000:
                return False
            with self._translated():
                await self._bucket.delete([found.key, key_of(digest, THUMBNAIL)])
        if DIGEST.match(digest):
            await self._call(self._cache.drop, digest)
        return True

    async def check(self) -> None:
        """Put, read and remove a small object. Concurrent callers share the result, which is valid for some seconds."""
        async with self._checking:
            until, problem = self._checked
            if time.monotonic() >= until:
                problem = None
                try:
                    await self._call(self._cache.check)
                    self._clock = await self._probe()
                except MediaError as exc:
                    problem = exc
                lasting = min(self._check_seconds, FAILED_SECONDS) if problem else self._check_seconds
                self._checked = time.monotonic() + lasting, problem
        if problem is not None:
            raise MediaError(str(problem), away=problem.away)

    async def aclose(self) -> None:
        """Cancel the downloads that no caller waits for any more."""
        await self._downloads.aclose()

    async def _probe(self) -> tuple[float, float]:
        """Put, read and remove an object of a random name. Return the store's time in milliseconds, and ours."""
        key = f".check/{uuid.uuid4().hex}"
        with self._translated():
            await self._bucket.put(key, b"receiver", {"Content-Type": "application/octet-stream"})
            found = await self._bucket.head(key)
            await self._bucket.delete([key])
        if found is None:
            raise MediaError(f"{self.place} does not give what was put there a moment ago.")
        return found.modified_ms, time.monotonic()

    async def _find(self, digest: str) -> ObjectHead | None:
        """Return the object with that digest. Its content determines one extension, so the first is the only one."""
        for extension in EXTENSIONS if DIGEST.match(digest) else ():
            with self._translated():
                if (found := await self._bucket.head(key_of(digest, extension))) is not None:
                    return found
        return None

    def _damaged(self, digest: str) -> MediaError:
        return MediaError(f"The archived file {digest} in {self.place} is damaged.", permanent=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except BucketError as exc:
            raise MediaError(f"The media store {self.place} cannot be used. {exc}", away=exc.away) from exc


def open_store(where: str | Path, *, cache: Path, cache_bytes: int = 2**30) -> Store:
    """Return the media store at a path, or at `s3://BUCKET/FOLDER`, `gs://…`, `az://…` (see `bucket.read_url`).

    No request is made, and nothing is written. `cache` is the folder for local copies of a bucket's files.

    Raises:
        SettingsError: another URL, or the extra `s3` is missing.
    """
    scheme = match[1].lower() if (match := _URL.match(str(where))) else None
    if scheme is None or isinstance(where, Path):
        return MediaStore(Path(where))
    if scheme not in ("s3", "gs", "az"):
        raise SettingsError(
            f"{SETTING}: there are no pictures at {scheme}://; it is a folder, or s3://, gs:// or az://.",
            page="bucket",
        )
    try:
        options, folder = read_url(str(where))
    except SettingsError as exc:
        raise SettingsError(f"{SETTING}: {exc}", page="bucket") from exc
    return BucketStore(options, folder, Cache(cache, cache_bytes))
