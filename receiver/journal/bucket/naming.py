"""New submissions, and names under which one exists once.

A name is an object that holds the submission it was taken for. It is put first: whoever finds the name without the
submission puts that, so a name whose taker died is no obstacle, and two that take it at once make one submission.
"""

from __future__ import annotations

import secrets

import msgspec

from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.document import Document, decode_as
from receiver.journal.bucket.objects import Found, Objects, Refused
from receiver.journal.bucket.rows import TRIES, Rows
from receiver.journal.rows import to_json_bytes


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a name. None: it is free again."""

    nonce: str
    submission: Submission | None = None


async def add(rows: Rows, submission: Submission) -> bool:
    """Write a submission. False: there is one of that id."""
    return await rows.create(Document(submission=submission))


async def add_named(objects: Objects, rows: Rows, submission: Submission) -> Submission:
    """Write a submission under its name, unless that is taken: then the one that has it is returned."""
    assert submission.once is not None  # noqa: S101
    key = keys.once(submission.once)
    name = Name(nonce=secrets.token_hex(8), submission=submission)
    for _ in range(TRIES):
        found = await _take(objects, key, name)
        if found is None:
            return await _written(rows, submission)
        holder = decode_as(Name, found.data, key).submission
        document = await rows.get(holder.id) if holder is not None else None
        if document is not None and document.submission.once == submission.once:
            return document.submission
        if document is None and holder is not None:
            again = await objects.get(key)
            if again is not None and again.tag == found.tag:  # else it was erased, which frees the name first
                return await _written(rows, holder)
            continue
        if await _take(objects, key, name, found) is None:
            return await _written(rows, submission)
    raise JournalError("The submission's name is taken and given back by too many at once. Try again.", fault="locked")


async def _written(rows: Rows, submission: Submission) -> Submission:
    """The submission that has taken its name, be it that somebody who found the name was faster to write it."""
    if not await add(rows, submission):
        document = await rows.get(submission.id)
        if document is None or document.submission.once != submission.once:
            raise JournalError(f"There already is a submission {submission.id}. Nothing was written.")
    return submission


async def _take(objects: Objects, key: str, name: Name, old: Found | None = None) -> Found | None:
    """Put the name. Returns who has it, where that is somebody else."""
    data = to_json_bytes(name)
    try:
        await (objects.create(key, data) if old is None else objects.replace(key, data, old.tag))
    except (Refused, JournalError) as exc:
        found = await objects.get(key)
        if found is not None and decode_as(Name, found.data, key).nonce == name.nonce:
            return None  # it was done, and the answer was lost
        if isinstance(exc, JournalError) or found is None:
            raise JournalError("The submission's name could not be taken. Try again.", fault="io") from exc
        return found
    return None


async def free_name(objects: Objects, submission: Submission) -> None:
    """Give a name back, if it still is this submission's. What is left of it names nobody."""
    if submission.once is None:
        return
    key = keys.once(submission.once)
    found = await objects.get(key)
    while found is not None:
        holder = decode_as(Name, found.data, key).submission
        if holder is None or holder.id != submission.id:
            return
        try:
            await objects.replace(key, to_json_bytes(Name(nonce=secrets.token_hex(8))), found.tag)
        except Refused:
            found = await objects.get(key)
            continue
        return
