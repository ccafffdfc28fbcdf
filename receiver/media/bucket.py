"""The media store in a bucket, by obstore (extra `s3`), with a cache in a folder of this machine.

Every file passes through the cache: coming in, because its key is the digest of all of it; going out, because handlers
read paths. Puts need no conditions: the key says what the content is, so that a second put changes nothing but the
object's age, and that it must (see `remove`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

from receiver.buckets import BucketOptions
from receiver.buckets.opening import PART
from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.cache import Cache
from receiver.media.draft import Draft, receive
from receiver.media.kinds import EXTENSIONS
from receiver.media.layout import DIGEST, key_of
from receiver.media.links import place
from receiver.media.objects import NotHere, Objects
from receiver.media.store import once

if TYPE_CHECKING:
    from obstore import ObjectMeta

_P = ParamSpec("_P")
_T = TypeVar("_T")

CHECK_SECONDS, FAILED_SECONDS = 30.0, 3.0
"""How long the answer of a check stands, and that the store is away: requests cost money, and many may ask."""
TRIES = 3
"""How often a file is brought before its cache is given up: another process may empty it."""


class BucketStore:
    """A content-addressed folder of a bucket; see `base.Store`. No request is made before the first call.

    Args:
        options: the bucket.
        folder: where in it; "" for the top.
        cache: of this machine.
        check_seconds: see `CHECK_SECONDS`.

    Raises:
        SettingsError: the options do not make a store.
    """

    remote: ClassVar[bool] = True

    def __init__(
        self, options: BucketOptions, folder: str, cache: Cache, *, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._objects = Objects(options, folder)
        self._cache = cache
        self._check_seconds = check_seconds
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._checking = asyncio.Lock()
        self._checked: tuple[float, MediaError | None] = float("-inf"), None
        self._away = float("-inf"), ""

    @property
    def place(self) -> str:
        return self._objects.url

    async def identity(self) -> str:
        """The URL, with the server where it is not the service's own."""
        return self._objects.identity

    def path(self, media: Media) -> Path:
        return self._cache.path(media)

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        return self._cache.tile_paths(digest)

    def write(self, path: Path, data: bytes) -> None:
        self._cache.write(path, data)

    # --- in ---

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """On the store when this returns, and in the cache, because it will be delivered next."""
        draft = self._cache.draft()
        try:
            media_type, extension = await receive(
                chunks, lambda block: self._cached(draft.add, block), source=place(url), max_bytes=max_bytes
            )
            await self._cached(draft.finish)
            media = Media(
                digest=draft.digest, type=media_type, size=draft.size, extension=extension, url=url, index=index
            )
            await self._upload(draft, media)
            with suppress(MediaError):  # it is safe; who reads it will tell if the cache cannot be used
                await self._cached(self._cache.keep, draft, media)
        finally:
            await in_thread(draft.drop)
        return media

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        return await self.put(once(data), url=url, index=0, max_bytes=len(data))

    async def _upload(self, draft: Draft, media: Media) -> None:
        """In one request, or in parts where it is large."""
        content = draft.path if media.size > PART else await self._cached(draft.path.read_bytes)
        await self._objects.put(key_of(media.digest, media.extension), content, media.type)

    # --- out ---

    async def local(self, media: Media) -> Path:
        """Its place in the cache: open it soon, for it goes when room is needed."""
        async with self.holding([media]) as (path,):
            return path

    @asynccontextmanager
    async def holding(self, files: Sequence[Media]) -> AsyncIterator[tuple[Path, ...]]:
        """Those who want the same file meanwhile wait for the same download."""
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
            f"The media cache {self._cache.folder} loses files faster than they are read. Let nobody else empty it."
        )

    async def _bring(self, media: Media) -> None:
        """While the store is away, a backlog must not hold its destination's slots one time-out after the other: who
        asks in the next seconds is told at once."""
        until, problem = self._away
        if time.monotonic() < until:
            raise MediaError(problem)
        try:
            await self._joined(media)
        except MediaError as exc:
            if not exc.permanent:
                self._away = time.monotonic() + min(self._check_seconds, FAILED_SECONDS), str(exc)
            raise

    async def _joined(self, media: Media) -> None:
        """The download, begun now unless it is under way."""
        task = self._coming.get(media.digest)
        if task is None:
            task = asyncio.create_task(self._download(media), name=f"bring {media.digest[:12]}")
            self._coming[media.digest] = task
            task.add_done_callback(lambda done: self._brought(media.digest, done))
        # Shielded: an attempt that is cancelled must not take the file from others, and a large one comes all the same.
        await asyncio.shield(task)

    def _brought(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._coming[digest]
        if not task.cancelled():
            task.exception()  # whoever waits is told

    async def _download(self, media: Media) -> None:
        draft = self._cache.draft()

        async def add(block: bytes) -> None:
            if draft.size + len(block) > media.size:
                raise self._damaged(media.digest)
            await self._cached(draft.add, block)

        try:
            await self._objects.get(key_of(media.digest, media.extension), add)
            if draft.digest != media.digest:
                raise self._damaged(media.digest)
            await self._cached(self._cache.keep, draft, media)
        except NotHere as exc:
            raise MediaError(f"The archived file {media.digest} is gone from {self.place}.", permanent=True) from exc
        finally:
            await in_thread(draft.drop)

    async def read(self, digest: str) -> bytes:
        data = await self._cached(self._cache.read, digest) if DIGEST.match(digest) else None
        if data is not None:
            return data
        found = await self._find(digest)
        if found is None:
            raise MediaError(f"The file {digest[:64]} is not in the media store {self.place}.", permanent=True)
        held = bytearray()

        async def add(block: bytes) -> None:
            held.extend(block)

        await self._objects.get(found["path"], add)
        if await in_thread(lambda: hashlib.sha256(held).hexdigest()) != digest:
            raise self._damaged(digest)
        return bytes(held)

    # --- keeping house ---

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Reads the store's own list, a thousand at a time."""
        wanted = sorted(set(digests))
        keys = await self._objects.keys(key_of(wanted[0], ""), key_of(wanted[-1], "~")) if wanted else set()
        there = {key.rpartition("/")[2].partition(".")[0] for key in keys}
        return [digest for digest in wanted if digest not in there]

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Between our look at its age and its removal lies the time of one request: a put of the same content in that
        moment is lost. S3 removes nothing conditionally."""
        found = await self._find(digest)
        if found is not None:
            age = await self._objects.now() - found["last_modified"]
            if unless_younger and age < timedelta(seconds=unless_younger):
                return False
            await self._objects.remove(found["path"])
        if DIGEST.match(digest):
            await self._cached(self._cache.drop, digest)
        return True

    async def check(self) -> None:
        """Puts, reads and removes a few bytes; the answer stands for some seconds, and many who ask get one."""
        async with self._checking:
            until, problem = self._checked
            if time.monotonic() >= until:
                problem = await self._problem()
                lasting = min(self._check_seconds, FAILED_SECONDS) if problem else self._check_seconds
                self._checked = time.monotonic() + lasting, problem
        if problem is not None:
            raise MediaError(str(problem), away=problem.away)

    async def aclose(self) -> None:
        """Downloads nobody waits for any more end here."""
        coming = list(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    async def _problem(self) -> MediaError | None:
        try:
            await self._cached(self._cache.check)
            await self._objects.probe()
        except MediaError as exc:
            return exc
        return None

    async def _find(self, digest: str) -> ObjectMeta | None:
        """What lies there with that digest. Its content gives it one extension, so the first is the only one."""
        for extension in EXTENSIONS if DIGEST.match(digest) else ():
            if (found := await self._objects.look(key_of(digest, extension))) is not None:
                return found
        return None

    def _damaged(self, digest: str) -> MediaError:
        return MediaError(f"The archived file {digest} in {self.place} is damaged.", permanent=True)

    async def _cached(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a call of the cache in a thread; what the disk says becomes a MediaError."""
        try:
            return await in_thread(function, *args, **kwargs)
        except OSError as exc:
            raise MediaError(
                f"The media cache {self._cache.folder} cannot be used ({exc.strerror or exc}). Free space on its disk, "
                "give this process write access, or set RECEIVER_MEDIA_CACHE to another folder."
            ) from exc
