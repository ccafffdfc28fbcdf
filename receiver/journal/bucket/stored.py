"""One object is one submission with all its rows, so that one compare-and-swap is one transaction.

Bodies of callbacks are in objects of their own where they would make the object large.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Mapping
from itertools import count

import msgspec

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import JournalError
from receiver.events import Callback, Event, Submission
from receiver.journal.bucket import keys
from receiver.journal.document import DUE_FIELDS, Document, LastReceipt, file_digests
from receiver.journal.rows import to_json_bytes

replace = msgspec.structs.replace

LARGE = 256 * 1024
"""Bytes of an object from which on its callbacks are in objects of their own."""
SOON_MS = 15_000
"""A new submission is looked at so soon. The first poll is due then, and needs no index entry of its own."""
MOVE_MS = 600_000
"""An index entry that comes so much too early is made anew with the next change."""


class NumberedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event, and its place in the order in which events became known."""

    number: int
    event: Event


class KeptCallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A callback. Without a body, that is in an object of its own (below `keys.CALLBACKS`)."""

    number: int
    received_ms: int
    cause: str | None = None
    body: str | None = None

    def callback(self, id: str) -> Callback:
        body = (self.body or "").encode()
        return Callback(submission_id=id, received_ms=self.received_ms, cause=self.cause, body=body)


class StoredSubmission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of one object.

    Attributes:
        version: of the document.
        nonce: unique to the write that made this object, so that its writer recognizes it.
        entries: keys of the due index's entries for this submission, by place.
        files: digests of the files of the media store it needs, or has needed since they were last dropped.
        additions: submissions that came of a change and are not written yet.
        erased: no process may write it any more, because the object is about to be deleted.
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
            submission=self.submission,
            version=self.version,
            known=self.known,
            newest=self.newest,
            receipts=self.receipts,
            deliveries=open_,
            events=tuple(item.event for item in self.events if item.event.id in needed),
            attempts=tuple(item for item in self.attempts if (item.delivery_id, item.number) in running),
        )

    def with_changes(self, document: Document) -> StoredSubmission:
        """Return the object with what a transition has changed and added."""
        # Nanoseconds since 1970, but more than any number in this object, whatever the clock says.
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
            submission=document.submission,
            known=document.known,
            newest=document.newest,
            receipts=document.receipts,
            events=(*self.events, *events),
            deliveries=tuple(deliveries.values()),
            attempts=tuple(attempts.values()),
            callbacks=(*self.callbacks, *callbacks),
            additions=(*self.additions, *document.additions),
        )

    def due_ms(self) -> dict[str, int]:
        """Return, by place of the due index, when this submission must be looked at, in epoch milliseconds.

        A running delivery keeps its entry, because it is found by it when its engine has expired.
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

    def needed_files(self) -> frozenset[str]:
        return frozenset() if self.erased else file_digests(self.submission)

    def contradictions(self) -> Mapping[str, list[str]]:
        """Return ids by what is wrong with them: see `transitions.CONTRADICTIONS`."""
        events = {item.event.id for item in self.events}
        deliveries = {item.id: item for item in self.deliveries}
        row = self.submission
        ended = row.ended is not None and f"{row.id}.{row.ended}" not in events
        return {
            "deliveries_without_event": [item.id for item in self.deliveries if item.event_id not in events],
            "attempts_without_delivery": sorted({item.delivery_id for item in self.attempts} - deliveries.keys()),
            "ends_without_event": [row.id] if ended else [],
            "unfinished_attempts": [
                item.delivery_id
                for item in self.attempts
                if item.outcome is None
                and item.delivery_id in deliveries
                and deliveries[item.delivery_id].status != "running"
            ],
        }


def with_entries(
    old: StoredSubmission | None, draft: StoredSubmission
) -> tuple[StoredSubmission, list[str], list[str]]:
    """Return the draft with its index entries, the keys of new entries, and those of entries no longer needed.

    An entry may come too early, never too late. One that comes a little too early stays where it is. A new one is early
    enough for what follows soon, so that this needs no other entry: the first poll after the send, and deliveries as
    soon as their picture is there.
    """
    entries: dict[str, str] = {}
    made: list[str] = []
    for place, due_ms in draft.due_ms().items():
        key = draft.entries.get(place)
        if key is None or not due_ms - MOVE_MS <= keys.read_entry(key)[0] <= due_ms:
            created = [
                item.created_ms
                for item in draft.deliveries
                if item.attempt == 0 and keys.path(keys.TO, item.destination) == place
            ]
            early = max([ms for ms in created if due_ms - MOVE_MS <= ms <= due_ms], default=due_ms)
            if place == keys.ROWS and draft.version == 1:
                early = min(due_ms, draft.submission.created_ms + SOON_MS)
            key = keys.entry(place, early, draft.id, draft.version, draft.nonce[:6])
            made.append(key)
        entries[place] = key
    before = set(old.entries.values()) if old is not None else set()
    return replace(draft, entries=entries), made, sorted(before - set(entries.values()))


_decoder = msgspec.json.Decoder(StoredSubmission)


def encode(stored: StoredSubmission) -> tuple[bytes, StoredSubmission]:
    """Return the bytes, and the object as it will be read again: half characters become U+FFFD."""
    try:
        data = msgspec.json.encode(stored)
    except UnicodeEncodeError:
        data = to_json_bytes(stored)
        stored = _decoder.decode(data)
    return gzip.compress(data, 1, mtime=0), stored


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
