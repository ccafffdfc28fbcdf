"""The media store in a bucket, by obstore (extra `s3`), with a cache in a folder of this machine.

Every file passes through the cache: coming in, because its key is the digest of all of it; going out, because handlers
read paths. Puts need no conditions: the key says what the content is, so that a second put changes nothing but the
object's age, and that it must (see `remove`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import obstore
from obstore.exceptions import BaseError, NotFoundError

from receiver.buckets import BucketOptions, explain
from receiver.buckets.opening import PART, endpoint_of, open_bucket, server_of
from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Media
from receiver.media.cache import Cache
from receiver.media.draft import BLOCK, Draft, receive
from receiver.media.kinds import EXTENSIONS
from receiver.media.layout import DIGEST, key_of
from receiver.media.links import place
from receiver.media.store import once

if TYPE_CHECKING:
    from obstore import ObjectMeta

_P = ParamSpec("_P")
_T = TypeVar("_T")

ASK_SECONDS = 20.0
"""For what is small: a look, a removal, a check."""
CARRY_SECONDS = 600.0
"""For one file, up or down."""
CHECK_SECONDS, FAILED_SECONDS = 30.0, 3.0
"""How long the answer of a check stands: requests cost money, and many may ask."""
CLOCK_SECONDS = 300.0
"""How long we reckon by the store's clock without looking at it again."""
PAGE = 1000
"""Objects of a list at a time; no store gives more with one request."""
TRIES = 3
"""How often a file is brought before its cache is given up: another process may empty it."""
_NEEDS = (
    "write, read, list and delete objects (on S3: s3:PutObject, s3:GetObject and s3:DeleteObject on them, "
    "s3:ListBucket on the bucket)"
)


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

    def __init__(
        self, options: BucketOptions, folder: str, cache: Cache, *, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._objects = open_bucket(options, folder)
        self._options = options
        self._cache = cache
        self._check_seconds = check_seconds
        self._url = f"{options.service}://{options.bucket}/{folder}".rstrip("/")
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._checking = asyncio.Lock()
        self._checked = float("-inf"), ""
        self._clock: tuple[datetime, float] | None = None

    @property
    def place(self) -> str:
        return self._url

    async def identity(self) -> str:
        """The URL, with the server where it is not the service's own."""
        endpoint = endpoint_of(self._options)
        return self._url + (f"?endpoint={endpoint}" if endpoint else "")

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
        """In one request, or in parts where it is large: then no more than two of them are in memory."""
        large = media.size > PART
        source = draft.path if large else await self._cached(draft.path.read_bytes)
        async with self._asking(CARRY_SECONDS):
            await obstore.put_async(
                self._objects, key_of(media.digest, media.extension), source,
                attributes={"Content-Type": media.type}, use_multipart=large, chunk_size=PART, max_concurrency=2,
            )  # fmt: skip

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
        try:
            async with self._asking(CARRY_SECONDS):
                try:
                    result = await obstore.get_async(self._objects, key_of(media.digest, media.extension))
                except (FileNotFoundError, NotFoundError) as exc:
                    raise self._gone(exc, media.digest) from exc
                async for block in result.stream(min_chunk_size=BLOCK):
                    await self._cached(draft.add, bytes(block))
                    if draft.size > media.size:
                        break
            if draft.digest != media.digest:
                raise self._damaged(media.digest)
            await self._cached(self._cache.keep, draft, media)
        finally:
            await in_thread(draft.drop)

    async def read(self, digest: str) -> bytes:
        if not DIGEST.match(digest):
            raise MediaError(f"The file {digest[:64]} is not in the media store {self.place}.", permanent=True)
        data = await self._cached(self._cache.read, digest)
        if data is not None:
            return data
        key = await self._find(digest)
        if key is None:
            raise MediaError(f"The file {digest} is not in the media store {self.place}.", permanent=True)
        async with self._asking(CARRY_SECONDS):
            data = bytes(await (await obstore.get_async(self._objects, key)).bytes_async())
        if await in_thread(lambda: hashlib.sha256(data).hexdigest()) != digest:
            raise self._damaged(digest)
        return data

    # --- keeping house ---

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Reads the store's own list, a thousand at a time."""
        wanted = sorted(set(digests))
        there: set[str] = set()
        async with self._asking(CARRY_SECONDS):
            if wanted:
                async for page in obstore.list(self._objects, offset=key_of(wanted[0], ""), chunk_size=PAGE):
                    there.update(item["path"].rpartition("/")[2].partition(".")[0] for item in page)
                    if page and page[-1]["path"] > key_of(wanted[-1], "~"):
                        break
        return [digest for digest in wanted if digest not in there]

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Between our look at its age and its removal lies the time of one request: a put of the same content in that
        moment is lost. S3 removes nothing conditionally."""
        found = await self._look_for(digest) if DIGEST.match(digest) else None
        if found is not None:
            if unless_younger and await self._now() - found["last_modified"] < timedelta(seconds=unless_younger):
                return False
            async with self._asking(ASK_SECONDS):
                await obstore.delete_async(self._objects, found["path"])
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
        if problem:
            raise MediaError(problem)

    async def aclose(self) -> None:
        """Downloads nobody waits for any more end here."""
        coming = list(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    async def _problem(self) -> str:
        try:
            await self._cached(self._cache.check)
            await self._probe()
        except MediaError as exc:
            return str(exc)
        return ""

    async def _probe(self) -> datetime:
        """The store's time, by an object of ours that nobody else touches."""
        key = f".check/{uuid.uuid4().hex}"
        async with self._asking(ASK_SECONDS):
            await obstore.put_async(self._objects, key, b"receiver", use_multipart=False)
            found = await self._look(key)
            await obstore.delete_async(self._objects, key)
        if found is None:
            raise MediaError(f"{self.place} does not give what was put there a moment ago.")
        self._clock = found["last_modified"], time.monotonic()
        return found["last_modified"]

    async def _now(self) -> datetime:
        """By the store's clock."""
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_SECONDS:
            return await self._probe()
        then, since = self._clock
        return then + timedelta(seconds=time.monotonic() - since)

    async def _look_for(self, digest: str) -> ObjectMeta | None:
        """What lies there with that digest. Its content gives it one extension, so the first is the only one."""
        async with self._asking(ASK_SECONDS):
            for extension in EXTENSIONS:
                if (found := await self._look(key_of(digest, extension))) is not None:
                    return found
        return None

    async def _find(self, digest: str) -> str | None:
        found = await self._look_for(digest)
        return None if found is None else found["path"]

    async def _look(self, key: str) -> ObjectMeta | None:
        """By the first byte of it: the error to a HEAD says nothing of what is wrong."""
        try:
            result = await obstore.get_async(self._objects, key, options={"range": (0, 1)})
            await result.bytes_async()
        except (FileNotFoundError, NotFoundError) as exc:
            if _no_bucket(exc):
                raise
            return None
        return result.meta

    def _gone(self, error: Exception, digest: str) -> Exception:
        if _no_bucket(error):
            return error
        return MediaError(f"The archived file {digest} is gone from {self.place}.", permanent=True)

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

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        """A total deadline; what the store says becomes a MediaError."""
        server, bucket = server_of(self._options), self._options.bucket
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as exc:
            raise MediaError(f"{server} did not answer in full within {seconds:g} s (bucket {bucket}).") from exc
        except (BaseError, OSError) as exc:
            refusal = explain(exc, bucket=bucket, server=server, needs=_NEEDS)
            raise MediaError(f"The media store {self.place} cannot be used. {refusal.text}") from exc


def _no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)
