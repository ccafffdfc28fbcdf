"""A destination's bucket by obstore (extra `s3`). Its errors leave as a handler's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from receiver.buckets import explain
from receiver.buckets.opening import PART, open_bucket, server_of
from receiver.handlers.s3.answers import raised
from receiver.handlers.s3.options import S3Options


class Taken(Exception):
    """Something lies under that key already, and nothing was put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies under a key. `attributes`: its headers, and the metadata whoever put it gave along."""

    etag: str
    size: int
    attributes: Mapping[str, str]


class Place:
    """One bucket.

    Raises:
        SettingsError: the options do not make a store.
    """

    def __init__(self, options: S3Options) -> None:
        self.bucket = options.bucket
        self.scheme = options.service
        self.server = server_of(options)
        self._public = options.public_url
        self._link_for = options.link_for
        self._store = open_bucket(options)

    async def put(self, key: str, data: bytes | bytearray, attributes: dict[str, str], *, create: bool) -> str:
        """Put an object and return its ETag. With `create` only where nothing lies yet: raises Taken."""
        with self._translating():
            try:
                result = await obstore.put_async(
                    self._store, key, data, attributes=attributes, mode="create" if create else "overwrite",
                    use_multipart=False,
                )  # fmt: skip
            except (AlreadyExistsError, PreconditionError) as exc:
                raise Taken(key) from exc
        return result["e_tag"] or ""

    async def put_large(self, key: str, blocks: Iterator[bytes], attributes: dict[str, str]) -> str:
        """Put an object in parts, two under way at once, and return its ETag. What lies there is overwritten."""
        with self._translating():
            result = await obstore.put_async(
                self._store, key, blocks, attributes=attributes, use_multipart=True, chunk_size=PART, max_concurrency=2
            )
        return result["e_tag"] or ""

    async def find(self, key: str) -> Found | None:
        """What lies under the key; None for nothing."""
        with self._translating():
            try:
                # A GET whose body is not read: a HEAD's error has no body that says what is wrong.
                result = await obstore.get_async(self._store, key)
            except (FileNotFoundError, NotFoundError) as exc:  # obstore's is the built-in one, unlike its type hints
                if "NoSuchBucket" in str(exc) or "ContainerNotFound" in str(exc):
                    raise
                return None
        return Found(etag=result.meta["e_tag"] or "", size=result.meta["size"], attributes=result.attributes)

    async def digest(self, key: str) -> str:
        """The SHA-256 of what lies under the key, read in full."""
        sha256 = hashlib.sha256()
        with self._translating():
            result = await obstore.get_async(self._store, key)
            async for block in result.stream(min_chunk_size=1024 * 1024):
                sha256.update(block)
        return sha256.hexdigest()

    async def link(self, key: str) -> str | None:
        """A link a person can open, if the options say how."""
        if self._public is not None:
            return f"{self._public}/{quote(key)}"
        if self._link_for is None:
            return None
        with self._translating():
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=self._link_for))

    def url(self, key: str) -> str:
        """What the object is called: `s3://bucket/key`."""
        return f"{self.scheme}://{self.bucket}/{key}"

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as exc:
            raise raised(explain(exc, bucket=self.bucket, server=self.server)) from exc
