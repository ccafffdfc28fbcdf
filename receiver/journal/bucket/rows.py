"""Reading and writing documents: what is remembered, what is written in which order, and who wins.

Changes of one submission that come while another one is written wait, and share the next put. A put that is refused
was overtaken: the document is read anew, and the changes run again on it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.document import Document, decode, encode, replace
from receiver.journal.bucket.leading import indexes, marked, needed_files, without_bodies
from receiver.journal.bucket.objects import Listed, Objects, Refused, Tag

T = TypeVar("T")
Mutate = Callable[[Document], tuple[Document, T]]
"""Pure; it may run several times. Whoever gives back the very same document writes nothing."""

REMEMBERED = 4 * 1024 * 1024
"""Bytes, as the store has them: documents are gzipped there, to a tenth or so."""
KNOWN = 20_000
"""Deliveries of which we know whose they are."""
TRIES = 20
"""How often a change runs anew, because others were faster."""
WAITS = (0.2, 1.0)
"""Seconds before a put that failed, tries of obstore's own included, is tried again."""
LARGE = 256 * 1024
"""Bytes of a document from which on its callbacks lie in objects of their own."""
AT_ONCE = 16
"""Reads at once."""


@dataclass(slots=True)
class Held:
    """A document as the store has, or had, it: so many bytes. `read_at` is monotonic."""

    document: Document
    tag: Tag
    size: int
    read_at: float


@dataclass(slots=True)
class _Waiting:
    mutate: Mutate[Any]
    future: asyncio.Future[Any]
    outcome: Any = None
    problem: Exception | None = None


class Rows:
    """The documents of a bucket.

    Args:
        marked: told which marks were made, and which are not needed any more.
    """

    def __init__(self, objects: Objects, *, marked: Callable[[Sequence[str], Sequence[str]], None]) -> None:
        self._objects = objects
        self._marked = marked
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._weight = 0
        self._whose: OrderedDict[str, str] = OrderedDict()
        self._queues: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._litter: list[str] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._reads = asyncio.Semaphore(AT_ONCE)
        self.add: Callable[[Submission], Awaitable[Submission]] | None = None
        """Writes a submission that comes of a change; the journal's own `add`."""

    # Reading

    async def get(self, id: str) -> Document | None:
        """As it is now."""
        held = await self._read(id)
        return None if held is None else held.document

    async def recent(self, id: str, seconds: float) -> Document | None:
        """As it was no longer ago than that."""
        held = self._held.get(id)
        if held is not None and seconds > 0 and time.monotonic() - held.read_at < seconds:
            return held.document
        return await self.get(id)

    async def listed(self, item: Listed) -> Document | None:
        """As it was listed; read only where we do not have that version."""
        held = self._held.get(keys.submission_id(item.key))
        if held is not None and held.tag.etag == item.etag:
            return held.document
        return await self.get(keys.submission_id(item.key))

    def whose(self, delivery_id: str) -> str | None:
        """The submission of a delivery, if we have seen it."""
        return self._whose.get(delivery_id)

    async def _read(self, id: str) -> Held | None:
        key = keys.submission(id)
        held = self._held.get(id)
        async with self._reads:
            found = await (self._objects.get(key) if held is None else self._objects.get_unless(key, held.tag))
        if isinstance(found, Tag):
            assert held is not None  # noqa: S101 - its tag was asked about
            held.read_at = time.monotonic()
            return held
        document = decode(found.data, key) if found is not None else None
        if found is None or document is None or document.erased:
            self.forget(id)
            self.sweep([key] if found is not None else [])  # whoever erased it did not come to an end
            return None
        return self._hold(document, found.tag, len(found.data))

    def _hold(self, document: Document, tag: Tag, size: int) -> Held:
        now = self._held.get(document.id)
        held = Held(document, tag, size, time.monotonic())
        if now is None or now.document.version <= document.version:  # an answer may be overtaken by a later one
            self.forget(document.id)
            self._held[document.id] = held
            self._weight += size
        while self._weight > REMEMBERED:
            self.forget(next(iter(self._held)))
        for item in document.deliveries:
            self._whose[item.id] = document.id
        while len(self._whose) > KNOWN:
            self._whose.popitem(last=False)
        return held

    # Writing

    async def write(self, id: str, mutate: Mutate[T]) -> T | None:
        """Change a document in one transaction. None: there is no such submission."""
        waiting = _Waiting(mutate, asyncio.get_running_loop().create_future())
        queue = self._queues.get(id)
        if queue is None:
            self._queues[id] = [waiting]
            task = asyncio.create_task(self._serve(id), name=f"journal {id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(waiting)
        outcome: T | None = await waiting.future
        return outcome

    async def _serve(self, id: str) -> None:
        while batch := self._queues[id]:
            self._queues[id] = []
            try:
                await self._batch(id, batch)
            except BaseException as exc:
                for item in batch:
                    item.problem = _told(exc)
                if not isinstance(exc, Exception):
                    raise
            finally:
                for item in batch:
                    _resolve(item)
        del self._queues[id]

    async def _batch(self, id: str, batch: list[_Waiting]) -> None:
        held = self._held.get(id)
        fresh = held is None
        held = held or await self._read(id)
        for attempt in range(TRIES):
            if held is None:
                return None
            draft = _run(batch, held.document)
            if draft is held.document:
                if fresh:
                    return await self._settle(held)
                known, held, fresh = held, await self._read(id), True
                if held is known:
                    return await self._settle(held)  # what we remembered was true
                continue
            try:
                return await self._settle(await self._commit(held.document, draft, held.tag))
            except Refused:
                held, fresh = await self._read(id), True
                await asyncio.sleep(jitter(attempt))
        raise JournalError(f"Submission {id} is changed by too many at once. Try again.", fault="locked")

    async def create(self, document: Document) -> bool:
        """Write a new document. False: there is one of that id."""
        try:
            await self._commit(None, document, None)
        except Refused:
            return False
        return True

    async def _commit(self, old: Document | None, draft: Document, tag: Tag | None) -> Held:
        """First what leads to the document, then the document, then away with what led to the old one: a crash in
        between leaves a mark too many, never one too few."""
        draft = replace(draft, version=(old.version if old else 0) + 1, nonce=secrets.token_hex(8))
        draft, made, stale = marked(old, draft)
        fresh = sorted(needed_files(draft) - (needed_files(old) if old is not None else frozenset()))
        draft = replace(draft, files=(*draft.files, *fresh))
        bodies: dict[str, bytes] = {}
        data, draft = encode(draft)
        if len(data) > LARGE:
            draft, bodies = without_bodies(draft)
            data, draft = encode(draft)
        leading = (*made, *indexes(old, draft), *(keys.file(digest, draft.id) for digest in fresh))
        aside = {**dict.fromkeys(leading, b""), **bodies}
        await asyncio.gather(*(self._put_aside(key, body) for key, body in aside.items()))
        try:
            written = await self._put(keys.submission(draft.id), data, draft.nonce, tag)
        except BaseException:
            self.forget(draft.id)
            raise
        held = self._hold(draft, written, len(data))
        self._marked(made, stale)
        self.sweep(stale)
        return held

    async def _put_aside(self, key: str, body: bytes) -> None:
        """Put what may be put twice."""
        for wait in WAITS:
            try:
                await self._objects.put(key, body)
            except JournalError:
                await asyncio.sleep(wait)
            else:
                return
        await self._objects.put(key, body)

    async def _put(self, key: str, data: bytes, nonce: str, tag: Tag | None) -> Tag:
        """Put, and where the answer says no or nothing, look whether it was done. Raises Refused."""
        problem: Exception | None = None
        for wait in (0.0, *WAITS):
            await asyncio.sleep(wait)
            try:
                return await (self._objects.create(key, data) if tag is None else self._objects.replace(key, data, tag))
            except (Refused, JournalError) as exc:
                problem = exc
            try:
                mine = await self._mine(key, nonce)
            except JournalError as exc:
                problem = exc
                continue
            if mine is not None:
                return mine
            if isinstance(problem, Refused):
                break
        assert problem is not None  # noqa: S101 - each turn ends with one
        raise problem

    async def _mine(self, key: str, nonce: str) -> Tag | None:
        found = await self._objects.get(key)
        return found.tag if found is not None and decode(found.data, key).nonce == nonce else None

    async def _settle(self, held: Held) -> None:
        """Write what came of a change. Whoever looks at what is due goes on with it, should we not come to an end."""
        if not held.document.additions:
            return
        assert self.add is not None  # noqa: S101 - the journal has set it
        for addition in held.document.additions:
            await self.add(addition)
        await self._commit(held.document, replace(held.document, additions=()), held.tag)

    # Deleting

    def sweep(self, keys: Sequence[str]) -> None:
        """Delete these by and by. If that fails, they lead nowhere, and whoever finds that out deletes them."""
        self._litter += keys
        if self._litter and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep(), name="journal sweep")
            self._sweeping.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _sweep(self) -> None:
        while self._litter:
            some, self._litter = self._litter[:1000], self._litter[1000:]
            try:
                await self._objects.delete(some)
            except JournalError:
                return

    async def tidy(self) -> None:
        """Wait until nothing is written or swept any more."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    def forget(self, id: str) -> None:
        """What we remember of it may be wrong, or too much."""
        held = self._held.pop(id, None)
        self._weight -= held.size if held is not None else 0


def jitter(attempt: int) -> float:
    """Seconds until the next try after one that was overtaken: those that met once shall not meet again."""
    return random.random() * 0.01 * 2.0 ** min(attempt, 6)  # noqa: S311 - no secret


def _run(batch: list[_Waiting], document: Document) -> Document:
    """One after the other; one that fails changes nothing."""
    for item in batch:
        item.problem = None
        try:
            document, item.outcome = item.mutate(document)
        except Exception as exc:
            item.problem = exc
    return document


def _resolve(item: _Waiting) -> None:
    if item.future.done():
        return  # nobody waits any more
    if item.problem is not None:
        item.future.set_exception(item.problem)
    else:
        item.future.set_result(item.outcome)


def _told(exc: BaseException) -> Exception:
    return exc if isinstance(exc, Exception) else JournalError("The write was broken off.", fault="io")
