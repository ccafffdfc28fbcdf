"""The store in a bucket (extra `s3`).

store         `BucketStore`: the order of puts, names, links, listings, shared values
documents     the cache, conflicts, and the due index
stored        one submission with all its rows, as one object
keys          keys of objects
"""

from __future__ import annotations

import secrets

from receiver.bucket import BucketOptions, open_bucket, read_url
from receiver.bucket.client import Bucket
from receiver.errors import JournalError, SettingsError
from receiver.journal.bucket.store import BucketStore

__all__ = ["LOOK_SECONDS", "BucketStore", "client_of", "open_store", "over"]

REQUEST_SECONDS = 15.0
"""Limit of one request with obstore's own retries."""
NEEDS = (
    "read, write, delete and list objects (on S3: s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket; "
    "without the last one S3 says 403 of what is not there)"
)
LOOK_SECONDS = 10.0
"""Lifetime of a list of due work in a process that stays. Use 0 if each call may be another process."""
FORMAT = b"2"
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
        existing: do not make a new journal.

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
    """Open a store in a bucket that honours conditions. See `open_store`."""
    store = BucketStore(bucket, place=place, look_seconds=look_seconds)
    found = await bucket.get(_FORMAT_KEY)
    if found is None:
        if existing:
            raise JournalError(
                f"There is no journal at {place} yet. Submit something first, or name the right one with "
                "RECEIVER_DATABASE."
            )
        await _check_conditions(store)
        await bucket.put(_FORMAT_KEY, FORMAT)
    elif found.data != FORMAT:
        old = found.data == b"1"
        writer = "an earlier development version of" if old else "a newer"
        raise JournalError(
            f"{place} was written by {writer} Receiver (format {found.data[:20].decode(errors='replace')}, this one "
            f"knows {FORMAT.decode()}). Use that version, or name another folder with RECEIVER_DATABASE.",
            fault="older" if old else "newer",
        )
    return store


async def _check_conditions(store: BucketStore) -> None:
    """Try two puts that must be refused, each beside one that must not."""
    key = f"conditions/{secrets.token_hex(8)}"
    version = await store.swap(key, b"1", None)
    again = await store.swap(key, b"2", None)
    wrong = f'"{"0" * 32}"' + ("\n1" if "\n" in (version or "") else "")
    blind = await store.swap(key, b"3", wrong)
    right = again or blind or await store.swap(key, b"4", version)
    await store.swap(key, None, right)
    kept = {"If-None-Match": version and not again, "If-Match": right and not blind}
    if missing := [name for name, honoured in kept.items() if not honoured]:
        raise JournalError(
            f"The store of {store.place} does not honour {' and '.join(missing)}, so two processes that write at once "
            "would overwrite each other. Use S3, R2, Google Cloud Storage, Azure, SeaweedFS, or another database."
        )
