"""What a person, or the calendar, asks of a journal beyond its daily work, and what came of it: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from receiver.deliveries import DeliveryStatus
from receiver.events import EventType
from receiver.journal.store import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which deliveries or events are meant: those that fit everything given. Times are epoch milliseconds.

    Attributes:
        ids: delivery ids, or event ids; exactly these, in this order.
        submission_id: of one submission.
        destination: owed to this destination.
        status: deliveries of this status.
        type: events of this type.
        since_ms, until_ms: made at or after the one, and before the other.
    """

    ids: tuple[str, ...] = ()
    submission_id: str | None = None
    destination: str | None = None
    status: DeliveryStatus | None = None
    type: EventType | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was given, which would mean everything there is."""
        return self == Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One event to be brought to one destination again.

    Attributes:
        delivery_id: the delivery that is owed again; None: the event's newest one there, or a new one.
        as_new: make a new delivery, and with it a new idempotency key, whatever there is.
    """

    event_id: str
    submission_id: str
    destination: str
    delivery_id: str | None = None
    as_new: bool = False


ReplayOutcome = Literal["again", "new", "sooner", "owed", "running", "gone"]
"""again: it was done with and is owed again · new: a new delivery · sooner: it waited for a retry, and is due now ·
owed: it is due already, nothing changes · running: it runs right now, nothing changes · gone: its event was deleted."""

REPLAYED: tuple[ReplayOutcome, ...] = ("again", "new", "sooner")
"""Outcomes that make an attempt of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What an order came to, or would come to. `delivery_id` is None for a new one that was only foreseen."""

    order: Order
    outcome: ReplayOutcome
    delivery_id: str | None
    was: DeliveryStatus | None = None
    """The delivery's status before."""


Kind = Literal["callbacks", "media", "submissions"]
"""What is deleted by age: callbacks; a submission's files; a submission with all that hangs on it."""

KINDS: tuple[Kind, ...] = ("callbacks", "media", "submissions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One short step of a purge.

    Attributes:
        removed: rows or files by what they are, e.g. `{"events": 12}`.
        after: where the next step begins; None: there is no more.
    """

    removed: Mapping[str, int] = field(default_factory=dict)
    after: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file of the media store that a deleted submission had. `needed`: another one has it by now."""

    digest: str
    needed: bool
