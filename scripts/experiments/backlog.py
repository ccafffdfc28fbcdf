"""A journal with many rows: copies of the rows of one submission, which is faster than making each."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from experiments.stage import accepted
from experiments.witnesses import view
from receiver.clock import Clock
from receiver.deliveries import Completion
from receiver.intake import Intake, Policy, Route
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

DESTINATIONS = ("one", "two")
OWNER = "the past"


async def backlog(path: Path, submissions: int, *, events: int = 1, owed: bool) -> None:
    """A journal of so many submissions, each with so many events, each of them owed to two destinations, or delivered.

    All rows are older than what comes later, as they would be.
    """
    journal = Journal(await open_store(path))
    try:
        await journal.register(dict.fromkeys(DESTINATIONS, "noop"))
        await _one(journal, deliver=not owed)
    finally:
        await journal.aclose()
    await asyncio.to_thread(_copy, path, submissions, events)


def _copy(path: Path, submissions: int, events: int) -> None:
    """`n.i` is the number of a copy, `s` the row that is copied."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        (original,) = db.execute("SELECT id FROM submissions").fetchone()

        def renamed(column: str, submission: str) -> str:
            return f"replace(s.{column}, '{original}', {submission})"

        one, of_event = "printf('01HA%022d', n.i)", f"printf('01HA%022d', n.i / {events})"
        changed = {"id": one, "body": renamed("body", one), "task_id": "'t' || n.i", "task_event_id": "NULL"}
        _copies(db, "submissions", submissions, **changed)
        event = f"{renamed('id', of_event)} || '.' || n.i"
        body = f"json_set({renamed('body', of_event)}, '$.id', {event})"
        _copies(db, "events", submissions * events, number="NULL", id=event, submission_id=of_event, body=body)
        for name, at in zip(DESTINATIONS, "BC", strict=True):
            delivery = f"printf('01H{at}%022d', n.i)"
            event = f"{renamed('event_id', of_event)} || '.' || n.i"
            changed = {"id": delivery, "event_id": event, "submission_id": of_event}
            _copies(db, "deliveries", submissions * events, f"destination = '{name}'", **changed)
            if db.execute("SELECT 1 FROM attempts").fetchone():
                _copies(db, "attempts", submissions * events, delivery_id=delivery)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copies(db: sqlite3.Connection, table: str, count: int, where: str = "1", **changed: str) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, f"s.{name}") for name in columns)
    db.execute(
        f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) "  # noqa: S608 - ours
        f"INSERT INTO {table} ({', '.join(columns)}) "
        f"SELECT {values} FROM n, (SELECT * FROM {table} WHERE {where} LIMIT 1) AS s"
    )


async def _one(journal: Journal, *, deliver: bool) -> None:
    """One submission with one event, by the code that writes them."""
    row = await journal.add(accepted(0))
    await intake(journal).received(row.id, view(row.task_id or "", 50), b"{}", None)
    if deliver:
        for name in DESTINATIONS:
            await claim_and_complete(journal, name)


def intake(journal: Journal) -> Intake:
    """Everything goes to both destinations, progress too."""
    routes = tuple(Route(destination=name, progress=True) for name in DESTINATIONS)
    return Intake(journal, policy=Policy(confirm_ms=0), routes=routes, clock=Clock(), changed=lambda row: None)


async def claim_and_complete(journal: Journal, destination: str, limit: int = 64) -> int:
    """Claim what is due, and complete it. Returns how many there were."""
    now_ms = Clock().now_ms()
    works = await journal.claim(destination, owner=OWNER, limit=limit, now_ms=now_ms)
    await asyncio.gather(
        *(
            journal.complete(
                Completion(
                    delivery_id=work.delivery.id,
                    submission_id=work.delivery.submission_id,
                    destination=destination,
                    attempt=work.delivery.attempt,
                    owner=OWNER,
                    outcome="succeeded",
                    status="succeeded",
                    finished_ms=now_ms,
                    due_ms=now_ms,
                    counts=False,
                )
            )
            for work in works
        )
    )
    return len(works)
