"""One submission with all its rows in one object, so that one compare-and-swap is one transaction."""

from __future__ import annotations

import gzip
import time
import zlib
from itertools import count

import msgspec

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import JournalError
from receiver.events import Callback, Event, Submission
from receiver.journal.bucket import keys
from receiver.journal.document import DUE_FIELDS, Document, LastReceipt, to_json_bytes

replace = msgspec.structs.replace

SOON_MS = 15_000
"""Age at which a new submission is looked at. Its first poll is due then and needs no further index entry."""
MOVE_MS = 600_000
"""An index entry that comes earlier than needed by more than this is replaced."""

_SHARED = ("submission", "known", "newest", "receipts")
"""Fields that a document has, too."""


class NumberedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event, and its place in the order in which events became known."""

    number: int
    event: Event


class KeptCallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A callback with its body as text, and its place in the same order."""

    number: int
    received_ms: int
    cause: str | None = None
    body: str = ""

    def callback(self, id: str) -> Callback:
        return Callback(submission_id=id, received_ms=self.received_ms, cause=self.cause, body=self.body.encode())


class StoredSubmission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of one object.

    Attributes:
        version: of the document.
        nonce: unique to the write that made this object, so that its writer recognizes it.
        entries: keys of the due index's entries for this submission, by place.
        files: digests of the files of the media store it needs, or has needed since they were last dropped.
        additions: submissions that came of a change and are not written yet.
        erased: True if the object is about to be deleted, so that no process writes it any more.
    """

    submission: Submission
    version: int = 0
    nonce: str = ""
    known: tuple[str, ...] = ()
    newest: dict[str, str] = {}
    receipts: dict[str, LastReceipt] = {}
    events: tuple[NumberedEvent, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    callbacks: tuple[KeptCallback, ...] = ()
    entries: dict[str, str] = {}
    files: tuple[str, ...] = ()
    additions: tuple[Submission, ...] = ()
    erased: bool = False

    @property
    def id(self) -> str:
        return self.submission.id

    def document(self) -> Document:
        """Return the working set."""
        open_ = tuple(item for item in self.deliveries if item.status in ("pending", "running"))
        needed = {item.event_id for item in open_}
        running = {(item.id, item.attempt) for item in open_ if item.status == "running"}
        return Document(
            **{name: getattr(self, name) for name in _SHARED},
            version=self.version,
            deliveries=open_,
            events=tuple(item.event for item in self.events if item.event.id in needed),
            attempts=tuple(item for item in self.attempts if (item.delivery_id, item.number) in running),
        )

    def with_changes(self, document: Document) -> StoredSubmission:
        """Return the object with the changes and additions of a transition."""
        # Nanoseconds since 1970, but more than any number in this object even if the clock was set back.
        last = max([0, *(item.number for item in self.events[-1:]), *(item.number for item in self.callbacks[-1:])])
        numbers = count(max(last + 1, time.time_ns()))
        events = [NumberedEvent(number=next(numbers), event=event) for event in document.new_events]
        callbacks = [
            KeptCallback(
                number=next(numbers), received_ms=item.received_ms, cause=item.cause,
                body=bytes(item.body).decode(errors="replace"),
            )
            for item in document.new_callbacks
        ]  # fmt: skip
        deliveries = {item.id: item for item in self.deliveries}
        deliveries |= {item.id: item for item in (*document.closed, *document.deliveries)}
        attempts = {(item.delivery_id, item.number): item for item in self.attempts}
        attempts |= {(item.delivery_id, item.number): item for item in document.new_attempts}
        return replace(
            self,
            **{name: getattr(document, name) for name in _SHARED},
            events=(*self.events, *events),
            deliveries=tuple(deliveries.values()),
            attempts=tuple(attempts.values()),
            callbacks=(*self.callbacks, *callbacks),
            additions=(*self.additions, *document.additions),
        )

    def links(self, *, files_only: bool = False) -> list[str]:
        """Return the keys of the links that lead here: from files, from its task, from its parent."""
        row, found = self.submission, [keys.path(keys.FILES, digest, self.id) for digest in self.files]
        if row.task_id is not None and not files_only:
            found.append(keys.path(keys.TASKS, row.task_id, self.id))
        if row.parent_id is not None and not files_only:
            found.append(keys.path(keys.CHILDREN, row.parent_id, self.id))
        return found

    def due_ms(self) -> dict[str, int]:
        """Return the times at which this submission must be looked at, in epoch milliseconds, by place of the index.

        A running delivery keeps its entry, which leads to it once its engine has expired.
        """
        if self.erased:
            return {}
        wanted: dict[str, int] = {}
        for item in self.deliveries:
            if item.status == "dead":
                wanted[keys.path(keys.DEAD, item.destination)] = 0
            elif item.status in ("pending", "running"):
                place = keys.path(keys.TO, item.destination)
                wanted[place] = min(item.due_ms, wanted.get(place, item.due_ms))
        due = [ms for field in DUE_FIELDS.values() if (ms := field(self.submission)) is not None]
        if self.additions:
            due.append(0)
        return wanted | ({keys.ROWS: min(due)} if due else {})

    def with_entries(self) -> StoredSubmission:
        """Return the object with its index entries. An entry may come too early, never too late.

        A new one is early enough for what follows soon: the first poll after the send, and deliveries as soon as their
        picture is there.
        """
        entries: dict[str, str] = {}
        for place, due_ms in self.due_ms().items():
            key = self.entries.get(place)
            open_ = [
                item
                for item in self.deliveries
                if item.status in ("pending", "running") and keys.path(keys.TO, item.destination) == place
            ]
            failed = bool(open_) and all(item.failures for item in open_)
            timely = key is not None and due_ms - MOVE_MS <= keys.read_entry(key)[0] <= due_ms
            if key is None or not timely or keys.has_failed(key) != failed:
                untried = [item.created_ms for item in open_ if item.attempt == 0]
                early = max([ms for ms in untried if due_ms - MOVE_MS <= ms <= due_ms], default=due_ms)
                if place == keys.ROWS and self.version == 1:
                    early = min(due_ms, self.submission.created_ms + SOON_MS)
                key = keys.entry(place, early, self.id, self.version, self.nonce[:6], failed=failed)
            entries[place] = key
        return replace(self, entries=entries)


_decoder = msgspec.json.Decoder(StoredSubmission)


def encode(stored: StoredSubmission) -> tuple[bytes, StoredSubmission]:
    """Return the bytes, and the object as it will be read again: half characters become U+FFFD."""
    try:
        return gzip.compress(msgspec.json.encode(stored), 1, mtime=0), stored
    except UnicodeEncodeError:
        return encode(_decoder.decode(to_json_bytes(stored)))


def decode(data: bytes, key: str) -> StoredSubmission:
    """Raise JournalError if the bytes cannot be read."""
    try:
        return _decoder.decode(gzip.decompress(data))
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as exc:
        raise damaged(key, exc) from exc


def damaged(key: str, problem: Exception) -> JournalError:
    """Return the error of an object that cannot be read."""
    return JournalError(
        f"The journal's object {key} cannot be read ({problem}). Restore it from an older version, or delete it.",
        fault="damaged",
    )
