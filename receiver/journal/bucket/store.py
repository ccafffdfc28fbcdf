"""The store in a bucket. Its transactions are conditional puts.

    submissions/ID.json.gz     a submission with all its rows (`stored`). The digits of the id are mirrored
    due/…, dead/…              the due index (`documents`)
    values/KEY                 shared values
    once/DIGEST                the submission that has a unique name
    tasks/TASK/ID              leads from a task to its submission
    children/PARENT/ID         leads to follow-ups
    files/DIGEST/ID            leads from a file of the media store to a submission that needs it
    leftovers/DIGEST           files to be removed
    check, format              for `check`, and for the version of this layout

Order of puts, and the effect of a crash between any two of them:

    1. index entries and links to the submission. Without 2, they lead nowhere, and a later reader deletes them.
    2. the submission. This is the commit, and nothing is acknowledged before it.
    3. further submissions that came of the change. Until they are written, the object names them, and an entry that is
       due at once leads to it.
    4. deletion of entries that are no longer needed. One that remains is not named, and is deleted later.

A put whose answer was lost, or is 500 or 412 although it was done, is recognized, because its content is unique.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import msgspec

from receiver.bucket import PreconditionFailed
from receiver.bucket.client import Bucket, ObjectHead, StoredObject, Tag
from receiver.deliveries import Delivery
from receiver.errors import InputError, JournalError
from receiver.events import ALERT_KIND, Submission, first_id
from receiver.journal import transitions
from receiver.journal.bucket import keys
from receiver.journal.bucket.documents import ABANDONED_MS, FAR_MS, Documents, put
from receiver.journal.bucket.stored import StoredSubmission, damaged, replace
from receiver.journal.document import DUE_FIELDS, Document, Transition, to_json_bytes
from receiver.journal.shared import TRIES
from receiver.journal.store import (
    EVERYTHING,
    Counts,
    DestinationCount,
    DueKind,
    Filter,
    Key,
    LeftFile,
    NeededFile,
    RowKind,
    Rows,
    SharedValue,
    StoredRow,
    fits_request,
    fits_submission,
)

T = TypeVar("T")

BATCH = 32
"""Submissions read at once for a listing."""
MARGIN_MS = 300_000
"""Tolerated difference of clocks where the newest rows are listed."""
COUNTED = 200
"""Most submissions read to count deliveries. With more, each index entry counts as one delivery."""
REMOVED = ("attempts", "deliveries", "callbacks", "events")
"""Kinds of rows that an object of a submission holds."""
ID_LENGTH = 26
PURGED = "purged"
"""Shared value: objects last written before this time, by the bucket's clock, have no callbacks."""


class BucketStore:
    """See `journal.store.Store`. Made by `open_store`.

    Args:
        bucket: the bucket, with errors of the journal (see `client_of`).
        place: the store as people may see it, for instance `s3://acme/receiver`.
        look_seconds: lifetime of a list of due work.
    """

    shared: ClassVar[bool] = True

    def __init__(self, bucket: Bucket, *, place: str, look_seconds: float) -> None:
        self.place = place
        self.cache_seconds = look_seconds
        self._open_documents = Documents(bucket, look_seconds=look_seconds, add=self.create)
        self._closed = False

    @property
    def _documents(self) -> Documents:
        if self._closed:
            raise JournalError(f"The journal {self.place} is closed.", fault="closed")
        return self._open_documents

    @property
    def _bucket(self) -> Bucket:
        return self._documents.bucket

    async def aclose(self) -> None:
        self._closed = True
        await self.settle()

    async def settle(self) -> None:
        await self._open_documents.settle()

    async def check(self, *, space: bool = False) -> None:
        if not space:  # a bucket has no end; a quota shows in the put
            await self._bucket.put("check", b"")

    def subscribe(self, changed: Callable[[frozenset[str] | None], None]) -> None:
        self._open_documents.subscribers.append(changed)

    # Documents

    async def load(self, ids: Sequence[str]) -> dict[str, Document]:
        found = await asyncio.gather(*map(self._documents.get, ids))
        return {item.id: item.document() for item in found if item is not None}

    async def update(self, id: str, transition: Transition[T]) -> T | None:
        def changed(stored: StoredSubmission) -> tuple[StoredSubmission, T]:
            before = stored.document()
            after, outcome = transition(before)
            return (stored if after is before else stored.with_changes(after)), outcome

        return await self._documents.write(id, changed)

    async def claim(
        self, destination: str, now_ms: int, limit: int, transition: Transition[T | None], *, fresh: float | None = None
    ) -> list[T]:
        def is_claimable(item: Delivery) -> bool:
            is_due = item.destination == destination and item.status == "pending" and item.due_ms <= now_ms
            return is_due and (fresh is None or not item.failures)

        place, taken = keys.path(keys.TO, destination), list[T]()
        found: list[tuple[int, str]] = []
        size = max(2 * limit, 16) if fresh is None else 1
        async with aclosing(self._documents.due(place, now_ms, fresh)) as due:
            while len(taken) < limit:
                # An entry may be early, so the longest due come first only among some that were read.
                while len(found) < size and (stored := await anext(due, None)) is not None:
                    times = [item.due_ms for item in stored.deliveries if is_claimable(item)]
                    if times and not stored.document().is_busy(destination):
                        found.append((min(times), stored.id))
                if not found:
                    break
                found.sort()
                some, found = found[: limit - len(taken)], found[limit - len(taken) :]
                results = await asyncio.gather(*(self.update(id, transition) for _, id in some))
                taken += [item for item in results if item is not None]
        return taken

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        due_of = DUE_FIELDS[kind]
        rows = [item.submission async for item in self._documents.due(keys.ROWS, now_ms)]
        found = [(ms, row) for row in rows if (ms := due_of(row)) is not None and ms <= now_ms]
        return [row for _, row in sorted(found, key=lambda item: item[0])[:limit]]

    # New submissions, and names under which one exists once

    async def create(self, submission: Submission) -> Submission:
        if submission.once is None:
            return await self._write_new(submission)
        # The name is put first, with the submission in it. A process that finds a name without its submission writes
        # that submission, so a crash blocks no name, and two that take it at once make one submission.
        key = keys.once(submission.once)
        for _ in range(TRIES):
            found = await self._bucket.get(key)
            holder = _holder(found, key)
            stored = await self._documents.get(holder.id) if holder is not None else None
            if stored is not None and stored.submission.once == submission.once:
                return stored.submission
            if holder is not None and stored is None:
                if await self._bucket.get(key) == found:  # else it was erased, which frees the name first
                    return await self._write_new(holder)
                continue
            with suppress(PreconditionFailed):
                await put(self._bucket, key, to_json_bytes(submission), found.tag if found is not None else None)
                return await self._write_new(submission)
        raise JournalError("The submission's name is taken and freed by too many at once. Try again.", fault="locked")

    async def _write_new(self, submission: Submission) -> Submission:
        try:
            await self._documents.commit(None, StoredSubmission(submission=submission), None)
        except PreconditionFailed as exc:
            stored = await self._documents.get(submission.id)
            if submission.once is None or stored is None or stored.submission.once != submission.once:
                raise JournalError(f"There already is a submission {submission.id}. Nothing was written.") from exc
        return submission

    async def _free_name(self, id: str, key: str) -> None:
        """Free a name if the submission still has it. The object of a free name is empty."""
        found = await self._bucket.get(key)
        holder = _holder(found, key)
        if found is not None and holder is not None and holder.id == id:
            with suppress(PreconditionFailed):  # another submission has taken it
                await put(self._bucket, key, b"", found.tag)

    # Deleting

    async def remove(
        self, ids: Sequence[str], transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int]:
        removed = Counter(dict.fromkeys(("kept", "files", *REMOVED, "submissions"), 0))
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            for counts in await asyncio.gather(*(self._remove(id, transition, files_only) for id in some)):
                removed.update(counts)
        return removed

    async def _remove(
        self, id: str, transition: Callable[[Document], Document | None], files_only: bool
    ) -> Mapping[str, int]:
        stored = await self._documents.get(id)
        if stored is None:
            return {}
        if transition(stored.document()) is None:
            return {"kept": 1}
        # First the name, then the leftovers, then the submission. Links to it go last.
        if not files_only and stored.submission.once is not None:
            await self._free_name(stored.id, keys.once(stored.submission.once))
        files = [digest for digest in stored.files if not await self._is_needed(digest, but=id)]
        await self._leave(files)

        def removed(current: StoredSubmission) -> tuple[StoredSubmission, StoredSubmission | None]:
            after = transition(current.document())
            if after is None:
                return current, None
            if files_only:
                return replace(current, submission=after.submission, files=()), current
            return replace(current, additions=(), erased=True), current

        last = await self._documents.write(id, removed)
        if last is None:
            return {"kept": 1}
        object_key = [] if files_only else [keys.submission(id)]
        await self._bucket.delete([*last.links(files_only=files_only), *object_key])
        # Two submissions that are removed at once see each other as in need of a file, until one has gone.
        left = [digest for digest in last.files if digest not in files and not await self._is_needed(digest)]
        await self._leave(left)
        rows = {} if files_only else {kind: len(getattr(last, kind)) for kind in REMOVED}
        return {"files": len(files) + len(left), "submissions": int(not files_only), **rows}

    async def _leave(self, digests: Iterable[str]) -> None:
        await asyncio.gather(*(self._bucket.put(keys.path(keys.LEFTOVERS, digest), b"") for digest in digests))

    async def _is_needed(self, digest: str, *, but: str = "") -> bool:
        """Return True if a submission needs a file. One whose link is new may be about to be written."""
        async for item in self._list(keys.path(keys.FILES, digest)):
            id = keys.segments(item.key, keys.FILES)[-1]
            if id == but:
                continue
            abandoned = time.time() * 1000 - item.modified_ms > ABANDONED_MS
            if not abandoned or await self._documents.get(id) is not None:
                return True
            self._documents.sweep([item.key])
        return False

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys_: Sequence[Key]) -> int:
        if kind == "leftovers":
            digests = {str(digest) for (digest,) in keys_} & {item async for item in self._names(keys.LEFTOVERS)}
            await self._bucket.delete([keys.path(keys.LEFTOVERS, digest) for digest in sorted(digests)])
            return len(digests)
        by_id: dict[str, set[int]] = defaultdict(set)
        for number, id in keys_:
            by_id[str(id)].add(int(number))

        async def forget_of(id: str, numbers: set[int]) -> int:
            def without(stored: StoredSubmission) -> tuple[StoredSubmission, int]:
                left = tuple(item for item in stored.callbacks if item.number not in numbers)
                count = len(stored.callbacks) - len(left)
                return (replace(stored, callbacks=left) if count else stored), count

            return await self._documents.write(id, without) or 0

        return sum(await asyncio.gather(*(forget_of(id, numbers) for id, numbers in by_id.items())))

    # Reading

    async def _list(self, folder: str, *, after: str = "") -> AsyncIterator[ObjectHead]:
        async for page in self._bucket.pages(folder, after=after):
            for item in page:
                yield item

    async def _names(self, folder: str) -> AsyncIterator[str]:
        async for item in self._list(folder):
            yield keys.segments(item.key, folder)[-1]

    async def _read(self, heads: Sequence[ObjectHead]) -> AsyncIterator[StoredSubmission]:
        """Yield submissions as they were listed."""
        for start in range(0, len(heads), BATCH):
            some = heads[start : start + BATCH]
            reads = (self._documents.get(keys.submission_id(item.key), etag=item.etag) for item in some)
            for stored in await asyncio.gather(*reads):
                if stored is not None:
                    yield stored

    async def _all(self, *, after: str = "") -> AsyncIterator[StoredSubmission]:
        """Yield submissions, the newest first."""
        async for page in self._bucket.pages(keys.SUBMISSIONS, after=after):
            async for stored in self._read(page):
                yield stored

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        def follows(key: Key) -> bool:
            return after is None or (key < after if newest_first else key > after)

        def chosen(rows: Iterable[StoredRow]) -> list[StoredRow]:
            """Return the rows of this page."""
            left = (row for row in rows if follows(row.key))
            return (heapq.nlargest if newest_first else heapq.nsmallest)(limit, left, key=lambda row: row.key)

        if kind == "values":
            return chosen(StoredRow((key,), item) for key, item in (await self.values("")).items())
        if kind == "files":
            return chosen([row async for row in self._needed_files(wanted)])
        if kind == "leftovers":
            page = chosen([StoredRow((item,), LeftFile(digest=item)) async for item in self._names(keys.LEFTOVERS)])
            needed = await asyncio.gather(*(self._is_needed(str(row.key[0])) for row in page))
            return [
                StoredRow(row.key, LeftFile(digest=str(row.key[0]), needed=one))
                for row, one in zip(page, needed, strict=True)
            ]
        if kind == "callbacks" and not newest_first and wanted == Filter(until_ms=wanted.until_ms) != EVERYTHING:
            return chosen(await self._old_callbacks(wanted))
        found: list[StoredRow] = []
        async for heads in self._heads(kind, wanted, after, newest_first=newest_first):
            if kind == "submissions":
                named = [(keys.submission_id(item.key), item) for item in heads]
                heads = [item for id, item in named if follows((id,)) and _fits_id(id, wanted)]  # noqa: PLW2901
            for start in range(0, len(heads), BATCH):
                some = heads[start : start + BATCH]
                # Submissions come in order. Another row was known when its object was last written.
                latest_ms = some[0].modified_ms + MARGIN_MS
                if len(found) >= limit and (
                    kind == "submissions" or (newest_first and latest_ms < min(map(_known_ms, found)))
                ):
                    return found
                rows = [row async for stored in self._read(some) for row in _rows(kind, stored, wanted)]
                found = chosen([*found, *rows])
        return found

    async def _heads(
        self, kind: RowKind, wanted: Filter, after: Key | None, *, newest_first: bool
    ) -> AsyncIterator[list[ObjectHead]]:
        """Yield submissions that may have such rows, in pages. Submissions themselves come in order, for rows of
        another kind those written last come first."""
        submissions = kind == "submissions"
        ids = await self._ids(kind, wanted)
        if ids is not None:
            yield [ObjectHead(keys.submission(id), "", 0, FAR_MS) for id in sorted(ids, reverse=newest_first)]
            return
        bounds = [first_id(wanted.until_ms)] if wanted.until_ms is not None else []
        bounds += [str(after[0])] if after is not None and newest_first else []
        heads: list[ObjectHead] = []
        start = keys.before(min(bounds)) if submissions and bounds else ""
        async for page in self._bucket.pages(keys.SUBMISSIONS, after=start):
            if submissions and newest_first:
                yield page
            else:
                heads += page
        heads.sort(key=lambda item: item.key if submissions else item.modified_ms, reverse=True)
        yield heads

    async def _ids(self, kind: RowKind, wanted: Filter) -> Collection[str] | None:
        """Return ids of the submissions that can have such rows. None: any may."""
        found: Collection[str] | None = None
        delivery_id = wanted.delivery_id if kind == "attempts" else None
        named = wanted.ids if kind == "deliveries" else None if delivery_id is None else [delivery_id]
        if wanted.submission_id is not None:
            found = {wanted.submission_id}
        elif kind == "submissions":
            if wanted.ids is not None:
                found = set(wanted.ids)
            elif wanted.task_id is not None:
                found = {id async for id in self._names(keys.path(keys.TASKS, wanted.task_id))}
            elif wanted.parent_id is not None:
                found = {id async for id in self._names(keys.path(keys.CHILDREN, wanted.parent_id))}
            elif wanted.with_files:
                found = {str(row.key[0]) async for row in self._needed_files(EVERYTHING)}
            elif wanted.due_after_ms is not None:
                found = await self._indexed(keys.ROWS)
        elif kind == "events" and wanted.ids is not None:
            found = {id.partition(".")[0] for id in wanted.ids}
        elif named is not None:
            found = {id for id in await asyncio.gather(*map(self._owner_of, named)) if id is not None}
        elif kind == "deliveries" and wanted.status in ("pending", "running", "dead"):
            below = () if wanted.destination is None else (wanted.destination,)
            found = await self._indexed(keys.path(keys.DEAD if wanted.status == "dead" else keys.TO, *below))
        return found

    async def _indexed(self, place: str) -> set[str]:
        """Return the submissions with an entry below a place of the due index."""
        return {keys.read_entry(item.key)[1] async for item in self._list(place)}

    async def _owner_of(self, delivery_id: str) -> str | None:
        """Return the submission of a delivery. No index leads there, but a delivery is younger than its submission,
        mostly by minutes, so submissions are read from its time backwards."""
        if len(delivery_id) == ID_LENGTH:
            async for stored in self._all(after=keys.before(delivery_id)):
                if any(item.id == delivery_id for item in stored.deliveries):
                    return stored.id
        return None

    async def _old_callbacks(self, wanted: Filter) -> list[StoredRow]:
        """Return all callbacks from before `until_ms`. Skip objects without callbacks that were not written since, or
        the daily purge would read every submission."""
        value = (await self.values(PURGED)).get(PURGED)
        purged_ms = int(value.data) if value is not None else 0
        end = keys.before(first_id(wanted.until_ms or 0))
        heads = [item async for item in self._list(keys.SUBMISSIONS)]
        written = {keys.submission_id(item.key): item.modified_ms for item in heads}
        left = [item.modified_ms for item in heads if item.key <= end]
        rows: list[StoredRow] = []
        async for stored in self._read([item for item in heads if item.key > end and item.modified_ms >= purged_ms]):
            left += [written[stored.id]] if stored.callbacks else []
            rows += _rows("callbacks", stored, wanted)
        until_ms = min(left, default=max(written.values(), default=0))
        if until_ms > purged_ms:
            await self.swap(PURGED, b"%d" % until_ms, value.version if value is not None else None)
        return rows

    async def _needed_files(self, wanted: Filter) -> AsyncIterator[StoredRow]:
        folder = keys.FILES if wanted.digest is None else keys.path(keys.FILES, wanted.digest)
        async for item in self._list(folder):
            digest, id = keys.segments(item.key, keys.FILES)
            if wanted.submission_id in (None, id):
                yield StoredRow((id, digest), NeededFile(submission_id=id, digest=digest))

    async def counts(self, *, submissions: bool = False) -> Counts:
        displayed: Counter[str] = Counter()
        statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        oldest: dict[str, int] = {}

        def count(name: str, status: str, due_ms: int) -> None:
            statuses[name][status] += 1
            if status == "pending":
                oldest[name] = min(due_ms, oldest.get(name, due_ms))

        entries = [(place, item.key) for place in (keys.TO, keys.DEAD) async for item in self._list(place)]
        ids = {keys.read_entry(key)[1] for _, key in entries}
        exact = submissions or len(ids) <= COUNTED
        heads = [ObjectHead(keys.submission(id), "", 0, 0) for id in sorted(ids)] if exact else []
        async for stored in self._all() if submissions else self._read(heads):
            if stored.submission.kind != ALERT_KIND:
                displayed[stored.submission.display_status] += 1
            for item in stored.deliveries:
                count(item.destination, item.status, item.due_ms)
        for place, key in () if exact else entries:
            name = keys.segments(key, place)[0]
            count(name, "dead" if place == keys.DEAD else "pending", keys.read_entry(key)[0])
        destinations = {
            name: DestinationCount(
                pending=some["pending"], running=some["running"], dead=some["dead"], oldest_due_ms=oldest.get(name)
            )
            for name, some in sorted(statuses.items())
        }
        return Counts(submissions=displayed if submissions else {}, destinations=destinations, exact=exact)

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        names = [f"{keys.VALUES}/{prefix}"]
        if not prefix or prefix.endswith("/"):
            names = [item.key async for item in self._list(names[0].rstrip("/"))]
        found: dict[str, SharedValue] = {}
        for name, item in zip(names, await asyncio.gather(*map(self._bucket.get, names)), strict=True):
            if item is not None and item.data:
                key = name.removeprefix(f"{keys.VALUES}/")
                found[key] = SharedValue(key=key, data=item.data, version=_version(item.tag))
        return found

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        name = f"{keys.VALUES}/{key}"
        etag, _, generation = (version or "").partition("\n")
        tag = Tag(etag, generation or None) if version is not None else None
        if tag is None and (found := await self._bucket.get(name)) is not None and not found.data:
            tag = found.tag  # its deletion has ended halfway
        try:
            tag = await put(self._bucket, name, data or b"", tag)  # an empty object is a deleted value
        except PreconditionFailed:
            return None
        if data is None:
            await self._bucket.delete([name])
            return ""
        return _version(tag)

    # The store as a whole

    async def problems(self, owners: frozenset[str]) -> list[str]:
        # The rows of one object cannot contradict each other. One that cannot be read raises JournalError.
        entries = {item.key async for item in self._list(keys.DUE)}
        lost, left = list[str](), list[str]()
        async for stored in self._all():
            left += [item.id for item in stored.deliveries if item.status == "running" and item.owner not in owners]
            if any(key.startswith(f"{keys.DUE}/") and key not in entries for key in stored.entries.values()):
                lost.append(stored.id)
        sentences = transitions.contradiction_sentences({}, left)
        if lost:
            sentences.append(
                f"{len(lost):,} submissions have something due that no index entry leads to: {lost[0]}, for one. "
                "Another program deletes objects below due/. Stop it, and please report this if there is none."
            )
        return sentences

    async def back_up(self, target: Path) -> int:
        raise InputError(
            f"A journal on a bucket is copied with the store's own tools: aws s3 sync {self.place} FOLDER, for "
            "instance, or rclone. Objects are written whole, so the copy is sound. Versioning keeps old ones.",
            page="bucket",
        )

    async def compact(self) -> tuple[int, int] | None:
        raise InputError(
            f"A bucket has no unused space, so there is nothing to rewrite in {self.place}. If it keeps versions, its "
            "lifecycle rules say for how long.",
            page="bucket",
        )

    async def scrub(self, words: str) -> str | None:
        if not self._bucket.versioned:
            return None
        return (
            f"The bucket keeps versions of what was deleted: the prompt stays in those of {self.place} until its "
            "lifecycle rules remove them, or a person does"
        )

    def transfer(self, *, fill: bool) -> AbstractAsyncContextManager[Rows]:
        where = "into" if fill else "out of"
        raise InputError(f"This version copies no journal {where} a bucket: {self.place}.", page="bucket")


def _rows(kind: RowKind, stored: StoredSubmission, wanted: Filter) -> list[StoredRow]:
    """Return the rows of a submission that fit. The ids of submissions are checked before these are read."""
    if kind == "submissions":
        fits = fits_submission(stored.submission, wanted) and (stored.files or not wanted.with_files)
        return [StoredRow((stored.id,), stored.submission)] if fits else []
    if kind in ("events", "deliveries") and not fits_request(stored.submission, wanted):
        return []
    if kind == "events":
        return [
            StoredRow((item.number, stored.id), item.event)
            for item in stored.events
            if wanted.type in (None, item.event.type)
            and (wanted.ids is None or item.event.id in wanted.ids)
            and _is_within(item.event.created_ms, wanted)
        ]
    if kind == "deliveries":
        return [
            StoredRow((item.id,), item)
            for item in stored.deliveries
            if _fits_id(item.id, wanted)
            and wanted.destination in (None, item.destination)
            and wanted.status in (None, item.status)
            and (wanted.due_after_ms is None or item.due_ms > wanted.due_after_ms)
        ]
    if kind == "attempts":
        left = [item for item in stored.attempts if wanted.delivery_id in (None, item.delivery_id)]
        return [StoredRow((item.delivery_id, item.number), item) for item in left]
    called = [item for item in stored.callbacks if _is_within(item.received_ms, wanted)]
    return [StoredRow((item.number, stored.id), item.callback(stored.id)) for item in called]


def _is_within(ms: int, wanted: Filter) -> bool:
    return (wanted.since_ms is None or ms >= wanted.since_ms) and (wanted.until_ms is None or ms < wanted.until_ms)


def _known_ms(row: StoredRow) -> float:
    """Return the time at which a row became known, by the clock of its writer."""
    return row.key[0] / 1e6 if isinstance(row.key[0], int) else getattr(row.record, "created_ms", 0)


def _fits_id(id: str, wanted: Filter) -> bool:
    """Return True if the id of a submission or delivery fits."""
    return (
        (wanted.ids is None or id in wanted.ids)
        and (wanted.since_ms is None or id >= first_id(wanted.since_ms))
        and (wanted.until_ms is None or id < first_id(wanted.until_ms))
        and (wanted.part is None or id.startswith(wanted.part) or id.endswith(wanted.part))
    )


def _version(tag: Tag) -> str:
    return f"{tag.etag}\n{tag.version}" if tag.version is not None else tag.etag


def _holder(name: StoredObject | None, key: str) -> Submission | None:
    """Return the submission that has a name."""
    if name is None or not name.data:
        return None
    try:
        return msgspec.json.decode(name.data, type=Submission)
    except msgspec.DecodeError as exc:
        raise damaged(key, exc) from exc
