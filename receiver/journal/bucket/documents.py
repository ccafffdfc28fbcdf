"""Submissions of a bucket: the cache, the order of writes, conflicts, and the due index.

Changes of one submission that come during a write wait, and share the next put. After a conflict the object is read
again, and the changes run again on it.

The due index consists of empty objects. Their keys are listed in order of time up to now, so nothing else is read.

    due/rows/TIME.ID.VERSION-NONCE              a submission to be sent, polled, archived or ended
    due/to/DESTINATION/TIME.ID.VERSION-NONCE    a submission with an open delivery to this destination, followed by
                                                `-failed` if each of these has failed
    dead/DESTINATION/0.ID.VERSION-NONCE         a submission with a dead delivery there

The submission names its entries. One that it does not name is deleted once the submission is as new as the entry. Until
then its writer may be about to write the submission (see `store` for the order).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from receiver import metrics
from receiver.bucket import PreconditionFailed
from receiver.bucket.client import Bucket, StoredObject, Tag
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal.bucket import keys
from receiver.journal.bucket.stored import MOVE_MS, StoredSubmission, decode, encode, replace
from receiver.journal.document import file_digests
from receiver.journal.shared import Swaps

T = TypeVar("T")
Mutate = Callable[[StoredSubmission], tuple[StoredSubmission, T]]
"""A pure function, which may run several times. If it returns the same object, nothing is written."""

CACHED = 256
"""Submissions in the cache."""
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
        self._swaps: WeakValueDictionary[str, Swaps[_Cached]] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads = asyncio.Semaphore(AT_ONCE)

    # Reading

    async def get(self, id: str, *, max_age: float = 0.0, etag: str = "") -> StoredSubmission | None:
        """Return a submission as it was at most `max_age` seconds ago, or as it was listed with this ETag."""
        cached = self._cache.get(id)
        if cached is not None and (cached.tag.etag == etag or time.monotonic() - cached.read_at < max_age):
            return cached.stored
        return read.stored if (read := await self._read(id)) is not None else None

    async def _read(self, id: str) -> _Cached | None:
        key, cached = keys.submission(id), self._cache.get(id)
        async with self._reads:
            found = await (self.bucket.get(key) if cached is None else self.bucket.get_if_changed(key, cached.tag))
        if cached is not None and isinstance(found, Tag):
            cached.read_at = time.monotonic()
            return cached
        if isinstance(found, StoredObject) and not (read := decode(found.data, key)).erased:
            return self._keep(read, found.tag)
        self._cache.pop(id, None)
        self.sweep([key] if found is not None else [])  # its eraser has ended halfway
        return None

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

        def changed(held: _Cached) -> tuple[_Cached, T]:
            after, outcome = mutate(held.stored)
            return (held if after is held.stored else _Cached(after, held.tag, held.read_at)), outcome

        swaps = self._swaps.get(id)
        if swaps is None:
            swaps = Swaps(f"submission {id}", partial(self._current, id), self._swap, self._start)
            self._swaps[id] = swaps
        return await swaps.run(changed)

    async def _current(self, id: str, fresh: bool) -> tuple[_Cached | None, bool]:
        cached = None if fresh else self._cache.get(id)
        return (await self._read(id), True) if cached is None else (cached, False)

    async def _swap(self, old: _Cached, new: _Cached, count: int) -> bool:
        began = time.perf_counter()
        try:
            written = await self.commit(old.stored, new.stored, old.tag)
        except PreconditionFailed:
            return False
        if metrics.counting:
            metrics.committed(count, began)
        await self._write_additions(written)
        return True

    async def commit(self, old: StoredSubmission | None, draft: StoredSubmission, tag: Tag | None) -> _Cached:
        """Write entries and links, then the object, then delete old entries. `old` and `tag` are None for a new one.

        Raises:
            PreconditionFailed: the object has another version now.
        """
        version = old.version + 1 if old else 1
        draft = replace(draft, version=version, nonce=secrets.token_hex(8)).with_entries()
        before, after = (set(item.entries.values()) if item else set() for item in (old, draft))
        fresh = sorted(file_digests(draft.submission) - (file_digests(old.submission) if old else frozenset()))
        data, draft = encode(replace(draft, files=(*draft.files, *fresh)))
        links = {*draft.links()} - {*(old.links() if old else ())}
        await asyncio.gather(*(put(self.bucket, key, b"", "any") for key in sorted((after - before) | links)))
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
        """Write submissions that came of a change. After a crash, the next change does (see `due`)."""
        for addition in cached.stored.additions:
            await self._add(addition)
        if cached.stored.additions:
            with suppress(PreconditionFailed):  # another process has written it since, and goes on with it
                await self.commit(cached.stored, replace(cached.stored, additions=()), cached.tag)

    # The due index

    async def due(self, place: str, now_ms: int, fresh: float | None = None) -> AsyncGenerator[StoredSubmission]:
        """Yield submissions with an entry up to now, in order of the entries. Each is read when it is wanted.

        With `fresh`, entries of what has failed are left out, and the one at this place (0 to 1) comes first.
        Entries that came much too early are moved, and additions that another process left are written.
        """

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
        step = AT_ONCE
        if fresh is not None:
            step, entries = 1, entries[:WINDOW]
            middle = fresh * len(entries)
            entries = [key for _, key in sorted((abs(at - middle), key) for at, key in enumerate(entries, start=1))]
        for start in range(0, len(entries), step):
            some = entries[start : start + step]
            for key, item in zip(some, await asyncio.gather(*map(self._due, some)), strict=True):
                if item is not None and item.entries.get(place) == key:
                    yield item
                    if item.additions or item.due_ms().get(place, FAR_MS) > now_ms + MOVE_MS:
                        await self.write(item.id, lambda stored: (replace(stored), None))  # with a timely entry
                elif (
                    time.time() * 1000 - known.entries.get(key, 0) > ABANDONED_MS
                    if item is None
                    else item.version >= keys.read_entry(key)[2]
                ):
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
        if gone:
            self._start(self._delete(gone))

    async def _delete(self, gone: Sequence[str]) -> None:
        with suppress(JournalError):
            await self.bucket.delete(gone)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
    waits = iter(WAITS)
    while True:
        try:
            if tag == "any":
                return await bucket.put(key, data)
            return await (bucket.create(key, data) if tag is None else bucket.replace(key, data, tag))
        except (PreconditionFailed, JournalError) as exc:
            problem: Exception = exc
        try:
            if (found := await bucket.get(key)) is not None and found.data == data:
                return found.tag
        except JournalError as exc:
            problem = exc
        wait = next(waits, None)
        if wait is None or isinstance(problem, PreconditionFailed):
            raise problem
        await asyncio.sleep(wait)
