"""What a bucket's journal does to a document: pure functions that give the document as it shall be. What SQLite does by
statements inside a transaction stands in `journal.sqlite.operations`; both say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from receiver.deliveries import AttemptRecord, Completion, Delivery, Receipt
from receiver.errors import JournalError
from receiver.events import Callback, Event
from receiver.journal import Change, Changed, Decide, Work, rules
from receiver.journal.bucket.document import Document, Fact, KeptCallback, number_after, replace
from receiver.tasks import clean_text

OUTDATED = "a newer event took its place"


# Submissions, callbacks, events


def change(
    document: Document, decide: Decide, callback: Callback | None, elsewhere: Callable[[str], bool]
) -> tuple[Document, Changed]:
    """Decide on the row and apply the outcome. A callback is kept whatever becomes of it.

    Args:
        elsewhere: whether another submission is known to have a delivery of that id.

    Raises:
        JournalError: a delivery's id is taken, and there is no callback to keep.
    """
    row = document.submission
    if callback is None:
        return _applied(document, decide(row), elsewhere)
    try:
        change = decide(row)
        after, changed = _applied(document, change, elsewhere)
    except Exception as exc:
        return _with_callback(document, callback, "error"), Changed(submission=row, problem=exc)
    cause = change.cause if change is not None else callback.cause
    return _with_callback(after, callback, cause), changed


def _applied(document: Document, change: Change | None, elsewhere: Callable[[str], bool]) -> tuple[Document, Changed]:
    if change is None:
        return document, Changed(submission=document.submission)
    known = {fact.event.id for fact in document.facts}
    fresh = tuple({event.id: event for event in change.events if event.id not in known}.values())
    for event in fresh:
        owed = [item for item in change.deliveries if item.event_id == event.id]
        if any(elsewhere(item.id) for item in owed):
            raise JournalError("Another submission has a delivery of that id. Nothing was kept (UNIQUE id).")
        document = with_deliveries(_with_event(document, event), owed)
    if change.release_ms is not None:
        document = replace(document, deliveries=_released(document.deliveries, change.release_ms))
    document = replace(
        document, submission=change.submission, additions=(*document.additions, *change.additions)
    )  # fmt: skip
    return document, Changed(submission=change.submission, events=fresh)


def _with_event(document: Document, event: Event) -> Document:
    return replace(document, facts=(*document.facts, Fact(number=number_after(document), event=event)))


def _with_callback(document: Document, callback: Callback, cause: str | None) -> Document:
    kept = KeptCallback(
        number=number_after(document),
        received_ms=callback.received_ms,
        cause=cause,
        body=bytes(callback.body).decode(errors="replace"),
    )
    return replace(document, callbacks=(*document.callbacks, kept))


def with_deliveries(document: Document, deliveries: Sequence[Delivery]) -> Document:
    """Owe new deliveries of one event. What is older and has not run gives way, unless a person asked for the new
    one.

    Raises:
        JournalError: an id is taken.
    """
    owed = {item.id: item for item in document.deliveries}
    for new in deliveries:
        if new.id in owed:
            raise JournalError(f"There already is a delivery {new.id}. Nothing of the change was kept (UNIQUE id).")
        if not new.manual:
            owed |= {item.id: _outdated(item, new.created_ms) for item in owed.values() if _gives_way(item, new)}
        owed[new.id] = replace(new, status="pending", attempt=0, failures=0)
    return replace(document, deliveries=tuple(owed.values()))


def _gives_way(item: Delivery, new: Delivery) -> bool:
    return item.destination == new.destination and item.status == "pending" and not item.manual


def _outdated(item: Delivery, now_ms: int) -> Delivery:
    return replace(item, status="cancelled", finished_ms=now_ms, detail=OUTDATED)


def _released(deliveries: Sequence[Delivery], now_ms: int) -> tuple[Delivery, ...]:
    return tuple(
        replace(item, due_ms=now_ms)
        if item.status == "pending" and item.attempt == 0 and item.due_ms > now_ms
        else item
        for item in deliveries
    )


# Claims


def is_due(document: Document, item: Delivery, now_ms: int) -> bool:
    """Whether a delivery may run now: never two of one submission and destination at once."""
    busy = any(other.status == "running" and other.destination == item.destination for other in document.deliveries)
    return item.status == "pending" and item.due_ms <= now_ms and not busy


def due_for(document: Document, destination: str, now_ms: int) -> Delivery | None:
    """The delivery an ordinary claim takes of this submission: of those that are due the oldest."""
    due = [
        item
        for item in document.deliveries
        if item.destination == destination and not item.alone and is_due(document, item, now_ms)
    ]
    return min(due, key=lambda item: item.id, default=None)


def claim(document: Document, id: str, owner: str, now_ms: int) -> tuple[Document, Delivery]:
    """Take a delivery that is due, and begin an attempt. One that can never run is dead instead."""
    found = document.delivery(id)
    assert found is not None  # noqa: S101 - whoever claims has just seen it
    taken = replace(found, status="running", attempt=found.attempt + 1, owner=owner)
    attempt = AttemptRecord(
        delivery_id=id, number=taken.attempt, started_ms=now_ms, manual=found.manual and found.failures == 0
    )
    document = replace(with_delivery(document, taken), attempts=(*document.attempts, attempt))
    if document.event(taken.event_id) is None:
        text = f"Delivery {id} has lost its submission or event."
        document, _ = complete(document, rules.unreadable(taken, now_ms, text))
    delivery = document.delivery(id)
    assert delivery is not None  # noqa: S101
    return document, delivery


def work(document: Document, delivery: Delivery, parent: Mapping[str, Receipt]) -> Work:
    """What an attempt needs."""
    event = document.event(delivery.event_id)
    assert event is not None  # noqa: S101 - `claim` has looked
    row = document.submission
    return Work(
        delivery=delivery,
        event=event,
        media=row.media,
        media_problem=row.media_problem,
        media_due_ms=row.media_due_ms,
        receipts=receipts(document),
        parent=parent.get(delivery.destination),
    )


def receipts(document: Document) -> dict[str, Receipt]:
    """The last receipt at every destination."""
    ordered = sorted(document.deliveries, key=lambda item: item.id)
    return {item.destination: item.receipt for item in ordered if item.receipt is not None}


def with_delivery(document: Document, new: Delivery) -> Document:
    """The document with this delivery in place of the one of its id."""
    return replace(document, deliveries=tuple(new if item.id == new.id else item for item in document.deliveries))


# Completions


def complete(document: Document, completion: Completion) -> tuple[Document, bool]:
    """Record how an attempt ended; False: the fence refuses it."""
    found = document.delivery(completion.delivery_id)
    mine = found is not None and (found.status, found.owner, found.attempt) == (
        "running", completion.owner, completion.attempt,
    )  # fmt: skip
    if found is None or not mine:
        return document, False
    detail = None if completion.detail is None else clean_text(completion.detail)
    pending = completion.status == "pending"
    ended = replace(
        found,
        status=completion.status,
        due_ms=completion.due_ms,
        failures=found.failures + completion.counts,
        detail=detail,
        owner=None,
        receipt=completion.receipt or found.receipt,
        finished_ms=None if pending else completion.finished_ms,
        alone=found.alone and completion.outcome == "interrupted",
    )
    if pending and not ended.manual and _has_newer(document, ended):
        ended = _outdated(ended, completion.finished_ms)
    attempts = tuple(
        replace(item, finished_ms=completion.finished_ms, outcome=completion.outcome, detail=detail)
        if (item.delivery_id, item.number) == (found.id, completion.attempt)
        else item
        for item in document.attempts
    )
    return replace(with_delivery(document, ended), attempts=attempts), True


def _has_newer(document: Document, item: Delivery) -> bool:
    """Newer is what became known later: ids are of the wall clock, which may have been set back since."""
    number = document.number_of(item.event_id)
    return any(
        other.destination == item.destination
        and other.status != "cancelled"
        and not other.manual
        and document.number_of(other.event_id) > number
        for other in document.deliveries
    )


def free(document: Document, completion: Completion) -> tuple[Document, bool]:
    """End an attempt whose engine vanished; what runs again runs alone."""
    document, freed = complete(document, completion)
    found = document.delivery(completion.delivery_id)
    if freed and found is not None and found.status == "pending":
        document = with_delivery(document, replace(found, alone=True))
    return document, freed


def accuse(document: Document, id: str) -> Document:
    """If its engine ends now, it was this one."""
    found = document.delivery(id)
    if found is None or found.status != "running" or found.alone:
        return document
    return with_delivery(document, replace(found, alone=True))


# The clock


def advance(document: Document, now_ms: int, step_ms: int) -> Document:
    """Bring due times that a wrong clock wrote back into reach."""
    row = document.submission
    fields = {"advance_sends": "send_due_ms", "advance_polls": "poll_due_ms", "advance_media": "media_due_ms"}
    if row.ended is None and row.status != "refused":
        fields["advance_deadlines"] = "deadline_ms"
    moved = {
        field: due
        for name, field in fields.items()
        if (due := moved_due(getattr(row, field), name, now_ms, step_ms)) != getattr(row, field)
    }
    if moved:
        document = replace(document, submission=msgspec.structs.replace(row, **moved))
    for item in document.deliveries:
        due = moved_due(item.due_ms, "advance_deliveries", now_ms, step_ms)
        if item.status == "pending" and due is not None and due != item.due_ms:
            document = with_delivery(document, replace(item, due_ms=due))
    return document


def moved_due(due_ms: int | None, name: str, now_ms: int, step_ms: int) -> int | None:
    """A due time, brought back by the rule of that name."""
    reach = rules.reach(name, now_ms, step_ms)
    if due_ms is None or due_ms <= reach["after_ms"]:
        return due_ms
    return min(due_ms - step_ms, now_ms + reach["longest_ms"])


def end_wait(document: Document, destination: str, until_ms: int) -> Document:
    """What was to wait as long as a pause is due when a person ends it."""
    for item in document.deliveries:
        if item.destination == destination and item.status == "pending" and item.created_ms < item.due_ms <= until_ms:
            document = with_delivery(document, replace(item, due_ms=item.created_ms))
    return document


# Replay


def revive(document: Document, id: str, now_ms: int) -> Document:
    """Owed again. The id, which is the idempotency key, and the attempts so far stay; the failures start afresh."""
    found = document.delivery(id)
    if found is None or found.status == "running":
        return document
    again = replace(
        found, status="pending", due_ms=now_ms, failures=0, manual=True, owner=None, detail=None, finished_ms=None
    )
    return with_delivery(document, again)


def is_settled(document: Document) -> bool:
    """Whether nothing of a submission is owed or under way, so that it may go."""
    row = document.submission
    waits = (row.send_due_ms, row.poll_due_ms, row.media_due_ms, row.claim)
    return (
        (row.ended is not None or row.status == "refused")
        and all(item is None for item in waits)
        and not document.additions
        and not any(item.status in ("pending", "running") for item in document.deliveries)
    )
