"""The journal in a bucket: submissions, callbacks, events; its other parts stand beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from receiver.deliveries import DestinationRecord
from receiver.errors import JournalError, NotFound
from receiver.events import Callback, Event, EventType, Submission, first_id
from receiver.journal import Changed, Decide, Trouble, rules
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.deliveries import Deliveries
from receiver.journal.bucket.destinations import Destinations
from receiver.journal.bucket.document import Document, callback_of, open_deadline, replace
from receiver.journal.bucket.naming import add, add_named
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.queries import facts
from receiver.journal.bucket.retention import Retention
from receiver.journal.bucket.standing import Standing
from receiver.journal.bucket.upkeep import Upkeep

PART = 6
"""Characters of an id by which it can be found."""


class BucketJournal(Standing, Deliveries, Destinations, Retention, Upkeep):
    """See `journal.base.Journal`. Made by `open_bucket`."""

    shared: ClassVar[bool] = True

    @operation
    async def check(self) -> None:
        await self._objects.put("check", b"")

    @operation
    async def check_space(self) -> None:
        """A bucket has no end; a quota shows in `check`."""

    @operation
    async def advance(self, now_ms: int, *, step_ms: int = 0) -> int:
        ids = {keys.read_mark(key)[1] for place in (keys.ROWS, keys.ALONE) async for key in self._agenda.marks(place)}
        far_ms = now_ms if step_ms else now_ms + int(rules.LONGEST["advance_deliveries"] * 1000)
        for place in await self._agenda.places():
            after = "" if step_ms else keys.until(place, far_ms)
            ids |= {keys.read_mark(key)[1] async for key in self._agenda.marks(place, after=after)}
        moved = await asyncio.gather(*(self._advance(id, now_ms, step_ms) for id in sorted(ids)))
        await self._destinations.update(lambda found: _advanced(found, now_ms, step_ms))
        return sum(moved)

    async def _advance(self, id: str, now_ms: int, step_ms: int) -> bool:
        def mutate(document: Document) -> tuple[Document, bool]:
            after = changes.advance(document, now_ms, step_ms)
            return (document, False) if after == document else (after, True)

        return bool(await self._rows.write(id, mutate))

    # Submissions

    @operation
    async def add(self, submission: Submission) -> Submission:
        if submission.once is not None:
            return await add_named(self._objects, self._rows, submission)
        if not await add(self._rows, submission):
            raise JournalError(f"There already is a submission {submission.id}. Nothing was written.")
        return submission

    @operation
    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        def elsewhere(delivery_id: str) -> bool:
            return self._rows.whose(delivery_id) not in (None, submission_id)

        return await self._rows.write(
            submission_id, lambda document: changes.change(document, decide, callback, elsewhere)
        )

    @operation
    async def get(self, submission_id: str) -> Submission | None:
        document = await self._rows.get(submission_id)
        return None if document is None else document.submission

    @operation
    async def family(self, submission_id: str) -> list[Submission]:
        return await self._queries.family(submission_id)

    @operation
    async def find(self, reference: str, *, whole: bool = False) -> Submission:
        document = await self._rows.get(reference) if reference else None
        if document is not None:
            return document.submission
        if reference and (row := await self._queries.by_task(reference)) is not None:
            return row
        ids = await self._queries.by_part(reference) if len(reference) >= PART and not whole else []
        if len(ids) > 1:
            raise NotFound(f"More than one submission matches {reference!r}. Give more of its id.")
        document = await self._rows.get(ids[0]) if ids else None
        if document is None:
            raise NotFound(f"There is no submission or task {reference!r} in this journal. See: receiver tasks list")
        return document.submission

    @operation
    async def submissions(self, *, limit: int, status: str | None = None) -> list[Submission]:
        return await self._newest(limit, lambda row: _has_status(row, status))

    @operation
    async def called_back(self, *, limit: int, created_before_ms: int) -> list[Submission]:
        after = keys.before(first_id(created_before_ms))
        return await self._newest(limit, lambda row: _told(row, created_before_ms), after=after)

    async def _newest(self, limit: int, wanted: Callable[[Submission], bool], after: str = "") -> list[Submission]:
        found: list[Submission] = []
        async for document in self._queries.documents(after=after, size=min(limit, 32)):
            if wanted(document.submission):
                found.append(document.submission)
            if len(found) >= limit:
                break
        return found

    @operation
    async def due_sends(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._due(now_ms, limit, lambda row: row.send_due_ms)

    @operation
    async def due_polls(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._due(now_ms, limit, lambda row: row.poll_due_ms)

    @operation
    async def due_media(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._due(now_ms, limit, lambda row: row.media_due_ms)

    @operation
    async def overdue(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._due(now_ms, limit, open_deadline)

    async def _due(self, now_ms: int, limit: int, due: Callable[[Submission], int | None]) -> list[Submission]:
        documents = await self._agenda.all_due(keys.ROWS, now_ms)
        found = [(ms, row) for row in (item.submission for item in documents) if (ms := due(row)) is not None]
        found = sorted((item for item in found if item[0] <= now_ms), key=lambda item: item[0])
        return [row for _, row in found[:limit]]

    # Callbacks and events

    @operation
    async def callbacks(self, submission_id: str, *, limit: int | None = None) -> list[Callback]:
        document = await self._rows.get(submission_id)
        kept = document.callbacks if document is not None else ()
        kept = kept[-limit:] if limit else kept
        bodies = await asyncio.gather(*(self._body(submission_id, item.number, item.body) for item in kept))
        return [callback_of(submission_id, item, body) for item, body in zip(kept, bodies, strict=True)]

    async def _body(self, submission_id: str, number: int, body: str | None) -> str:
        if body is not None:
            return body
        found = await self._objects.get(keys.callback(submission_id, number))
        return "" if found is None else found.data.decode()

    @operation
    async def events(
        self, *, limit: int, submission_id: str | None = None, type: EventType | None = None
    ) -> list[Event]:
        def wanted(event: Event) -> bool:
            return type in (None, event.type)

        if submission_id is None:
            return await self._queries.newest(limit, lambda document: facts(document, wanted))
        document = await self._rows.get(submission_id)
        found = facts(document, wanted) if document is not None else []
        return [item.value for item in sorted(found, key=lambda item: item.order, reverse=True)[:limit]]

    @operation
    async def event(self, event_id: str) -> Event | None:
        document = await self._rows.get(event_id.partition(".")[0])
        return None if document is None else document.event(event_id)

    # Troubles

    @operation
    async def troubles(self) -> list[Trouble]:
        found = await self._troubles.read()
        return sorted(found.values(), key=lambda item: (item.since_ms, item.name))

    @operation
    async def note(self, trouble: Trouble) -> None:
        def noted(found: dict[str, Trouble]) -> dict[str, Trouble]:
            old = found.get(trouble.name)
            return {**found, trouble.name: trouble if old is None else replace(old, text=trouble.text)}

        await self._troubles.update(noted)

    @operation
    async def clear(self, name: str) -> None:
        await self._troubles.update(lambda found: {key: item for key, item in found.items() if key != name})


def _has_status(row: Submission, status: str | None) -> bool:
    return status is None or row.status == status or row.ended == f"task.{status}" or row.task_status == status.upper()


def _told(row: Submission, created_before_ms: int) -> bool:
    """Whether callbacks should have told of it: it took a URL along, and the provider has ended it."""
    ended = row.ended in ("task.succeeded", "task.failed")
    return row.hooked and row.status == "accepted" and ended and row.created_ms < created_before_ms


def _advanced(found: dict[str, DestinationRecord], now_ms: int, step_ms: int) -> dict[str, DestinationRecord]:
    return {
        name: replace(
            record, paused_until_ms=changes.moved_due(record.paused_until_ms, "advance_pauses", now_ms, step_ms)
        )
        for name, record in found.items()
    }
