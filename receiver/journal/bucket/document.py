"""A submission with all that hangs on it: one object, and so one compare-and-swap is one transaction."""

from __future__ import annotations

import gzip
import time
import zlib
from functools import cache
from typing import Any

import msgspec

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import JournalError
from receiver.events import Callback, Event, Submission
from receiver.journal.bucket import keys
from receiver.journal.rows import to_json_bytes

replace = msgspec.structs.replace


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """An event. `number` says in which order facts became known."""

    number: int
    event: Event


class KeptCallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A callback. Without a body, it lies in an object of its own: see `keys.callback`."""

    number: int
    received_ms: int
    cause: str | None = None
    body: str | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one object holds.

    Attributes:
        version: how often it was written.
        nonce: who wrote it last; nobody else wrote this one.
        marks: the marks that lead to it, by the place where they lie.
        files: digests of the files of the media store it needs, or has needed since they were last dropped.
        additions: submissions that came of a change and are not written yet.
        erased: nobody may write it any more; the object is about to go.
    """

    submission: Submission
    version: int = 0
    nonce: str = ""
    facts: tuple[Fact, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    callbacks: tuple[KeptCallback, ...] = ()
    marks: dict[str, str] = {}
    files: tuple[str, ...] = ()
    additions: tuple[Submission, ...] = ()
    erased: bool = False

    @property
    def id(self) -> str:
        return self.submission.id

    def delivery(self, id: str) -> Delivery | None:
        return next((item for item in self.deliveries if item.id == id), None)

    def event(self, id: str) -> Event | None:
        return next((fact.event for fact in self.facts if fact.event.id == id), None)

    def number_of(self, event_id: str) -> int:
        """The place of an event in the order in which facts became known; 0 if it is not there."""
        return next((fact.number for fact in self.facts if fact.event.id == event_id), 0)


_decoder = msgspec.json.Decoder(Document)


def encode(document: Document) -> tuple[bytes, Document]:
    """The bytes, and the document as it will be read again: half characters become U+FFFD."""
    try:
        data = msgspec.json.encode(document)
    except UnicodeEncodeError:
        data = to_json_bytes(document)
        document = _decoder.decode(data)
    return gzip.compress(data, 1, mtime=0), document


def decode(data: bytes, key: str) -> Document:
    """Raises JournalError where the bytes are no document."""
    try:
        return _decoder.decode(gzip.decompress(data))
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as exc:
        raise damaged(key, exc) from exc


def decode_as(type: Any, data: bytes, key: str) -> Any:
    """A small object's value. Raises JournalError where the bytes are none."""
    try:
        return _decoder_of(type).decode(data)
    except msgspec.DecodeError as exc:
        raise damaged(key, exc) from exc


@cache
def _decoder_of(type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type)


def damaged(key: str, exc: Exception) -> JournalError:
    """What to say of an object that cannot be read."""
    return JournalError(
        f"The journal's object {key} cannot be read ({exc}). Restore it from an older version, or delete it.",
        fault="damaged",
    )


_last = 0


def next_number() -> int:
    """Nanoseconds since 1970, rising within a process: an order of facts that needs nobody's consent. Between machines
    it is as good as their clocks; within a submission it only rises (see `changes`)."""
    global _last  # noqa: PLW0603 - the order is a promise of the process
    _last = max(_last + 1, time.time_ns())
    return _last


def number_after(document: Document) -> int:
    """A number behind all of the document's, whatever the clock says."""
    numbers = [fact.number for fact in document.facts[-1:]] + [item.number for item in document.callbacks[-1:]]
    return max([next_number(), *(number + 1 for number in numbers)])


# When something is to be done


def open_deadline(row: Submission) -> int | None:
    """The deadline, as long as it means something."""
    return row.deadline_ms if row.ended is None and row.status != "refused" else None


def wanted_marks(document: Document) -> dict[str, int]:
    """By place, when somebody has to look at this document at the latest. A delivery under way keeps its mark: that is
    how it is found when its engine vanishes."""
    if document.erased:
        return {}
    row = document.submission
    due = [row.send_due_ms, row.poll_due_ms, row.media_due_ms, open_deadline(row), 0 if document.additions else None]
    wanted: dict[str, int] = {}
    for item in document.deliveries:
        if item.status == "dead":
            wanted[keys.dead(item.destination)] = 0
        elif item.status in ("pending", "running"):
            place = keys.ALONE if item.alone else keys.destination(item.destination)
            wanted[place] = min(item.due_ms, wanted.get(place, item.due_ms))
    times = [ms for ms in due if ms is not None]
    return wanted | ({keys.ROWS: min(times)} if times else {})


def callback_of(id: str, kept: KeptCallback, body: str) -> Callback:
    return Callback(submission_id=id, received_ms=kept.received_ms, cause=kept.cause, body=body.encode())
