"""What most callbacks come down to, gathered while a batch runs and written at its end, kind by kind: the same
statement again and again costs a sixth less than five in turn (scripts/bench)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from receiver.deliveries import Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal import Change
from receiver.journal.rows import to_json_bytes
from receiver.journal.rules import only_heard
from receiver.journal.sqlite.recent import Recent
from receiver.journal.sqlite.statements import SQL

Row = tuple[object, ...]


class Repeated(Exception):
    """A fact of the batch was journalled before. Which one is found out one by one."""


class Staged:
    """For the writer's thread alone. What is gathered here is seen by no statement before `flush`."""

    def __init__(self, recent: Recent) -> None:
        self._recent = recent
        self._gathers = False
        self.drop()

    def begin(self, operations: int) -> None:
        """A transaction has begun, with so many operations."""
        self._gathers = operations > 1

    def drop(self) -> None:
        """Forget what was gathered: the transaction was undone."""
        self._heard: dict[str, Row] = {}
        self._callbacks: list[Row] = []
        self._events: list[Row] = []
        self._deliveries: list[Delivery] = []
        self._owing: set[str] = set()

    def callback(self, callback: Callback, cause: str | None) -> None:
        """Keep a callback."""
        self._callbacks.append(callback_row(callback, cause))

    def change(self, db: sqlite3.Connection, current: Submission, change: Change) -> bool:
        """Gather a change that says no more than `heard_row` holds, and takes its events for new ones. False: write
        it at once."""
        if not self._gathers or len(change.events) > 1 or change.additions or change.release_ms is not None:
            return False
        if not only_heard(current, change.submission):
            return False
        if current.id in self._owing:
            self.flush(db)  # what it owes by now gives way to what it owes next
        if change.submission != current:
            told = change.events[0] if change.events and change.events[0].task is change.submission.task else None
            self._heard[current.id] = heard_row(change.submission, told)
        self._events.extend(map(event_row, change.events))
        if change.deliveries:
            self._owing.add(current.id)
            self._deliveries.extend(change.deliveries)
        return True

    def flush(self, db: sqlite3.Connection) -> None:
        """Write what was gathered.

        Raises:
            Repeated: an event of it was known; the transaction has to be undone.
        """
        if self._callbacks:
            db.executemany(SQL["insert_callback"], self._callbacks)
        if self._heard:
            db.executemany(SQL["update_heard"], self._heard.values())
        if self._events and db.executemany(SQL["insert_event"], self._events).rowcount < len(self._events):
            raise Repeated
        if self._deliveries:
            insert_deliveries(db, self._recent, self._deliveries)
        self.drop()


def heard_row(row: Submission, told: Event | None = None) -> Row:
    """`told`: a new event that holds the row's task."""
    task = None if row.task is None or told is not None else to_json_bytes(row.task)
    return task, told.id if told else None, row.callbacks, row.poll_due_ms, row.polls, row.misses, row.id


def callback_row(callback: Callback, cause: str | None) -> Row:
    return callback.submission_id, callback.received_ms, cause, callback.body


def event_row(event: Event) -> Row:
    return event.id, event.submission_id, event.type, event.created_ms, to_json_bytes(event)


def insert_deliveries(db: sqlite3.Connection, recent: Recent, deliveries: Iterable[Delivery]) -> None:
    """Owe new deliveries, one at most to each destination of a submission. What is older and has not run gives way,
    unless a person asked for the new one."""
    older, unknown = [], []
    for item in deliveries:
        if item.manual:
            continue
        before = recent.owe(item)
        if before is None:
            unknown.append((item.created_ms, item.submission_id, item.destination))
        else:
            older.append((item.created_ms, before))
    db.executemany(SQL["cancel_known"], older)
    db.executemany(SQL["cancel_older"], unknown)
    db.executemany(SQL["insert_delivery"], map(delivery_row, deliveries))


def delivery_row(item: Delivery) -> Row:
    manual = 1 if item.manual else 0  # sqlite3 looks for an adapter of a bool at each binding
    return (
        item.id, item.event_id, item.submission_id, item.destination, item.created_ms, item.due_ms, manual
    )  # fmt: skip
