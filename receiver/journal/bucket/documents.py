"""Reading and writing submissions in a bucket: the cache, the order of writes, and conflicts.

Changes of one submission that come while another one is written wait, and share the next put. A put whose condition
fails was overtaken: the object is read again, and the changes run again on it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys, stored
from receiver.journal.bucket.objects import ObjectHead, Objects, PreconditionFailed, Tag
from receiver.journal.bucket.stored import StoredSubmission, decode, encode, replace, with_entries
from receiver.journal.shared import jitter

T = TypeVar("T")
Mutate = Callable[[StoredSubmission], tuple[StoredSubmission, T]]
"""Pure. It may run several times. One that returns the very same object writes nothing."""

CACHED = 4 * 1024 * 1024
"""Bytes of cached objects, as the bucket has them: they are gzipped there, to about a tenth."""
KNOWN = 20_000
"""Deliveries whose submission is remembered."""
TRIES = 20
"""How often a change runs again because another process was faster."""
WAITS = (0.2, 1.0)
"""Seconds before a put that failed, obstore's own retries included, is tried again."""
AT_ONCE = 16
"""Reads at once."""


@dataclass(slots=True)
class Cached:
    """An object as the bucket has, or had, it. `read_at` is monotonic."""

    stored: StoredSubmission
    tag: Tag
    size: int
    read_at: float


@dataclass(slots=True)
class _Waiting:
    mutate: Mutate[Any]
    future: asyncio.Future[Any]
    outcome: Any = None
    problem: Exception | None = None


class Documents:
    """The submissions of a bucket.

    Args:
        objects: the bucket.
        indexed: called with keys of index entries that were made, and of those that are no longer needed.
        written: called with the id of a submission after each write.

    Attributes:
        add: writes a submission that comes of a change. Set by the store.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        indexed: Callable[[Sequence[str], Sequence[str]], None],
        written: Callable[[str], None],
    ) -> None:
        self._objects = objects
        self._indexed = indexed
        self._written = written
        self._cache: OrderedDict[str, Cached] = OrderedDict()
        self._weight = 0
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._queues: dict[str, list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._litter: list[str] = []
        self._sweeping: asyncio.Task[None] | None = None
        self._reads = asyncio.Semaphore(AT_ONCE)
        self.add: Callable[[Submission], Awaitable[Submission]] | None = None

    # Reading

    async def get(self, id: str, max_age: float = 0.0) -> StoredSubmission | None:
        """Return a submission as it was at most `max_age` seconds ago."""
        cached = self._cache.get(id)
        if cached is not None and max_age > 0 and time.monotonic() - cached.read_at < max_age:
            return cached.stored
        read = await self._read(id)
        return None if read is None else read.stored

    async def listed(self, item: ObjectHead) -> StoredSubmission | None:
        """Return a submission as it was listed. It is read only if the cache does not have that version."""
        id = keys.submission_id(item.key)
        cached = self._cache.get(id)
        return cached.stored if cached is not None and cached.tag.etag == item.etag else await self.get(id)

    def owner_of(self, delivery_id: str) -> str | None:
        """Return the submission of a delivery that was seen before."""
        return self._owners.get(delivery_id)

    async def _read(self, id: str) -> Cached | None:
        key = keys.submission(id)
        cached = self._cache.get(id)
        async with self._reads:
            found = await (self._objects.get(key) if cached is None else self._objects.get_unless(key, cached.tag))
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

    def _keep(self, read: StoredSubmission, tag: Tag, size: int) -> Cached:
        now = self._cache.get(read.id)
        cached = Cached(read, tag, size, time.monotonic())
        if now is None or now.stored.version <= read.version:  # an answer may be overtaken by a later one
            self.forget(read.id)
            self._cache[read.id] = cached
            self._weight += size
        while self._weight > CACHED:
            self.forget(next(iter(self._cache)))
        for item in read.deliveries:
            self._owners[item.id] = read.id
        while len(self._owners) > KNOWN:
            self._owners.popitem(last=False)
        return cached

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
            except BaseException as exc:
                problem = exc if isinstance(exc, Exception) else JournalError("The write was broken off.", fault="io")
                for item in batch:
                    item.problem = problem
                if not isinstance(exc, Exception):
                    raise
            finally:
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
            draft = _run(batch, cached.stored)
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
            await self._commit(None, stored.new(submission), None)
        except PreconditionFailed:
            return False
        return True

    async def _commit(self, old: StoredSubmission | None, draft: StoredSubmission, tag: Tag | None) -> Cached:
        """Write first what leads to the object, then the object, then delete what led to the old one. A crash in
        between leaves an entry too many, never one too few."""
        draft = replace(draft, version=(old.version if old else 0) + 1, nonce=secrets.token_hex(8))
        draft, made, stale = with_entries(old, draft)
        fresh = sorted(draft.needed_files() - (old.needed_files() if old is not None else frozenset()))
        draft = replace(draft, files=(*draft.files, *fresh))
        bodies: dict[str, bytes] = {}
        data, draft = encode(draft)
        if len(data) > stored.LARGE:
            bodies = {
                keys.callback(draft.id, item.number): item.body.encode(errors="replace")
                for item in draft.callbacks
                if item.body is not None
            }
            data, draft = encode(
                replace(draft, callbacks=tuple(replace(item, body=None) for item in draft.callbacks))
            )  # fmt: skip
        leading = (*made, *_indexes(old, draft), *(keys.file(digest, draft.id) for digest in fresh))
        aside = {**dict.fromkeys(leading, b""), **bodies}
        await asyncio.gather(*(self._put_aside(key, body) for key, body in aside.items()))
        try:
            written = await self._put(keys.submission(draft.id), data, draft.nonce, tag)
        except BaseException:
            self.forget(draft.id)
            raise
        cached = self._keep(draft, written, len(data))
        self._indexed(made, stale)
        self.sweep(stale)
        self._written(draft.id)
        return cached

    async def _put_aside(self, key: str, body: bytes) -> None:
        """Put an object that may be put twice."""
        for wait in (*WAITS, None):
            try:
                await self._objects.put(key, body)
            except JournalError:
                if wait is None:
                    raise
                await asyncio.sleep(wait)
            else:
                return

    async def _put(self, key: str, data: bytes, nonce: str, tag: Tag | None) -> Tag:
        """Put the object. If the answer is a refusal or lost, look whether the put was done.

        Raises:
            PreconditionFailed: another process was faster.
        """
        problem: Exception | None = None
        for wait in (0.0, *WAITS):
            await asyncio.sleep(wait)
            try:
                return await (self._objects.create(key, data) if tag is None else self._objects.replace(key, data, tag))
            except (PreconditionFailed, JournalError) as exc:
                problem = exc
            try:
                found = await self._objects.get(key)
            except JournalError as exc:
                problem = exc
                continue
            if found is not None and decode(found.data, key).nonce == nonce:
                return found.tag
            if isinstance(problem, PreconditionFailed):
                break
        assert problem is not None  # noqa: S101 - each turn ends with one
        raise problem

    async def _write_additions(self, cached: Cached) -> None:
        """Write submissions that came of a change. If this process ends here, a look at what is due goes on with it."""
        if not cached.stored.additions:
            return
        assert self.add is not None  # noqa: S101 - set by the store
        for addition in cached.stored.additions:
            await self.add(addition)
        await self._commit(cached.stored, replace(cached.stored, additions=()), cached.tag)

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
                await self._objects.delete(some)
            except JournalError:
                return

    async def settle(self) -> None:
        """Wait until nothing is written or swept."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    def forget(self, id: str) -> None:
        """Drop a submission from the cache."""
        cached = self._cache.pop(id, None)
        self._weight -= cached.size if cached is not None else 0


def _indexes(old: StoredSubmission | None, new: StoredSubmission) -> list[str]:
    """Return keys that lead to the submission from its task and its parent."""
    row, before = new.submission, old.submission if old is not None else None
    found = []
    if row.task_id is not None and (before is None or before.task_id != row.task_id):
        found.append(keys.task(row.task_id, row.id))
    if before is None and row.parent_id is not None:
        found.append(keys.child(row.parent_id, row.id))
    return found


def _run(batch: list[_Waiting], draft: StoredSubmission) -> StoredSubmission:
    """Run changes one after the other. One that fails changes nothing."""
    for item in batch:
        item.problem = None
        try:
            draft, item.outcome = item.mutate(draft)
        except Exception as exc:
            item.problem = exc
    return draft
