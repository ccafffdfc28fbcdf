"""The objects of a media store in a bucket, by obstore (extra `s3`): each call has a total deadline, and what the store
says leaves as a MediaError."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError

from receiver.buckets import BucketOptions, explain
from receiver.buckets.opening import PART, endpoint_of, open_bucket, server_of
from receiver.errors import MediaError
from receiver.media.draft import BLOCK

if TYPE_CHECKING:
    from obstore import ObjectMeta

ASK_SECONDS = 20.0
"""For what is small: a look, a removal, a check."""
CARRY_SECONDS = 600.0
"""For one file, up or down, or one list."""
CLOCK_SECONDS = 300.0
"""How long we reckon by the store's clock without looking at it again."""
PAGE = 1000
"""Objects of a list at a time; no store gives more with one request."""
_NEEDS = (
    "write, read, list and delete objects (on S3: s3:PutObject, s3:GetObject and s3:DeleteObject on them, "
    "s3:ListBucket on the bucket)"
)


class Objects:
    """A folder of a bucket.

    Attributes:
        url: `s3://BUCKET/FOLDER`.
        identity: that, with the server where it is not the service's own.

    Raises:
        SettingsError: the options do not make a store.
    """

    def __init__(self, options: BucketOptions, folder: str) -> None:
        self._store = open_bucket(options, folder)
        self._bucket = options.bucket
        self._server = server_of(options)
        self._clock: tuple[datetime, float] | None = None
        endpoint = endpoint_of(options)
        self.url = f"{options.service}://{options.bucket}/{folder}".rstrip("/")
        self.identity = self.url + (f"?endpoint={endpoint}" if endpoint else "")

    async def put(self, key: str, content: bytes | Path, media_type: str) -> None:
        """Put a whole content in one request, or a file in parts, of which two are in memory then."""
        async with self._asking(CARRY_SECONDS):
            await obstore.put_async(
                self._store, key, content, attributes={"Content-Type": media_type},
                use_multipart=isinstance(content, Path), chunk_size=PART, max_concurrency=2,
            )  # fmt: skip

    async def get(self, key: str, add: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand the content to `add`, block by block. Raises NotHere."""
        async with self._asking(CARRY_SECONDS):
            try:
                result = await obstore.get_async(self._store, key)
            except (FileNotFoundError, NotFoundError) as exc:
                if _no_bucket(exc):
                    raise
                raise NotHere(key) from exc
            async for block in result.stream(min_chunk_size=BLOCK):
                await add(bytes(block))

    async def look(self, key: str) -> ObjectMeta | None:
        """What is known of an object; None if there is none."""
        async with self._asking(ASK_SECONDS):
            try:
                # By the first byte of it: the error to a HEAD says nothing of what is wrong.
                result = await obstore.get_async(self._store, key, options={"range": (0, 1)})
                await result.bytes_async()
            except (FileNotFoundError, NotFoundError) as exc:
                if _no_bucket(exc):
                    raise
                return None
        return result.meta

    async def remove(self, key: str) -> None:
        """Without effect where nothing lies, as far as the store is S3."""
        async with self._asking(ASK_SECONDS):
            await obstore.delete_async(self._store, key)

    async def keys(self, first: str, last: str) -> set[str]:
        """All keys between two, in the order of their characters."""
        found: set[str] = set()
        async with self._asking(CARRY_SECONDS):
            async for page in obstore.list(self._store, offset=first, chunk_size=PAGE):
                found.update(item["path"] for item in page)
                if page and page[-1]["path"] > last:
                    break
        return {key for key in found if key <= last}

    async def probe(self) -> datetime:
        """Put, read and remove an object nobody else touches. Returns the store's time."""
        key = f".check/{uuid.uuid4().hex}"
        await self.put(key, b"receiver", "application/octet-stream")
        found = await self.look(key)
        await self.remove(key)
        if found is None:
            raise MediaError(f"{self.url} does not give what was put there a moment ago.")
        self._clock = found["last_modified"], time.monotonic()
        return found["last_modified"]

    async def now(self) -> datetime:
        """By the store's clock."""
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_SECONDS:
            return await self.probe()
        then, since = self._clock
        return then + timedelta(seconds=time.monotonic() - since)

    @asynccontextmanager
    async def _asking(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as exc:
            raise MediaError(
                f"The media store {self.url} cannot be used. {self._server} did not answer in full within "
                f"{seconds:g} s (bucket {self._bucket}).",
                away=True,
            ) from exc
        except (BaseError, OSError) as exc:
            refusal = explain(exc, bucket=self._bucket, server=self._server, needs=_NEEDS)
            text = f"The media store {self.url} cannot be used. {refusal.text}"
            raise MediaError(text, away=refusal.away) from exc


class NotHere(Exception):
    """There is no such object, though there is the bucket."""


def _no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)
