"""The working set of one submission, and the values that callers exchange with the journal.

A document is all that a rule may read: the submission, its open deliveries with their events, and for each
destination the newest event and receipt. It is no history. Rows that a rule adds (events, callbacks, ended attempts and
deliveries) are in the fields `new_…` and `closed`, until a store has written them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from receiver.deliveries import AttemptRecord, Delivery, Receipt
from receiver.events import Callback, Event, Submission
from receiver.tasks import clean_text

T = TypeVar("T")

replace = msgspec.structs.replace


class LastReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt of a destination's newest delivery that has one."""

    delivery_id: str
    receipt: Receipt


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One submission with the rows that its rules need.

    Attributes:
        submission: the row.
        version: increases by one with each write. 0 is a document that was never written.
        known: names of all journalled events, in the order in which they became known. A name is the event id without
            the submission's id (see `event_name`).
        deliveries: the pending and the running ones.
        events: the events of these deliveries. One is missing only if the journal has lost it.
        attempts: the attempts of running deliveries.
        newest: by destination, the name of the newest event with an automatic delivery there.
        receipts: by destination, the receipt of the newest delivery.
        new_events, new_callbacks: facts that this transaction adds.
        new_attempts: attempts that this transaction has started or ended. A later one replaces an earlier one of the
            same number.
        closed: deliveries that are no longer open, as of this transaction.
        additions: submissions that come of this transaction. One whose name (`once`) is taken is dropped.
    """

    submission: Submission
    version: int = 0
    known: tuple[str, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    events: tuple[Event, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    newest: dict[str, str] = {}
    receipts: dict[str, LastReceipt] = {}
    new_events: tuple[Event, ...] = ()
    new_callbacks: tuple[Callback, ...] = ()
    new_attempts: tuple[AttemptRecord, ...] = ()
    closed: tuple[Delivery, ...] = ()
    additions: tuple[Submission, ...] = ()

    @property
    def id(self) -> str:
        return self.submission.id

    def delivery(self, id: str) -> Delivery | None:
        """Return the open delivery of that id."""
        return next((item for item in self.deliveries if item.id == id), None)

    def event(self, id: str) -> Event | None:
        """Return the event of an open delivery."""
        return next((item for item in self.events if item.id == id), None)

    def is_busy(self, destination: str) -> bool:
        """Return True while a delivery to this destination runs. There are never two at once."""
        return any(item.status == "running" and item.destination == destination for item in self.deliveries)

    def written(self) -> Document:
        """Return the document as it is after a commit: one version later, without the rows that were added."""
        return replace(
            self,
            version=self.version + 1,
            new_events=(),
            new_callbacks=(),
            new_attempts=(),
            closed=(),
            additions=(),
        )


Transition = Callable[[Document], tuple[Document, T]]
"""A rule: pure and quick, because it runs inside a transaction, perhaps more than once. If it returns the same
document, nothing is written."""


def event_name(event_id: str, submission_id: str) -> str:
    """Return an event id without the submission's id, e.g. `task.progressed.46`."""
    return event_id.removeprefix(f"{submission_id}.")


def file_digests(row: Submission) -> frozenset[str]:
    """Return the digests of all files that a submission needs of the media store: pictures of its request, the mask of
    its reply, its results."""
    mask = row.reply.mask if row.reply is not None else None
    return frozenset(item.digest for item in (*row.inputs, *row.media, *((mask,) if mask is not None else ())))


def changed_rows(old: Document, new: Document) -> dict[str, Iterable[Any]]:
    """Return what a transition has added or changed, by kind, except for the submission itself. `files` are pairs of
    submission and digest."""
    row, was, before = new.submission, old.submission, {item.id: item for item in old.deliveries}
    deliveries = {item.id: item for item in (*new.closed, *new.deliveries)}
    same_files = row.files is was.files and row.reply is was.reply and row.inputs is was.inputs
    return {
        "callbacks": new.new_callbacks,
        "events": new.new_events,
        "deliveries": [item for id, item in deliveries.items() if before.get(id) is not item],
        "attempts": {(item.delivery_id, item.number): item for item in new.new_attempts}.values(),
        "files": [] if same_files else [(row.id, digest) for digest in file_digests(row) - file_digests(was)],
    }


# Due times


def open_deadline(row: Submission) -> int | None:
    """Return the deadline in epoch milliseconds. None after an end or a refusal."""
    return row.deadline_ms if row.ended is None and row.status != "refused" else None


DUE_FIELDS: Mapping[str, Callable[[Submission], int | None]] = {
    "send": lambda row: row.send_due_ms,
    "poll": lambda row: row.poll_due_ms,
    "media": lambda row: row.media_due_ms,
    "deadline": open_deadline,
}
"""Due time by kind of work, in epoch milliseconds. None: never."""


def is_settled(document: Document) -> bool:
    """Return True if nothing of a submission is outstanding or under way, so that it may be deleted."""
    return document.submission.settled and not document.additions and not document.deliveries


# Values that callers exchange with the journal


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a decision.

    Attributes:
        submission: the row afterwards.
        events: new facts. One whose id is already journalled is dropped together with its deliveries.
        deliveries: of the events, all `pending`. Each cancels older ones of its (submission, destination).
        release_ms: make this submission's untried deliveries due now, because its files have come.
        cause: reason why the callback was not accepted, for its row.
        additions: new submissions: automatic follow-ups, further tasks of one answer. One whose
            name (`once`) is taken is dropped.
    """

    submission: Submission
    events: tuple[Event, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    release_ms: int | None = None
    cause: str | None = None
    additions: tuple[Submission, ...] = ()


Decide = Callable[[Submission], Change | None]
"""A pure and quick function that runs inside the transaction. None changes nothing, and refuses a callback."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a change: the row afterwards, and the events that were new.

    Attributes:
        problem: the error of the decision, if the callback alone was journalled.
        refused: True if the decision did not want the callback, and nothing was journalled.
    """

    submission: Submission
    events: tuple[Event, ...] = ()
    problem: Exception | None = None
    refused: bool = False


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed delivery with all that its attempt needs.

    Attributes:
        submission: as it is now.
        receipts: its last receipt at every destination, this one included.
        parent: the last receipt of the parent submission at this destination.
    """

    delivery: Delivery
    event: Event
    submission: Submission
    receipts: Mapping[str, Receipt]
    parent: Receipt | None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An action of a user of the page, for instance `erased`.

    `at_ms` is in epoch milliseconds, `subject` a prompt or an id.
    """

    at_ms: int
    user: str
    what: str
    subject: str


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that needs an operator.

    Attributes:
        name: its subject, a name of `troubles.find_troubles`.
        since_ms: its beginning, in epoch milliseconds.
        text: sentences on the fault, on Receiver's behaviour meanwhile, and on the remedy.
        count: number of dead deliveries, 0 for any other fault.
    """

    name: str
    since_ms: int
    text: str
    count: int = 0


# Records as JSON


def to_json(value: Any) -> str:
    """Return JSON text that every database can store: half characters, which no encoding knows, become U+FFFD."""
    return to_json_bytes(value).decode()


def to_json_bytes(value: Any) -> bytes:
    """Return the same in UTF-8, for statements that CAST it to text."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return clean_text(json.dumps(msgspec.to_builtins(value), ensure_ascii=False)).encode()
