"""Reading and writing submissions in a bucket: the cache, the order of writes, conflicts, and the due index.

Changes of one submission that come while another one is written wait, and share the next put. A put whose condition
fails was overtaken: the object is read again, and the changes run again on it.

The due index is empty objects whose keys are listed in order of time, up to now, so that nothing else is read.

    due/rows/TIME.ID.VERSION-NONCE              a submission to be sent, polled, archived or ended
    due/to/DESTINATION/TIME.ID.VERSION-NONCE    a submission with an open delivery to this destination
    dead/DESTINATION/0.ID.VERSION-NONCE         a submission with a dead delivery there

An entry is made before the submission that needs it, and deleted after the one that does not. The submission names its
entries. An entry it does not name is deleted once the submission is as new as the entry: until then its writer may be
about to write the submission that names it. So a submission that needs an entry always has one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from receiver.bucket import PreconditionFailed
from receiver.bucket.client import Bucket, Tag
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.stored import LARGE, MOVE_MS, StoredSubmission, decode, encode, replace, with_entries
from receiver.journal.shared import jitter

T = TypeVar("T")
Mutate = Callable[[StoredSubmission], tuple[StoredSubmission, T]]
"""Pure. It may run several times. One that returns the very same object writes nothing."""

CACHED = 4 * 1024 * 1024
"""Bytes of cached objects, as the bucket has them: they are gzipped there, to about a tenth."""
TRIES = 20
"""How often a change runs again because another process was faster."""
WAITS = (0.2, 1.0)
"""Seconds before a put that failed, obstore's own retries included, is tried again."""
AT_ONCE = 16
"""Reads at once."""
WINDOW = 1000
"""Entries looked at in one place, those due first."""
AHEAD_MS = 60_000
"""How far ahead entries are listed, so that what comes due before the next look is known."""
ABANDONED_MS = 2 * 86_400_000
"""Age of an entry without a submission from which on no process can be about to write that: a signed request is valid
for minutes."""


@dataclass(slots=True)
class _Cached:
    """An object as the bucket has, or had, it. `read_at` is monotonic."""

    stored: StoredSubmission
    tag: Tag
    size: int
    read_at: float


@dataclass(slots=True)
class _Waiting:
    """A change that waits to be written."""

    mutate: Mutate[Any]
    future: asyncio.Future[Any]
    outcome: Any = None
    problem: Exception | None = None


@dataclass(slots=True)
class _Place:
    """Entries of one place as last listed, with those that this process has made and deleted since."""

    entries: dict[str, int] = field(default_factory=dict)
    """When it was made, by key."""
    looked_at: float | None = None
    until_ms: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Documents:
    """The submissions of a bucket, and what of them is due.

    Args:
        bucket: with errors of the journal.
        look_seconds: for how long a list of the due index is used again; 0: never. Changes of this process are known at
            once.
        written: called with the id of a submission after each write.
        add: writes a submission that comes of a change.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        look_seconds: float,
        written: Callable[[str], None],
        add: Callable[[Submission], Awaitable[Submission]],
    ) -> None:
        self.bucket = bucket
        self._look_seconds = look_seconds
        self._written = written
        self._add = add
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._weight = 0
        self._places: dict[str, _Place] = {}
        self._queues: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._litter: list[str] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._reads = asyncio.Semaphore(AT_ONCE)

    # Reading

    async def get(self, id: str, *, max_age: float = 0.0, etag: str = "") -> StoredSubmission | None:
        """Return a submission as it was at most `max_age` seconds ago, or as it was listed with this ETag."""
        cached = self._cache.get(id)
        if cached is not None and (cached.tag.etag == etag or time.monotonic() - cached.read_at < max_age):
            return cached.stored
        read = await self._read(id)
        return None if read is None else read.stored

    def owner_of(self, delivery_id: str) -> str | None:
        """Return the submission of a delivery, if that is cached."""
        found = (item.stored for item in self._cache.values())
        return next((item.id for item in found if any(one.id == delivery_id for one in item.deliveries)), None)

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
            self.forget(id)
            self.sweep([key] if found is not None else [])  # its eraser has ended halfway
            return None
        return self._keep(read, found.tag, len(found.data))

    def _keep(self, read: StoredSubmission, tag: Tag, size: int) -> _Cached:
        now = self._cache.get(read.id)
        cached = _Cached(read, tag, size, time.monotonic())
        if now is None or now.stored.version <= read.version:  # an answer may be overtaken by a later one
            self.forget(read.id)
            self._cache[read.id] = cached
            self._weight += size
        while self._weight > CACHED:
            self.forget(next(iter(self._cache)))
        return cached

    def forget(self, id: str) -> None:
        """Drop a submission from the cache."""
        cached = self._cache.pop(id, None)
        self._weight -= cached.size if cached is not None else 0

    # Writing

    async def write(self, id: str, mutate: Mutate[T]) -> T | None:
        """Change a submission in one transaction. None: there is no such submission."""
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
                await self._write_batch(id, batch)
            except Exception as exc:
                for item in batch:
                    item.problem = exc
            for item in batch:
                if item.future.done():
                    continue  # its caller was cancelled
                if item.problem is not None:
                    item.future.set_exception(item.problem)
                else:
                    item.future.set_result(item.outcome)
        del self._queues[id]

    async def _write_batch(self, id: str, batch: list[_Waiting]) -> None:
        cached = self._cache.get(id)
        fresh = cached is None
        cached = cached or await self._read(id)
        for attempt in range(TRIES):
            if cached is None:
                return None
            draft = cached.stored
            for item in batch:
                item.problem = None
                try:
                    draft, item.outcome = item.mutate(draft)
                except Exception as exc:  # one that fails changes nothing
                    item.problem = exc
            if draft is cached.stored:
                if fresh:
                    return await self._write_additions(cached)
                before, cached, fresh = cached, await self._read(id), True
                if cached is before:
                    return await self._write_additions(cached)  # the cache was right
                continue
            try:
                return await self._write_additions(await self._commit(cached.stored, draft, cached.tag))
            except PreconditionFailed:
                cached, fresh = await self._read(id), True
                await asyncio.sleep(jitter(attempt))
        raise JournalError(f"Submission {id} is changed by too many at once. Try again.", fault="locked")

    async def create(self, submission: Submission) -> bool:
        """Write a new submission. False: there is one of that id."""
        try:
            await self._commit(None, StoredSubmission(submission=submission), None)
        except PreconditionFailed:
            return False
        return True

    async def _commit(self, old: StoredSubmission | None, draft: StoredSubmission, tag: Tag | None) -> _Cached:
        """Write first what leads to the object, then the object, then delete what led to the old one. A crash in
        between leaves an entry too many, never one too few."""
        draft = replace(draft, version=(old.version if old else 0) + 1, nonce=secrets.token_hex(8))
        draft, made, stale = with_entries(old, draft)
        fresh = sorted(draft.needed_files() - (old.needed_files() if old is not None else frozenset()))
        draft = replace(draft, files=(*draft.files, *fresh))
        bodies: dict[str, bytes] = {}
        data, draft = encode(draft)
        if len(data) > LARGE:
            bodies = {
                keys.path(keys.CALLBACKS, draft.id, item.number): item.body.encode(errors="replace")
                for item in draft.callbacks
                if item.body is not None
            }
            apart = tuple(replace(item, body=None) for item in draft.callbacks)
            data, draft = encode(replace(draft, callbacks=apart))
        links = [keys.path(keys.FILES, digest, draft.id) for digest in fresh]
        row, task_id = draft.submission, draft.submission.task_id
        if task_id is not None and (old is None or old.submission.task_id != task_id):
            links.append(keys.path(keys.TASKS, task_id, row.id))
        if row.parent_id is not None and old is None:
            links.append(keys.path(keys.CHILDREN, row.parent_id, row.id))
        aside = {**dict.fromkeys((*made, *links), b""), **bodies}
        await asyncio.gather(*(put(self.bucket, key, body, "any") for key, body in aside.items()))
        try:
            written = await put(self.bucket, keys.submission(draft.id), data, tag)
        except BaseException:
            self.forget(draft.id)
            raise
        cached = self._keep(draft, written, len(data))
        for key in made:
            self._place(key.rpartition("/")[0]).entries[key] = int(time.time() * 1000)
        self.drop(stale)
        self._written(draft.id)
        return cached

    async def _write_additions(self, cached: _Cached) -> None:
        """Write submissions that came of a change. If this process ends here, a look at what is due goes on with it."""
        if not cached.stored.additions:
            return
        for addition in cached.stored.additions:
            await self._add(addition)
        with suppress(PreconditionFailed):  # another process has written it since, and goes on with it
            await self._commit(cached.stored, replace(cached.stored, additions=()), cached.tag)

    # The due index

    def _place(self, name: str) -> _Place:
        return self._places.setdefault(name, _Place())

    def drop(self, entries: Sequence[str]) -> None:
        """Delete entries that are no longer needed."""
        for key in entries:
            self._place(key.rpartition("/")[0]).entries.pop(key, None)
        self.sweep(entries)

    async def due(self, place: str, now_ms: int) -> AsyncIterator[StoredSubmission]:
        """Yield submissions with an entry that has come, in order of the entries, read as they are asked for."""
        known = self._place(place)
        async with known.looking:
            stale = known.looked_at is None or time.monotonic() - known.looked_at >= self._look_seconds
            if stale or now_ms > known.until_ms:
                await self._look(place, known, now_ms)
        end = keys.until(place, now_ms)
        entries = sorted(key for key in known.entries if key < end)
        seen: set[str] = set()
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            for key, found in zip(some, await asyncio.gather(*map(self._due, some)), strict=True):
                if found is not None and found.entries.get(place) == key:
                    if found.id not in seen:
                        seen.add(found.id)
                        yield found
                    continue
                abandoned = found is None and time.time() * 1000 - known.entries.get(key, 0) > ABANDONED_MS
                if abandoned or (found is not None and found.version >= keys.read_entry(key)[2]):
                    self.drop([key])  # it leads nowhere

    async def _due(self, key: str) -> StoredSubmission | None:
        _, id, version = keys.read_entry(key)
        found = await self.get(id, max_age=self._look_seconds)
        if self._look_seconds and found is not None and found.version < version:
            return await self.get(id)  # another process has written it since
        return found

    async def _look(self, place: str, known: _Place, now_ms: int) -> None:
        before = set(known.entries)
        began, until_ms = time.monotonic(), now_ms + (AHEAD_MS if self._look_seconds else 0)
        end = keys.until(place, until_ms)
        found: dict[str, int] = {}
        async for page in self.bucket.pages(place):
            found |= {item.key: item.modified_ms for item in page if item.key < end}
            if len(found) >= WINDOW or (page and page[-1].key >= end):
                break
        gone = before - set(known.entries)  # deleted while we looked
        mine = {key: made for key, made in known.entries.items() if key not in before or key >= end}
        known.entries = {key: made for key, made in (found | mine).items() if key not in gone}
        known.looked_at, known.until_ms = began, until_ms

    async def finish(self, found: Sequence[StoredSubmission], place: str, now_ms: int) -> None:
        """Move entries that came much too early, and do what a change left undone."""

        def unnamed(item: StoredSubmission) -> tuple[StoredSubmission, None]:
            return replace(item, entries={name: key for name, key in item.entries.items() if name != place}), None

        due = {item.id: item.due_ms().get(place) for item in found}
        late = [item.id for item in found if (ms := due[item.id]) is None or ms > now_ms + MOVE_MS or item.additions]
        await asyncio.gather(*(self.write(id, unnamed) for id in late))

    # Deleting

    def sweep(self, keys: Sequence[str]) -> None:
        """Delete objects in the background. If that fails, they lead nowhere, and the next reader deletes them."""
        self._litter += keys
        if self._litter and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep(), name="journal sweep")
            self._sweeping.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _sweep(self) -> None:
        while self._litter:
            some, self._litter = self._litter[:1000], self._litter[1000:]
            try:
                await self.bucket.delete(some)
            except JournalError:
                return

    async def settle(self) -> None:
        """Wait until nothing is written or swept."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])


async def put(bucket: Bucket, key: str, data: bytes, tag: Tag | Literal["any"] | None) -> Tag:
    """Put an object, and again if that fails. If the answer is a refusal or lost, look whether the put was done.

    Args:
        bucket: with errors of the journal.
        key: of the object.
        data: unique to this write, where it has a condition.
        tag: the version that is replaced; None: there must be none.

    Raises:
        PreconditionFailed: another process was faster.
        JournalError: it was not done, or that cannot be seen.
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
