"""The store in a bucket (extra `s3`)."""

from __future__ import annotations

from receiver.bucket import BucketOptions, open_bucket, read_url
from receiver.bucket.client import Bucket
from receiver.errors import SettingsError
from receiver.journal.bucket.objects import NEEDS, REQUEST_SECONDS
from receiver.journal.bucket.store import LOOK_SECONDS, BucketStore, over

__all__ = ["LOOK_SECONDS", "BucketStore", "client_of", "open_store", "over"]


def client_of(options: BucketOptions, folder: str) -> Bucket:
    """Return the client of the journal's bucket."""
    return open_bucket(options, folder, why="A journal in a bucket", seconds=REQUEST_SECONDS, needs=NEEDS)


async def open_store(url: str, *, look_seconds: float = LOOK_SECONDS, existing: bool = False) -> BucketStore:
    """Open the store in a bucket's folder.

    Args:
        url: `s3://BUCKET/FOLDER?endpoint=…`, also `gs` and `az`; see `bucket.read_url`.
        look_seconds: see `LOOK_SECONDS`.
        existing: do not make a new one.

    Raises:
        SettingsError: the URL is none of these.
        JournalError: the bucket cannot be used, it does not honour conditions, or another version wrote there.
    """
    try:
        options, folder = read_url(url)
    except SettingsError as exc:
        raise SettingsError(f"The database {url.partition('?')[0]} is no bucket: {exc}") from exc
    place = f"{options.service}://{options.bucket}/{folder}"
    return await over(client_of(options, folder), place=place, look_seconds=look_seconds, existing=existing)
