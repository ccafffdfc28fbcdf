"""Submissions of a bucket: the cache, the order of writes, conflicts, and the due index.

Changes of one submission that come during a write wait, and share the next put. After a conflict the object is read
again, and the changes run again on it.

The due index consists of empty objects. Their keys are listed in order of time up to now, so nothing else is read.

    due/rows/TIME.ID.VERSION-NONCE              a submission to be sent, polled, archived or ended
    due/to/DESTINATION/TIME.ID.VERSION-NONCE    a submission with an open delivery to this destination, followed by
                                                `-failed` if each of these has failed
    dead/DESTINATION/0.ID.VERSION-NONCE         a submission with a dead delivery there

The submission names its entries. An entry is made before the submission that needs it, and deleted after the first
version that does not. An entry that is not named is deleted once the submission is as new as the entry. Until then its
writer may be about to write the submission.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from receiver import metrics
from receiver.bucket import PreconditionFailed
from receiver.bucket.client import Bucket, Tag
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.stored import MOVE_MS, StoredSubmission, decode, encode, replace
from receiver.journal.document import file_digests
from receiver.journal.shared import jitter

T = TypeVar("T")
Mutate = Callable[[StoredSubmission], tuple[StoredSubmission, T]]
"""A pure function, which may run several times. If it returns the same object, nothing is written."""

CACHED = 256
"""Submissions in the cache."""
TRIES = 20
"""Tries of a change that conflicts with other processes."""
WAITS = (0.2, 1.0)
"""Seconds before the retries of a failed put. obstore's own retries come first."""
AT_ONCE = 16
"""Concurrent reads."""
WINDOW = 1000
"""Entries looked at in one place, the earliest first."""
FAR_MS = 2**62
ABANDONED_MS = 2 * 86_400_000
"""Age from which an entry or link without a submission is abandoned. Its writer would have written the submission
long before, because a signed request is valid for minutes."""


@dataclass(slots=True)
class _Cached:
    """An object as it was read or written last. `read_at` is monotonic."""

    stored: StoredSubmission
    tag: Tag
    read_at: float


@dataclass(slots=True)
class _Place:
    """Entries of one place as last listed, with the later changes of this process: the time each was made, by key."""

    entries: dict[str, int] = field(default_factory=dict)
    looked_at: float | None = None
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Documents:
    """Submissions of a bucket, and the due ones among them.

    Args:
        bucket: with errors of the journal.
        look_seconds: lifetime of a list of the due index. 0: none is used again. Changes of this process are seen at
            once.
        add: writes a submission that comes of a change.

    Attributes:
        subscribers: called with the id of a submission after each write.
    """

    def __init__(
        self, bucket: Bucket, *, look_seconds: float, add: Callable[[Submission], Awaitable[Submission]]
    ) -> None:
        self.bucket = bucket
        self._look_seconds = look_seconds
        self.subscribers: list[Callable[[frozenset[str]], None]] = []
        self._add = add
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._places: defaultdict[str, _Place] = defaultdict(_Place)
        self._queues: dict[str, list[tuple[Mutate[Any], asyncio.Future[Any]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._litter: list[str] = []
        self._sweeping = False
        self._reads = asyncio.Semaphore(AT_ONCE)

    # Reading

    async def get(self, id: str, *, max_age: float = 0.0, etag: str = "") -> StoredSubmission | None:
        """Return a submission as it was at most `max_age` seconds ago, or as it was listed with this ETag."""
        cached = self._cache.get(id)
        if cached is not None and (cached.tag.etag == etag or time.monotonic() - cached.read_at < max_age):
            return cached.stored
        read = await self._read(id)
        return None if read is None else read.stored

    async def _read(self, id: str) -> _Cached | None:
        key, cached = keys.submission(id), self._cache.get(id)
        async with self._reads:
            found = await (self.bucket.get(key) if cached is None else self.bucket.get_if_changed(key, cached.tag))
        if isinstance(found, Tag):
            assert cached is not None  # noqa: S101 - its tag was the condition
            cached.read_at = time.monotonic()
            return cached
        read = decode(found.data, key) if found is not None else None
        if found is None or read is None or read.erased:
            self._cache.pop(id, None)
            self.sweep([key] if found is not None else [])  # its eraser has ended halfway
            return None
        return self._keep(read, found.tag)

    def _keep(self, read: StoredSubmission, tag: Tag) -> _Cached:
        now = self._cache.get(read.id)
        cached = _Cached(read, tag, time.monotonic())
        if now is None or now.stored.version <= read.version:  # an answer may be overtaken by a later one
            self._cache[read.id] = cached
            self._cache.move_to_end(read.id)
        if read.erased:
            del self._cache[read.id]
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return cached

    # Writing

    async def write(self, id: str, mutate: Mutate[T]) -> T | None:
        """Change a submission in one transaction. None: there is no such submission."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(id)
        if queue is None:
            self._queues[id] = [(mutate, future)]
            self._start(self._serve(id))
        else:
            queue.append((mutate, future))
        return await future

    async def _serve(self, id: str) -> None:
        while batch := self._queues[id]:
            self._queues[id] = []
            outcomes: Sequence[Any]
            try:
                outcomes = await self._write_batch(id, [mutate for mutate, _ in batch])
            except Exception as exc:
                outcomes = [exc] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        del self._queues[id]

    async def _write_batch(self, id: str, batch: Sequence[Mutate[Any]]) -> Sequence[Any]:
        """Return the outcome or the exception of each change."""
        cached = self._cache.get(id)
        fresh = cached is None
        for attempt in range(TRIES):
            cached = cached or await self._read(id)
            if cached is None:
                return [None] * len(batch)
            draft, outcomes = cached.stored, []
            for mutate in batch:
                try:
                    draft, outcome = mutate(draft)
                except Exception as exc:  # one that fails changes nothing
                    outcome = exc
                outcomes.append(outcome)
            if draft is cached.stored and not fresh:
                found, fresh = await self._read(id), True
                if found is not cached:
                    cached = found  # the cache was outdated
                    continue
            try:
                if draft is not cached.stored:
                    began = time.perf_counter()
                    cached = await self._commit(cached.stored, draft, cached.tag)
                    if metrics.counting:
                        metrics.committed(len(batch), began)
            except PreconditionFailed:
                cached, fresh = None, True
                await asyncio.sleep(jitter(attempt))
                continue
            await self._write_additions(cached)
            return outcomes
        raise JournalError(f"Submission {id} is changed by too many at once. Try again.", fault="locked")

    async def create(self, submission: Submission) -> None:
        """Write a new submission. Raises PreconditionFailed if there is one of that id."""
        await self._commit(None, StoredSubmission(submission=submission), None)

    async def _commit(self, old: StoredSubmission | None, draft: StoredSubmission, tag: Tag | None) -> _Cached:
        """Write entries and links, then the object, then delete old entries. A crash in between leaves an entry too
        many, never one too few."""
        version = old.version + 1 if old else 1
        draft = replace(draft, version=version, nonce=secrets.token_hex(8)).with_entries()
        before, after = (set(item.entries.values()) if item else set() for item in (old, draft))
        fresh = sorted(file_digests(draft.submission) - (file_digests(old.submission) if old else frozenset()))
        data, draft = encode(replace(draft, files=(*draft.files, *fresh)))
        links = [keys.path(keys.FILES, digest, draft.id) for digest in fresh]
        row, task_id = draft.submission, draft.submission.task_id
        if task_id is not None and (old is None or old.submission.task_id != task_id):
            links.append(keys.path(keys.TASKS, task_id, row.id))
        if row.parent_id is not None and old is None:
            links.append(keys.path(keys.CHILDREN, row.parent_id, row.id))
        await asyncio.gather(*(put(self.bucket, key, b"", "any") for key in (*sorted(after - before), *links)))
        try:
            written = await put(self.bucket, keys.submission(draft.id), data, tag)
        except BaseException:
            self._cache.pop(draft.id, None)
            raise
        cached = self._keep(draft, written)
        for key in after - before:
            self._places[keys.place(key)].entries[key] = int(time.time() * 1000)
        self.sweep(sorted(before - after))
        for changed in self.subscribers:
            changed(frozenset([draft.id]))
        return cached

    async def _write_additions(self, cached: _Cached) -> None:
        """Write submissions that came of a change. After a crash `finish` does."""
        if not cached.stored.additions:
            return
        for addition in cached.stored.additions:
            await self._add(addition)
        with suppress(PreconditionFailed):  # another process has written it since, and goes on with it
            await self._commit(cached.stored, replace(cached.stored, additions=()), cached.tag)

    # The due index

    async def due(self, place: str, now_ms: int, fresh: float | None = None) -> AsyncIterator[StoredSubmission]:
        """Yield submissions with an entry up to now, in order of the entries. Each is read when it is wanted.

        With `fresh`, entries of what has failed are left out, and the one at this place (0 to 1) comes first.
        Entries that came much too early are moved, and additions that another process left are written.
        """

        def without_entry(item: StoredSubmission) -> tuple[StoredSubmission, None]:
            return replace(item, entries={name: key for name, key in item.entries.items() if name != place}), None

        def wanted(key: str) -> bool:
            return fresh is None or not keys.has_failed(key)

        known, end = self._places[place], keys.until(place, now_ms)
        async with known.looking:
            began, before = time.monotonic(), set(known.entries)
            if known.looked_at is None or began - known.looked_at >= self._look_seconds:
                found: dict[str, int] = {}
                async for page in self.bucket.pages(place):
                    found |= {item.key: item.modified_ms for item in page}
                    if sum(map(wanted, found)) >= WINDOW or max(found, default="") >= end:
                        break
                known.entries = found | {key: made for key, made in known.entries.items() if key not in before}
                known.looked_at = began
        entries = sorted(key for key in known.entries if key < end and wanted(key))
        step, seen = AT_ONCE, set[str]()
        if fresh is not None:
            step, entries = 1, entries[:WINDOW]
            middle = fresh * len(entries)
            entries = [key for _, key in sorted((abs(at - middle), key) for at, key in enumerate(entries, start=1))]
        for start in range(0, len(entries), step):
            some = entries[start : start + step]
            for key, item in zip(some, await asyncio.gather(*map(self._due, some)), strict=True):
                if item is not None and item.entries.get(place) == key:
                    if item.id not in seen:
                        seen.add(item.id)
                        yield item
                        if item.additions or item.due_ms().get(place, FAR_MS) > now_ms + MOVE_MS:
                            await self.write(item.id, without_entry)
                    continue
                abandoned = item is None and time.time() * 1000 - known.entries.get(key, 0) > ABANDONED_MS
                if abandoned or (item is not None and item.version >= keys.read_entry(key)[2]):
                    self.sweep([key])  # it leads nowhere

    async def _due(self, key: str) -> StoredSubmission | None:
        _, id, version = keys.read_entry(key)
        found = await self.get(id, max_age=self._look_seconds)
        if self._look_seconds and found is not None and found.version < version:
            return await self.get(id)  # another process has written it since
        return found

    # Deleting

    def sweep(self, gone: Sequence[str]) -> None:
        """Delete objects in the background. If that fails, they lead nowhere, and the next reader deletes them."""
        for key in gone:
            if (place := self._places.get(keys.place(key))) is not None:
                place.entries.pop(key, None)
        self._litter += gone
        if self._litter and not self._sweeping:
            self._sweeping = True
            self._start(self._sweep())

    async def _sweep(self) -> None:
        with suppress(JournalError):
            while self._litter:
                some, self._litter = self._litter[:1000], self._litter[1000:]
                await self.bucket.delete(some)
        self._sweeping = False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until nothing is written or swept."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))


async def put(bucket: Bucket, key: str, data: bytes, tag: Tag | Literal["any"] | None) -> Tag:
    """Put an object, with retries. After a refusal or a lost answer, read it to see if the put was done.

    Args:
        bucket: with errors of the journal.
        key: of the object.
        data: unique to this write if that has a condition.
        tag: the version to replace. None: there must be none.

    Raises:
        PreconditionFailed: another process was faster.
    """
    problem: Exception | None = None
    for wait in (0.0, *WAITS):
        await asyncio.sleep(wait)
        try:
            if tag == "any":
                return await bucket.put(key, data)
            return await (bucket.create(key, data) if tag is None else bucket.replace(key, data, tag))
        except (PreconditionFailed, JournalError) as exc:
            problem = exc
        try:
            found = await bucket.get(key)
        except JournalError as exc:
            problem = exc
            continue
        if found is not None and found.data == data:
            return found.tag
        if isinstance(problem, PreconditionFailed):
            break
    assert problem is not None  # noqa: S101 - each turn ends with one
    raise problem
