"""The contract of a store: it keeps documents and rows durably, and knows none of the journal's rules.

Three stores fulfil it: one SQLite file, a PostgreSQL database, a bucket. One behavioural suite
(`tests/test_journal.py`, `tests/test_store.py`) runs on all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar, get_args

import msgspec

from receiver.deliveries import AttemptRecord, Delivery, DeliveryStatus
from receiver.events import ALERT_KIND, Callback, DisplayStatus, Event, EventType, Submission
from receiver.journal.document import Document, Transition

T = TypeVar("T")

DueKind = Literal["send", "poll", "media", "deadline"]
RowKind = Literal["submissions", "callbacks", "events", "deliveries", "attempts", "files", "leftovers", "values"]
"""Everything a store holds."""

ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)

Key = tuple[str | int, ...]
"""The sort key of a row: `(id,)` of submissions and deliveries, `(number,)` of callbacks and events in the order in
which they came (a bucket adds the submission's id), `(delivery_id, number)` of attempts, `(submission_id, digest)`,
`(digest,)`, `(key,)`. Only its store reads a key."""


class NeededFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the media store that a submission needs."""

    submission_id: str
    digest: str


class LeftFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the media store that no submission needed when the last one was deleted. `needed`: one needs it now."""

    digest: str
    needed: bool = False


class SharedValue(msgspec.Struct, frozen=True, kw_only=True):
    """A small value that all processes share: JSON text, and the version to replace it by."""

    key: str
    data: bytes
    version: str = ""


Record = Submission | Callback | Event | Delivery | AttemptRecord | NeededFile | LeftFile | SharedValue | Document


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row of a page, and the key at which the next page continues."""

    key: Key
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions on rows: all that are given must hold. A condition that makes no sense for a kind is ignored.

    Attributes:
        ids: submissions, events or deliveries by id. A replay keeps their order.
        submission_id: rows of one submission (for submissions: itself).
        delivery_id: attempts of one delivery.
        parent_id: submissions that follow this one up.
        task_id: submissions with this task.
        part: submissions or deliveries whose id starts or ends with this text.
        digest: needed files with this digest.
        destination: deliveries to this destination.
        status: submissions by display status, or deliveries by status.
        type: events of this type.
        kind: of this kind of request, like the next two for submissions, and for events and deliveries of such.
        labels: with all the labels.
        words: with all the words in the prompt, in any case.
        since_ms, until_ms: made at or after the one, and before the other, in epoch milliseconds. Submissions and
            deliveries go by their id, events by `created_ms`, callbacks by `received_ms`.
        called_back: accepted submissions with a callback URL that the provider has ended.
        due_after_ms: submissions to be sent, polled or downloaded later than this, or pending deliveries due later.
        settled: see `Submission.settled`. Open deliveries are not looked at.
        with_files: submissions that need files of the media store.
        requests: submissions that are requests, without those that hold an alert.
    """

    ids: tuple[str, ...] | None = None
    submission_id: str | None = None
    delivery_id: str | None = None
    parent_id: str | None = None
    task_id: str | None = None
    part: str | None = None
    digest: str | None = None
    destination: str | None = None
    status: DeliveryStatus | DisplayStatus | None = None
    type: EventType | None = None
    kind: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    due_after_ms: int | None = None
    called_back: bool = False
    settled: bool = False
    with_files: bool = False
    requests: bool = False


EVERYTHING = Filter()


REQUEST_CONDITIONS = ("kind", "labels", "words")


def fits_request(row: Submission, wanted: Filter) -> bool:
    """Return True if a submission fulfils the conditions of `REQUEST_CONDITIONS`, which its rows share."""
    return (
        wanted.kind in (None, row.kind)
        and all(row.labels.get(name) == value for name, value in wanted.labels)
        and all(word.casefold() in row.prompt.casefold() for word in wanted.words)
    )


def fits_submission(row: Submission, wanted: Filter) -> bool:
    """Return True if a submission fulfils a filter's conditions on its own fields. Ids, times and `with_files` are left
    to the store, which finds rows by them."""
    conditions = (
        wanted.parent_id in (None, row.parent_id),
        wanted.task_id in (None, row.task_id),
        wanted.part is None or row.id.startswith(wanted.part) or row.id.endswith(wanted.part),
        wanted.status in (None, row.display_status),
        fits_request(row, wanted),
        not wanted.requests or row.kind != ALERT_KIND,
        wanted.due_after_ms is None
        or any((due or 0) > wanted.due_after_ms for due in (row.send_due_ms, row.poll_due_ms, row.media_due_ms)),
        not wanted.called_back
        or (row.hooked and row.status == "accepted" and row.ended in ("task.succeeded", "task.failed")),
        not wanted.settled or row.settled,
    )
    return all(conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationCount:
    """Open and dead deliveries of one destination. `oldest_due_ms`: the earliest due time of the pending ones."""

    pending: int = 0
    running: int = 0
    dead: int = 0
    oldest_due_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Numbers of rows.

    Attributes:
        submissions: by display status.
        destinations: by name.
        exact: False if the store estimates (a bucket with many rows).
    """

    submissions: Mapping[str, int] = field(default_factory=dict)
    destinations: Mapping[str, DestinationCount] = field(default_factory=dict)
    exact: bool = True


class Rows(Protocol):
    """All rows of a store, standing still while a copy is made.

    Here the rows of `submissions` are documents without deliveries, events and attempts, because the working set is no
    row of its own.
    """

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[StoredRow]:
        """Return the next rows in order of key, where text is compared byte by byte. None: from the first on."""

    async def put(self, kind: RowKind, rows: Sequence[StoredRow]) -> None:
        """Write rows as they are."""


class Store(Protocol):
    """Durable documents, rows and shared values.

    Every method raises JournalError when the store cannot be read or written. A method that writes returns only after
    the commit is on disk. Times are epoch milliseconds.

    Attributes:
        shared: True if several engines may run on it at once.
        place: the store as people may see it: a path, or a URL without password.
        cache_seconds: time that a shared value may stay in memory while other processes may change it.
    """

    shared: ClassVar[bool]
    place: str
    cache_seconds: float

    async def aclose(self) -> None:
        """Finish accepted writes, then close. Idempotent."""

    async def settle(self) -> None:
        """Wait for the clean-up after commits, for processes that are frozen afterwards."""

    async def check(self, *, space: bool = False) -> None:
        """Raise JournalError unless a write works now. `space`: instead, raise if the disk is full or nearly full."""

    # Documents

    async def create(self, submission: Submission) -> Submission:
        """Write a new submission. If its name (`once`) is taken, write nothing and return the one that has it.

        Raises:
            JournalError: there is a submission of that id.
        """

    async def load(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents that exist, as they are now, by submission id."""

    async def update(self, id: str, transition: Transition[T]) -> T | None:
        """Run a transition on the current document and write the difference, in one transaction.

        Updates that wait together share a commit. One that fails undoes nothing of the others. The transition runs
        again if the document was written meanwhile.

        Returns:
            The transition's result. None if the submission does not exist.

        Raises:
            Exception: the error of the transition. Nothing of it was written.
        """

    async def claim(
        self, destination: str, now_ms: int, limit: int, transition: Transition[T | None], *, fresh: float | None = None
    ) -> list[T]:
        """Run a transition on documents with a pending delivery to `destination` that is due, the longest due first.

        Documents that another process is claiming from are skipped. Ends when `limit` results are not None, or when
        no document is left. With `fresh`, only the first 1000 with a due delivery that has not failed are considered,
        and the one at this place among them comes first (0: the longest due, 1: the shortest). Others are not read.
        """

    async def remove(
        self, ids: Sequence[str], transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int]:
        """Delete submissions with all their rows, or only their claims on files of the media store.

        A file that no other submission needs becomes a row of `leftovers` in the same transaction.

        Args:
            ids: of the submissions.
            transition: returns None if one may not be deleted now, else the document (written if `files_only`).
            files_only: keep the submissions.

        Returns:
            The number of deleted rows by kind (`files` counts the leftovers), and the number of submissions that may
            not be deleted as `kept`.
        """

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys: Sequence[Key]) -> int:
        """Delete rows by their keys. Return how many there were."""

    # Reading

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        """Return submissions with work of a kind that is due (see `DUE_FIELDS`), the longest due first."""

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        """Return a page of rows in order of key, or against it, beginning behind the key `after`.

        Raises:
            JournalError: the store cannot answer this without reading everything.
        """

    async def counts(self, *, submissions: bool = False) -> Counts:
        """Count deliveries by destination and status, and submissions by display status if asked to: in a bucket that
        reads every submission."""

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        """Return the shared values whose key starts with a prefix, by key."""

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        """Compare and swap a shared value.

        Args:
            key: letters, digits, `-`, `_`, `.` and `/`.
            data: the new value. None deletes it.
            version: the version that was read. None: there was no value.

        Returns:
            The new version ("" after a deletion). None if the value has changed meanwhile, and nothing was written.
        """

    def subscribe(self, changed: Callable[[frozenset[str] | None], None]) -> None:
        """Call `changed` on the event loop with the ids of written submissions. None: unknown ones.

        In this process on SQLite, in all processes on PostgreSQL (NOTIFY). A call may come too often or not at all, so
        a subscriber looks by itself as well. A bucket calls for its own process only.
        """

    # The store as a whole

    async def problems(self, owners: frozenset[str]) -> list[str]:
        """Read everything and return its faults as sentences. `owners`: engines that run."""

    async def back_up(self, target: Path) -> int:
        """Copy the store as it is now to a new file and check that file. Return its size in bytes.

        Raises:
            InputError: the name is taken, or the database has its own tools for this, which the sentence names.
            JournalError: the copy cannot be written, or is not sound.
        """

    async def compact(self) -> tuple[int, int] | None:
        """Rewrite the store without unused space. Return its bytes before and after. None: an engine runs on it."""

    async def scrub(self, words: str) -> str | None:
        """Overwrite deleted data, as far as possible beside other processes. Return a sentence on where the words may
        still be, and on the remedy. None: nowhere."""

    def transfer(self, *, fill: bool) -> AbstractAsyncContextManager[Rows]:
        """Block all other writes for a copy until the end of the block.

        Args:
            fill: the store must be empty (shared values aside), and takes the rows. They are committed if the block
                ends without an error.

        Raises:
            InputError: it is not empty, or this store cannot be copied.
        """


async def pages(
    store: Store, kind: RowKind, wanted: Filter, *, size: int = 200, newest_first: bool = False
) -> AsyncIterator[StoredRow]:
    """Yield all rows of a kind that fit, page by page."""
    after: Key | None = None
    while page := await store.page(kind, wanted, after=after, limit=size, newest_first=newest_first):
        for row in page:
            yield row
        after = page[-1].key
