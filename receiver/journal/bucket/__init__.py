"""The journal on a bucket."""

from __future__ import annotations

from receiver.journal.bucket.journal import BucketJournal
from receiver.journal.bucket.opening import LOOK_SECONDS, open_bucket, over

__all__ = ["LOOK_SECONDS", "BucketJournal", "open_bucket", "over"]
