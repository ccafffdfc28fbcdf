"""What a person asks of a journal in a bucket beside its daily work: replay, check, copy.

Each submission is changed by a transaction of its own: a replay that is broken off has done its first ones.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from receiver.deliveries import Delivery
from receiver.errors import InputError
from receiver.events import Event
from receiver.journal import orders
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import Document
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.plumbing import Plumbing
from receiver.journal.bucket.soundness import contradictions, told
from receiver.journal.copying import NewRows, Rows
from receiver.journal.selection import REPLAYED, Order, Replayed, Selection


class Upkeep(Plumbing):
    """The part of `BucketJournal` for upkeep."""

    # Replay

    @operation
    async def select_deliveries(self, selection: Selection, *, after: str, limit: int) -> list[Delivery]:
        first, last = orders.range_of(selection, after)
        found = [
            item
            async for document in self._selected(selection)
            for item in document.deliveries
            if first < item.id < last
            and selection.destination in (None, item.destination)
            and selection.status in (None, item.status)
        ]
        return heapq.nsmallest(limit, found, key=lambda item: item.id)

    @operation
    async def select_events(self, selection: Selection, *, after: int, limit: int) -> list[tuple[int, str]]:
        since_ms, until_ms = selection.since_ms or 0, selection.until_ms
        found = [
            (fact.number, fact.event.id)
            async for document in self._selected(selection)
            for fact in document.facts
            if fact.number > after
            and selection.type in (None, fact.event.type)
            and fact.event.created_ms >= since_ms
            and (until_ms is None or fact.event.created_ms < until_ms)
        ]
        return heapq.nsmallest(limit, found)

    async def _selected(self, selection: Selection) -> AsyncIterator[Document]:
        if selection.submission_id is None:
            async for document in self._queries.documents():
                yield document
        elif (found := await self._rows.get(selection.submission_id)) is not None:
            yield found

    @operation
    async def event_deliveries(self, event: Event) -> list[Delivery]:
        document = await self._rows.get(event.submission_id)
        return _of_event(document, event.id) if document is not None else []

    @operation
    async def foresee(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        ids = sorted({order.submission_id for order in orders})
        found = dict(zip(ids, await asyncio.gather(*map(self._rows.get, ids)), strict=True))
        return [_foreseen(found[order.submission_id], order, now_ms) for order in orders]

    @operation
    async def replay(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        """In one transaction for each submission."""
        by_id: dict[str, list[int]] = defaultdict(list)
        for number, order in enumerate(orders):
            by_id[order.submission_id].append(number)
        done: dict[int, Replayed] = {}

        async def carry_out(id: str, numbers: list[int]) -> None:
            mine = [orders[number] for number in numbers]
            results = await self._rows.write(id, lambda document: _replayed(document, mine, now_ms))
            done.update(zip(numbers, results or [_foreseen(None, order, now_ms) for order in mine], strict=True))

        await asyncio.gather(*(carry_out(id, numbers) for id, numbers in by_id.items()))
        return [done[number] for number in range(len(orders))]

    @operation
    async def registered(self) -> dict[str, str]:
        return {name: record.handler for name, record in (await self._destinations.read()).items()}

    @operation
    async def pause_of(self, destination: str) -> tuple[int, str] | None:
        found = (await self._destinations.read()).get(destination)
        if found is None or found.paused_until_ms is None:
            return None
        return found.paused_until_ms, found.paused_reason or ""

    # The bucket as a whole

    @operation
    async def problems(self) -> list[str]:
        found: dict[str, list[str]] = defaultdict(list)
        leading = {item.key async for page in self._objects.pages("due") for item in page}
        running: list[Delivery] = []
        async for document in self._queries.documents():
            running += [item for item in document.deliveries if item.status == "running"]
            for name, ids in contradictions(document, leading).items():
                found[name] += ids
        return [*told(found), *await self._abandoned(running)]

    async def _abandoned(self, running: Sequence[Delivery]) -> list[str]:
        living = await self._engines.alive() if running else {}
        left = [item.id for item in running if item.owner not in living]
        if not left:
            return []
        return [
            f"{len(left):,} deliveries were under way when their engine died: {left[0]}, for one. "
            "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
        ]

    @operation
    async def needed_files(self, after: str, limit: int) -> list[str]:
        digests: list[str] = []
        async for page in self._objects.pages("files", after=f"{keys.file(after)}/~" if after else ""):
            for item in page:
                digest = keys.unescaped(item.key.split("/")[1])
                if digest not in digests[-1:]:
                    digests.append(digest)
            if len(digests) > limit:
                break
        return digests[:limit]

    @operation
    async def back_up(self, target: Path) -> int:
        raise InputError(
            f"A journal on a bucket is copied with the store's own tools: aws s3 sync {self.place} FOLDER, for "
            "instance, or rclone. Objects are written whole, so such a copy is sound; versioning keeps old ones."
        )

    def reading(self) -> AbstractAsyncContextManager[Rows]:
        raise InputError(f"This version copies no journal out of a bucket: {self.place}.")

    def filling(self) -> AbstractAsyncContextManager[NewRows]:
        raise InputError(f"This version copies no journal into a bucket: {self.place}.")

    @operation
    async def compact(self) -> tuple[int, int] | None:
        raise InputError(
            f"A bucket has no unused space, so there is nothing to write anew in {self.place}. What is deleted is gone "
            "at once, unless the bucket keeps versions: then its lifecycle rules say for how long."
        )

    @operation
    async def scrub(self, words: str) -> str | None:
        if not self._objects.versioned:
            return None
        return (
            f"The bucket keeps versions of what was deleted: the prompt stands in those of {self.place} until its "
            "lifecycle rules remove them, or somebody does"
        )


def _of_event(document: Document, event_id: str) -> list[Delivery]:
    """The newest first."""
    found = [item for item in document.deliveries if item.event_id == event_id]
    return sorted(found, key=lambda item: item.id, reverse=True)


def _foreseen(document: Document | None, order: Order, now_ms: int) -> Replayed:
    if document is None or document.event(order.event_id) is None:
        return orders.outcome_of(order, None, now_ms, event=False)
    if order.delivery_id is not None:
        found = document.delivery(order.delivery_id)
    else:
        there = [item for item in _of_event(document, order.event_id) if item.destination == order.destination]
        found = there[0] if there else None
    return orders.outcome_of(order, found, now_ms, event=True)


def _replayed(document: Document, mine: Sequence[Order], now_ms: int) -> tuple[Document, list[Replayed]]:
    results = []
    for order in mine:
        seen = _foreseen(document, order, now_ms)
        if seen.outcome in REPLAYED and seen.delivery_id is not None:
            document = changes.revive(document, seen.delivery_id, now_ms)
        elif seen.outcome in REPLAYED:
            delivery = orders.fresh(order, now_ms)
            document = changes.with_deliveries(document, [delivery])
            seen = Replayed(order=order, outcome="new", delivery_id=delivery.id)
        results.append(seen)
    return document, results
