"""Deleting inside one short transaction: plain functions on a connection. What is still owed stays.

Rows that are deleted hold up nobody here, so that a step takes a whole page; what they took is free for others after
the server's own cleaning up (autovacuum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from receiver.deliveries import Delivery
from receiver.events import first_id
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import row, rows, run
from receiver.journal.rows import delivery_from_row
from receiver.journal.selection import Batch, Kind, Leftover

PAGE = 200
"""Rows looked at for one step."""


async def old(db: Connection, kind: Kind, before_ms: int, after: str) -> list[str]:
    """Keys of what is older and may go, a page after the key `after` in order of age. Reads only."""
    if kind == "callbacks":
        return await _old_callbacks(db, before_ms, int(after or 0))
    statement = "settled_before" if kind == "submissions" else "with_files_before"
    return [one["id"] for one in await rows(db, statement, after=after, before=first_id(before_ms), limit=PAGE)]


async def _old_callbacks(db: Connection, before_ms: int, after: int) -> list[str]:
    """They are numbered as they came, so that behind a page without an old one there is none: unless a clock that went
    ahead has dated all of it later than what came last."""
    while page := await rows(db, "callbacks_after", after=after, limit=PAGE):
        old = [str(one["number"]) for one in page if one["received_ms"] < before_ms]
        if old:
            return old
        newest = await row(db, "newest_callback")
        if newest is None or min(one["received_ms"] for one in page) <= newest["received_ms"]:
            break
        after = page[-1]["number"]
    return []


async def delete(db: Connection, kind: Kind, keys: Sequence[str], problem: str) -> Batch:
    """Delete the first page of the keys; what is owed again by now stays."""
    page = list(keys[:PAGE])
    if not page:
        return Batch()
    if kind == "callbacks":
        removed: Mapping[str, int] = {
            "callbacks": await run(db, "delete_numbered_callbacks", numbers=[int(key) for key in page])
        }
    else:
        ids = await _settled(db, page)
        removed = await (_drop_files(db, ids, problem) if kind == "media" else _delete(db, ids)) if ids else {}
    return Batch(removed=removed, after=page[-1])


async def erase(db: Connection, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
    """Delete one submission at a person's request. None: something is owed or under way, and nothing was deleted."""
    settled = await _settled(db, [submission_id])
    return await _delete(db, [submission_id]) if settled or force else None


async def _settled(db: Connection, ids: Sequence[str]) -> list[str]:
    """Those of which nothing is owed or under way. They are locked, so that it stays like that."""
    await rows(db, "lock_submissions", ids=ids)
    return [row["id"] for row in await rows(db, "settled", ids=ids)]


async def _drop_files(db: Connection, ids: Sequence[str], problem: str) -> Mapping[str, int]:
    """Take the files of submissions away from them; `problem` is what handlers are told."""
    removed = {"files": await _leave_files(db, ids)}
    await run(db, "drop_media", ids=ids, problem=problem)
    return removed


async def _delete(db: Connection, ids: Sequence[str]) -> Mapping[str, int]:
    """Delete submissions with all that hangs on them. Returns the rows of each kind, and how many files go with it."""
    removed = {"files": await _leave_files(db, ids)}
    for kind in ("attempts", "deliveries", "events", "callbacks", "submissions"):
        removed[kind] = await run(db, f"delete_{kind}", ids=ids)
    return removed


async def _leave_files(db: Connection, ids: Sequence[str]) -> int:
    """Nobody of these needs a file any more. Returns how many are left that nobody else needs either."""
    await rows(db, "one_deletes")
    [left] = await rows(db, "leave_files", ids=ids)
    await run(db, "delete_files", ids=ids)
    return int(left["files"])


async def owed(db: Connection, submission_id: str) -> list[Delivery]:
    """Deliveries of a submission that are pending or running."""
    return [delivery_from_row(found) for found in await rows(db, "list_owed", id=submission_id)]


async def children(db: Connection, submission_id: str) -> list[str]:
    """Ids of the follow-ups of a submission."""
    return [row["id"] for row in await rows(db, "list_children", id=submission_id)]


async def leftovers(db: Connection, after: str) -> list[Leftover]:
    """A page of the files that deleted submissions had."""
    found = await rows(db, "list_leftovers", after=after, limit=PAGE)
    return [Leftover(digest=row["digest"], needed=row["needed"]) for row in found]
