"""What a journal promises, whatever database it stands on. One behavioural suite checks them all.

A journal knows no provider JSON and no handlers. What a change means is decided by pure functions its callers pass in
("decide"); the journal runs them on the current row inside one transaction, so that merging, the event and its
deliveries are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord, Receipt
from receiver.events import Callback, Event, EventType, Media, Submission
from receiver.journal.copying import NewRows, Rows
from receiver.journal.selection import Batch, Kind, Leftover, Order, Replayed, Selection


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a decide function wants written.

    Attributes:
        submission: the row as it shall be.
        events: new facts; one whose id is already journalled is dropped together with its deliveries.
        deliveries: what the events owe, all `pending`. Each cancels older ones of its (submission, destination).
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
    media: tuple[Media, ...]
    """The submission's, and so are the next two, as they are now."""
    media_problem: str | None
    media_due_ms: int | None
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


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that lives.

    Attributes:
        owner: what it signs its claims with.
        role: what its process calls itself: `serve`, `worker`, `submit --wait` …
        host: the machine.
        version: of Receiver.
        store: the identity of its media store.
        seconds: since its last sign of life; 0 where a lock is the sign.
        leads: whether it alone sends, reconciles and archives.
    """

    owner: str
    role: str
    host: str
    version: str
    store: str
    seconds: float
    leads: bool


LASTING_ROLES = frozenset({"serve", "worker", "python", "function"})
"""Engines that run beside others. Any other steps in only where none lives."""
BEAT_SECONDS = 3.0
"""Between an engine's signs of life."""
DEAD_SECONDS = 15.0
"""An engine without a sign of life for so long is taken for dead, and what it ran is freed."""
LEASE_SECONDS = 10.0
"""How long an engine leads without saying so again."""

Decide = Callable[[Submission], Change | None]
"""Pure and quick: it runs inside the transaction. None changes nothing."""


class Journal(Protocol):
    """The durable store. Every method raises JournalError when the store cannot be read or written.

    Times are epoch milliseconds. A method that writes returns only after the commit is on disk.

    Attributes:
        shared: whether several engines may run on it at once. Every one of them dispatches; one, the leader, does all
            else. Who lives and who leads is counted in the database's own time, in seconds.
    """

    shared: ClassVar[bool]

    async def aclose(self) -> None:
        """Finish what was accepted, then close. Idempotent."""

    async def settle(self) -> None:
        """Wait until what is swept up after writes has been: for those whose process is frozen afterwards."""

    async def check(self) -> None:
        """Raise JournalError unless a write works now."""

    async def check_space(self) -> None:
        """Raise JournalError where the disk is full, or nearly."""

    # Engines

    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        """Enter the process among the engines of this journal; where one alone may run, take its lock.

        Args:
            role: what the process calls itself. One that is not among `LASTING_ROLES` enters only where none lives.
            owner: what this engine signs its claims with; new for each start.
            store: the identity of its media store.

        Raises:
            EngineRunning: another engine lives, and this one may not run beside it.
            JournalError: an engine lives that has another media store, so neither would find the other's pictures.
        """

    async def beat(self, owner: str) -> bool:
        """A sign of life, due every `BEAT_SECONDS`. False: we were taken for dead, and what we ran is others' now."""

    async def lead(self, owner: str) -> bool:
        """Go on leading, or begin to where nobody leads, for `LEASE_SECONDS` from now. False: another one leads."""

    async def resign(self, owner: str) -> None:
        """Leave the engines, and lead no more. Idempotent."""

    async def engines(self) -> list[EngineRecord]:
        """The engines that live, the leader first."""

    def listen(self, woken: Callable[[], None]) -> None:
        """Call `woken`, on the event loop, when another process has committed something that is due now. It may come
        too often and may fail to come: whoever listens looks by itself as well. Without effect where no other process
        can tell."""

    async def free_running(self, owner: str, now_ms: int) -> int:
        """Free what vanished engines left running, to run alone from now on. Returns how many.

        Vanished is every owner but this one, where one engine alone may run; else those without a sign of life for
        `DEAD_SECONDS`. Each delivery counts as a failure and is due at once, unless one among them was suspected
        already: then that one alone is charged, and has to wait.
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

    async def find(self, reference: str, *, whole: bool = False) -> Submission:
        """By submission id, task id, or the only id that starts or ends so (6 characters or more).

        Args:
            whole: not by a part of an id, for which all ids are read.

        Raises:
            NotFound: there is none, or more than one.
        """

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
        """End a destination's pause, make due what waits for no longer than that, and forget its failures. False: it
        was never registered."""

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

    # Replay

    async def select_deliveries(self, selection: Selection, *, after: str, limit: int) -> list[Delivery]:
        """A page of what fits, the oldest first, beginning after the delivery id `after` ("" at first)."""

    async def select_events(self, selection: Selection, *, after: int, limit: int) -> list[tuple[int, str]]:
        """A page of (number, event id) of what fits, in order of number, beginning after the number `after`."""

    async def event_deliveries(self, event: Event) -> list[Delivery]:
        """What an event is or was owed, the newest first."""

    async def foresee(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        """What `replay` would do now. Writes nothing."""

    async def replay(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        """Make what is ordered owed, due now, in one transaction. What is owed already stays as it is."""

    async def registered(self) -> dict[str, str]:
        """Destinations engines were started with: name → handler."""

    async def pause_of(self, destination: str) -> tuple[int, str] | None:
        """Until when a destination gets nothing, or got nothing lately, and why."""

    # Deleting: never what is still owed, unless a person insists

    async def old(self, kind: Kind, before_ms: int, after: str) -> list[str]:
        """A page of keys, beginning after the key `after`, of what is older than `before_ms` and may go."""

    async def delete(self, kind: Kind, keys: Sequence[str], *, problem: str) -> Batch:
        """Delete the first of the keys, as many as a few milliseconds allow. What is owed again by now stays.

        Args:
            problem: what handlers are told about files that are gone.
        """

    async def owed(self, submission_id: str) -> list[Delivery]:
        """Deliveries of a submission that are pending or running."""

    async def children(self, submission_id: str) -> list[str]:
        """Ids of its follow-ups."""

    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        """Delete a submission with all that hangs on it; how many rows of each kind. None: something is owed or under
        way, and without `force` nothing was deleted."""

    async def leftovers(self, after: str) -> list[Leftover]:
        """A page of the files that deleted submissions had, in order of digest."""

    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        """They have been removed, or are needed again."""

    # The store as a whole

    async def problems(self) -> list[str]:
        """What is wrong with it, as sentences; none when it is sound. It reads everything."""

    async def needed_files(self, after: str, limit: int) -> list[str]:
        """A page of the digests of all files that submissions need, in order."""

    async def back_up(self, target: Path) -> int:
        """Copy it as it is now to a new file, and check that one. Returns its size in bytes.

        Raises:
            InputError: the name is taken, or the database has tools of its own for this, which the sentence names.
            JournalError: the copy cannot be written, or is not sound.
        """

    def reading(self) -> AbstractAsyncContextManager[Rows]:
        """All of it, to be copied elsewhere; see `journal.copying.Copyable`."""

    def filling(self) -> AbstractAsyncContextManager[NewRows]:
        """To take a copy of another journal; see `journal.copying.Copyable`."""

    async def compact(self) -> tuple[int, int] | None:
        """Write the store anew, without unused space and whatever stood there. Returns the bytes it took before, and
        takes now. None: an engine runs, and nothing was done."""

    async def scrub(self, words: str) -> str | None:
        """After `erase`: overwrite what became free, as far as that goes beside others. Returns a sentence that says
        where these words may still stand in the store, and what to do about it; None: nowhere."""
