"""Deliveries in a bucket: looked up, claimed, completed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord
from receiver.errors import JournalError
from receiver.journal import Work, rules
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import Document, replace
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.plumbing import Plumbing
from receiver.journal.bucket.queries import owed

PROBED = 64
"""Documents looked at for a delivery under way, before a destination that is down gets another."""
SUCCESS_MS = 60_000
"""How exact it is known when a destination last took something: each time would cost a request."""


class Deliveries(Plumbing):
    """The part of `BucketJournal` about deliveries."""

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
