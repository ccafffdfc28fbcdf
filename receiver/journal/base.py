"""What a journal promises, whatever database it stands on. One behavioural suite checks them all.

A journal knows no provider JSON and no handlers. What a change means is decided by pure functions its callers pass in
("decide"); the journal runs them on the current row inside one transaction, so that merging, the event and its
deliveries are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord, Receipt
from receiver.events import Callback, Event, EventType, Submission


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a decide function wants written.

    Attributes:
        submission: the row as it shall be.
        events: new facts; one whose id is already journalled is dropped together with its deliveries.
        deliveries: what the events owe. Each cancels older `pending` ones of its (submission, destination).
        release_ms: make this submission's untried deliveries due now: what they waited for has come.
        cause: why the callback that led to this was not accepted, for its row.
        additions: submissions that come of it: follow-ups we start ourselves, further tasks of one answer. One whose
            name (`once`) is taken is dropped.
    """

    submission: Submission
    events: tuple[Event, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    release_ms: int | None = None
    cause: str | None = None
    additions: tuple[Submission, ...] = ()


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. `submission` is the row afterwards; `events` are the ones that were new."""

    submission: Submission
    events: tuple[Event, ...] = ()
    problem: Exception | None = None
    """Why deciding failed although the callback itself was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A claimed delivery with all its attempt needs."""

    delivery: Delivery
    event: Event
    submission: Submission
    receipts: Mapping[str, Receipt]
    """The last receipt of this submission at every destination, its own included."""
    parent: Receipt | None


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Something outside that does not work, for the operator to see to; no result is lost by it.

    Attributes:
        name: what it is about: `provider`, `callbacks`.
        since_ms: when it began.
        text: sentences: what happened, what Receiver does meanwhile, what to do.
    """

    name: str
    since_ms: int
    text: str


Decide = Callable[[Submission], Change | None]
"""Pure and quick: it runs inside the transaction. None changes nothing."""


class Journal(Protocol):
    """The durable store. Every method raises JournalError when the store cannot be read or written.

    Times are epoch milliseconds. A method that writes returns only after the commit is on disk.
    """

    async def aclose(self) -> None:
        """Finish what was accepted, then close. Idempotent."""

    async def check(self) -> None:
        """Raise JournalError unless a write works now."""

    async def check_space(self) -> None:
        """Raise JournalError where the disk is full, or nearly."""

    def become_engine(self, role: str) -> None:
        """Take the engine's lock of this journal for the process. Raises EngineRunning."""

    def resign(self) -> None:
        """Give the engine's lock back, if we hold it."""

    async def free_running(self, owner: str, now_ms: int) -> int:
        """Free what a vanished engine left running, to run alone from now on. Returns how many.

        Each counts as a failure and is due at once, unless one among them was suspected already: then that one alone
        is charged, and has to wait.
        """

    def accuse(self, delivery_id: str) -> None:
        """If we end now, it was this running delivery: it alone is charged. Not a coroutine, and for any thread: it is
        for the moment in which the event loop stands still."""

    async def advance(self, now_ms: int, *, step_ms: int = 0) -> int:
        """Bring due times back into reach when the clock has stepped back by `step_ms` (0: nobody knows), so that
        nothing waits for the old time to come again. Returns how many."""

    async def add(self, submission: Submission) -> Submission:
        """Journal a new submission. If its name (`once`) is taken, nothing is written and the one that has it is
        returned."""

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        """Decide on the current row and write the outcome, in one transaction. None: no such submission.

        A callback is kept whatever becomes of it: if deciding fails, the problem is returned, not raised.
        """

    async def get(self, submission_id: str) -> Submission | None: ...

    async def family(self, submission_id: str) -> list[Submission]:
        """The submission with all that came before and after it, follow-up by follow-up, oldest first."""

    async def find(self, reference: str) -> Submission:
        """By submission id, the only id that starts or ends so (6 characters or more), or task id. Raises NotFound."""

    async def submissions(self, *, limit: int, status: str | None = None) -> list[Submission]:
        """The newest first. `status` is a submission status, a task status, or the last part of an end's type."""

    async def due_sends(self, now_ms: int, limit: int) -> list[Submission]:
        """`prepared` and `sending` rows whose `send_due_ms` has come."""

    async def due_polls(self, now_ms: int, limit: int) -> list[Submission]: ...

    async def due_media(self, now_ms: int, limit: int) -> list[Submission]: ...

    async def overdue(self, now_ms: int, limit: int) -> list[Submission]:
        """Not ended, and past their deadline."""

    async def events(
        self, *, limit: int, submission_id: str | None = None, type: EventType | None = None
    ) -> list[Event]:
        """The newest first."""

    async def event(self, event_id: str) -> Event | None: ...

    async def callbacks(self, submission_id: str, *, limit: int | None = None) -> list[Callback]:
        """In order of arrival; with a `limit` the last ones only."""

    async def called_back(self, *, limit: int, created_before_ms: int) -> list[Submission]:
        """The newest submissions that took a callback URL along and that the provider has ended, newest first."""

    async def troubles(self) -> list[Trouble]:
        """What the operator should know now, oldest first."""

    async def note(self, trouble: Trouble) -> None:
        """Journal a trouble; one of that name keeps its beginning, and takes the new text."""

    async def clear(self, name: str) -> None:
        """Forget a trouble that is over."""

    async def deliveries(
        self,
        *,
        limit: int,
        submission_id: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
    ) -> list[Delivery]:
        """The newest first."""

    async def delivery(self, delivery_id: str) -> Delivery | None: ...

    async def attempts(self, delivery_id: str) -> list[AttemptRecord]: ...

    async def register(self, destinations: Mapping[str, str]) -> None:
        """Make a row for each configured destination (name → handler name)."""

    async def owed_destinations(self) -> list[str]:
        """Names of registered destinations with deliveries that are still to be made."""

    async def destinations(self) -> list[DestinationRecord]:
        """All that were ever registered, by name."""

    async def pause(self, destination: str, until_ms: int, reason: str) -> None:
        """Claim nothing for a destination until then. Of two pauses the longer one counts."""

    async def resume(self, destination: str) -> bool:
        """End a destination's pause and forget its failures. False: it was never registered."""

    async def claim(self, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        """Take up to `limit` due deliveries of one destination, never two of one submission at once.

        While it is paused, nothing; while it is taken for down, one, if nothing else runs there (a probe). What is
        to run alone is left to `claim_alone`. A claim stands until it is completed or the engine ends: see
        `receiver.deliveries` for why nothing renews it.
        """

    async def alone_due(self, destinations: Collection[str], now_ms: int) -> bool:
        """Whether `claim_alone` would take one."""

    async def claim_alone(self, destinations: Collection[str], *, owner: str, now_ms: int) -> Work | None:
        """Take one due delivery of those that run alone."""

    async def complete(self, completion: Completion) -> bool:
        """Record how an attempt ended, and what that says of its destination: failures in a row pause it.

        False: the fence refused it, another owner or attempt has taken over.
        """
