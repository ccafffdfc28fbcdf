"""What a SQLite journal does inside one transaction: plain functions on a connection, run by the writer's thread
(or the reader's, where they only read)."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from receiver.deliveries import Completion, Delivery, Receipt
from receiver.errors import JournalError
from receiver.events import Callback, Event, Submission
from receiver.journal import needed, rules
from receiver.journal import Change, Changed, Decide, Work
from receiver.journal.rows import delivery_from_row, from_row, to_row
from receiver.journal.sqlite import health
from receiver.journal.sqlite.recent import Recent
from receiver.journal.sqlite.staged import Staged, callback_row, event_row, heard_row, insert_deliveries
from receiver.journal.sqlite.statements import SQL

Connection = sqlite3.Connection


def get(db: Connection, submission_id: str) -> Submission | None:
    row = db.execute(SQL["get_submission"], {"id": submission_id}).fetchone()
    return from_row(Submission, row) if row else None


def add(db: Connection, submission: Submission) -> Submission:
    if db.execute(SQL["insert_submission"], to_row(submission)).rowcount == 1:
        _note_files(db, needed.digests(submission), submission.id)
        return submission
    return from_row(Submission, db.execute(SQL["get_once"], {"once": submission.once}).fetchone())


def change(
    db: Connection, recent: Recent, staged: Staged, submission_id: str, *, decide: Decide, callback: Callback | None
) -> Changed | None:
    current = recent.get(submission_id)
    if current is None:
        staged.flush(db)
        current = get(db, submission_id)
    if current is None:
        return None
    change = decide(current)
    if callback is not None:
        staged.callback(callback, change.cause if change else callback.cause)
    changed = _apply(db, recent, staged, current, change)
    recent.keep(changed.submission)
    return changed


def keep_undecided(db: Connection, callback: Callback, problem: Exception) -> Changed | None:
    """A callback that was verified is kept whatever becomes of it."""
    current = get(db, callback.submission_id)
    if current is None:
        return None
    db.execute(SQL["insert_callback"], callback_row(callback, "error"))
    return Changed(submission=current, problem=problem)


def _apply(db: Connection, recent: Recent, staged: Staged, current: Submission, change: Change | None) -> Changed:
    if change is None:
        return Changed(submission=current)
    if staged.change(db, current, change):
        return Changed(submission=change.submission, events=change.events)
    staged.flush(db)
    _update(db, current, change.submission)
    fresh = tuple(event for event in change.events if db.execute(SQL["insert_event"], event_row(event)).rowcount == 1)
    for event in fresh:
        insert_deliveries(db, recent, [delivery for delivery in change.deliveries if delivery.event_id == event.id])
    for addition in change.additions:
        add(db, addition)
    if change.release_ms is not None:
        db.execute(SQL["release_deliveries"], {"submission_id": current.id, "now_ms": change.release_ms})
    return Changed(submission=change.submission, events=fresh)


def _update(db: Connection, old: Submission, new: Submission) -> None:
    if not rules.only_heard(old, new):
        db.execute(SQL["update_submission"], to_row(new))
        if new.media != old.media or new.reply != old.reply:
            _note_files(db, needed.digests(new) - needed.digests(old), new.id)
    elif old != new:
        db.execute(SQL["update_heard"], heard_row(new))


def _note_files(db: Connection, digests: frozenset[str], submission_id: str) -> None:
    """Write down what the submission needs of the media store."""
    db.executemany(SQL["need_file"], [{"submission_id": submission_id, "digest": digest} for digest in digests])


def check(db: Connection) -> None:
    """Write and remove a row: an UPDATE that finds none would write nothing, and never learn of a full disk."""
    db.execute(SQL["register_destination"], {"name": "", "handler": ""})
    db.execute(SQL["forget_destination"], {"name": ""})


def any_due(db: Connection, values: dict[str, Any]) -> bool:
    return health.room(db, values) > 0 and db.execute(SQL["any_due"], values).fetchone() is not None


def claim(db: Connection, recent: Recent, values: dict[str, Any]) -> list[Work]:
    values = {**values, "limit": health.room(db, values)}
    claimed = [delivery_from_row(row) for row in db.execute(SQL["claim"], values).fetchall()]
    return _begin(db, recent, _one_each(db, claimed), values["now_ms"])


def claim_alone(db: Connection, recent: Recent, values: dict[str, Any]) -> Work | None:
    due = db.execute(SQL["alone_due"], values).fetchone()
    if due is None:
        return None
    claimed = db.execute(SQL["claim_one"], {**values, "id": due["id"]}).fetchall()
    works = _begin(db, recent, [delivery_from_row(row) for row in claimed], values["now_ms"])
    return works[0] if works else None


def _begin(db: Connection, recent: Recent, claimed: list[Delivery], now_ms: int) -> list[Work]:
    works = []
    for delivery in claimed:
        attempt = {"delivery_id": delivery.id, "number": delivery.attempt, "started_ms": now_ms}
        db.execute(SQL["start_attempt"], attempt)
        try:
            works.append(_work(db, recent, delivery))
        except (JournalError, msgspec.DecodeError) as exc:
            complete(db, rules.unreadable(delivery, now_ms, str(exc)))
    return works


def _one_each(db: Connection, claimed: list[Delivery]) -> list[Delivery]:
    """The oldest of each submission; another one due in the same moment goes back and waits for its end."""
    oldest: dict[str, Delivery] = {}
    for delivery in sorted(claimed, key=lambda delivery: delivery.id):
        if oldest.setdefault(delivery.submission_id, delivery) is not delivery:
            db.execute(SQL["unclaim"], {"id": delivery.id})
    return list(oldest.values())


def _work(db: Connection, recent: Recent, delivery: Delivery) -> Work:
    submission = recent.get(delivery.submission_id) or get(db, delivery.submission_id)
    event = db.execute(SQL["get_event"], {"id": delivery.event_id}).fetchone()
    if submission is None or event is None:
        raise JournalError(f"Delivery {delivery.id} has lost its submission or event.")
    parent = _receipts(db, submission.parent_id) if submission.parent_id else {}
    return Work(
        delivery=delivery,
        event=msgspec.json.decode(event["body"], type=Event),
        media=submission.media,
        media_problem=submission.media_problem,
        media_due_ms=submission.media_due_ms,
        receipts=_receipts(db, submission.id),
        parent=parent.get(delivery.destination),
    )


def _receipts(db: Connection, submission_id: str) -> dict[str, Receipt]:
    rows = db.execute(SQL["list_receipts"], {"submission_id": submission_id}).fetchall()
    return {row["destination"]: msgspec.json.decode(row["receipt"], type=Receipt) for row in rows}


def complete(db: Connection, completion: Completion) -> bool:
    finished = _finish(db, completion)
    if finished:
        health.note(db, completion)
    return finished


def _finish(db: Connection, completion: Completion) -> bool:
    row = to_row(completion)
    if db.execute(SQL["complete"], row).rowcount == 0:
        return False
    db.execute(SQL["finish_attempt"], row)
    db.execute(SQL["cancel_if_outdated"], row)
    return True


def free_running(db: Connection, owner: str, now_ms: int) -> int:
    left = [delivery_from_row(row) for row in db.execute(SQL["list_running"], {"owner": owner}).fetchall()]
    for completion in rules.charge(left, now_ms):
        _finish(db, completion)
        db.execute(SQL["run_alone"], {"id": completion.delivery_id})
    return len(left)


def advance(db: Connection, now_ms: int, step_ms: int) -> int:
    """What is due after the longest wait of its kind was written by a clock that went ahead."""
    return sum(db.execute(SQL[name], rules.reach(name, now_ms, step_ms)).rowcount for name in rules.LONGEST)
