"""Rows as people name them, and the values of replay and retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from receiver.deliveries import DeliveryStatus
from receiver.errors import NotFound
from receiver.journal.store import EVERYTHING, Filter, Store, StoredRow

# One row, by the words of a person: an id, a part of one, a task id, or `last`

Listed = Literal["submissions", "events", "deliveries"]
"""Kinds of rows that people list and name."""

PART = 6
"""Fewest characters of an id by which a submission or delivery can be found."""
LAST = "last"
"""The reference to the newest row."""
_NOUNS = {"submissions": ("submission or task", "tasks"), "events": ("event", "events")}
_DELIVERY = "delivery", "deliveries"


async def row_of(store: Store, kind: Listed, reference: str, *, whole: bool = False) -> StoredRow:
    """Return the row that a reference means.

    A part is the start or end of an id. An event is also named by a reference to its submission, a point, and its type.
    With `whole`, neither a part nor `last` is a reference: all ids are read for a part.

    Raises:
        NotFound: there is none, or more than one.
    """
    noun, command = _NOUNS.get(kind, _DELIVERY)
    wanted = [Filter(ids=(reference,))]
    if kind == "submissions":
        wanted.append(Filter(task_id=reference))
    if kind == "events" and "." in reference:
        submission, _, name = reference.partition(".")
        owner = await row_of(store, "submissions", submission, whole=whole)
        wanted = [Filter(ids=(f"{owner.key[0]}.{name}",))]
    elif reference == LAST and not whole:
        wanted = [EVERYTHING]
    elif kind != "events" and len(reference) >= PART and not whole:
        wanted += [Filter(part=part) for part in dict.fromkeys((reference, reference.upper()))]
    for item in wanted if reference else ():
        rows = await store.page(kind, item, limit=2, newest_first=True)
        if item.part is not None and len(rows) > 1:
            ids = " and ".join(str(row.key[0]) for row in rows)
            raise NotFound(f"More than one {noun} matches {reference[:80]!r}: {ids}. Give more of its id.")
        if rows:
            return rows[0]
    raise NotFound(f"There is no {noun} {reference[:80]!r} in this journal. See: receiver {command} list")


# Replay and retention


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One event to be delivered to one destination again.

    Attributes:
        delivery_id: the delivery to repeat. None: the event's newest one there, or a new one.
        as_new: make a new delivery in any case, with a new idempotency key.
    """

    event_id: str
    submission_id: str
    destination: str
    delivery_id: str | None = None
    as_new: bool = False


ReplayOutcome = Literal["again", "new", "sooner", "owed", "running", "gone"]
"""again: it was final, and is due again · new: a new delivery · sooner: it waited for a retry, and is due now ·
owed: it is pending already, nothing changes · running: it runs now, nothing changes · gone: its event was deleted."""

REPLAYED: tuple[ReplayOutcome, ...] = ("again", "new", "sooner")
"""Outcomes that make an attempt of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The outcome of an order, carried out or foreseen. `delivery_id` is None for a new delivery that is foreseen."""

    order: Order
    outcome: ReplayOutcome
    delivery_id: str | None
    was: DeliveryStatus | None = None
    """The delivery's status before."""


Kind = Literal["callbacks", "media", "submissions"]
"""Kinds deleted by age: callbacks, a submission's files, a submission with all its rows."""

KINDS: tuple[Kind, ...] = ("callbacks", "media", "submissions")
