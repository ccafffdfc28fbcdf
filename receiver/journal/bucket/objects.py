"""The calls of a journal on its bucket: `Bucket`, whose errors become JournalError."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from receiver.bucket.client import Bucket, ObjectHead, StoredObject, Tag
from receiver.bucket.errors import BucketError, PreconditionFailed
from receiver.errors import JournalError

__all__ = ["NEEDS", "REQUEST_SECONDS", "ObjectHead", "Objects", "PreconditionFailed", "StoredObject", "Tag"]

REQUEST_SECONDS = 15.0
"""Limit of one request, obstore's own retries included."""
NEEDS = (
    "read, write, delete and list objects (on S3: s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; "
    "without the last one S3 says 403 of what is not there)"
)


class Objects:
    """See `Bucket`. Every method raises JournalError if the store fails."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    @property
    def requests(self) -> Counter[str]:
        return self.bucket.requests

    async def get(self, key: str) -> StoredObject | None:
        with _translated():
            return await self.bucket.get(key)

    async def get_unless(self, key: str, tag: Tag) -> StoredObject | Tag | None:
        with _translated():
            return await self.bucket.get_if_changed(key, tag)

    async def put(self, key: str, data: bytes) -> Tag:
        with _translated():
            return await self.bucket.put(key, data)

    async def create(self, key: str, data: bytes) -> Tag:
        with _translated():
            return await self.bucket.create(key, data)

    async def replace(self, key: str, data: bytes, tag: Tag) -> Tag:
        with _translated():
            return await self.bucket.replace(key, data, tag)

    async def delete(self, keys: Sequence[str]) -> None:
        with _translated():
            await self.bucket.delete(keys)

    async def pages(self, folder: str, *, after: str = "") -> AsyncIterator[list[ObjectHead]]:
        with _translated():
            async for page in self.bucket.pages(folder, after=after):
                yield page

    async def folders(self, folder: str) -> list[str]:
        with _translated():
            return await self.bucket.folders(folder)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BucketError as exc:
        raise JournalError(f"The journal cannot be used: {exc}", fault="io") from exc
