"""Opens a journal on a bucket, and finds out whether the store keeps what the journal relies on."""

from __future__ import annotations

import asyncio
import secrets

from receiver.bucket import read_url
from receiver.bucket.client import Bucket
from receiver.errors import JournalError, SettingsError
from receiver.journal.bucket.journal import BucketJournal
from receiver.journal.bucket.objects import NEEDS, REQUEST_SECONDS, BucketObjects, Objects, Refused, Tag

LOOK_SECONDS = 10.0
"""How long what was listed as due is believed, where one process stays: others' work is seen that late. 0 where each
call may be another process."""
FORMAT = b"1"
_FORMAT_KEY = "format"


async def open_bucket(url: str, *, look_seconds: float = LOOK_SECONDS, existing: bool = False) -> BucketJournal:
    """Open the journal in a bucket's folder.

    Args:
        url: `s3://BUCKET/FOLDER?endpoint=…`, also `gs` and `az`; see `bucket.read_url`.
        look_seconds: how long what was listed as due may be believed; see `LOOK_SECONDS`.
        existing: do not make a new one.

    Raises:
        SettingsError: the URL says nothing we know.
        JournalError: the bucket cannot be used, the store does not honour conditions, or a newer Receiver wrote there.
    """
    try:
        options, folder = read_url(url)
    except SettingsError as exc:
        raise SettingsError(f"The database {url.partition('?')[0]} is no bucket: {exc}") from exc
    objects = BucketObjects(Bucket(options, folder, seconds=REQUEST_SECONDS, needs=NEEDS))
    place = f"{options.service}://{options.bucket}/{folder}"
    return await over(objects, place=place, look_seconds=look_seconds, existing=existing)


async def over(
    objects: Objects, *, place: str, look_seconds: float = LOOK_SECONDS, existing: bool = False
) -> BucketJournal:
    """A journal on these objects, once they were found fit. Raises JournalError."""
    found = await objects.get(_FORMAT_KEY)
    if found is None and existing:
        raise JournalError(
            f"There is no journal at {place} yet. Submit something first, or name the right one with RECEIVER_DATABASE."
        )
    if found is None:
        await _check_conditions(objects, place)
        await objects.put(_FORMAT_KEY, FORMAT)
    elif found.data != FORMAT:
        raise JournalError(
            f"{place} was written by a newer Receiver (format {found.data[:20].decode(errors='replace')}, this one "
            f"knows {FORMAT.decode()}). Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    return BucketJournal(objects, place=place, look_seconds=look_seconds)


async def _check_conditions(objects: Objects, place: str) -> None:
    """Two puts that must be refused, each beside one that must not."""
    key = f"conditions/{secrets.token_hex(8)}"
    created = await _is_done(objects, key, b"1", None)
    found = await objects.get(key)
    if found is None:
        raise JournalError(f"{place} does not hold what was just put there. Look who deletes there.")
    wrong = Tag(f'"{"0" * 32}"', found.tag.version and "1")
    again, blind = await asyncio.gather(_is_done(objects, key, b"2", None), _is_done(objects, key, b"3", wrong))
    right = again or blind or await _is_done(objects, key, b"4", found.tag)
    await objects.delete([key])
    kept = {"If-None-Match": created and not again, "If-Match": right and not blind}
    if missing := [name for name, well in kept.items() if not well]:
        raise JournalError(
            f"The store of {place} does not honour {' and '.join(missing)}, so two that write at once would overwrite "
            "each other. Use one that does (S3, R2, Google Cloud Storage, Azure, SeaweedFS), or another database."
        )


async def _is_done(objects: Objects, key: str, data: bytes, tag: Tag | None) -> bool:
    try:
        await (objects.create(key, data) if tag is None else objects.replace(key, data, tag))
    except Refused:
        found = await objects.get(key)
        return found is not None and found.data == data  # it was done, and the answer was lost
    return True
