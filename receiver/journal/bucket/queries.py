"""What a bucket's journal is asked: by id, by time, by state. A person's questions may list every key; an engine's do
not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from receiver.deliveries import Delivery
from receiver.events import Event, Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.document import Document
from receiver.journal.bucket.objects import Listed, Objects
from receiver.journal.bucket.rows import Rows

T = TypeVar("T")

BATCH = 32
"""Documents read at once."""
MARGIN_MS = 300_000
"""By how much clocks may differ where a person is shown the newest."""
ID_LENGTH = 26


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """Something in a document: since when it is known, in whatever clock wrote it down, and what it is sorted by."""

    known_ms: int
    order: str
    value: T


class Queries:
    """Reads."""

    def __init__(self, objects: Objects, rows: Rows) -> None:
        self._objects = objects
        self._rows = rows

    async def documents(
        self, *, after: str = "", until: str | None = None, size: int = BATCH
    ) -> AsyncIterator[Document]:
        """Every document, the newest submission first, `size` of them read at once. Offsets are keys."""
        async for page in self._objects.pages(keys.SUBMISSIONS, after=after):
            items = [item for item in page if until is None or item.key < until]
            async for document in self.read(items, size):
                yield document
            if len(items) < len(page):
                return

    async def read(self, items: Sequence[Listed], size: int = BATCH) -> AsyncIterator[Document]:
        """These, as listed, those that are there."""
        for start in range(0, len(items), size):
            for document in await asyncio.gather(*map(self._rows.listed, items[start : start + size])):
                if document is not None:
                    yield document

    async def newest(self, limit: int, pick: Callable[[Document], Iterable[Known[T]]]) -> list[T]:
        """The newest things of all documents.

        What is in a document was known when that was last written: so those written last are read first, until none
        that is left can hold a newer thing.
        """
        items = [item async for page in self._objects.pages(keys.SUBMISSIONS) for item in page]
        items.sort(key=lambda item: -item.modified_ms)
        found: list[Known[T]] = []
        for start in range(0, len(items), BATCH):
            if len(found) == limit and min(item.known_ms for item in found) > items[start].modified_ms + MARGIN_MS:
                break
            async for document in self.read(items[start : start + BATCH]):
                found += pick(document)
            found = sorted(found, key=lambda item: item.order, reverse=True)[:limit]
        return [item.value for item in found]

    async def all_of(self, place: str) -> AsyncIterator[Document]:
        """Every document that a place's marks lead to."""
        async for page in self._objects.pages(place):
            for start in range(0, len(page), BATCH):
                some = [keys.read_mark(item.key)[1] for item in page[start : start + BATCH]]
                for document in await asyncio.gather(*map(self._rows.get, some)):
                    if document is not None:
                        yield document

    async def whose(self, delivery_id: str) -> str | None:
        """The submission of a delivery; what we have once seen is not looked for."""
        known = self._rows.whose(delivery_id)
        if known is not None:
            return known
        document = await self.with_delivery(delivery_id)
        return None if document is None else document.id

    async def with_delivery(self, id: str) -> Document | None:
        """The document that holds a delivery.

        No index leads from one to the other. But a delivery is younger than its submission, mostly by minutes, so the
        submissions are looked through from its time backwards, and those after it last (a wrong clock made them).
        """
        known = self._rows.whose(id)
        if known is not None:
            document = await self._rows.get(known)
            return document if document is not None and document.delivery(id) is not None else None
        if len(id) != ID_LENGTH:
            return None
        start = keys.before(id)
        for after, until in ((start, None), ("", start)):
            async for document in self.documents(after=after, until=until):
                if document.delivery(id) is not None:
                    return document
        return None

    async def by_task(self, task_id: str) -> Submission | None:
        """The newest submission that has a task."""
        ids = [id async for id in self.names(keys.task(task_id))]
        rows = [document.submission for document in await asyncio.gather(*map(self._rows.get, ids)) if document]
        return max((row for row in rows if row.task_id == task_id), key=lambda row: row.id, default=None)

    async def by_part(self, part: str) -> list[str]:
        """Ids that start or end so; two are enough to see that it is not the only one."""
        found: list[str] = []
        async for page in self._objects.pages(keys.SUBMISSIONS):
            ids = [keys.submission_id(item.key) for item in page]
            found += [id for id in ids if id.startswith(part) or id.endswith(part)]
            if len(found) > 1:
                break
        return found[:2]

    async def names(self, folder: str) -> AsyncIterator[str]:
        """The last segments below a folder."""
        async for page in self._objects.pages(folder):
            for item in page:
                yield keys.unescaped(keys.last(item.key))

    async def children(self, id: str) -> list[str]:
        """Ids of the follow-ups that are there."""
        ids = [name async for name in self.names(keys.child(id))]
        found = await asyncio.gather(*map(self._rows.get, ids))
        return sorted(document.id for document in found if document is not None)

    async def family(self, id: str) -> list[Submission]:
        """Everything from the first ancestor down, oldest first."""
        top = await self._rows.get(id)
        seen = {id}
        while top is not None and top.submission.parent_id is not None and top.submission.parent_id not in seen:
            above = await self._rows.get(top.submission.parent_id)
            if above is None:
                break
            seen.add(above.id)
            top = above
        rows: dict[str, Submission] = {}
        waiting = [top] if top is not None else []
        while waiting:
            document = waiting.pop()
            rows[document.id] = document.submission
            below = await asyncio.gather(*map(self._rows.get, await self.children(document.id)))
            waiting += [item for item in below if item is not None and item.id not in rows]
        return sorted(rows.values(), key=lambda row: row.id)


def facts(document: Document, wanted: Callable[[Event], bool]) -> list[Known[Event]]:
    """Events, in the order in which they became known."""
    return [
        Known(fact.number // 10**6, f"{fact.number:020d}", fact.event) for fact in document.facts if wanted(fact.event)
    ]


def owed(document: Document, wanted: Callable[[Delivery], bool]) -> list[Known[Delivery]]:
    """Deliveries in order of id, each as old as its event at least."""
    known_ms = {fact.event.id: fact.number // 10**6 for fact in document.facts}
    return [
        Known(known_ms.get(item.event_id, 0), item.id, item) for item in document.deliveries if wanted(item)
    ]  # fmt: skip
