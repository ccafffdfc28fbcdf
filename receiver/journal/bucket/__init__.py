"""The store in a bucket (extra `s3`)."""

from __future__ import annotations

import asyncio
import secrets

from receiver.bucket import BucketOptions, PreconditionFailed, open_bucket, read_url
from receiver.bucket.client import Bucket, Tag
from receiver.errors import JournalError, SettingsError
from receiver.journal.bucket.store import BucketStore

__all__ = ["LOOK_SECONDS", "BucketStore", "client_of", "open_store", "over"]

REQUEST_SECONDS = 15.0
"""Limit of one request, obstore's own retries included."""
NEEDS = (
    "read, write, delete and list objects (on S3: s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; "
    "without the last one S3 says 403 of what is not there)"
)
LOOK_SECONDS = 10.0
"""For how long a process that stays uses a list of what is due again. 0 where each call may be another process."""
FORMAT = b"2"
_OLD_FORMAT = b"1"
_FORMAT_KEY = "format"


def client_of(options: BucketOptions, folder: str) -> Bucket:
    """Return the client of the journal's bucket. Its errors are JournalErrors."""
    return open_bucket(
        options, folder, why="A journal in a bucket", seconds=REQUEST_SECONDS, needs=NEEDS,
        failure=lambda error: JournalError(f"The journal cannot be used: {error}", fault="io"),
    )  # fmt: skip


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


async def over(
    bucket: Bucket, *, place: str, look_seconds: float = LOOK_SECONDS, existing: bool = False
) -> BucketStore:
    """Open a store in a bucket, once the bucket was found fit.

    Raises:
        JournalError: the bucket cannot be used, it does not honour conditions, or another version wrote there.
    """
    found = await bucket.get(_FORMAT_KEY)
    if found is None and existing:
        raise JournalError(
            f"There is no journal at {place} yet. Submit something first, or name the right one with RECEIVER_DATABASE."
        )
    if found is None:
        await _check_conditions(bucket, place)
        await bucket.put(_FORMAT_KEY, FORMAT)
    elif found.data == _OLD_FORMAT:
        raise JournalError(
            f"{place} was written by an earlier development version of Receiver 0.1 (format 1, this one knows "
            f"{FORMAT.decode()}), which alone can read it. Name another folder with RECEIVER_DATABASE to start anew.",
            fault="older",
        )
    elif found.data != FORMAT:
        raise JournalError(
            f"{place} was written by a newer Receiver (format {found.data[:20].decode(errors='replace')}, this one "
            f"knows {FORMAT.decode()}). Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    return BucketStore(bucket, place=place, look_seconds=look_seconds)


async def _check_conditions(bucket: Bucket, place: str) -> None:
    """Try two puts that must be refused, each beside one that must not."""
    key = f"conditions/{secrets.token_hex(8)}"
    created = await _is_done(bucket, key, b"1", None)
    found = await bucket.get(key)
    if found is None:
        raise JournalError(f"{place} does not hold what was just put there. See if another program deletes there.")
    wrong = Tag(f'"{"0" * 32}"', found.tag.version and "1")
    again, blind = await asyncio.gather(_is_done(bucket, key, b"2", None), _is_done(bucket, key, b"3", wrong))
    right = again or blind or await _is_done(bucket, key, b"4", found.tag)
    await bucket.delete([key])
    kept = {"If-None-Match": created and not again, "If-Match": right and not blind}
    if missing := [name for name, honoured in kept.items() if not honoured]:
        raise JournalError(
            f"The store of {place} does not honour {' and '.join(missing)}, so two processes that write at once would "
            "overwrite each other. Use one that does (S3, R2, Google Cloud Storage, Azure, SeaweedFS), or another "
            "database."
        )


async def _is_done(bucket: Bucket, key: str, data: bytes, tag: Tag | None) -> bool:
    try:
        await (bucket.create(key, data) if tag is None else bucket.replace(key, data, tag))
    except PreconditionFailed:
        found = await bucket.get(key)
        return found is not None and found.data == data  # it was done, and the answer was lost
    return True
