"""The journal on a bucket: what the engine asks of it every day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import ClassVar

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord
from receiver.errors import JournalError, NotFound
from receiver.events import Callback, Event, EventType, Submission, first_id
from receiver.journal import rules
from receiver.journal.base import Changed, Decide, EngineRecord, Trouble, Work
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import Document, callback_of, decode, encode, open_deadline, replace
from receiver.journal.bucket.naming import add, add_named
from receiver.journal.bucket.objects import Refused
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.queries import facts, owed
from receiver.journal.bucket.upkeep import Upkeep

PART = 6
"""Characters of an id by which it can be found."""
PROBED = 64
"""Documents looked at for a delivery under way, before a destination that is down gets another."""
COUNTED = 100
"""Up to how many deliveries are counted one by one; each takes a request."""
THOROUGH_SECONDS = 60.0
"""How often what runs is looked through although nobody has died: who took note of a death may have died over it."""
LATE_MS = 3_600_000
"""By how much the clock that claimed may have been ahead of ours."""
SUCCESS_MS = 60_000
"""How exact it is known when a destination last took something: each time would cost a request."""


class BucketJournal(Upkeep):
    """See `journal.base.Journal`. Made by `open_bucket`."""

    shared: ClassVar[bool] = True

    async def aclose(self) -> None:
        self._closed = True
        await self._idle.wait()
        await self._rows.tidy()

    async def settle(self) -> None:
        """Wait until what is swept up after writes has been: for those whose process is frozen afterwards."""
        await self._rows.tidy()

    @operation
    async def check(self) -> None:
        await self._objects.put("check", b"")

    @operation
    async def check_space(self) -> None:
        """A bucket has no end; a quota shows in `check`."""

    # Engines

    def set_pace(self, *, beat: float, dead: float, lease: float) -> None:
        """Seconds between signs of life, until an engine is taken for dead, and for which one leads."""
        engines = self._engines
        engines.write_seconds, engines.dead_seconds, engines.lease_seconds = beat, dead, lease

    @operation
    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        await self._engines.enter(role, owner, store=store)

    @operation
    async def beat(self, owner: str) -> bool:
        return await self._engines.beat(owner)

    @operation
    async def lead(self, owner: str) -> bool:
        return await self._engines.lead(owner)

    async def resign(self, owner: str) -> None:
        if not self._closed:
            await self._engines.leave(owner)

    @operation
    async def engines(self) -> list[EngineRecord]:
        return await self._engines.records()

    def listen(self, woken: Callable[[], None]) -> None:
        """A bucket tells nobody: others' work is seen at the next look."""

    @operation
    async def free_running(self, owner: str, now_ms: int) -> int:
        looked_at = self._searched.get(owner)
        if looked_at is not None and time.monotonic() - looked_at < self._engines.dead_seconds / 2:
            return 0
        living, dead = await self._engines.census()
        thorough = looked_at is None or time.monotonic() - self._thorough_at >= THOROUGH_SECONDS
        self._searched = {owner: time.monotonic()}
        if not dead and not thorough:
            return 0
        await self._engines.bury(dead)
        found = [item async for item in self._under_way(now_ms) if _lost(item, owner, living)]
        documents = await asyncio.gather(*map(self._rows.get, sorted({item.submission_id for item in found})))
        left = [  # what we remembered may be too old for this
            item
            for document in documents
            if document is not None
            for item in document.deliveries
            if _lost(item, owner, living)
        ]
        ends = zip(left, rules.charge(left, now_ms), strict=True)
        freed = await asyncio.gather(*(self._free(item.submission_id, end) for item, end in ends))
        self._thorough_at = time.monotonic()
        return sum(freed)

    async def _under_way(self, now_ms: int) -> AsyncIterator[Delivery]:
        """Deliveries that run. Each was due when it was claimed, and keeps its mark."""
        seen: set[str] = set()
        for place in (keys.ALONE, *await self._agenda.places()):
            for document in await self._agenda.all_due(place, now_ms + LATE_MS):
                for item in document.deliveries:
                    if item.status == "running" and item.id not in seen:
                        seen.add(item.id)
                        yield item

    async def _free(self, submission_id: str, end: Completion) -> bool:
        return bool(await self._rows.write(submission_id, lambda document: changes.free(document, end)))

    def accuse(self, delivery_id: str) -> None:
        id = self._rows.whose(delivery_id)
        if id is None:
            return
        key = keys.submission(id)
        while (found := self._objects.get_now(key)) is not None:
            document = decode(found.data, key)
            accused = changes.accuse(document, delivery_id)
            if accused is document:
                return
            accused = replace(accused, version=document.version + 1, nonce=f"accused-{document.nonce}")
            try:
                self._objects.replace_now(key, encode(accused)[0], found.tag)
            except Refused:
                continue
            return

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
    async def find(self, reference: str) -> Submission:
        document = await self._rows.get(reference) if reference else None
        if document is not None:
            return document.submission
        if reference and (row := await self._queries.by_task(reference)) is not None:
            return row
        ids = await self._queries.by_part(reference) if len(reference) >= PART else []
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

    # Deliveries

    @operation
    async def deliveries(
        self,
        *,
        limit: int,
        submission_id: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
    ) -> list[Delivery]:
        def wanted(item: Delivery) -> bool:
            return destination in (None, item.destination) and status in (None, item.status)

        if submission_id is not None:
            document = await self._rows.get(submission_id)
            found = [item for item in document.deliveries if wanted(item)] if document is not None else []
        elif status in ("pending", "running", "dead"):
            found = [item async for item in self._marked(status) if wanted(item)]
        else:
            return await self._queries.newest(limit, lambda document: owed(document, wanted))
        return sorted(found, key=lambda item: item.id, reverse=True)[:limit]

    @operation
    async def delivery(self, delivery_id: str) -> Delivery | None:
        document = await self._queries.with_delivery(delivery_id)
        return None if document is None else document.delivery(delivery_id)

    @operation
    async def attempts(self, delivery_id: str) -> list[AttemptRecord]:
        document = await self._queries.with_delivery(delivery_id)
        found = [item for item in document.attempts if item.delivery_id == delivery_id] if document is not None else []
        return sorted(found, key=lambda item: item.number)

    @operation
    async def claim(self, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        async with self._claiming[destination]:
            room = await self._room(destination, limit, now_ms)
            candidates = await self._candidates(destination, room, now_ms) if room > 0 else []
            works: list[Work] = []
            while candidates and len(works) < room:
                some, candidates = candidates[: room - len(works)], candidates[room - len(works) :]
                taken = await asyncio.gather(*(self._take(id, destination, owner, now_ms) for id in some))
                works += [work for work in taken if work is not None]
        return works

    async def _room(self, destination: str, limit: int, now_ms: int) -> int:
        """How many of `limit` may be claimed now."""
        found = (await self._destinations.read(self._agenda.look_seconds)).get(destination)
        if found is None:
            return limit
        if found.paused(now_ms):
            return 0
        if not rules.is_down(found):
            return limit
        looked = 0
        async for document in self._agenda.due(keys.destination(destination), now_ms):
            if any(item.status == "running" and item.destination == destination for item in document.deliveries):
                return 0
            if (looked := looked + 1) >= PROBED:
                break
        return min(limit, 1)

    async def _candidates(self, destination: str, room: int, now_ms: int) -> list[str]:
        """Submissions with a due delivery, those due longest first."""
        found: list[tuple[int, str]] = []
        async for document in self._agenda.due(keys.destination(destination), now_ms):
            item = changes.due_for(document, destination, now_ms)
            if item is not None:
                found.append((item.due_ms, document.id))
            if len(found) >= max(2 * room, 16):
                break
        return [id for _, id in sorted(found)]

    async def _take(self, id: str, destination: str, owner: str, now_ms: int) -> Work | None:
        def mutate(document: Document) -> tuple[Document, tuple[Document, Delivery] | None]:
            item = changes.due_for(document, destination, now_ms)
            return self._claimed(document, item, owner, now_ms)

        return await self._begun(await self._rows.write(id, mutate))

    @staticmethod
    def _claimed(
        document: Document, item: Delivery | None, owner: str, now_ms: int
    ) -> tuple[Document, tuple[Document, Delivery] | None]:
        if item is None:
            return document, None
        after, taken = changes.claim(document, item.id, owner, now_ms)
        return after, (after, taken)

    async def _begun(self, taken: tuple[Document, Delivery] | None) -> Work | None:
        if taken is None or taken[1].status != "running":
            return None
        document, item = taken
        parent_id = document.submission.parent_id
        parent = await self._rows.recent(parent_id, self._agenda.look_seconds) if parent_id is not None else None
        return changes.work(document, item, changes.receipts(parent) if parent is not None else {})

    @operation
    async def alone_due(self, destinations: Collection[str], now_ms: int) -> bool:
        return bool(await self._alone(destinations, now_ms))

    @operation
    async def claim_alone(self, destinations: Collection[str], *, owner: str, now_ms: int) -> Work | None:
        for item in await self._alone(destinations, now_ms):

            def mutate(document: Document, id: str = item.id) -> tuple[Document, tuple[Document, Delivery] | None]:
                found = document.delivery(id)
                due = found is not None and found.alone and changes.is_due(document, found, now_ms)
                return self._claimed(document, found if due else None, owner, now_ms)

            work = await self._begun(await self._rows.write(item.submission_id, mutate))
            if work is not None:
                return work
        return None

    async def _alone(self, destinations: Collection[str], now_ms: int) -> list[Delivery]:
        known = await self._destinations.read(self._agenda.look_seconds)
        found = [
            item
            for document in await self._agenda.all_due(keys.ALONE, now_ms)
            for item in document.deliveries
            if item.alone
            and item.destination in destinations
            and changes.is_due(document, item, now_ms)
            and not (item.destination in known and known[item.destination].paused(now_ms))
        ]
        return sorted(found, key=lambda item: item.due_ms)

    @operation
    async def complete(self, completion: Completion) -> bool:
        id = await self._queries.whose(completion.delivery_id)
        if id is None:
            return False

        def mutate(document: Document) -> tuple[Document, str | None]:
            item = document.delivery(completion.delivery_id)
            document, finished = changes.complete(document, completion)
            return document, item.destination if item is not None and finished else None

        destination = await self._rows.write(id, mutate)
        if destination is not None and rules.speaks(completion):
            await self._note(destination, completion)
        return destination is not None

    async def _note(self, name: str, completion: Completion) -> None:
        """What an attempt says of its destination. It is recorded already, so that this fails may be told to nobody."""

        def told(found: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            record = found.get(name)
            return found if record is None else {**found, name: _after(record, completion)}

        known = await self._destinations.read(self._agenda.look_seconds or 1)
        if told(known) != known:
            try:
                await self._destinations.update(told)
            except JournalError:
                return

    # Destinations

    @operation
    async def register(self, destinations: Mapping[str, str]) -> None:
        def registered(found: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            records = {
                name: replace(found[name], handler=handler)
                if name in found
                else DestinationRecord(name=name, handler=handler)
                for name, handler in destinations.items()
            }
            return found | records

        await self._destinations.update(registered)

    @operation
    async def owed_destinations(self) -> list[str]:
        names = await self._destinations.read()
        owed = {item.destination async for item in self._marked("pending")}
        return sorted(owed & names.keys())

    @operation
    async def destinations(self) -> list[DestinationRecord]:
        found = await self._destinations.read()
        alone = [item async for item in self._marked("pending", keys.ALONE) if item.alone]
        names = sorted(found)
        pending = await asyncio.gather(*(self._count(keys.destination(name), "pending") for name in names))
        dead = await asyncio.gather(*(self._count(keys.dead(name), "dead") for name in names))
        by_name = zip(names, pending, dead, strict=True)
        return [
            replace(found[name], pending=owed + sum(item.destination == name for item in alone), dead=lost)
            for name, owed, lost in by_name
        ]

    async def _count(self, place: str, status: str) -> int:
        """How many deliveries a place's marks stand for; where there are many, one is taken for one."""
        marks = [key async for key in self._agenda.marks(place)]
        if len(marks) > COUNTED:
            return len(marks)
        ids = sorted({keys.read_mark(key)[1] for key in marks})
        documents = await asyncio.gather(*map(self._rows.get, ids))
        deliveries = [item for document in documents if document is not None for item in document.deliveries]
        mine = [
            item for item in deliveries if place in (keys.destination(item.destination), keys.dead(item.destination))
        ]
        return sum(item.status == status and not (item.alone and status == "pending") for item in mine)

    async def _marked(self, status: str, *folders: str) -> AsyncIterator[Delivery]:
        """Deliveries of a status that has marks, each once."""
        seen: set[str] = set()
        for folder in folders or ((keys.DEAD,) if status == "dead" else (keys.TO, keys.ALONE)):
            async for document in self._queries.all_of(folder):
                if document.id not in seen:
                    seen.add(document.id)
                    for item in document.deliveries:
                        if item.status == status:
                            yield item

    @operation
    async def pause(self, destination: str, until_ms: int, reason: str) -> None:
        def paused(found: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            record = found.get(destination)
            if record is None or (record.paused_until_ms or 0) >= until_ms:
                return found
            return {**found, destination: replace(record, paused_until_ms=until_ms, paused_reason=reason)}

        await self._destinations.update(paused)

    @operation
    async def resume(self, destination: str) -> bool:
        found = (await self._destinations.read()).get(destination)
        if found is None:
            return False
        until_ms = found.paused_until_ms
        if until_ms is not None:
            place = keys.destination(destination)
            ids = [keys.read_mark(key)[1] async for key in self._agenda.marks(place)]
            await asyncio.gather(*(self._end_wait(id, destination, until_ms) for id in ids))

        def resumed(known: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            record = replace(known[destination], failures=0, paused_until_ms=None, paused_reason=None)
            return {**known, destination: record}

        await self._destinations.update(resumed)
        return True

    async def _end_wait(self, id: str, destination: str, until_ms: int) -> None:
        await self._rows.write(id, lambda document: (changes.end_wait(document, destination, until_ms), None))


def _lost(item: Delivery, owner: str, living: Collection[str]) -> bool:
    return item.status == "running" and item.owner != owner and item.owner not in living


def _has_status(row: Submission, status: str | None) -> bool:
    return status is None or row.status == status or row.ended == f"task.{status}" or row.task_status == status.upper()


def _told(row: Submission, created_before_ms: int) -> bool:
    """Whether callbacks should have told of it: it took a URL along, and the provider has ended it."""
    ended = row.ended in ("task.succeeded", "task.failed")
    return row.hooked and row.status == "accepted" and ended and row.created_ms < created_before_ms


def _after(record: DestinationRecord, completion: Completion) -> DestinationRecord:
    """A success is written down when it changes something. A pause that lasts was not made by what has just
    succeeded."""
    if completion.outcome != "succeeded":
        return rules.failed(record, completion)
    now_ms = completion.finished_ms
    over = record.paused_until_ms is not None and record.paused_until_ms <= now_ms
    fresh = abs((record.last_success_ms or 0) - now_ms) < SUCCESS_MS
    if fresh and not record.failures and not over:
        return record
    record = replace(record, failures=0, last_success_ms=now_ms)
    return record if record.paused(now_ms) else replace(record, paused_until_ms=None, paused_reason=None)


def _advanced(found: dict[str, DestinationRecord], now_ms: int, step_ms: int) -> dict[str, DestinationRecord]:
    return {
        name: replace(
            record, paused_until_ms=changes.moved_due(record.paused_until_ms, "advance_pauses", now_ms, step_ms)
        )
        for name, record in found.items()
    }
