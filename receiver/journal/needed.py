"""Which files of the media store a submission needs: pictures of its request, masks of its replies, its results.

What is noted here stays until the submission, or its files, are old.
"""

from __future__ import annotations

import sqlite3

from receiver.events import Submission
from receiver.journal.statements import SQL


def note(db: sqlite3.Connection, new: Submission, old: Submission | None = None) -> None:
    """Write down what `new` needs and `old` did not."""
    if old is not None and new.media == old.media and new.reply == old.reply:
        return
    fresh = digests(new) - (digests(old) if old is not None else frozenset())
    if fresh:
        db.executemany(SQL["need_file"], [{"submission_id": new.id, "digest": digest} for digest in fresh])


def digests(row: Submission) -> frozenset[str]:
    """Of all files of a submission."""
    mask = row.reply.mask if row.reply is not None else None
    items = (*row.inputs, *row.media, *((mask,) if mask is not None else ()))
    return frozenset(item.digest for item in items)
