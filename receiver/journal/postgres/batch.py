"""A batch of additions and changes: every decision, in turn, each on what the one before made of its row, and what they
come to, written in as few statements as there can be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import msgspec

from receiver.deliveries import Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal import Change, Changed
from receiver.journal.needed import digests
from receiver.journal.postgres.columns import (
    ALL,
    CHANGING,
    callback_rows,
    columns,
    event_rows,
    full_rows,
    heard_rows,
    owed_rows,
)
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.operations import Add, Applied, Keep, Operation, Stale, changed_id
from receiver.journal.postgres.seen import Known
from receiver.journal.postgres.statements import rows, run
from receiver.journal.rows import from_row, to_json
from receiver.journal.rules import only_heard

NUL = "\\u0000"
"""In JSON. An event that holds it comes back whole, but nothing can be cut out of it by the server."""


@dataclass(slots=True)
class _Added:
    """What comes of an addition, when it is written."""

    batch: Batch
    submission: Submission

    def __call__(self) -> Submission:
        return self.batch.named.get(self.submission.once or "", self.submission)


@dataclass(slots=True)
class _Altered:
    """What comes of a change, when it is written."""

    batch: Batch
    change: Change
    fresh: tuple[Event, ...] = ()

    def __call__(self) -> Changed:
        return Changed(submission=self.change.submission, events=self.fresh)


@dataclass(slots=True)
class Batch:
    """What was decided, until it is written."""

    known: Mapping[str, Known]
    now: dict[str, Submission] = field(init=False)
    added: list[Submission] = field(default_factory=list)
    altered: list[_Altered] = field(default_factory=list)
    callbacks: list[tuple[str, int, str | None, bytes]] = field(default_factory=list)
    fresh: dict[str, Known] = field(default_factory=dict)
    """Submissions that were added."""
    bodies: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """The new ones, of submissions that were written."""
    owed: Sequence[Delivery] = ()
    """Once it is known which events are new."""
    named: dict[str, Submission] = field(default_factory=dict)
    """By name, submissions that had it before one of ours could take it."""

    def __post_init__(self) -> None:
        self.now = {id: one.row for id, one in self.known.items()}

    # Deciding

    def decide(self, operation: Operation) -> Any:
        if isinstance(operation, Add):
            self.added.append(operation.submission)
            return _Added(self, operation.submission)
        current = self.now.get(changed_id(operation))
        if current is None:
            return None
        if isinstance(operation, Keep):
            self._keep(operation.callback, "error")
            return Changed(submission=current, problem=operation.problem)
        try:
            change = operation.decide(current)
        except Exception as exc:
            return exc
        if operation.callback is not None:
            self._keep(operation.callback, change.cause if change else operation.callback.cause)
        return Changed(submission=current) if change is None else self._alter(current, change)

    def _keep(self, callback: Callback, cause: str | None) -> None:
        self.callbacks.append((callback.submission_id, callback.received_ms, cause, callback.body))

    def _alter(self, current: Submission, change: Change) -> _Altered:
        altered = _Altered(self, change)
        self.now[current.id] = change.submission
        self.added.extend(change.additions)
        self.altered.append(altered)
        return altered

    def news(self) -> bool:
        """Whether other processes should look. A clock that differs from theirs costs them some seconds."""
        if self.added or any(one.fresh or one.change.release_ms is not None for one in self.altered):
            return True
        now_ms = int(time.time() * 1000)
        return any(_came_due(self.known[id].row, row, now_ms) for id, row in self.now.items())

    def applied(self, outcomes: Sequence[Any]) -> Applied:
        """After the write."""
        last: dict[str, dict[str, str]] = {}
        for item in self.owed:
            if not item.manual:
                last.setdefault(item.submission_id, {})[item.destination] = item.id
        return Applied(
            results=[outcome() if isinstance(outcome, _Added | _Altered) else outcome for outcome in outcomes],
            news=self.news(),
            added=self.fresh,
            known={
                id: Known(self.versions.get(id, one.version), self.now[id], {**one.last, **last.get(id, {})})
                for id, one in self.known.items()
            },
        )

    # Writing, without locks

    def hope(self) -> None:
        """Take all facts for new. Raises Stale where one statement is not enough."""
        events = [event.id for one in self.altered for event in one.change.events]
        if self.added or len(set(events)) < len(events):
            raise Stale
        for one in self.altered:
            if one.change.release_ms is not None:
                raise Stale
            one.fresh = one.change.events
        self.owed = self._owed()

    async def write_unlocked(self, db: Connection, mark: Mark) -> None:
        """Every row, so that each is known to be as it was. Raises DivisionByZeroError and UniqueViolationError."""
        await self._write(db, mark, set(self.now), [event for one in self.altered for event in one.fresh])

    async def _write(self, db: Connection, mark: Mark, anyway: Set[str], facts: Sequence[Event]) -> None:
        """Rows that were changed, those to be written `anyway`, and what comes with them."""
        heard, full = self._changed(anyway)
        if not (heard or full or self.owed or self.callbacks):
            await mark.leave(db)
            return
        told, needed = self._told(), _needed(full)
        changed = columns(full_rows([new for _, new in full], told), CHANGING)
        values = {
            **{f"full_{name}": column for name, column in changed.items()},
            "full_versions": [self.known[new.id].version for _, new in full],
            **heard_rows(heard, told),
            "versions": [self.known[row.id].version for row in heard],
            "expected": len(heard) + len(full),
            **event_rows([(one, self.body(one)) for one in facts]),
            **owed_rows(self.owed, self.known),
            **callback_rows(self.callbacks),
            "needing": [id for id, _ in needed],
            "needed": [digest for _, digest in needed],
        }
        (found,) = await rows(db, "write_batch", **values, **mark.values)
        self.versions = dict.fromkeys([row.id for row in heard] + [new.id for _, new in full], found["ours"])

    # Writing what is locked

    async def write(self, db: Connection, mark: Mark) -> None:
        await self._add(db)
        await self._write_events(db)
        self.owed = self._owed()
        await self._write(db, mark, {item.submission_id for item in self.owed}, [])
        releases = {
            one.change.submission.id: one.change.release_ms for one in self.altered if one.change.release_ms is not None
        }
        if releases:
            await run(db, "release_deliveries", ids=list(releases), times=list(releases.values()))

    def _changed(self, anyway: Set[str]) -> tuple[list[Submission], list[tuple[Submission, Submission]]]:
        """Submissions to write: those of which something was heard only, and the others with what they were before.
        `anyway`: write them even if they are as before, so that they get a new version."""
        heard, full = [], []
        for id, new in self.now.items():
            old = self.known[id].row
            if id not in anyway and old == new:
                continue
            if only_heard(old, new):
                heard.append(new)
            else:
                full.append((old, new))
        return heard, full

    async def _add(self, db: Connection) -> None:
        left = full_rows(self.added, {})
        while left:
            found = await rows(db, "insert_submissions", **columns(left, ALL))
            versions = {row["id"]: row["version"] for row in found}
            kept = {row["id"]: from_row(Submission, row) for row in left if row["id"] in versions}
            self.fresh |= {id: Known(versions[id], row) for id, row in kept.items()}
            await _need(db, [(id, digest) for id, row in kept.items() for digest in digests(row)])
            left = [row for row in left if row["id"] not in kept]
            if left:
                taken = await rows(db, "get_once", names=[row["once"] for row in left])
                self.named |= {row["once"]: from_row(Submission, row) for row in taken}
                left = [row for row in left if row["once"] not in self.named]  # those have just come free

    async def _write_events(self, db: Connection) -> None:
        """Learn which events are new. The first of this batch that tells a fact has told it."""
        told: dict[str, tuple[Event, _Altered]] = {}
        for one in self.altered:
            for event in one.change.events:
                told.setdefault(event.id, (event, one))
        if not told:
            return
        facts = [(event, self.body(event)) for event, _ in told.values()]
        found = await rows(db, "insert_events", **event_rows(facts))
        for id in [row["id"] for row in found]:
            event, one = told[id]
            one.fresh += (event,)

    def _owed(self) -> list[Delivery]:
        """Deliveries of the events that are new. Of this batch, too, what is older gives way to what is newer."""
        owed: list[Delivery] = []
        last: dict[tuple[str, str], int] = {}
        for one in self.altered:
            for event in one.fresh:
                for item in (item for item in one.change.deliveries if item.event_id == event.id):
                    key = item.submission_id, item.destination
                    if not item.manual and (older := last.get(key)) is not None:
                        owed[older] = _outdated(owed[older], item)
                    if not item.manual:
                        last[key] = len(owed)
                    owed.append(item)
            if (release := one.change.release_ms) is not None:
                owed = [_released(item, one.change.submission.id, release) for item in owed]
        return owed

    def _told(self) -> dict[str, str]:
        """By submission, the new event that holds its task as it is now."""
        return {
            event.submission_id: event.id
            for one in self.altered
            for event in one.fresh
            if event.task is not None
            and event.task is self.now[event.submission_id].task
            and NUL not in self.body(event)
        }

    def body(self, event: Event) -> str:
        """An event as JSON, made once."""
        if event.id not in self.bodies:
            self.bodies[event.id] = to_json(event)
        return self.bodies[event.id]


def _needed(changed: Sequence[tuple[Submission, Submission]]) -> list[tuple[str, str]]:
    return [
        (new.id, digest)
        for old, new in changed
        if new.media != old.media or new.reply != old.reply
        for digest in digests(new) - digests(old)
    ]


async def _need(db: Connection, needed: Sequence[tuple[str, str]]) -> None:
    """Write down which submission needs which file."""
    if needed:
        await run(db, "need_files", ids=[id for id, _ in needed], digests=[digest for _, digest in needed])


def _came_due(before: Submission, after: Submission, now_ms: int) -> bool:
    dues = (
        (before.send_due_ms, after.send_due_ms),
        (before.poll_due_ms, after.poll_due_ms),
        (before.media_due_ms, after.media_due_ms),
    )
    return any(new is not None and new != old and new <= now_ms for old, new in dues)


def _released(item: Delivery, submission_id: str, release_ms: int) -> Delivery:
    if item.submission_id != submission_id or item.due_ms <= release_ms:
        return item
    return msgspec.structs.replace(item, due_ms=release_ms)


def _outdated(older: Delivery, newer: Delivery) -> Delivery:
    return msgspec.structs.replace(older, status="cancelled", finished_ms=newer.created_ms)
