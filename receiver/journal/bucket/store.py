"""The store in a bucket: conditional puts are its transactions, and nothing else is needed.

    submissions/ID.json.gz     a submission with all its rows (`stored`). Each digit of the id is mirrored, so that the
                               newest is listed first
    due/…, dead/…              the due index (`due_index`)
    values/KEY                 shared values
    once/DIGEST                the submission that has a unique name
    tasks/TASK/ID              leads from a task to its submission
    children/PARENT/ID         leads to follow-ups
    files/DIGEST/ID            leads from a file of the media store to a submission that needs it
    leftovers/DIGEST           files to be removed
    callbacks/ID/NUMBER        the body of a callback that is too large for its submission's object
    check, format              for `check`, and for the version of this layout

Order of puts, and what a crash leaves between any two of them:

    1. what leads to the submission: index entries, links, large bodies. Without 2, they lead nowhere, and the next
       reader deletes them.
    2. the submission. This is the commit.
    3. further submissions that came of the change. The object names them, and an entry that is due at once leads to it,
       until they are written.
    4. delete entries that are no longer needed. One that stays is not named by the submission, and is deleted later.

Nothing is acknowledged before 2. A put whose answer was lost, or is 500 or 412 although it was done, is recognized by
the nonce in the object.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import msgspec

from receiver.bucket.client import Bucket
from receiver.deliveries import Delivery
from receiver.errors import InputError, JournalError
from receiver.events import Submission, first_id
from receiver.journal import transitions
from receiver.journal.bucket import keys
from receiver.journal.bucket.due_index import DueIndex
from receiver.journal.bucket.objects import Objects, PreconditionFailed, StoredObject, Tag
from receiver.journal.bucket.stored import StoredSubmission, callback_of, replace
from receiver.journal.document import DUE_FIELDS, Document, Transition
from receiver.journal.rows import to_json_bytes
from receiver.journal.store import (
    Counts,
    DestinationCount,
    DueKind,
    Filter,
    Key,
    LeftFile,
    NeededFile,
    Record,
    RowKind,
    Rows,
    SharedValue,
    StoredRow,
    fits_submission,
)

T = TypeVar("T")

BATCH = 32
"""Submissions read at once for a listing."""
MARGIN_MS = 300_000
"""By how much clocks may differ where a person is shown the newest."""
COUNTED = 100
"""Up to how many index entries are read to count deliveries. Each takes a request. Beyond, one entry counts as one."""
LATE_MS = 3_600_000
"""By how much the clock of a claiming process may be ahead of ours."""
ID_LENGTH = 26
NAME_TRIES = 20


class UniqueName(msgspec.Struct, frozen=True, kw_only=True):
    """The submission that has a name. None: the name is free again."""

    nonce: str
    submission: Submission | None = None


class BucketStore:
    """See `journal.store.Store`. Made by `open_store`.

    Args:
        objects: the bucket.
        place: the store as people may see it, for instance `s3://acme/receiver`.
        look_seconds: for how long a list of what is due is used again.
    """

    shared: ClassVar[bool] = True

    def __init__(self, objects: Objects, *, place: str, look_seconds: float) -> None:
        self.place = place
        self.cache_seconds = look_seconds
        self._objects = objects
        self._index = DueIndex(objects, look_seconds=look_seconds, written=self._written)
        self._documents = self._index.documents
        self._documents.add = self.create
        self._claiming: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._values: dict[str, tuple[bytes, Tag]] = {}
        self._subscribers: list[Callable[[frozenset[str] | None], None]] = []
        self._closed = False

    @property
    def requests(self) -> Counter[str]:
        """The number of requests of each class so far."""
        return self._objects.requests

    def _written(self, id: str) -> None:
        for changed in self._subscribers:
            changed(frozenset([id]))

    def _check_open(self) -> None:
        if self._closed:
            raise JournalError(f"The journal {self.place} is closed.", fault="closed")

    async def aclose(self) -> None:
        self._closed = True
        await self._documents.settle()

    async def settle(self) -> None:
        await self._documents.settle()

    async def check(self, *, space: bool = False) -> None:
        self._check_open()
        if not space:  # a bucket has no end; a quota shows in the put
            await self._objects.put("check", b"")

    def subscribe(self, changed: Callable[[frozenset[str] | None], None]) -> None:
        self._subscribers.append(changed)

    # Documents

    async def load(self, ids: Sequence[str]) -> dict[str, Document]:
        self._check_open()
        found = await asyncio.gather(*map(self._documents.get, ids))
        return {item.id: item.document() for item in found if item is not None}

    async def update(self, id: str, transition: Transition[T]) -> T | None:
        self._check_open()
        return await self._documents.write(id, lambda stored: self._changed(stored, transition))

    def _changed(self, stored: StoredSubmission, transition: Transition[T]) -> tuple[StoredSubmission, T]:
        before = stored.document()
        after, outcome = transition(before)
        if after is before:
            return stored, outcome
        known = {item.id for item in stored.deliveries}
        for item in (*after.deliveries, *after.closed):
            if item.id not in known and self._documents.owner_of(item.id) not in (None, stored.id):
                raise JournalError("Another submission has a delivery of that id. Nothing was kept (UNIQUE id).")
        return stored.with_changes(after), outcome

    async def claim(self, destination: str, now_ms: int, limit: int, transition: Transition[T | None]) -> list[T]:
        self._check_open()
        async with self._claiming[destination]:
            due: list[tuple[int, str]] = []
            async for stored in self._index.due(keys.destination(destination), now_ms):
                times = [
                    item.due_ms
                    for item in stored.deliveries
                    if item.destination == destination and item.status == "pending" and item.due_ms <= now_ms
                ]
                busy = stored.document().is_busy(destination)
                if times and not busy:
                    due.append((min(times), stored.id))
                if len(due) >= max(2 * limit, 16):
                    break
            candidates = [id for _, id in sorted(due)]
            taken: list[T] = []
            while candidates and len(taken) < limit:
                some, candidates = candidates[: limit - len(taken)], candidates[limit - len(taken) :]
                results = await asyncio.gather(*(self.update(id, transition) for id in some))
                taken += [item for item in results if item is not None]
        return taken

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        self._check_open()
        due_of = DUE_FIELDS[kind]
        rows = [item.submission for item in await self._index.all_due(keys.ROWS, now_ms)]
        found = [(ms, row) for row in rows if (ms := due_of(row)) is not None and ms <= now_ms]
        return [row for _, row in sorted(found, key=lambda item: item[0])[:limit]]

    # New submissions, and names under which one exists once

    async def create(self, submission: Submission) -> Submission:
        self._check_open()
        if submission.once is None:
            if not await self._documents.create(submission):
                raise JournalError(f"There already is a submission {submission.id}. Nothing was written.")
            return submission
        # The name is put first, with the submission in it: a process that finds a name without its submission writes
        # that. So a name whose taker was killed is no obstacle, and two that take it at once make one submission.
        key = keys.once(submission.once)
        name = UniqueName(nonce=secrets.token_hex(8), submission=submission)
        for _ in range(NAME_TRIES):
            found = await self._take_name(key, name, None)
            if found is None:
                return await self._create_named(submission)
            holder = _decode(UniqueName, found.data, key).submission
            stored = await self._documents.get(holder.id) if holder is not None else None
            if stored is not None and stored.submission.once == submission.once:
                return stored.submission
            if stored is None and holder is not None:
                again = await self._objects.get(key)
                if again is not None and again.tag == found.tag:  # otherwise it was erased, which frees the name first
                    return await self._create_named(holder)
            elif await self._take_name(key, name, found) is None:
                return await self._create_named(submission)
        raise JournalError("The submission's name is taken and freed by too many at once. Try again.", fault="locked")

    async def _create_named(self, submission: Submission) -> Submission:
        if not await self._documents.create(submission):
            stored = await self._documents.get(submission.id)
            if stored is None or stored.submission.once != submission.once:
                raise JournalError(f"There already is a submission {submission.id}. Nothing was written.")
        return submission

    async def _take_name(self, key: str, name: UniqueName, old: StoredObject | None) -> StoredObject | None:
        """Put the name. Return its holder if that is another submission."""
        data = to_json_bytes(name)
        try:
            await (self._objects.create(key, data) if old is None else self._objects.replace(key, data, old.tag))
        except (PreconditionFailed, JournalError) as exc:
            found = await self._objects.get(key)
            if found is not None and _decode(UniqueName, found.data, key).nonce == name.nonce:
                return None  # it was done, and the answer was lost
            if isinstance(exc, JournalError) or found is None:
                raise JournalError("The submission's name could not be taken. Try again.", fault="io") from exc
            return found
        return None

    async def _free_name(self, submission: Submission) -> None:
        """Free a name, if the submission still has it."""
        if submission.once is None:
            return
        key = keys.once(submission.once)
        while (found := await self._objects.get(key)) is not None:
            holder = _decode(UniqueName, found.data, key).submission
            if holder is None or holder.id != submission.id:
                return
            try:
                await self._objects.replace(key, to_json_bytes(UniqueName(nonce=secrets.token_hex(8))), found.tag)
            except PreconditionFailed:
                continue
            return

    # Deleting

    async def remove(
        self, id: str, transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int] | None:
        self._check_open()
        stored = await self._documents.get(id)
        if stored is None:
            return {} if files_only else _counts(None, 0)
        if transition(stored.document()) is None:
            return None
        # First the name, then the files' leftovers, then the submission. What led to it goes last.
        if not files_only:
            await self._free_name(stored.submission)
        files = [digest for digest in stored.files if not await self._is_needed(digest, but=id)]
        await asyncio.gather(*(self._objects.put(keys.leftover(digest), b"") for digest in files))

        def removed(current: StoredSubmission) -> tuple[StoredSubmission, StoredSubmission | None]:
            after = transition(current.document())
            if after is None:
                return current, None
            if files_only:
                return replace(current, submission=after.submission, files=()), current
            row = current.submission
            empty = Submission(
                id=row.id, kind=row.kind, created_ms=row.created_ms, prompt="", request={}, deadline_ms=row.deadline_ms
            )
            return StoredSubmission(submission=empty, version=current.version, erased=True), current

        last = await self._documents.write(id, removed)
        if last is None:
            return None
        links = [keys.file(digest, id) for digest in last.files]
        if files_only:
            await self._objects.delete(links)
            return {"files": len(files)}
        self._documents.forget(id)
        row = last.submission
        links += [keys.task(row.task_id, id)] if row.task_id is not None else []
        links += [keys.child(row.parent_id, id)] if row.parent_id is not None else []
        bodies = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        await self._objects.delete([*links, *bodies, keys.submission(id)])
        return _counts(last, len(files))

    async def _is_needed(self, digest: str, *, but: str = "") -> bool:
        async for id in self._names(keys.file(digest)):
            if id == but:
                continue
            if await self._documents.get(id) is not None:
                return True
            self._documents.sweep([keys.file(digest, id)])
        return False

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys_: Sequence[Key]) -> int:
        self._check_open()
        if kind == "leftovers":
            await self._objects.delete([keys.leftover(str(digest)) for (digest,) in keys_])
            return len(keys_)
        by_id: dict[str, set[int]] = defaultdict(set)
        for number, id in keys_:
            by_id[str(id)].add(int(number))
        return sum(await asyncio.gather(*(self._forget_callbacks(id, numbers) for id, numbers in by_id.items())))

    async def _forget_callbacks(self, id: str, numbers: set[int]) -> int:
        def without(stored: StoredSubmission) -> tuple[StoredSubmission, int]:
            left = tuple(item for item in stored.callbacks if item.number not in numbers)
            gone = len(stored.callbacks) - len(left)
            return (replace(stored, callbacks=left) if gone else stored), gone

        gone = await self._documents.write(id, without) or 0
        bodies = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        self._documents.sweep([key for key in bodies if int(keys.last(key)) in numbers])
        return gone

    # Reading

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        self._check_open()
        if kind == "submissions":
            return await self._page_submissions(wanted, after, limit, newest_first=newest_first)
        if kind in ("files", "leftovers"):
            return await self._page_links(kind, after, limit)
        if kind == "values":
            values = await self.values("")
            found = [StoredRow((key,), item) for key, item in sorted(values.items())]
        elif (sources := await self._sources(kind, wanted)) is not None:
            found = [row for stored in sources for row in await self._rows(kind, stored, wanted)]
        elif newest_first and after is None and kind != "callbacks":
            found = await self._newest(kind, wanted, limit)
        else:
            found = [row async for stored in self._all() for row in await self._rows(kind, stored, wanted)]
        found = [row for row in found if after is None or (row.key < after if newest_first else row.key > after)]
        if newest_first:
            return heapq.nlargest(limit, found, key=lambda row: row.key)
        return heapq.nsmallest(limit, found, key=lambda row: row.key)

    async def _sources(self, kind: RowKind, wanted: Filter) -> list[StoredSubmission] | None:
        """Return the submissions that can have such rows. None: any may."""
        ids: Iterable[str | None]
        if wanted.submission_id is not None:
            ids = [wanted.submission_id]
        elif kind == "events" and wanted.ids is not None:
            ids = {id.partition(".")[0] for id in wanted.ids}
            age = self._index.look_seconds  # an event never changes
            found = await asyncio.gather(*(self._documents.get(id or "", age) for id in ids))
            return [item for item in found if item is not None]
        elif kind == "deliveries" and wanted.ids is not None:
            ids = set(await asyncio.gather(*map(self._owner_of, wanted.ids)))
        elif kind == "attempts" and wanted.delivery_id is not None:
            ids = [await self._owner_of(wanted.delivery_id)]
        elif kind == "deliveries" and wanted.statuses and set(wanted.statuses) <= {"pending", "running", "dead"}:
            return [item async for item in self._indexed(wanted)]
        else:
            return None
        found = await asyncio.gather(*(self._documents.get(id) for id in ids if id))
        return [item for item in found if item is not None]

    async def _indexed(self, wanted: Filter) -> AsyncIterator[StoredSubmission]:
        """Yield submissions with open or dead deliveries, found by the due index."""
        places: list[str] = []
        if set(wanted.statuses) & {"pending", "running"}:
            places += [keys.TO if wanted.destination is None else keys.destination(wanted.destination)]
        if "dead" in wanted.statuses:
            places += [keys.DEAD if wanted.destination is None else keys.dead(wanted.destination)]
        seen: set[str] = set()
        for place in places:
            async for page in self._objects.pages(place):
                for start in range(0, len(page), BATCH):
                    ids = [keys.read_entry(item.key)[1] for item in page[start : start + BATCH]]
                    fresh = [id for id in dict.fromkeys(ids) if id not in seen]
                    seen.update(fresh)
                    for stored in await asyncio.gather(*map(self._documents.get, fresh)):
                        if stored is not None:
                            yield stored

    async def _rows(self, kind: RowKind, stored: StoredSubmission, wanted: Filter) -> list[StoredRow]:
        """Return the rows of a submission that fit."""
        if kind == "events":
            return [
                StoredRow((item.number, stored.id), item.event)
                for item in stored.events
                if (not wanted.types or item.event.type in wanted.types)
                and (wanted.ids is None or item.event.id in wanted.ids)
                and _is_within(item.event.created_ms, wanted)
            ]
        if kind == "deliveries":
            first, last = first_id(wanted.since_ms or 0), first_id(wanted.until_ms) if wanted.until_ms else "~"
            return [
                StoredRow((item.id,), item)
                for item in stored.deliveries
                if (wanted.ids is None or item.id in wanted.ids)
                and wanted.destination in (None, item.destination)
                and (not wanted.statuses or item.status in wanted.statuses)
                and (wanted.since_ms is None or item.id >= first)
                and item.id < last
                and (wanted.due_after_ms is None or item.due_ms > wanted.due_after_ms)
            ]
        if kind == "attempts":
            return [
                StoredRow((item.delivery_id, item.number), item)
                for item in stored.attempts
                if wanted.delivery_id in (None, item.delivery_id)
            ]
        kept = [item for item in stored.callbacks if _is_within(item.received_ms, wanted)]
        bodies = await asyncio.gather(*(self._body(stored.id, item.number, item.body) for item in kept))
        return [
            StoredRow((item.number, stored.id), callback_of(stored.id, item, body))
            for item, body in zip(kept, bodies, strict=True)
        ]

    async def _body(self, submission_id: str, number: int, body: str | None) -> str:
        if body is not None:
            return body
        found = await self._objects.get(keys.callback(submission_id, number))
        return "" if found is None else found.data.decode()

    async def _page_submissions(
        self, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool
    ) -> list[StoredRow]:
        start = None if after is None else str(after[0])
        ids = await self._submission_ids(wanted, start, newest_first=newest_first)
        found: list[StoredRow] = []
        for at in range(0, len(ids), BATCH):
            for stored in await asyncio.gather(*(self._documents.get(id) for id in ids[at : at + BATCH])):
                if stored is None or not fits_submission(stored.submission, wanted):
                    continue
                if not wanted.with_files or stored.files:
                    found.append(StoredRow((stored.id,), stored.submission))
            if len(found) >= limit:
                break
        return found[:limit]

    async def _submission_ids(self, wanted: Filter, start: str | None, *, newest_first: bool) -> list[str]:
        """Return ids in order, of submissions that may fit."""
        if wanted.ids is not None:
            ids = set(wanted.ids)
        elif wanted.submission_id is not None:
            ids = {wanted.submission_id}
        elif wanted.task_id is not None:
            ids = {id async for id in self._names(keys.task(wanted.task_id))}
        elif wanted.parent_id is not None:
            ids = {id async for id in self._names(keys.child(wanted.parent_id))}
        elif wanted.with_files:
            ids = {row.record.submission_id async for row in self._needed_files() if isinstance(row.record, NeededFile)}
        elif wanted.due_after_ms is not None:
            after = keys.until(keys.ROWS, wanted.due_after_ms)
            ids = {keys.read_entry(key)[1] async for key in self._index.entries(keys.ROWS, after=after)}
        else:
            bound = min([id for id in (start if newest_first else None, _until_id(wanted)) if id], default=None)
            offset = "" if bound is None else keys.before(bound)
            pages = self._objects.pages(keys.SUBMISSIONS, after=offset)
            ids = {keys.submission_id(item.key) async for page in pages for item in page}
        if wanted.part is not None:
            ids = {id for id in ids if id.startswith(wanted.part) or id.endswith(wanted.part)}
        first, last = first_id(wanted.since_ms) if wanted.since_ms else "", _until_id(wanted) or "~"
        kept = [id for id in ids if first <= id < last]
        if start is not None:
            kept = [id for id in kept if (id < start if newest_first else id > start)]
        return sorted(kept, reverse=newest_first)

    async def _newest(self, kind: RowKind, wanted: Filter, limit: int) -> list[StoredRow]:
        """Return the newest rows of all submissions.

        A row was known when its object was last written. So objects written last are read first, until none that is
        left can hold a newer row.
        """
        items = [item async for page in self._objects.pages(keys.SUBMISSIONS) for item in page]
        items.sort(key=lambda item: -item.modified_ms)
        found: list[StoredRow] = []
        for start in range(0, len(items), BATCH):
            if len(found) == limit and _oldest_ms(found) > items[start].modified_ms + MARGIN_MS:
                break
            for stored in await asyncio.gather(*map(self._documents.listed, items[start : start + BATCH])):
                found += await self._rows(kind, stored, wanted) if stored is not None else []
            found = heapq.nlargest(limit, found, key=lambda row: row.key)
        return found

    async def _all(self) -> AsyncIterator[StoredSubmission]:
        async for page in self._objects.pages(keys.SUBMISSIONS):
            for start in range(0, len(page), BATCH):
                for stored in await asyncio.gather(*map(self._documents.listed, page[start : start + BATCH])):
                    if stored is not None:
                        yield stored

    async def _page_links(self, kind: RowKind, after: Key | None, limit: int) -> list[StoredRow]:
        if kind == "files":
            rows = [row async for row in self._needed_files()]
            return heapq.nsmallest(
                limit, (row for row in rows if after is None or row.key > after), key=lambda row: row.key
            )
        offset = "" if after is None else keys.leftover(str(after[0]))
        digests: list[str] = []
        async for page in self._objects.pages("leftovers", after=offset):
            digests += [keys.unescaped(keys.last(item.key)) for item in page]
            if len(digests) >= limit:
                break
        needed = await asyncio.gather(*map(self._is_needed, digests[:limit]))
        return [
            StoredRow((digest,), LeftFile(digest=digest, needed=item))
            for digest, item in zip(digests, needed, strict=False)
        ]

    async def _needed_files(self) -> AsyncIterator[StoredRow]:
        async for page in self._objects.pages("files"):
            for item in page:
                digest, _, id = item.key.removeprefix("files/").partition("/")
                record = NeededFile(submission_id=keys.unescaped(id), digest=keys.unescaped(digest))
                yield StoredRow((record.submission_id, record.digest), record)

    async def _owner_of(self, delivery_id: str) -> str | None:
        """Return the submission of a delivery.

        No index leads there. But a delivery is younger than its submission, mostly by minutes, so submissions are read
        from its time backwards, and those after it last (a wrong clock made them).
        """
        known = self._documents.owner_of(delivery_id)
        if known is not None or len(delivery_id) != ID_LENGTH:
            return known
        start = keys.before(delivery_id)
        for after, until in ((start, None), ("", start)):
            async for page in self._objects.pages(keys.SUBMISSIONS, after=after):
                items = [item for item in page if until is None or item.key < until]
                for at in range(0, len(items), BATCH):
                    for stored in await asyncio.gather(*map(self._documents.listed, items[at : at + BATCH])):
                        if stored is not None and any(item.id == delivery_id for item in stored.deliveries):
                            return stored.id
        return None

    async def _names(self, folder: str) -> AsyncIterator[str]:
        async for page in self._objects.pages(folder):
            for item in page:
                yield keys.unescaped(keys.last(item.key))

    async def counts(self, *, submissions: bool = False) -> Counts:
        self._check_open()
        statuses: Counter[str] = Counter()
        if submissions:
            statuses.update([item.submission.display_status async for item in self._all()])
        open_ = {name.rpartition("/")[2] for name in await self._index.places()}
        names = sorted(open_ | set(await self._objects.folders(keys.DEAD)))
        found = await asyncio.gather(*(self._count(keys.unescaped(name)) for name in names))
        counted = {keys.unescaped(name): count for name, (count, _) in zip(names, found, strict=True)}
        return Counts(submissions=statuses, destinations=counted, exact=all(exact for _, exact in found))

    async def _count(self, name: str) -> tuple[DestinationCount, bool]:
        open_ = [key async for key in self._index.entries(keys.destination(name))]
        dead = [key async for key in self._index.entries(keys.dead(name))]
        oldest = keys.read_entry(open_[0])[0] if open_ else None
        if len(open_) + len(dead) > COUNTED:
            return DestinationCount(pending=len(open_), dead=len(dead), oldest_due_ms=oldest), False
        ids = sorted({keys.read_entry(key)[1] for key in (*open_, *dead)})
        found = [item for item in await asyncio.gather(*map(self._documents.get, ids)) if item is not None]
        mine = [item for stored in found for item in stored.deliveries if item.destination == name]
        statuses = Counter(item.status for item in mine)
        return DestinationCount(
            pending=statuses["pending"],
            running=statuses["running"],
            dead=statuses["dead"],
            oldest_due_ms=min((item.due_ms for item in mine if item.status == "pending"), default=None),
        ), True

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        self._check_open()
        if prefix and not prefix.endswith("/"):
            found = {prefix: await self._value(prefix)}
        else:
            folder = f"{keys.VALUES}/{prefix}".rstrip("/")
            names = [item.key async for page in self._objects.pages(folder) for item in page]
            names = [name.removeprefix(f"{keys.VALUES}/") for name in names]
            found = dict(zip(names, await asyncio.gather(*map(self._value, names)), strict=True))
        return {key: value for key, value in found.items() if value is not None}

    async def _value(self, key: str) -> SharedValue | None:
        name = f"{keys.VALUES}/{key}"
        known = self._values.get(key)
        found = await (self._objects.get(name) if known is None else self._objects.get_unless(name, known[1]))
        if isinstance(found, Tag):
            assert known is not None  # noqa: S101 - its tag was the condition
            return SharedValue(key=key, data=known[0], version=_version(known[1]))
        if found is None or not found.data:
            self._values.pop(key, None)
            return None
        self._values[key] = found.data, found.tag
        return SharedValue(key=key, data=found.data, version=_version(found.tag))

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        self._check_open()
        name, content = f"{keys.VALUES}/{key}", data or b""  # an empty object is a deleted value
        try:
            tag = await self._swap(name, content, _tag(version) if version is not None else None)
        except (PreconditionFailed, JournalError) as exc:
            found = await self._objects.get(name)
            if found is None or found.data != content or not content:
                if isinstance(exc, JournalError):
                    raise
                return None
            tag = found.tag  # it was done, and the answer was lost
        if data is None:
            self._values.pop(key, None)
            await self._objects.delete([name])
            return ""
        self._values[key] = data, tag
        return _version(tag)

    async def _swap(self, name: str, content: bytes, tag: Tag | None) -> Tag:
        if tag is not None:
            return await self._objects.replace(name, content, tag)
        try:
            return await self._objects.create(name, content)
        except PreconditionFailed:
            found = await self._objects.get(name)
            if found is None or found.data:
                raise
            return await self._objects.replace(name, content, found.tag)  # its deletion has ended halfway

    # The store as a whole

    async def problems(self, owners: frozenset[str]) -> list[str]:
        self._check_open()
        found: dict[str, list[str]] = defaultdict(list)
        entries = {item.key async for page in self._objects.pages(keys.DUE) for item in page}
        lost: list[str] = []
        running: list[Delivery] = []
        async for stored in self._all():
            running += [item for item in stored.deliveries if item.status == "running"]
            for name, ids in stored.contradictions().items():
                found[name] += ids
            if any(key.startswith(f"{keys.DUE}/") and key not in entries for key in stored.entries.values()):
                lost.append(stored.id)
        sentences = transitions.contradiction_sentences(found)  # type: ignore[arg-type]
        if lost:
            sentences.append(
                f"{len(lost):,} submissions have something due that no index entry leads to: {lost[0]}, for one. "
                "Another program deletes objects below due/. Stop it, and please report this if there is none."
            )
        left = [item.id for item in running if item.owner not in owners]
        if left:
            sentences.append(
                f"{len(left):,} deliveries were under way when their engine ended: {left[0]}, for one. "
                "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
            )
        return sentences

    async def back_up(self, target: Path) -> int:
        raise InputError(
            f"A journal on a bucket is copied with the store's own tools: aws s3 sync {self.place} FOLDER, for "
            "instance, or rclone. Objects are written whole, so such a copy is sound; versioning keeps old ones."
        )

    async def compact(self) -> tuple[int, int] | None:
        raise InputError(
            f"A bucket has no unused space, so there is nothing to rewrite in {self.place}. What is deleted is gone at "
            "once, unless the bucket keeps versions: then its lifecycle rules say for how long."
        )

    async def scrub(self, words: str) -> str | None:
        if not self._objects.bucket.versioned:
            return None
        return (
            f"The bucket keeps versions of what was deleted: the prompt stays in those of {self.place} until its "
            "lifecycle rules remove them, or a person does"
        )

    def transfer(self, *, fill: bool) -> AbstractAsyncContextManager[Rows]:
        where = "into" if fill else "out of"
        raise InputError(f"This version copies no journal {where} a bucket: {self.place}.")


def _counts(stored: StoredSubmission | None, files: int) -> Mapping[str, int]:
    kinds = ("attempts", "deliveries", "callbacks", "events")
    counts = {kind: len(getattr(stored, kind)) if stored is not None else 0 for kind in kinds}
    return {"files": files, **counts, "submissions": int(stored is not None)}


def _until_id(wanted: Filter) -> str | None:
    return first_id(wanted.until_ms) if wanted.until_ms is not None else None


def _is_within(ms: int, wanted: Filter) -> bool:
    return (wanted.since_ms is None or ms >= wanted.since_ms) and (wanted.until_ms is None or ms < wanted.until_ms)


def _oldest_ms(rows: Sequence[StoredRow]) -> int:
    """Return since when the oldest of these rows is known, by the clock that wrote it down."""
    return min(_known_ms(row.record) for row in rows)


def _known_ms(record: Record) -> int:
    return int(getattr(record, "created_ms", 0) or getattr(record, "received_ms", 0) or 0)


def _version(tag: Tag) -> str:
    return f"{tag.etag}\n{tag.version}" if tag.version is not None else tag.etag


def _tag(version: str) -> Tag:
    etag, _, generation = version.partition("\n")
    return Tag(etag, generation or None)


def _decode(type: type[T], data: bytes, key: str) -> T:
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.DecodeError as exc:
        raise JournalError(
            f"The journal's object {key} cannot be read ({exc}). Restore it from an older version, or delete it.",
            fault="damaged",
        ) from exc


# Opening

LOOK_SECONDS = 10.0
"""For how long a process that stays uses a list of what is due again. 0 where each call may be another process."""
FORMAT = b"2"
_OLD_FORMAT = b"1"
_FORMAT_KEY = "format"


async def over(
    bucket: Bucket, *, place: str, look_seconds: float = LOOK_SECONDS, existing: bool = False
) -> BucketStore:
    """Open a store in a bucket, once the bucket was found fit.

    Raises:
        JournalError: the bucket cannot be used, it does not honour conditions, or another version wrote there.
    """
    objects = Objects(bucket)
    found = await objects.get(_FORMAT_KEY)
    if found is None and existing:
        raise JournalError(
            f"There is no journal at {place} yet. Submit something first, or name the right one with RECEIVER_DATABASE."
        )
    if found is None:
        await _check_conditions(objects, place)
        await objects.put(_FORMAT_KEY, FORMAT)
    elif found.data == _OLD_FORMAT:
        raise JournalError(
            f"{place} was written by an earlier development version of Receiver 0.1 (format 1, this one knows "
            f"{FORMAT.decode()}), which alone can read it. Name another folder with RECEIVER_DATABASE to start anew.",
            fault="older",
        )
    elif found.data != FORMAT:
        raise JournalError(
            f"{place} was written by a newer Receiver (format {found.data[:20].decode(errors='replace')}, this one "
            f"knows {FORMAT.decode()}). Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
    return BucketStore(objects, place=place, look_seconds=look_seconds)


async def _check_conditions(objects: Objects, place: str) -> None:
    """Try two puts that must be refused, each beside one that must not."""
    key = f"conditions/{secrets.token_hex(8)}"
    created = await _is_done(objects, key, b"1", None)
    found = await objects.get(key)
    if found is None:
        raise JournalError(f"{place} does not hold what was just put there. See if another program deletes there.")
    wrong = Tag(f'"{"0" * 32}"', found.tag.version and "1")
    again, blind = await asyncio.gather(_is_done(objects, key, b"2", None), _is_done(objects, key, b"3", wrong))
    right = again or blind or await _is_done(objects, key, b"4", found.tag)
    await objects.delete([key])
    kept = {"If-None-Match": created and not again, "If-Match": right and not blind}
    if missing := [name for name, honoured in kept.items() if not honoured]:
        raise JournalError(
            f"The store of {place} does not honour {' and '.join(missing)}, so two processes that write at once would "
            "overwrite each other. Use one that does (S3, R2, Google Cloud Storage, Azure, SeaweedFS), or another "
            "database."
        )


async def _is_done(objects: Objects, key: str, data: bytes, tag: Tag | None) -> bool:
    try:
        await (objects.create(key, data) if tag is None else objects.replace(key, data, tag))
    except PreconditionFailed:
        found = await objects.get(key)
        return found is not None and found.data == data  # it was done, and the answer was lost
    return True
