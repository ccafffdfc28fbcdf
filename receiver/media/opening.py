"""Which media store: a folder, or a bucket by its URL."""

from __future__ import annotations

import re
from pathlib import Path

from receiver.buckets import read_url
from receiver.errors import SettingsError, require
from receiver.media.base import Store
from receiver.media.cache import Cache
from receiver.media.store import MediaStore

SETTING = "RECEIVER_MEDIA"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def open_store(where: str | Path, *, cache: Path, cache_bytes: int = 2**30) -> Store:
    """The media store at a path, or at `s3://BUCKET/FOLDER`, `gs://…`, `az://…`; see `buckets.read_url` for the rest of
    the URL. No request is made, and nothing is written.

    Args:
        where: the path or URL.
        cache: a bucket's files are brought into this folder before they are read.
        cache_bytes: how much it holds.

    Raises:
        SettingsError: another URL, or the extra `s3` is missing.
    """
    scheme = match[1].lower() if (match := _URL.match(str(where))) else None
    if scheme is None or isinstance(where, Path):
        return MediaStore(Path(where))
    if scheme not in ("s3", "gs", "az"):
        raise SettingsError(
            f"{SETTING}: there are no pictures at {scheme}://; it is a folder, or s3://, gs:// or az://."
        )
    require("obstore", extra="s3", why=f"{SETTING} with a bucket")
    from receiver.media.bucket import BucketStore  # noqa: PLC0415 - an optional extra

    try:
        options, folder = read_url(str(where))
    except SettingsError as exc:
        raise SettingsError(f"{SETTING}: {exc}") from exc
    return BucketStore(options, folder, Cache(cache, cache_bytes))
