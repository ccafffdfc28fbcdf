"""Object stores: S3 and compatible servers, Google Cloud Storage, Azure Blob Storage.

The journal, the media store and the `s3` handler share one client, `client.Bucket`. Only that module imports obstore
(extra `s3`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from receiver.bucket.errors import BucketError, PreconditionFailed
from receiver.bucket.options import BucketOptions, read_url, split_url
from receiver.errors import require

if TYPE_CHECKING:
    from receiver.bucket.client import Bucket

__all__ = ["BucketError", "BucketOptions", "PreconditionFailed", "open_bucket", "read_url", "split_url"]


def open_bucket(options: BucketOptions, folder: str = "", *, why: str, **limits: Any) -> Bucket:
    """Return the client of a bucket. No request is made.

    `why` is the feature that needs obstore, as the subject of a sentence: `The handler s3`. The other arguments are
    those of `client.Bucket`.

    Raises:
        SettingsError: the extra `s3` is missing, or the options contradict each other.
    """
    require("obstore", extra="s3", why=why)
    from receiver.bucket.client import Bucket  # noqa: PLC0415 - an optional extra

    return Bucket(options, folder, **limits)
