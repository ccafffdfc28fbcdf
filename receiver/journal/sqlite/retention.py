"""Deleting inside one short transaction: plain functions on a connection. What is still owed stays.

A step deletes as many as fit into `STEP_SECONDS`, so that whoever else writes never waits long.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from receiver.deliveries import Delivery
from receiver.events import first_id
from receiver.journal.rows import delivery_from_row
from receiver.journal.selection import Batch, Kind, Leftover
from receiver.journal.sqlite.statements import SQL

Connection = sqlite3.Connection
Delete = Callable[[Connection, str], Mapping[str, int]]

STEP_SECONDS = 0.02
PAGE = 200
"""Rows looked at for one step."""


def old(db: Connection, kind: Kind, before_ms: int, after: str) -> list[str]:
    """Keys of what is older and may go, a page after the key `after` in order of age. Reads only."""
    if kind == "callbacks":
        return _old_callbacks(db, before_ms, int(after or 0))
    values = {"after": after, "before": first_id(before_ms), "limit": PAGE}
    if kind == "submissions":
        return [row["id"] for row in db.execute(SQL["settled_before"], values)]
    return [row["id"] for row in db.execute(SQL["with_files_before"], values)]


def _old_callbacks(db: Connection, before_ms: int, after: int) -> list[str]:
    """They are numbered as they came, so that behind a page without an old one there is none: unless a clock that went
    ahead has dated all of it later than what came last."""
    while page := db.execute(SQL["callbacks_after"], {"after": after, "limit": PAGE}).fetchall():
        old = [str(row["number"]) for row in page if row["received_ms"] < before_ms]
        if old:
            return old
        newest = db.execute(SQL["newest_callback"]).fetchone()
        if newest is None or min(row["received_ms"] for row in page) <= newest["received_ms"]:
            break
        after = page[-1]["number"]
    return []


def delete(db: Connection, keys: Sequence[str], one: Delete) -> Batch:
    """Delete the keys in turn with `one`, until the time of a step is over.

    What is deleted by age is overwritten only where that writes no page more: to write each freed one would double the
    work of the disk that callbacks wait for. `erase` overwrites all.
    """
    db.execute("PRAGMA secure_delete = FAST")
    try:
        return _delete(db, keys, one)
    finally:
        db.execute("PRAGMA secure_delete = ON")


def _delete(db: Connection, keys: Sequence[str], one: Delete) -> Batch:
    until = time.monotonic() + STEP_SECONDS
    removed: Counter[str] = Counter()
    for number, key in enumerate(keys, start=1):
        removed.update(one(db, key))
        if time.monotonic() > until or number == len(keys):
            return Batch(removed=removed, after=key)
    return Batch()


def delete_callback(db: Connection, number: str) -> Mapping[str, int]:
    return {"callbacks": db.execute(SQL["delete_callback"], {"number": int(number)}).rowcount}


def is_settled(db: Connection, submission_id: str) -> bool:
    """Whether nothing of a submission is owed or under way."""
    return db.execute(SQL["settled"], {"id": submission_id}).fetchone() is not None


def drop_files(db: Connection, submission_id: str, problem: str) -> Mapping[str, int]:
    """Take a submission's files away from it, if nothing needs them any more; `problem` is what handlers are told."""
    values = {"id": submission_id, "problem": problem}
    if not is_settled(db, submission_id):
        return {}
    files = db.execute(SQL["count_files"], values).fetchone()[0]
    db.execute(SQL["leave_files"], values)
    db.execute(SQL["delete_files"], values)
    db.execute(SQL["drop_media"], values)
    return {"files": files}


def delete_settled(db: Connection, submission_id: str) -> Mapping[str, int]:
    """Delete a submission unless something of it is owed again by now."""
    return delete_submission(db, submission_id) if is_settled(db, submission_id) else {}


def delete_submission(db: Connection, submission_id: str) -> Mapping[str, int]:
    """Delete a submission with all that hangs on it. Returns the rows of each kind, and how many files go with it."""
    values = {"id": submission_id}
    removed = {"files": db.execute(SQL["count_files"], values).fetchone()[0]}
    db.execute(SQL["leave_files"], values)
    db.execute(SQL["delete_files"], values)
    for kind in ("attempts", "deliveries", "events", "callbacks"):
        removed[kind] = db.execute(SQL[f"delete_{kind}"], values).rowcount
    removed["submissions"] = db.execute(SQL["delete_submission"], values).rowcount
    return removed


def erase(db: Connection, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
    """Delete one submission at a person's request. None: something is owed or under way, and nothing was deleted."""
    if not force and not is_settled(db, submission_id):
        return None
    return delete_submission(db, submission_id)


def owed(db: Connection, submission_id: str) -> list[Delivery]:
    """Deliveries of a submission that are pending or running."""
    return [delivery_from_row(row) for row in db.execute(SQL["list_owed"], {"id": submission_id})]


def children(db: Connection, submission_id: str) -> list[str]:
    """Ids of the follow-ups of a submission."""
    return [row["id"] for row in db.execute(SQL["list_children"], {"id": submission_id})]


def leftovers(db: Connection, after: str) -> list[Leftover]:
    """A page of the files that deleted submissions had."""
    rows = db.execute(SQL["list_leftovers"], {"after": after, "limit": PAGE})
    return [Leftover(digest=row["digest"], needed=bool(row["needed"])) for row in rows]


def forget_leftovers(db: Connection, digests: Sequence[str]) -> None:
    """They have been removed from the disk, or are needed again."""
    db.executemany(SQL["forget_leftover"], [{"digest": digest} for digest in digests])
