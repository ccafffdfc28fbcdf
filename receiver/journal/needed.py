"""Which files of the media store a submission needs: pictures of its request, masks of its replies, its results.

What is noted here stays until the submission, or its files, are old.
"""

from __future__ import annotations

from receiver.events import Submission


def digests(row: Submission) -> frozenset[str]:
    """Of all files of a submission."""
    mask = row.reply.mask if row.reply is not None else None
    items = (*row.inputs, *row.media, *((mask,) if mask is not None else ()))
    return frozenset(item.digest for item in items)
