"""The media store in a bucket (extra `s3`), with a cache in a folder of this machine.

Every file passes through the cache: on its way in because its key is the digest of all of it, on its way out because
handlers read paths. Puts need no conditions. The key determines the content, so that a second put changes nothing but
the object's age, as it must (see `remove`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

from receiver.bucket import BucketError, BucketOptions, open_bucket
from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.cache import Cache
from receiver.media.files import DIGEST, EXTENSIONS, key_of, once, receive
from receiver.media.links import place_of

if TYPE_CHECKING:
    from receiver.bucket.client import ObjectHead

_P = ParamSpec("_P")
_T = TypeVar("_T")

REQUEST_SECONDS, TRANSFER_SECONDS = 20.0, 600.0
"""Limits of one request: a look, a removal, a page of a list; or one file, up or down."""
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


class BucketStore:
    """A content-addressed folder of a bucket; see `store.Store`. No request is made before the first call.

    Args:
        options: the bucket.
        folder: prefix of every key; "" for none.
        cache: of this machine.
        check_seconds: see `CHECK_SECONDS`.

    Raises:
        SettingsError: the extra `s3` is missing, or the options contradict each other.
    """

    remote: ClassVar[bool] = True

    def __init__(
        self, options: BucketOptions, folder: str, cache: Cache, *, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._bucket = open_bucket(
            options, folder, why="RECEIVER_MEDIA with a bucket",
            seconds=REQUEST_SECONDS, transfer_seconds=TRANSFER_SECONDS, needs=_NEEDS,
        )  # fmt: skip
        self._cache = cache
        self._check_seconds = check_seconds
        self._downloads: dict[str, asyncio.Task[None]] = {}
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

    def path(self, media: Media) -> Path:
        return self._cache.path(media)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        return self._cache.tile_paths(digest)

    def write(self, path: Path, data: bytes) -> None:
        self._cache.write(path, data)

    # --- in ---

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Return when the file is in the bucket. It is also in the cache, because its delivery comes next."""
        draft = self._cache.draft()
        try:
            media_type, extension = await receive(
                chunks, lambda block: self._cached(draft.add, block), source=place_of(url), max_bytes=max_bytes
            )
            await self._cached(draft.finish)
            media = Media(
                digest=draft.digest, type=media_type, size=draft.size, extension=extension, url=url, index=index
            )
            key, attributes = key_of(media.digest, extension), {"Content-Type": media_type}
            with self._translated():
                if media.size > WHOLE:
                    await self._bucket.upload(key, draft.path, attributes)
                else:
                    await self._bucket.put(key, await self._cached(draft.path.read_bytes), attributes)
            with suppress(MediaError):  # the file is safe; a reader will report a cache that cannot be used
                await self._cached(self._cache.keep, draft, media)
        finally:
            await in_thread(draft.drop)
        return media

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        return await self.put(once(data), url=url, index=0, max_bytes=len(data))

    # --- out ---

    async def local(self, media: Media) -> Path:
        """Return its path in the cache. Open it soon: it is removed when room is needed."""
        async with self.holding([media]) as (path,):
            return path

    @asynccontextmanager
    async def holding(self, files: Sequence[Media]) -> AsyncIterator[tuple[Path, ...]]:
        with ExitStack() as held:
            for media in files:
                await self._hold(media, held)
            yield tuple(self._cache.path(media) for media in files)

    async def _hold(self, media: Media, held: ExitStack) -> None:
        for _ in range(TRIES):
            if await self._cached(self._cache.hold, media, held):
                return
            await self._bring(media)
        raise MediaError(
            f"The media cache {self._cache.folder} loses files faster than they are read. Let no other program empty "
            "it."
        )

    async def _bring(self, media: Media) -> None:
        """Download a file into the cache, or wait for its download that has begun.

        While the store is away, callers fail at once for some seconds. Otherwise a backlog would hold the slots of its
        destination for one time limit after the other.
        """
        until, problem = self._away
        if time.monotonic() < until:
            raise MediaError(problem)
        task = self._downloads.get(media.digest)
        if task is None:
            task = asyncio.create_task(self._download(media), name=f"bring {media.digest[:12]}")
            self._downloads[media.digest] = task
            task.add_done_callback(lambda done: self._brought(media.digest, done))
        try:
            # Shielded: an attempt that is cancelled must not take the file from others, and a large one still arrives.
            await asyncio.shield(task)
        except MediaError as exc:
            if not exc.permanent:
                self._away = time.monotonic() + min(self._check_seconds, FAILED_SECONDS), str(exc)
            raise

    def _brought(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._downloads[digest]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: each caller that waits gets it

    async def _download(self, media: Media) -> None:
        draft = self._cache.draft()

        async def add(block: bytes) -> None:
            if draft.size + len(block) > media.size:
                raise self._damaged(media.digest)
            await self._cached(draft.add, block)

        try:
            with self._translated():
                found = await self._bucket.download(key_of(media.digest, media.extension), add)
            if found is None:
                raise MediaError(f"The archived file {media.digest} is gone from {self.place}.", permanent=True)
            if draft.digest != media.digest:
                raise self._damaged(media.digest)
            await self._cached(self._cache.keep, draft, media)
        finally:
            await in_thread(draft.drop)

    async def read(self, digest: str) -> bytes:
        data = await self._cached(self._cache.read, digest) if DIGEST.match(digest) else None
        if data is not None:
            return data
        found = await self._find(digest)
        content = bytearray()

        async def add(block: bytes) -> None:
            content.extend(block)

        with self._translated():
            if found is None or await self._bucket.download(found.key, add) is None:
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
                        there.update(item.key.rpartition("/")[2].partition(".")[0] for item in page)
                        if page and page[-1].key > last:
                            break
        return [digest for digest in wanted if digest not in there]

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Compare its age first. A put of the same content between that request and the removal is lost, because S3
        removes nothing conditionally."""
        found = await self._find(digest)
        if found is not None:
            age_ms = await self._now_ms() - found.modified_ms
            if unless_younger and age_ms < unless_younger * 1000:
                return False
            with self._translated():
                await self._bucket.delete([found.key])
        if DIGEST.match(digest):
            await self._cached(self._cache.drop, digest)
        return True

    async def check(self) -> None:
        """Put, read and remove a small object. Concurrent callers share the result, which is valid for some seconds."""
        async with self._checking:
            until, problem = self._checked
            if time.monotonic() >= until:
                problem = None
                try:
                    await self._cached(self._cache.check)
                    await self._probe()
                except MediaError as exc:
                    problem = exc
                lasting = min(self._check_seconds, FAILED_SECONDS) if problem else self._check_seconds
                self._checked = time.monotonic() + lasting, problem
        if problem is not None:
            raise MediaError(str(problem), away=problem.away)

    async def aclose(self) -> None:
        """Cancel the downloads that no caller waits for any more."""
        downloads = list(self._downloads.values())
        for task in downloads:
            task.cancel()
        await asyncio.gather(*downloads, return_exceptions=True)

    async def _probe(self) -> float:
        """Put, read and remove an object of a random name. Return the store's time in milliseconds."""
        key = f".check/{uuid.uuid4().hex}"
        with self._translated():
            await self._bucket.put(key, b"receiver", {"Content-Type": "application/octet-stream"})
            found = await self._bucket.head(key)
            await self._bucket.delete([key])
        if found is None:
            raise MediaError(f"{self.place} does not give what was put there a moment ago.")
        self._clock = found.modified_ms, time.monotonic()
        return found.modified_ms

    async def _now_ms(self) -> float:
        """Return the time by the store's clock."""
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_SECONDS:
            return await self._probe()
        then_ms, since = self._clock
        return then_ms + (time.monotonic() - since) * 1000

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

    async def _cached(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a call of the cache in a thread. Its OSError becomes a MediaError."""
        try:
            return await in_thread(function, *args, **kwargs)
        except OSError as exc:
            raise MediaError(
                f"The media cache {self._cache.folder} cannot be used ({exc.strerror or exc}). Free space on its disk, "
                "give this process write access, or set RECEIVER_MEDIA_CACHE to another folder."
            ) from exc
