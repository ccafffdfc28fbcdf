"""What a person or the calendar asks of a journal on a bucket beside its daily work: replay, delete, erase, check.

Each submission is changed by a transaction of its own: a replay or a purge that is broken off has done its first ones.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from receiver.deliveries import Delivery, DestinationRecord
from receiver.errors import InputError, JournalError
from receiver.events import Event, Submission, first_id
from receiver.journal import orders
from receiver.journal.base import Trouble
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.agenda import Agenda
from receiver.journal.bucket.cells import Cell
from receiver.journal.bucket.document import Document, replace
from receiver.journal.bucket.engines import Engines
from receiver.journal.bucket.naming import add, add_named, free_name
from receiver.journal.bucket.objects import Objects
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.queries import Queries
from receiver.journal.bucket.soundness import contradictions, told
from receiver.journal.copying import NewRows, Rows
from receiver.journal.selection import REPLAYED, Batch, Kind, Leftover, Order, Replayed, Selection

PAGE = 200
STEP = 25
"""Submissions that one step of a purge deletes."""


class Upkeep:
    """The part of `BucketJournal` for upkeep, and what both parts stand on.

    Args:
        place: what to call the journal, for instance `s3://acme/receiver`.
        look_seconds: how long what was listed as due may be believed.
    """

    def __init__(self, objects: Objects, *, place: str, look_seconds: float) -> None:
        self.place = place
        self._objects = objects
        self._agenda = Agenda(objects, look_seconds=look_seconds)
        self._rows = self._agenda.rows
        self._rows.add = self._add_further
        self._queries = Queries(objects, self._rows)
        self._engines = Engines(objects, place)
        self._destinations: Cell[dict[str, DestinationRecord]] = Cell(
            objects, "destinations", dict[str, DestinationRecord], {}
        )
        self._troubles: Cell[dict[str, Trouble]] = Cell(objects, "troubles", dict[str, Trouble], {})
        self._purged: Cell[int] = Cell(objects, "purged", int, 0)
        self._claiming: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._searched: dict[str, float] = {}
        self._thorough_at = 0.0
        self._closed = False
        self._under_way_count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each class were made so far."""
        return self._objects.requests

    def _begin(self) -> None:
        if self._closed:
            raise JournalError(f"The journal {self.place} is closed.", fault="closed")
        self._under_way_count += 1
        self._idle.clear()

    def _end(self) -> None:
        self._under_way_count -= 1
        if not self._under_way_count:
            self._idle.set()

    async def _add_further(self, submission: Submission) -> Submission:
        """A submission that comes of a change; one that is there already was written by whoever began with it."""
        if submission.once is not None:
            return await add_named(self._objects, self._rows, submission)
        await add(self._rows, submission)
        return submission

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

    # Deleting

    @operation
    async def old(self, kind: Kind, before_ms: int, after: str) -> list[str]:
        behind = keys.before(first_id(before_ms))
        if kind == "media":
            before = first_id(before_ms)
            ids = {id async for _, id in self._files()}
            return await self._settled(sorted(id for id in ids if after < id < before))
        if kind == "submissions":
            documents = self._queries.documents(after=behind)
            found = [item.id async for item in documents if item.id > after and changes.is_settled(item)]
            return heapq.nsmallest(PAGE, found)
        return await self._old_callbacks(before_ms, behind, after)

    async def _old_callbacks(self, before_ms: int, behind: str, after: str) -> list[str]:
        """What was last written before the oldest document that still has a callback has none, and is not read again:
        a purge a day would else read every submission every day."""
        known_ms = await self._purged.read()
        items = [item async for page in self._objects.pages(keys.SUBMISSIONS) for item in page]
        written = {keys.submission_id(item.key): item.modified_ms for item in items}
        left = [item.modified_ms for item in items if item.key <= behind]
        old: list[str] = []
        some = [item for item in items if item.key > behind and item.modified_ms >= known_ms]
        async for document in self._queries.read(some):
            left += [written[document.id]] if document.callbacks else []
            old += [f"{document.id}.{item.number}" for item in document.callbacks if item.received_ms < before_ms]
        until_ms = min(left, default=max(written.values(), default=0))
        await self._purged.update(lambda found: max(found, until_ms))
        return heapq.nsmallest(PAGE, (key for key in old if key > after))

    async def _settled(self, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(ids), PAGE):
            documents = await asyncio.gather(*map(self._rows.get, ids[start : start + PAGE]))
            found += [item.id for item in documents if item is not None and changes.is_settled(item)]
            if len(found) >= PAGE:
                break
        return found[:PAGE]

    async def _files(self) -> AsyncIterator[tuple[str, str]]:
        """(digest, submission) of every file that one needs."""
        async for page in self._objects.pages("files"):
            for item in page:
                digest, _, id = item.key.removeprefix("files/").partition("/")
                yield keys.unescaped(digest), keys.unescaped(id)

    @operation
    async def delete(self, kind: Kind, keys: Sequence[str], *, problem: str) -> Batch:
        some = keys[:STEP] if kind != "callbacks" else keys
        removed: Counter[str] = Counter()
        if kind == "callbacks":
            by_id: dict[str, set[int]] = defaultdict(set)
            for key in some:
                id, _, number = key.partition(".")
                by_id[id].add(int(number))
            counts = await asyncio.gather(*(self._delete_callbacks(*item) for item in by_id.items()))
        elif kind == "media":
            counts = await asyncio.gather(*(self._drop_files(id, problem) for id in some))
        else:
            counts = [found or {} for found in await asyncio.gather(*(self._erase(id, force=False) for id in some))]
        for count in counts:
            removed.update(count)
        return Batch(removed=removed, after=some[-1]) if some else Batch()

    async def _delete_callbacks(self, id: str, numbers: set[int]) -> Mapping[str, int]:
        def mutate(document: Document) -> tuple[Document, int]:
            left = tuple(item for item in document.callbacks if item.number not in numbers)
            gone = len(document.callbacks) - len(left)
            return (replace(document, callbacks=left) if gone else document), gone

        gone = await self._rows.write(id, mutate) or 0
        apart = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        self._rows.sweep([key for key in apart if int(keys.last(key)) in numbers])
        return {"callbacks": gone}

    async def _drop_files(self, id: str, problem: str) -> Mapping[str, int]:
        document = await self._rows.get(id)
        if document is None or not changes.is_settled(document):
            return {}
        gone = await self._leave(id, document.files)

        def mutate(document: Document) -> tuple[Document, bool]:
            if not changes.is_settled(document):
                return document, False
            row = document.submission
            row = replace(row, media=(), media_problem=problem) if row.media else row
            return replace(document, submission=row, files=()), True

        if not await self._rows.write(id, mutate):
            return {}
        await self._objects.delete([keys.file(digest, id) for digest in document.files])
        return {"files": gone}

    async def _leave(self, id: str, digests: Sequence[str]) -> int:
        """Note the files that nobody else needs; they are removed afterwards. Returns how many."""
        alone = [digest for digest in digests if not await self._needed(digest, but=id)]
        await asyncio.gather(*(self._objects.put(keys.leftover(digest), b"") for digest in alone))
        return len(alone)

    async def _needed(self, digest: str, *, but: str = "") -> bool:
        """Whether a submission needs a file."""
        async for id in self._queries.names(keys.file(digest)):
            if id == but:
                continue
            if await self._rows.get(id) is not None:
                return True
            self._rows.sweep([keys.file(digest, id)])
        return False

    @operation
    async def owed(self, submission_id: str) -> list[Delivery]:
        document = await self._rows.get(submission_id)
        found = document.deliveries if document is not None else ()
        return sorted((item for item in found if item.status in ("pending", "running")), key=lambda item: item.id)

    @operation
    async def children(self, submission_id: str) -> list[str]:
        return await self._queries.children(submission_id)

    @operation
    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        return await self._erase(submission_id, force=force)

    async def _erase(self, id: str, *, force: bool) -> Mapping[str, int] | None:
        """First the name, then what is needed of files, then the document is emptied: from then on it is gone, and
        nobody can write it. What led to it goes last."""
        document = await self._rows.get(id)
        if document is None:
            return _counts(None, 0)
        if not force and not changes.is_settled(document):
            return None
        await free_name(self._objects, document.submission)
        files = await self._leave(id, document.files)
        last = await self._rows.write(id, lambda found: _emptied(found, force=force))
        if last is None:
            return None
        self._rows.forget(id)
        row = last.submission
        apart = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        leading = [keys.file(digest, id) for digest in last.files]
        leading += [keys.task(row.task_id, id)] if row.task_id is not None else []
        leading += [keys.child(row.parent_id, id)] if row.parent_id is not None else []
        await self._objects.delete([*leading, *apart, keys.submission(id)])
        return _counts(last, files)

    @operation
    async def leftovers(self, after: str) -> list[Leftover]:
        found: list[str] = []
        async for page in self._objects.pages("leftovers", after=keys.leftover(after) if after else ""):
            found += [keys.unescaped(keys.last(item.key)) for item in page]
            if len(found) >= PAGE:
                break
        return [Leftover(digest=digest, needed=await self._needed(digest)) for digest in found[:PAGE]]

    @operation
    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        await self._objects.delete([keys.leftover(digest) for digest in digests])

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


def _emptied(document: Document, *, force: bool) -> tuple[Document, Document | None]:
    """Nothing stays in it; gives what was."""
    if not force and not changes.is_settled(document):
        return document, None
    row = document.submission
    empty = Submission(
        id=row.id, kind=row.kind, created_ms=row.created_ms, prompt="", request={}, deadline_ms=row.deadline_ms
    )
    return Document(submission=empty, version=document.version, erased=True), document


def _counts(document: Document | None, files: int) -> Mapping[str, int]:
    kinds = ("attempts", "deliveries", "callbacks")
    counts = {kind: len(getattr(document, kind)) if document is not None else 0 for kind in kinds}
    events = len(document.facts) if document is not None else 0
    return {"files": files, **counts, "events": events, "submissions": int(document is not None)}
