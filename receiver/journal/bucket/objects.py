"""Objects of a bucket by obstore (extra `s3`), and what a journal asks of them: conditional puts, lists in order.

A put whose answer was lost may have been done. Whoever puts says something in the content that nobody else says, and
looks for it before it tries again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotModifiedError, PreconditionError

from receiver.buckets import explain
from receiver.buckets.opening import Store
from receiver.errors import JournalError

REQUEST_SECONDS = 15.0
"""How long one request may take, with the tries of obstore's own."""
NEEDS = (
    "read, write, delete and list objects (on S3: s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; "
    "without the last one S3 says 403 of what is not there)"
)


class Refused(Exception):
    """The condition of a put does not hold; nothing was put."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Which version of an object: ETag, and Google's generation."""

    etag: str
    version: str | None = None

    def __str__(self) -> str:
        return self.etag


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read. `modified_ms` is the store's own time, to the second on S3."""

    data: bytes
    tag: Tag
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as it was listed."""

    key: str
    etag: str
    modified_ms: int


class Objects(Protocol):
    """What a journal needs of a store. Every method raises JournalError when the store cannot do it.

    Attributes:
        requests: how many of each class were made, as far as we know: obstore's own tries are not in it.
        versioned: whether the store was seen to keep what is overwritten.
    """

    requests: Counter[str]
    versioned: bool

    async def get(self, key: str) -> Found | None: ...

    async def get_unless(self, key: str, tag: Tag) -> Found | Tag | None:
        """What lies there; the tag itself where it still is that version."""

    async def put(self, key: str, data: bytes) -> Tag: ...

    async def create(self, key: str, data: bytes) -> Tag:
        """Put where nothing lies. Raises Refused."""

    async def replace(self, key: str, data: bytes, tag: Tag) -> Tag:
        """Put where that version lies. Raises Refused."""

    async def delete(self, keys: Sequence[str]) -> None:
        """What is not there is no error."""

    def pages(self, folder: str, *, after: str = "") -> AsyncIterator[list[Listed]]:
        """What lies below a folder, in pages, in order of key, behind the key `after`."""

    async def folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder."""

    def get_now(self, key: str) -> Found | None:
        """`get` for a thread whose loop stands still."""

    def replace_now(self, key: str, data: bytes, tag: Tag) -> Tag:
        """`replace` for a thread whose loop stands still."""


class BucketObjects:
    """`Objects` of a bucket.

    Args:
        store: obstore's, below the journal's prefix.
        bucket: its name, for sentences.
        server: what to call the other side, for sentences.
    """

    def __init__(self, store: Store, *, bucket: str, server: str) -> None:
        self._store = store
        self._bucket = bucket
        self._server = server
        self.requests: Counter[str] = Counter()
        self.versioned = False

    async def get(self, key: str) -> Found | None:
        self.requests["GET"] += 1
        async with self._limited():
            try:
                return await _read(await obstore.get_async(self._store, key))
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)
                return None

    async def get_unless(self, key: str, tag: Tag) -> Found | Tag | None:
        self.requests["GET"] += 1
        async with self._limited():
            try:
                return await _read(await obstore.get_async(self._store, key, options={"if_none_match": tag.etag}))
            except NotModifiedError:
                return tag
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)
                return None

    async def put(self, key: str, data: bytes) -> Tag:
        return await self._put(key, data, "overwrite")

    async def create(self, key: str, data: bytes) -> Tag:
        return await self._put(key, data, "create")

    async def replace(self, key: str, data: bytes, tag: Tag) -> Tag:
        return await self._put(key, data, _condition(tag))

    async def _put(self, key: str, data: bytes, mode: Any) -> Tag:
        self.requests["PUT"] += 1
        async with self._limited():
            try:
                result = await obstore.put_async(self._store, key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as exc:
                raise Refused(key) from exc
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)
                raise Refused(key) from exc
        self.versioned = self.versioned or (result["version"] not in (None, "null") and _keeps_versions(self._store))
        return Tag(result["e_tag"] or "", result["version"])

    async def delete(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self.requests["DELETE"] += 1
        async with self._limited():
            try:
                await obstore.delete_async(self._store, list(keys))
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)

    async def pages(self, folder: str, *, after: str = "") -> AsyncIterator[list[Listed]]:
        self.requests["LIST"] += 1
        pages = obstore.list(self._store, folder or None, offset=after or None, chunk_size=1000).__aiter__()
        newest = after
        while True:
            async with self._limited():
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            found = [
                Listed(item["path"], item["e_tag"] or "", int(item["last_modified"].timestamp() * 1000))
                for item in page
            ]
            keys = [newest, *(item.key for item in found)]
            if keys != sorted(keys):
                raise JournalError(
                    f"{self._server} does not list the bucket {self._bucket} in order of key, so what is due cannot be "
                    "found. Use a general purpose bucket for the journal."
                )
            newest = keys[-1]
            yield found

    async def folders(self, folder: str) -> list[str]:
        self.requests["LIST"] += 1
        async with self._limited():
            found = await obstore.list_with_delimiter_async(self._store, folder)
        return sorted(prefix.rpartition("/")[2] for prefix in found["common_prefixes"])

    def get_now(self, key: str) -> Found | None:
        with self._translated():
            try:
                result = obstore.get(self._store, key)
                meta = result.meta
                return Found(bytes(result.bytes()), Tag(meta["e_tag"] or "", meta["version"]), 0)
            except (FileNotFoundError, NotFoundError):
                return None

    def replace_now(self, key: str, data: bytes, tag: Tag) -> Tag:
        with self._translated():
            try:
                result = obstore.put(self._store, key, data, mode=_condition(tag), use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as exc:
                raise Refused(key) from exc
        return Tag(result["e_tag"] or "", result["version"])

    def _limited(self) -> _Limited:
        return _Limited(self)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as exc:
            raise self.error(exc) from exc

    def error(self, exc: BaseException) -> JournalError:
        """The error to raise for one of obstore's, or for a time that is over."""
        if isinstance(exc, TimeoutError):
            return JournalError(
                f"{self._server} has not answered within {REQUEST_SECONDS:g} s for the journal in the bucket "
                f"{self._bucket}. Receiver tries again by itself.",
                fault="io",
            )
        refusal = explain(exc, bucket=self._bucket, server=self._server, needs=NEEDS)
        return JournalError(f"The journal cannot be used: {refusal.text}", fault="io")


class _Limited:
    """A request's time, and its errors as ours."""

    def __init__(self, objects: BucketObjects) -> None:
        self._objects = objects
        self._timeout = asyncio.timeout(REQUEST_SECONDS)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            raise self._objects.error(exc) from exc
        if isinstance(error, BaseError | OSError):
            raise self._objects.error(error) from error


async def _read(result: Any) -> Found:
    data = bytes(await result.bytes_async())
    meta = result.meta
    return Found(data, Tag(meta["e_tag"] or "", meta["version"]), int(meta["last_modified"].timestamp() * 1000))


def _condition(tag: Tag) -> Any:
    return {"e_tag": tag.etag} | ({"version": tag.version} if tag.version is not None else {})


def _check_bucket(exc: BaseException) -> None:
    """A missing object is an answer, a missing bucket is not."""
    if any(code in str(exc) for code in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")):
        raise exc


def _keeps_versions(store: Store) -> bool:
    """Only S3 names a version where it keeps the old ones; Google's generation is there in any case."""
    return type(store).__name__ == "S3Store"
