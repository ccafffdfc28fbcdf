"""Every rule of the journal, as pure functions on a document or a destination's record.

Stores load and write documents and know no rules. A transition takes a document and returns the document as it is
afterwards, with a result for the caller. The same document means that nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from receiver.backoff import (
    DELIVERY,
    DOWN_AFTER,
    DOWN_AFTER_SUCCESS,
    FILES,
    LONGEST_RETRY_AFTER,
    MEDIA,
    MOST,
    PROBE,
    PROVISIONAL,
    pause,
    wait,
)
from receiver.deliveries import (
    MAX_PAUSE_SECONDS,
    AttemptOutcome,
    AttemptRecord,
    Completion,
    Delivery,
    DestinationRecord,
)
from receiver.errors import JournalError
from receiver.events import Callback, Event, new_id
from receiver.journal import files
from receiver.journal.document import Change, Changed, Decide, Document, LastReceipt, event_name, is_settled, replace
from receiver.journal.selection import REPLAYED, Order, Replayed, ReplayOutcome
from receiver.tasks import clean_text

OUTDATED = "a newer event took its place"
VANISHED = "the process ended while the attempt ran"

# Submissions, callbacks, events


def change(document: Document, decide: Decide, callback: Callback | None) -> tuple[Document, Changed]:
    """Decide on the row and apply the outcome. A callback is added even if `decide` fails, but not if it returns None.

    Raises:
        JournalError: a delivery's id is taken, and there is no callback.
        Exception: `decide` failed, and there is no callback.
    """
    row = document.submission
    if callback is None:
        return _apply(document, decide(row))
    try:
        outcome = decide(row)
        if outcome is None:
            return document, Changed(submission=row, refused=True)
        return _apply(document, outcome, _with_cause(callback, outcome.cause))
    except Exception as exc:
        return keep_callback(document, callback, "error"), Changed(submission=row, problem=exc)


def keep_callback(document: Document, callback: Callback, cause: str | None) -> Document:
    """Add a callback with the cause for which it was not accepted (None: it was)."""
    return replace(document, new_callbacks=(*document.new_callbacks, _with_cause(callback, cause)))


def _with_cause(callback: Callback, cause: str | None) -> Callback:
    return callback if callback.cause == cause else replace(callback, cause=cause)


def _apply(document: Document, outcome: Change | None, *callbacks: Callback) -> tuple[Document, Changed]:
    """Apply an outcome. The same fact twice is one event."""
    if outcome is None:
        return document, Changed(submission=document.submission)
    known, fresh = [*document.known], []
    for event in outcome.events:
        if (name := event_name(event.id, event.submission_id)) not in known:
            known.append(name)
            fresh.append(event)
    after = fan_out(
        document,
        fresh,
        outcome.deliveries,
        submission=outcome.submission,
        known=tuple(known),
        new_events=(*document.new_events, *fresh),
        new_callbacks=(*document.new_callbacks, *callbacks),
        additions=document.additions + outcome.additions,
    )
    if outcome.release_ms is not None:
        after = _map_deliveries(after, lambda item: _released(item, outcome.release_ms or 0))
    return after, Changed(submission=outcome.submission, events=tuple(fresh))


def fan_out(document: Document, events: Sequence[Event], deliveries: Sequence[Delivery], **changes: Any) -> Document:
    """Add new deliveries, event by event. A newer event cancels older pending deliveries to the same destination.

    Manual deliveries neither cancel nor are cancelled.

    Args:
        document: of the submission.
        events: new events, oldest first.
        deliveries: all `pending`. The ones of other events are dropped.
        changes: other fields of the document to set.

    Raises:
        JournalError: an id is taken.
    """
    open_ = {item.id: item for item in document.deliveries}
    newest, closed = dict(document.newest), [*document.closed]
    owed: list[Event] = []
    for event in events:
        mine = [item for item in deliveries if item.event_id == event.id]
        owed += [event] if mine else []
        for new in mine:
            if new.id in open_:
                raise JournalError(f"There already is a delivery {new.id}. Nothing of the change was kept (UNIQUE id).")
            if not new.manual:
                for item in [*open_.values()]:
                    if item.destination == new.destination and item.status == "pending" and not item.manual:
                        closed.append(_outdated(item, new.created_ms))
                        del open_[item.id]
                newest[new.destination] = event_name(event.id, event.submission_id)
            open_[new.id] = new
    if not owed:
        return replace(document, **changes)
    return _with_open(
        document, open_.values(), events=(*document.events, *owed), newest=newest, closed=tuple(closed), **changes
    )


def _with_open(
    document: Document, deliveries: Iterable[Delivery], *, events: Iterable[Event], **changes: Any
) -> Document:
    """Set the open deliveries, and drop the events and attempts that they do not need."""
    needed = {item.event_id for item in deliveries}
    running = {item.id for item in deliveries if item.status == "running"} if document.attempts else ()
    return replace(
        document,
        deliveries=tuple(deliveries),
        events=tuple({item.id: item for item in events if item.id in needed}.values()),
        attempts=tuple([item for item in document.attempts if item.delivery_id in running]),
        **changes,
    )


def _map_deliveries(document: Document, change: Callable[[Delivery], Delivery]) -> Document:
    after = tuple(change(item) for item in document.deliveries)
    same = all(new is old for new, old in zip(after, document.deliveries, strict=True))
    return document if same else replace(document, deliveries=after)


def _outdated(item: Delivery, now_ms: int) -> Delivery:
    return replace(item, status="cancelled", finished_ms=now_ms, detail=OUTDATED)


def _released(item: Delivery, now_ms: int) -> Delivery:
    untried = item.attempt == 0 or (item.manual and item.failures == 0)
    waits = item.status == "pending" and untried and item.due_ms > now_ms
    return replace(item, due_ms=now_ms) if waits else item


# Claims and completions


def claim(
    document: Document, destination: str, owner: str, now_ms: int, *, fresh: bool = False
) -> tuple[Document, Delivery | None]:
    """Start the oldest due delivery to a destination, or the oldest `fresh` one: it has not failed before.

    None: nothing is due there, or one already runs. A delivery whose event was lost can never run. It is dead at once,
    so that it holds up no other.
    """
    if document.is_busy(destination):
        return document, None
    due = (
        item
        for item in document.deliveries
        if item.destination == destination
        and item.status == "pending"
        and item.due_ms <= now_ms
        and not (fresh and item.failures)
    )
    found = min(due, key=lambda item: item.id, default=None)
    if found is None:
        return document, None
    taken = replace(found, status="running", attempt=found.attempt + 1, owner=owner)
    attempt = AttemptRecord(
        delivery_id=found.id, number=taken.attempt, started_ms=now_ms, manual=found.manual and found.failures == 0
    )
    running = _map_deliveries(document, lambda item: taken if item.id == found.id else item)
    running = replace(
        running, attempts=(*running.attempts, attempt), new_attempts=(*running.new_attempts, attempt)
    )  # fmt: skip
    if document.event(found.event_id) is not None:
        return running, taken
    detail = f"Delivery {taken.id} has lost its submission or event."
    lost = _ended(taken, now_ms, "rejected", detail)
    return complete(running, lost)[0], None


def complete(document: Document, completion: Completion) -> tuple[Document, bool]:
    """Record the end of an attempt. False: another owner or attempt has taken over, and nothing changes."""
    found = document.delivery(completion.delivery_id)
    if found is None or (found.status, found.owner, found.attempt) != (
        "running", completion.owner, completion.attempt,
    ):  # fmt: skip
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
    )
    if pending and not ended.manual and _has_newer(document, ended):
        ended = _outdated(ended, completion.finished_ms)
    started = next((item for item in document.attempts if item.delivery_id == found.id), None)
    attempt = started or AttemptRecord(
        delivery_id=found.id, number=completion.attempt, started_ms=completion.finished_ms
    )
    attempt = replace(
        attempt, finished_ms=completion.finished_ms, outcome=completion.outcome, detail=detail,
        traceback=completion.traceback,
    )  # fmt: skip
    is_open = ended.status == "pending"
    others = tuple(item for item in document.deliveries if item.id != found.id)
    document = replace(
        document,
        new_attempts=(*document.new_attempts, attempt),
        closed=document.closed if is_open else (*document.closed, ended),
        receipts=_with_receipt(document.receipts, ended) if completion.receipt is not None else document.receipts,
    )
    return _with_open(document, (*others, ended) if is_open else others, events=document.events), True


def _has_newer(document: Document, item: Delivery) -> bool:
    """Return True if a later event has a delivery there. The order of `known` counts, not that of ids, because the wall
    clock may have been set back."""
    newest = document.newest.get(item.destination)
    name = event_name(item.event_id, document.id)
    if newest is None or newest not in document.known:
        return False
    return name not in document.known or document.known.index(newest) > document.known.index(name)


def _with_receipt(receipts: Mapping[str, LastReceipt], item: Delivery) -> dict[str, LastReceipt]:
    last = receipts.get(item.destination)
    if item.receipt is None or (last is not None and last.delivery_id > item.id):
        return dict(receipts)
    return {**receipts, item.destination: LastReceipt(delivery_id=item.id, receipt=item.receipt)}


FREED_AFTER = 2
"""Seconds until the first retry of a vanished attempt. One that ends the process again holds up the others twice, and
their deliveries are made in between."""
FREED_TOGETHER = 16
"""Submissions that are freed at once are first retried one after the other, a second apart, in so many turns. A second
retry comes after all of these, so that the delivery at fault is alone."""


def free(document: Document, lost: Callable[[Delivery], bool], now_ms: int, turn: int = 0) -> tuple[Document, int]:
    """End the running attempts of engines that are gone. Each counts as a failure and is retried with backoff, because
    it may have ended its engine. Return how many there were.

    `turn` is the submission's number among those that are freed at once. If all were retried at once, the one that ends
    its engine would use up the attempts of all the others.
    """
    left = [item for item in document.deliveries if item.status == "running" and lost(item)]
    for item in left:
        document, _ = complete(document, _vanished(item, now_ms, turn % FREED_TOGETHER))
    return document, len(left)


def _vanished(delivery: Delivery, now_ms: int, turn: int) -> Completion:
    """Return the completion of a vanished attempt. The first is due in its turn: another may be at fault."""
    failures = delivery.failures + 1
    seconds = float(FREED_AFTER + turn) if failures == 1 else max(wait(DELIVERY, failures - 1) or 0.0, FREED_TOGETHER)
    if failures > len(DELIVERY):
        return _ended(delivery, now_ms, "vanished", f"{VANISHED}; the retries are used up")
    return _ended(delivery, now_ms, "vanished", VANISHED, due_ms=now_ms + int(seconds * 1000))


def _ended(
    running: Delivery, now_ms: int, outcome: AttemptOutcome, detail: str, *, due_ms: int | None = None
) -> Completion:
    """Return an end of an attempt that its engine does not report. Without a time of the next one it is dead."""
    return Completion(
        delivery_id=running.id, submission_id=running.submission_id, destination=running.destination,
        attempt=running.attempt, owner=running.owner or "", outcome=outcome, finished_ms=now_ms, detail=detail,
        status="dead" if due_ms is None else "pending", due_ms=now_ms if due_ms is None else due_ms,
        counts=outcome == "vanished",
    )  # fmt: skip


# Destinations


def is_about_destination(completion: Completion) -> bool:
    """Return True if the end of an attempt says something about its destination. A request to wait, our own shutdown
    or crash says nothing."""
    return completion.outcome not in ("postponed", "interrupted", "vanished")


SUCCESS_MS = 60_000
"""Precision of `last_success_ms`: a success is written down at most once a minute while all goes well."""
RECENT_MS = 2 * SUCCESS_MS
"""Age up to which a success is recent. It may be a minute younger than its record."""


def noted(record: DestinationRecord, completion: Completion) -> DestinationRecord:
    """Return a destination's record after an attempt: failures in a row pause it, a success ends that pause.

    A rejection or a refusal of one event is about one delivery. A failure during a pause is that of a probe, or began
    before. Neither makes it longer. While the last success is recent, more failures are needed, because others succeed.
    """
    now_ms = completion.finished_ms
    if completion.outcome == "succeeded":
        over = record.paused_until_ms is not None and not record.paused(now_ms)
        if not record.failures and not over and abs((record.last_success_ms or 0) - now_ms) < SUCCESS_MS:
            return record
        if may_probe(record, now_ms):
            record = replace(record, paused_until_ms=None, paused_reason=None, paused_by_hand=False)
        return replace(record, failures=0, probe_due_ms=None, last_success_ms=now_ms)
    told = replace(record, last_error_ms=now_ms, last_error=completion.detail)
    if not completion.counts or completion.about_event:
        return told
    probe_due_ms = now_ms + int(PROBE * 1000)
    if record.paused(now_ms):
        return replace(told, probe_due_ms=probe_due_ms) if may_probe(record, now_ms) else told
    failures = record.failures + 1
    recent = not is_down(record) and 0 <= now_ms - (record.last_success_ms or 0) < RECENT_MS
    seconds = pause(failures, DOWN_AFTER_SUCCESS if recent else DOWN_AFTER)
    if seconds is None:
        return replace(told, failures=failures)
    return replace(
        told,
        failures=failures,
        probe_due_ms=probe_due_ms,
        paused_until_ms=now_ms + int(seconds * 1000),
        paused_reason=f"{failures} attempts in a row have failed, the last one with: {completion.detail}",
        paused_by_hand=False,
    )


def paused(record: DestinationRecord, until_ms: int, reason: str, by_hand: bool) -> DestinationRecord:
    """Return the record with a pause that was asked for, in which nothing runs. Of two pauses the longer one counts."""
    if record.probe_due_ms is not None:
        record = replace(record, probe_due_ms=max(record.probe_due_ms, until_ms))
    if (record.paused_until_ms or 0) >= until_ms:
        return record
    return replace(record, paused_until_ms=until_ms, paused_reason=reason, paused_by_hand=by_hand)


def resumed(record: DestinationRecord) -> DestinationRecord:
    """Return the record without a pause and without failures."""
    return replace(
        record, failures=0, paused_until_ms=None, probe_due_ms=None, paused_reason=None, paused_by_hand=False
    )


def is_down(record: DestinationRecord) -> bool:
    """Return True if a destination gets one delivery at a time, as a probe."""
    return record.probe_due_ms is not None


def may_probe(record: DestinationRecord, now_ms: int) -> bool:
    """Return True if one delivery may run: the pause is over, or it is for failures and the next probe is due."""
    return not record.paused(now_ms) or (record.probe_due_ms is not None and record.probe_due_ms <= now_ms)


def end_wait(document: Document, destination: str, until_ms: int) -> Document:
    """Make the deliveries due that waited for the end of a pause."""
    return _map_deliveries(
        document,
        lambda item: (
            replace(item, due_ms=item.created_ms)
            if item.destination == destination
            and item.status == "pending"
            and item.created_ms < item.due_ms <= until_ms
            else item
        ),
    )


# The clock

LONGEST_MS: Mapping[str, int] = {
    "send_due_ms": int(LONGEST_RETRY_AFTER * 1000),
    "poll_due_ms": int(max(PROVISIONAL) * MOST * 1000),  # or the configured interval, if that is longer
    "media_due_ms": int(max(MEDIA) * MOST * 1000),
    "delivery": int(max(DELIVERY) * MOST * 1000),
    "pause": int(max(DELIVERY) * 1000),
    "pause by hand": MAX_PAUSE_SECONDS * 1000,
}
"""The longest wait of each kind in milliseconds. A later due time was written by a clock that was ahead."""


def clamped(due_ms: int | None, kind: str, now_ms: int, least_ms: int = 0) -> int | None:
    """Return a due time that is no further away than the longest wait of its kind, or than `least_ms`."""
    return None if due_ms is None else min(due_ms, now_ms + max(LONGEST_MS[kind], least_ms))


def clamp(document: Document, now_ms: int, poll_ms: int = 0) -> tuple[Document, bool]:
    """Bring due times that a wrong clock wrote back into reach. Return True if there were any.

    `poll_ms` is the configured interval between polls.
    """
    row = document.submission
    moved: dict[str, Any] = {
        field: due
        for field, least_ms in (("send_due_ms", 0), ("poll_due_ms", poll_ms))
        if (due := clamped(getattr(row, field), field, now_ms, least_ms)) != getattr(row, field)
    }
    dues = [clamped(item.due_ms, "media_due_ms", now_ms) for item in row.files]
    if dues != [item.due_ms for item in row.files]:
        moved["files"] = tuple([replace(item, due_ms=due) for item, due in zip(row.files, dues, strict=True)])
    after = replace(document, submission=replace(row, **moved)) if moved else document
    reach = now_ms + LONGEST_MS["delivery"]
    after = _map_deliveries(
        after, lambda item: replace(item, due_ms=reach) if item.status == "pending" and item.due_ms > reach else item
    )
    return after, after is not document


# Replay


def outcome_of(order: Order, found: Delivery | None, now_ms: int, *, event: bool) -> Replayed:
    """Return the outcome of an order.

    Args:
        order: one event to be delivered to one destination again.
        found: the delivery that it repeats, if there is one.
        now_ms: epoch milliseconds.
        event: True if its event still exists.
    """
    if not event:
        return Replayed(order=order, outcome="gone", delivery_id=order.delivery_id)
    if found is None or order.as_new:
        return Replayed(order=order, outcome="new", delivery_id=None)
    outcome: ReplayOutcome = "again"
    if found.status == "running":
        outcome = "running"
    elif found.status == "pending":
        # One that was never tried may wait for its picture: its first attempt is still to come.
        outcome = "sooner" if found.attempt and found.due_ms > now_ms else "owed"
    return Replayed(order=order, outcome=outcome, delivery_id=found.id, was=found.status)


def replay(
    document: Document, orders: Sequence[Order], found: Mapping[str, Delivery], events: Mapping[str, Event], now_ms: int
) -> tuple[Document, list[Replayed]]:
    """Make the ordered deliveries pending and due now, one after the other. Pending ones stay as they are.

    A delivery keeps its id, which is its idempotency key, and its attempts. Its failures start at 0. Missing files of
    the result are downloaded again first, and the deliveries wait for them as new ones do.

    Args:
        document: of the submission.
        orders: for this submission.
        found: its deliveries that the orders may repeat, by id. Open ones, and those that this transaction has closed,
            are taken from the document.
        events: its events that the orders name, by id.
        now_ms: epoch milliseconds.
    """
    known = {**found, **{item.id: item for item in (*document.closed, *document.deliveries)}}
    results = []
    row = document.submission
    again_row = files.refetch(row, now_ms) if row.ended == "task.succeeded" else row
    due_ms = now_ms if again_row is row else now_ms + int(FILES * 1000)
    for order in orders:
        if order.delivery_id is not None:
            meant = known.get(order.delivery_id)
        else:
            there = [
                item
                for item in known.values()
                if item.event_id == order.event_id and item.destination == order.destination
            ]
            meant = max(there, key=lambda item: item.id, default=None)
        event = events.get(order.event_id)
        seen = outcome_of(order, meant, now_ms, event=event is not None)
        if event is not None and seen.outcome in REPLAYED:
            if seen.outcome == "new" or meant is None:
                again = Delivery(
                    id=new_id(now_ms), event_id=order.event_id, submission_id=order.submission_id,
                    destination=order.destination, created_ms=now_ms, due_ms=due_ms, manual=True,
                )  # fmt: skip
                seen = Replayed(order=order, outcome="new", delivery_id=again.id)
            else:
                again = replace(
                    meant, status="pending", due_ms=due_ms, failures=0, manual=True, owner=None, detail=None,
                    finished_ms=None,
                )  # fmt: skip
            known[again.id] = again
            others = tuple(item for item in document.deliveries if item.id != again.id)
            document = _with_open(document, (*others, again), events=(*document.events, event))
            if again_row is not row:
                document = replace(document, submission=again_row)
        results.append(seen)
    return document, results


# Deleting


def drop_media(document: Document, problem: str) -> Document | None:
    """Remove the files of a settled submission's result. None: something of it is outstanding or under way."""
    if not is_settled(document):
        return None
    row = document.submission
    return replace(document, submission=files.dropped(row, problem)) if row.media else document


# Contradictions, which no journal should have

CONTRADICTIONS: Mapping[str, tuple[str, str]] = {
    "deliveries_without_event": ("deliveries", "have no event, so nothing can be delivered"),
    "deliveries_without_submission": ("deliveries", "belong to no submission"),
    "events_without_submission": ("events", "belong to no submission"),
    "callbacks_without_submission": ("callbacks", "belong to no submission"),
    "attempts_without_delivery": ("deliveries", "have attempts but do not exist themselves"),
    "ends_without_event": ("submissions", "have ended without an event of the end, so their results are not delivered"),
    "unfinished_attempts": ("deliveries", "do not run, but have an attempt without an end"),
}
"""Kind of rows, and their fault, by kind of contradiction."""

_MAX_NAMED = 3


def contradiction_sentences(found: Mapping[str, Collection[str]], abandoned: Sequence[str]) -> list[str]:
    """Return one sentence for each kind of contradiction that was found, with up to three examples.

    Args:
        found: ids, by kind.
        abandoned: ids of running deliveries whose engine has ended. They are no contradiction.
    """
    sentences = []
    for kind, ids in found.items():
        if ids:
            noun, text = CONTRADICTIONS[kind]
            named = sorted(ids)[:_MAX_NAMED]
            more = f" and {len(ids) - _MAX_NAMED:,} more" if len(ids) > _MAX_NAMED else ""
            sentences.append(f"{len(ids):,} {noun} {text}: {', '.join(named)}{more}. Please report this.")
    if abandoned:
        sentences.append(
            f"{len(abandoned):,} deliveries were under way when their engine ended: {abandoned[0]}, for one. "
            "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
        )
    return sentences
