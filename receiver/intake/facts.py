"""Pure functions that turn a view of a task into the row as it shall be, the events that are new, and what they owe."""

from __future__ import annotations

import msgspec

from receiver.backoff import PROVISIONAL
from receiver.deliveries import Delivery
from receiver.events import PROVISIONAL_TYPES, Event, EventType, Media, Source, Submission, event_id, new_id, steady_id
from receiver.followups import follow_up
from receiver.intake.rules import Rules
from receiver.journal import Change
from receiver.tasks import Task, event_type, merge

replace = msgspec.structs.replace


def observe(
    submission: Submission,
    view: Task,
    rules: Rules,
    *,
    source: Source,
    confirmed: bool = True,
    media: tuple[Media, ...] = (),
) -> Change:
    """Take a view of the task as true: bind, merge, and note what is new.

    Args:
        submission: the current row.
        view: the task as we now believe it is.
        rules: the time, the pace, the routes.
        source: where the view came from.
        confirmed: whether the provider's own answer stands behind a terminal view.
        media: the result's files, if they were fetched already.
    """
    old = submission.task
    row = bind(submission, view.id)
    row = replace(row, task=merge(old, view))
    types = _new_facts(submission, row, rules)
    ended: EventType | None = next((type for type in types if type in _ENDS), None)
    if ended is not None:
        row = _end(row, ended, rules, media)
    events = tuple(
        _event(row, type, rules, source=source, confirmed=confirmed, superseded=submission.ended) for type in types
    )
    if row.task_status == "MODAL" and row.reply is not None and row.reply.status == "waiting":
        row = replace(row, send_due_ms=row.send_due_ms or rules.now_ms)
    row = replace(row, poll_due_ms=next_look(row, rules) if source == "callback" else next_poll(row, rules))
    started = _follow_ups(row, rules) if ended == "task.succeeded" else ()
    return Change(submission=row, events=events, deliveries=owed(row, events, rules), additions=started)


def _follow_ups(row: Submission, rules: Rules) -> tuple[Submission, ...]:
    """What was to be started by itself. Written with the event, and named, so that each starts once."""
    deadline_ms = rules.policy.deadline_ms
    return tuple(follow_up(row, button, now_ms=rules.now_ms, deadline_ms=deadline_ms) for button in row.auto)


_ENDS: tuple[EventType, ...] = ("task.succeeded", "task.failed")


def bind(submission: Submission, task_id: str) -> Submission:
    """The row with its task id. A task that answers under our tokens was accepted, whatever the submit said."""
    if submission.status == "accepted" and submission.task_id == task_id:
        return submission
    return replace(submission, task_id=task_id, status="accepted", send_due_ms=None)


def _new_facts(old: Submission, row: Submission, rules: Rules) -> list[EventType]:
    """Types of the events that `row` adds to `old`, in order. After an end only another end is news: it would take the
    place of the end's deliveries."""
    types: list[EventType] = []
    task = row.task
    if old.status != "accepted" and old.ended is None:
        types.append("task.accepted")
    if task is None:
        return types
    type = event_type(task)
    if type == "task.progressed":
        rises = old.task is None or task.rank > old.task.rank
        if rises and old.ended is None and task.progress is not None and rules.destinations(row, type):
            types.append(type)
    elif type == "task.input_required":
        if row.awaits_input and not old.awaits_input and old.ended is None:
            types.append(type)
    elif type in ("task.succeeded", "task.failed") and supersedable(old.ended, type):
        types.append(type)
    return types


def supersedable(ended: EventType | None, type: EventType) -> bool:
    """Whether an end of this type may follow the one there is: lost gives way to both, failed to succeeded only."""
    if ended == "task.failed":
        return type == "task.succeeded"
    return ended in (None, "task.lost")


def _end(row: Submission, type: EventType, rules: Rules, media: tuple[Media, ...]) -> Submission:
    links = type == "task.succeeded" and (row.fallback_urls or (row.task is not None and row.task.result_urls))
    return replace(
        row,
        ended=type,
        claim=None,
        polls=0,
        detail=None,
        media=media,
        media_problem=None,
        media_tries=0,
        media_due_ms=rules.now_ms if links and not media else None,
    )


def next_poll(row: Submission, rules: Rules) -> int | None:
    """When to ask the provider about this row next; None: never."""
    if row.task_id is None or row.ended == "task.succeeded":
        return None
    if row.ended in PROVISIONAL_TYPES:
        if row.polls >= len(PROVISIONAL):
            return None
        return rules.now_ms + int(PROVISIONAL[row.polls] * 1000)
    return rules.now_ms + rules.policy.poll_ms


def next_look(row: Submission, rules: Rules) -> int | None:
    """When to ask after a callback: an interval from now, or the time already set if that is no more than half an
    interval sooner. To move it at each callback would cost as much as to write the callback down."""
    due = next_poll(row, rules)
    if due is None or row.poll_due_ms is None:
        return due
    return row.poll_due_ms if due - rules.policy.poll_ms // 2 <= row.poll_due_ms <= due else due


def lose(row: Submission, reason: str, rules: Rules, *, type: EventType = "task.lost") -> Change:
    """End a submission by our own word, with the reason as a sentence."""
    superseded = row.ended
    row = replace(row, ended=type, detail=reason, send_due_ms=None, polls=0)
    row = replace(row, poll_due_ms=next_poll(row, rules))
    source: Source = "deadline" if type == "task.lost" else "submit"
    events = (_event(row, type, rules, source=source, superseded=superseded),)
    return Change(submission=row, events=events, deliveries=owed(row, events, rules))


def ask_for_input(row: Submission, rules: Rules) -> Change:
    """Say that the task waits for a person. A second time is the same fact, and nothing new."""
    events = (_event(row, "task.input_required", rules, source="submit"),)
    return Change(submission=row, events=events, deliveries=owed(row, events, rules))


def _event(
    row: Submission,
    type: EventType,
    rules: Rules,
    *,
    source: Source,
    confirmed: bool = True,
    superseded: EventType | None = None,
) -> Event:
    task = row.task
    ends = type in _ENDS
    return Event(
        id=event_id(row.id, type, task.progress if task else None),
        type=type,
        submission_id=row.id,
        created_ms=(task.finish_ms if rules.policy.steady and task else None) or rules.now_ms,
        source=source,
        task_id=row.task_id,
        status=row.task_status,
        progress=task.progress if task else None,
        prompt=row.prompt,
        kind=row.kind,
        labels=row.labels,
        state=row.user_state,
        parent_id=row.parent_id,
        button=row.button,
        confirmed=confirmed or not ends,
        supersedes=event_id(row.id, superseded) if ends and superseded else None,
        reason=_reason(row, type),
        task=task,
    )


def _reason(row: Submission, type: EventType) -> str | None:
    if type == "task.lost":
        return row.detail
    return (row.reason or "The provider gave no reason.") if type == "task.failed" else None


def owed(row: Submission, events: tuple[Event, ...], rules: Rules) -> tuple[Delivery, ...]:
    """The deliveries of new events. A result's wait until its files are archived, or the policy's time is over."""
    return tuple(
        Delivery(
            id=steady_id(event.id, destination) if rules.policy.steady else new_id(rules.now_ms),
            event_id=event.id,
            submission_id=row.id,
            destination=destination,
            created_ms=rules.now_ms,
            due_ms=rules.now_ms + (rules.policy.media_wait_ms if _waits(row, event) else 0),
        )
        for event in events
        for destination in rules.destinations(row, event.type)
    )


def _waits(row: Submission, event: Event) -> bool:
    return event.type == "task.succeeded" and row.media_due_ms is not None
