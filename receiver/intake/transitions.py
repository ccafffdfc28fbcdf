"""Transitions of a submission: one pure function for each fact, run by the journal inside its transaction.

Trust (both tokens of a callback are checked earlier):

    both tokens good, task id ours or not known yet   the callback is accepted; a terminal one becomes a claim
    any of them not                                   the callback is journalled, and the provider is asked now

Confirmation: a claim is settled by the provider's own answer, fetched at 0, 2, 5, 10, 16 and 30 s (shares of
`confirm_ms`). Agreement or the end of that time makes the event, marked `confirmed` or not. A fetch without our state
only lags. One with our state and another status contradicts the claim, which then waits up to the deadline. A fetched
FAILURE ends it after `confirm_ms`. A claimed SUCCESS whose picture was downloaded from an allowed host beats only the
FAILURE that a relay wrote by its own clock (PROTOCOL.md §6). After an unconfirmed SUCCESS the provider is asked on, and
its own SUCCESS with other links or texts supersedes the claimed one.

Candidates: if the answer to the submit was lost, a callback with one good token still names a task. The provider is
asked about it with our key. Only a task that holds our state token in that answer is bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from msgspec.structs import replace

from receiver.backoff import CONFIRM, FILES, PROVISIONAL, SEND, UNLINKED, wait_forever
from receiver.deliveries import Delivery
from receiver.errors import Refused
from receiver.events import (
    ALERT_TYPES,
    PROVISIONAL_TYPES,
    Claim,
    Event,
    EventType,
    Reply,
    ReplyStatus,
    Source,
    Submission,
    event_id,
    is_at,
    new_id,
    steady_id,
)
from receiver.intake.followups import follow_up
from receiver.intake.pace import Durations, next_poll_ms
from receiver.journal import Change, files
from receiver.tasks import RANKS, Task, event_type, merge

# Routes of events to destinations, and the policy

_ALWAYS: frozenset[EventType] = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
_PROGRESS: frozenset[EventType] = frozenset({"task.accepted", "task.progressed"})
_ACTIONS = {
    "imagine": "IMAGINE",
    "blend": "BLEND",
    "describe": "DESCRIBE",
    "shorten": "SHORTEN",
    "video": "VIDEO",
    "edits": "EDIT",
    "swap": "SWAP_FACE",
}
"""The action of each kind of request, until the provider has given one (PROTOCOL.md §5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Events that one destination gets.

    Attributes:
        progress: True adds `task.accepted` and `task.progressed`.
        types: event types. None: every decisive one.
        alerts: True adds the alerts about this installation.
        actions: only tasks with these provider actions, e.g. `UPSCALE` (PROTOCOL.md §5). Empty: all.
        labels: only submissions with all these labels, as (name, value).
        reply_origins: only submissions whose `reply_to` is at one of these origins, and all of these. Empty: any.

    In actions and the values of labels `*` stands for any text, `?` for any character.
    """

    destination: str
    progress: bool = False
    types: frozenset[EventType] | None = None
    alerts: bool = False
    actions: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    reply_origins: frozenset[str] = frozenset()

    def wants(self, type: EventType) -> bool:
        """Return True if events of this type are for the destination."""
        return (
            type in (_ALWAYS if self.types is None else self.types)
            or (self.progress and type in _PROGRESS)
            or (self.alerts and type in ALERT_TYPES)
        )

    def matches(self, row: Submission, type: EventType) -> bool:
        """Return True if an event of this type of this submission goes to the destination.

        A submission that names its destinations goes there whatever its action and labels are. Until the task's action
        is known, its end goes to the destination, because it may be the last event, and progress does not.
        """
        if not self.wants(type):
            return False
        if self.reply_origins:
            return is_at(row.reply_to or "", self.reply_origins)
        if row.destinations is not None:
            return self.destination in row.destinations
        for name, pattern in self.labels:
            if name not in row.labels or not fnmatchcase(row.labels[name], pattern):
                return False
        if not self.actions:
            return True
        action = row.task.action.upper() if row.task is not None and row.task.action else _ACTIONS.get(row.kind)
        known = [] if action is None else [fnmatchcase(action, pattern) for pattern in self.actions]
        return any(known) if known else type not in _PROGRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Intervals in milliseconds.

    Attributes:
        confirm_ms: time for the provider to confirm a terminal callback. 0 accepts it at once.
        poll_ms: longest wait between polls, and the silence after a callback.
        media_wait_ms: longest wait of deliveries for the files.
        unlinked_ms: time in which a SUCCESS without a link to a file is no end.
        deadline_ms: time after which a task counts as lost.
        steady: True without a lasting journal. The same event has the same delivery id and time in every process.
    """

    confirm_ms: int = 30_000
    poll_ms: int = 15_000
    media_wait_ms: int = int(FILES * 1000)
    unlinked_ms: int = int(UNLINKED * 1000)
    deadline_ms: int = 4_200_000
    steady: bool = False


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Input of a transition besides the row and the fact: the time, the policy, the routes, the usual durations."""

    now_ms: int
    policy: Policy
    routes: tuple[Route, ...]
    durations: Durations = msgspec.field(default_factory=Durations)

    def destinations(self, row: Submission, type: EventType) -> tuple[str, ...]:
        """Return the destinations of an event of this type of this submission."""
        return tuple([route.destination for route in self.routes if route.matches(row, type)])


GRACE_MS = 30_000
"""Age up to which a new row belongs to the process that made it. The engine takes over an older one."""
IDENTIFY: tuple[float, ...] = (5, 15, 15, 30, 60, 120, 300)
"""Seconds between questions about candidates. A relay shows `state` only after its own first poll, within 15 s
(PROTOCOL.md §5)."""
_ENDS: tuple[EventType, ...] = ("task.succeeded", "task.failed")

# The submit and its answer


def sending(row: Submission, due_ms: int, traceparent: str | None) -> Change | None:
    """Begin to send a prepared request, once. Without an answer until `due_ms` it counts as lost."""
    if row.status != "prepared":
        return None
    if row.ended is not None:
        return Change(submission=replace(row, send_due_ms=None))  # it is never due again
    row = replace(row, status="sending", sends=row.sends + 1, send_due_ms=due_ms, traceparent=traceparent)
    return Change(submission=row)


def answered(row: Submission, rules: Rules, task_ids: tuple[str, ...], outcome: str) -> Change:
    """Bind the task of an accepted request. Answers 1 and 22 set NOT_START, 21 for a dialogue MODAL; only a task object
    sets more. If a callback bound another task before, the answer wins, because it came over our own connection.

    One answer may name several tasks (PROTOCOL.md §2, describe → all). Each further one becomes its own submission. Its
    callbacks carry the first one's tokens, so it is polled.
    """
    task_id = task_ids[0]
    if row.task_id is not None and row.task_id != task_id:
        row = replace(row, task=None, claim=None, ended=None, files=(), late_ms=None, unlinked_ms=None)
    row = replace(row, outcome=outcome, detail=None)
    view = Task(id=task_id, status="MODAL" if outcome == "modal" else "NOT_START")
    change = _unless_claimed(row, observe(row, view, rules, source="submit"))
    further = tuple(
        replace(
            change.submission,
            id=new_id(rules.now_ms),
            task_id=other,
            task=Task(id=other, status="NOT_START"),
            once=None,
            hooked=False,
            callbacks=0,
            callback_bytes=0,
            late_callbacks=0,
            asked_ms=None,
            claim=None,
            ended=None,
            poll_due_ms=rules.now_ms + rules.policy.poll_ms,
        )
        for other in task_ids[1:]
    )
    return replace(change, additions=(*change.additions, *further))


def refused(row: Submission, rules: Rules, error: Refused, *, announce: bool) -> Change | None:
    """End a request that will never make a task. `announce` makes that an event, for requests without a caller."""
    if row.status == "accepted":
        return None
    row = replace(row, status="refused", outcome=error.outcome, detail=str(error), send_due_ms=None, once=None)
    return lose(row, str(error), rules, type="task.failed") if announce else Change(submission=row)


def postponed(row: Submission, rules: Rules, outcome: str, text: str, after: float | None) -> Change | None:
    """Schedule the request again, because no task was made."""
    if row.status == "accepted":
        return None
    seconds = max(wait_forever(SEND, row.sends), after or 0)
    due = None if row.ended else rules.now_ms + int(seconds * 1000)
    return Change(submission=replace(row, status="prepared", outcome=outcome, detail=text, send_due_ms=due))


def unanswered(row: Submission, rules: Rules, text: str) -> Change | None:
    """Mark a request as `unknown`, because its answer was lost. It may have been charged, so it is never sent again.

    If a callback URL was sent, a callback can still resolve it. An earlier one may already name a candidate.
    """
    if row.status != "sending":
        return None
    due = rules.now_ms if row.callbacks else None
    row = replace(row, status="unknown", outcome="ambiguous", detail=text, send_due_ms=None, poll_due_ms=due)
    if row.hooked or row.ended:
        return Change(submission=row)
    return lose(row, f"{text} No callback URL was sent, so no callback can say what became of it.", rules)


# Replies to a task that asks for input


def reply_given(row: Submission, rules: Rules, reply: Reply) -> Change | None:
    """Take a reply, if the task waits for input."""
    if not row.awaits_input or row.ended is not None:
        return None
    return Change(submission=replace(row, reply=reply, send_due_ms=rules.now_ms + GRACE_MS))


def reply_sending(row: Submission, due_ms: int) -> Change | None:
    """Begin to send a waiting reply, once. Without an answer until `due_ms` it counts as lost."""
    if row.reply is None or row.reply.status != "waiting" or row.task_status != "MODAL" or row.ended:
        return None
    reply = replace(row.reply, status="sending", sends=row.reply.sends + 1)
    return Change(submission=replace(row, reply=reply, send_due_ms=due_ms))


def replied(row: Submission, rules: Rules) -> Change | None:
    """Mark the reply as sent. The same task goes on, and its deadline starts again."""
    return _with_reply(row, "sent", deadline_ms=rules.now_ms + rules.policy.deadline_ms, risen_ms=rules.now_ms)


def reply_postponed(row: Submission, rules: Rules, error: Refused) -> Change | None:
    """Schedule the reply again, because the provider was busy."""
    sends = row.reply.sends if row.reply else 1
    seconds = max(wait_forever(SEND, sends), error.retry_after or 0)
    return _with_reply(row, "waiting", send_due_ms=rules.now_ms + int(seconds * 1000), detail=str(error))


def reply_refused(row: Submission, rules: Rules, error: Refused) -> Change | None:
    """Ask for input again, because the provider refused the reply. The event is the same one as before."""
    change = _with_reply(row, "refused", detail=str(error))
    if change is None:
        return None
    return _announce(change.submission, rules, _event(change.submission, "task.input_required", rules, source="submit"))


def reply_unanswered(row: Submission, rules: Rules, text: str) -> Change | None:
    """Mark the reply as `unknown`, because its answer was lost. It is never sent again. Polls show the result."""
    return _with_reply(row, "unknown", detail=text)


def _with_reply(row: Submission, status: ReplyStatus, **fields: Any) -> Change | None:
    if row.reply is None or row.reply.status != "sending":
        return None
    reply = replace(row.reply, status=status)
    return Change(submission=replace(row, **{"reply": reply, "send_due_ms": None, **fields}))


# Callbacks

MAX_CALLBACKS = 500
"""Callbacks kept of one submission. A task makes about ten, and 101 if each percent of progress is sent."""
MAX_CALLBACK_BYTES = 4 * 1024 * 1024
MAX_LATE_CALLBACKS = 10
"""Callbacks kept after its end: repeats, and what a relay sends late."""
ASK_MS = 2000
"""Least time between two questions about one submission that callbacks cause."""


def has_room(row: Submission, size: int) -> bool:
    """Return True if one more callback of so many bytes is kept."""
    return (
        row.callbacks < MAX_CALLBACKS
        and row.callback_bytes + size <= MAX_CALLBACK_BYTES
        and row.late_callbacks < MAX_LATE_CALLBACKS
    )


def ask(row: Submission, now_ms: int) -> Submission:
    """Return the row with a question to the provider now, or `ASK_MS` after its last answer. An earlier one stays."""
    due_ms = max(now_ms, min(row.asked_ms or 0, now_ms) + ASK_MS)  # the clock may have been set back
    return row if row.poll_due_ms is not None and row.poll_due_ms <= due_ms else replace(row, poll_due_ms=due_ms)


def received(row: Submission, rules: Rules, view: Task, cause: str | None, size: int) -> Change | None:
    """Take a verified callback of so many bytes. `cause` says why the provider is asked instead. None: the submission
    has had its share, and polls show the rest."""
    if not has_room(row, size):
        return None
    late = row.late_callbacks + (row.ended is not None)
    row = replace(row, callbacks=row.callbacks + 1, callback_bytes=row.callback_bytes + size, late_callbacks=late)
    if cause is None and row.task_id not in (None, view.id):
        cause = "other_task"
    if cause is not None:
        asks = (row.task_id is not None or needs_task(row)) and row.ended != "task.succeeded"
        return Change(submission=ask(row, rules.now_ms) if asks else row, cause=cause)
    if view.terminal and rules.policy.confirm_ms > 0:
        return _claim(row, view, rules)
    return _unless_claimed(row, observe(row, view, rules, source="callback", confirmed=False))


def _claim(row: Submission, view: Task, rules: Rules) -> Change:
    """Keep a terminal callback as a claim, and ask the provider now. The first callback also makes `task.accepted`."""
    type = event_type(view)
    if type == row.ended == "task.succeeded":
        if row.unconfirmed:
            return Change(submission=ask(row, rules.now_ms))
        missing = any(item.missing for item in row.files)
        found = files.with_links(row.files, view, rules.now_ms) if missing else row.files
        return Change(submission=replace(row, files=found))
    if type not in _ENDS or not supersedable(row.ended, type):
        return Change(submission=row)
    if row.claim is not None and (row.claim.task.status == "SUCCESS" or view.status != "SUCCESS"):
        return Change(submission=row)
    if row.status == "accepted":
        change = Change(submission=bind(row, view.id))
    else:
        change = observe(row, Task(id=view.id, status="NOT_START"), rules, source="callback")
    claim = Claim(task=view, since_ms=rules.now_ms)
    row = ask(replace(change.submission, claim=claim), rules.now_ms)
    return Change(submission=row, events=change.events, deliveries=change.deliveries)


def _unless_claimed(row: Submission, change: Change) -> Change:
    """Return the change. A waiting claim keeps its own poll time."""
    if row.claim is None or change.submission.claim is None:
        return change
    return replace(change, submission=replace(change.submission, poll_due_ms=row.poll_due_ms))


# Candidates


def needs_task(row: Submission) -> bool:
    """Return True if the answer to the submit was lost, so that callbacks name candidates for its task."""
    return row.status == "unknown" and row.task_id is None


def identified(row: Submission, rules: Rules, view: Task) -> Change | None:
    """Bind the candidate that holds our state token in the provider's own answer."""
    if not needs_task(row):
        return None  # an answer or a doubly signed callback was faster
    return observe(replace(row, misses=0), view, rules, source="poll")


def unidentified(row: Submission, rules: Rules) -> Change | None:
    """Ask about the candidates again for a while, and at the next callback, because none is known to be ours."""
    if row.task_id is not None:
        return None
    again = needs_task(row) and row.misses < len(IDENTIFY)
    due_ms = rules.now_ms + int(IDENTIFY[row.misses] * 1000) if again else None
    row = replace(row, misses=row.misses + 1, poll_due_ms=due_ms, asked_ms=rules.now_ms)
    return Change(submission=row)


# Polls


def polled(row: Submission, rules: Rules, view: Task | None, *, proof: bool = False, ours: bool = False) -> Change:
    """Take the provider's answer to a poll.

    Args:
        view: the task. None: the provider did not know it, or was out of reach. Another task's view counts as None,
            because the submit answer has bound this one since the poll began.
        proof: True if a file of a claimed SUCCESS was downloaded, because the view is a relay's own time-out.
        ours: True if the view carries our state token.
    """
    if view is not None and view.id != row.task_id:
        view = None
    row = replace(row, misses=0 if view else row.misses + 1, asked_ms=rules.now_ms)
    if row.claim is not None:
        return _settle(row, row.claim, view, rules, proof=proof, ours=ours)
    row = replace(row, polls=row.polls + 1 if row.ended else row.polls)
    if view is None and row.ended is None and row.task is not None and row.task.status == "SUCCESS":
        view = row.task  # its links are awaited, and the provider does not answer
    if view is None:
        return Change(submission=replace(row, poll_due_ms=next_poll(row, rules)))
    if row.unconfirmed and row.misses == 0 and view.status == "SUCCESS":
        return _confirm(row, view, rules)
    return observe(row, view, rules, source="poll", confirmed=not row.unconfirmed)


def _confirm(row: Submission, view: Task, rules: Rules) -> Change:
    """Take the provider's own word for a SUCCESS that only a callback reported. One with other links or texts is a
    further event that supersedes the claimed one."""
    claimed = row.task
    row = replace(row, unconfirmed=False)
    same = claimed is not None and (view.links, view.texts) == (claimed.links, claimed.texts)
    if row.ended != "task.succeeded" or claimed is None or same:
        return observe(row, view, rules, source="poll")
    if not (view.links or view.texts):
        return Change(submission=replace(row, unconfirmed=True, poll_due_ms=next_poll(row, rules)))  # links come late
    superseded = event_id(row.id, "task.succeeded", further=row.further)
    unlinked = replace(claimed, image_url="", image_urls=(), video_url="", video_urls=(), final_prompt="")
    row = replace(row, task=merge(unlinked, view), further=row.further + 1, files=(), poll_due_ms=None)
    row = files.expect(row, [view], rules.now_ms, wait_ms=rules.policy.media_wait_ms)
    event = replace(_event(row, "task.succeeded", rules, source="poll"), supersedes=superseded)
    return _announce(row, rules, event)


def contradicts(view: Task, claimed: Task) -> bool:
    """Return True if the provider's answer about our task says otherwise than a claim. A relay that stays at 100 % has
    only stopped to look (PROTOCOL.md §6)."""
    return view.status in RANKS and view.status != claimed.status and (view.terminal or view.progress != 100)


def _settle(row: Submission, claim: Claim, view: Task | None, rules: Rules, *, proof: bool, ours: bool) -> Change:
    """End a claim, or schedule the next question about it. Links of the callback stay as the second source
    (PROTOCOL.md §10.4)."""
    claim = replace(claim, since_ms=min(claim.since_ms, rules.now_ms))  # the clock may have been set back since
    if view is not None and ours:
        claim = replace(claim, contradicted=contradicts(view, claim.task))
    end_ms = claim.since_ms + rules.policy.confirm_ms
    if claim.contradicted and not (view is not None and view.terminal):
        end_ms = max(end_ms, row.deadline_ms)
    over = rules.now_ms >= end_ms
    claims_success = claim.task.status == "SUCCESS"
    closed = replace(row, claim=None)
    # Without a lasting journal nothing could take a later answer.
    unconfirmed = replace(closed, unconfirmed=claims_success and not rules.policy.steady)
    if view is not None and view.status == "SUCCESS":
        return observe(closed, view, rules, source="poll", second=claim.task if claims_success else None)
    if proof:
        return observe(unconfirmed, claim.task, rules, source="callback", confirmed=False)
    if view is not None and view.terminal and (over or not claims_success):
        return observe(closed, view, rules, source="poll")
    if over:
        return observe(unconfirmed, claim.task, rules, source="callback", confirmed=False)
    steps = (claim.since_ms + int(share * rules.policy.confirm_ms) for share in CONFIRM)
    step = next((step for step in steps if step > rules.now_ms), rules.now_ms + rules.policy.poll_ms)
    due = min(max(step, rules.now_ms + ASK_MS), end_ms)
    claim = replace(claim, asked=claim.asked + 1)
    if view is None or view.terminal:
        return Change(submission=replace(row, claim=claim, poll_due_ms=due))
    change = observe(row, view, rules, source="poll")
    waiting = replace(change.submission, claim=claim, poll_due_ms=due)
    return Change(submission=waiting, events=change.events, deliveries=change.deliveries)


# Our own deadline


def expired(row: Submission, rules: Rules) -> Change | None:
    """End a submission whose deadline has passed, with the reason."""
    if row.ended is not None or row.status == "refused" or row.claim is not None or rules.now_ms < row.deadline_ms:
        return None
    if row.task is not None and row.task.status == "SUCCESS":
        return observe(row, row.task, rules, source="deadline")  # its links have not come
    if row.status == "prepared":
        reason = f"The request could not be sent before the deadline. {row.detail or ''}".strip()
    elif row.task_id is None:
        reason = f"{row.detail or 'The answer to the submit was lost.'} No callback told what became of it."
    elif row.misses:
        reason = f"The provider said nothing of task {row.task_id} in its last {row.misses} answers."
    elif row.task is not None and (other := row.task.other_status):
        reason = f"At the deadline the provider says {other} of task {row.task_id}, which is no status it documents."
    else:
        reason = f"The provider still says {row.task_status or 'nothing'} of task {row.task_id} at the deadline."
    return lose(row, reason, rules)


# Files


def tried(row: Submission, rules: Rules, view: Task | None, outcomes: dict[str, files.Outcome]) -> Change:
    """Take the outcomes of downloads, by place. Deliveries that waited for the files are due when none is left to wait
    for. A file that comes after they have started makes a further event of the result.

    Args:
        view: the task as the provider shows it now. None: it was not asked, or gave no answer.
        outcomes: of the places that were tried.
    """
    late = rules.now_ms >= (row.late_ms or 0)
    before = len(row.media)
    if row.task is not None and view is not None and view.id == row.task_id:
        row = replace(row, task=merge(row.task, view))
    row = files.tried(row, view, outcomes, rules.now_ms)
    release_ms = rules.now_ms if row.media_due_ms is None else None
    if not late or len(row.media) <= before:
        return Change(submission=row, release_ms=release_ms)
    row = replace(row, further=row.further + 1)
    return replace(_announce(row, rules, _event(row, "task.succeeded", rules, source="poll")), release_ms=release_ms)


def refetched(row: Submission, rules: Rules) -> Change | None:
    """Make the missing files of a result due now, because a person asks for them."""
    return Change(submission=files.refetch(row, rules.now_ms)) if row.ended == "task.succeeded" else None


# A view becomes a row, its new events, and their deliveries


def observe(
    submission: Submission,
    view: Task,
    rules: Rules,
    *,
    source: Source,
    confirmed: bool = True,
    second: Task | None = None,
) -> Change:
    """Take a view of the task as true: bind it, merge it, and make the new events and their deliveries.

    A SUCCESS whose files have no links yet is no end for some minutes.

    Args:
        view: the task.
        source: origin of the view.
        confirmed: True if the provider's own answer agrees with a terminal view.
        second: another view of the same end, whose links are the second source.
    """
    row, task = bind(submission, view.id), merge(submission.task, view)
    rises = submission.task is None or (task.progress or 0) > (submission.task.progress or 0)
    row = replace(row, task=task, risen_ms=rules.now_ms if rises else row.risen_ms)
    types = new_events(submission, row, rules)
    views = [item for item in (row.task, second) if item is not None]
    if "task.succeeded" in types and not any(item.links for item in views) and _awaits_links(row, rules):
        row = replace(row, claim=None, unlinked_ms=row.unlinked_ms or rules.now_ms)
        types.remove("task.succeeded")
    ended: EventType | None = next((type for type in types if type in _ENDS), None)
    if ended is not None:
        row = replace(row, ended=ended, claim=None, polls=0, detail=None, files=())
    if ended == "task.succeeded":
        row = files.expect(row, views, rules.now_ms, wait_ms=rules.policy.media_wait_ms)
    superseded = submission.ended
    events = [_event(row, type, rules, source=source, confirmed=confirmed, superseded=superseded) for type in types]
    if row.task_status == "MODAL" and row.reply is not None and row.reply.status == "waiting":
        row = replace(row, send_due_ms=row.send_due_ms or rules.now_ms)
    called = source == "callback"
    due, before = next_poll(row, rules, called=called), row.poll_due_ms
    if called and due and before and 0 <= due - before <= rules.policy.poll_ms // 2:
        due = before  # moving it at each callback would cost as much as writing the callback
    if due != before:
        row = replace(row, poll_due_ms=due)
    # Written with the event, and named, so that each follow-up starts once.
    buttons = row.auto if ended == "task.succeeded" else ()
    deadline_ms = rules.policy.deadline_ms
    started = tuple([follow_up(row, button, now_ms=rules.now_ms, deadline_ms=deadline_ms) for button in buttons])
    return Change(submission=row, events=tuple(events), deliveries=fan_out(row, events, rules), additions=started)


def _awaits_links(row: Submission, rules: Rules) -> bool:
    """Return True while links to the files of a SUCCESS may still come (PROTOCOL.md §13.4)."""
    until_ms = min((row.unlinked_ms or rules.now_ms) + rules.policy.unlinked_ms, row.deadline_ms)
    return files.makes_files(row) and rules.now_ms < until_ms


def bind(submission: Submission, task_id: str) -> Submission:
    """Return the row with its task id. A task that answers under our tokens was accepted, whatever the submit said."""
    if submission.status == "accepted" and submission.task_id == task_id:
        return submission
    return replace(submission, task_id=task_id, status="accepted", send_due_ms=None)


def new_events(old: Submission, row: Submission, rules: Rules) -> list[EventType]:
    """Return the types of the events that `row` adds to `old`, in order. After an end only another end is new, because
    any other event would cancel the deliveries of the end."""
    types: list[EventType] = []
    task = row.task
    if old.status != "accepted" and old.ended is None:
        types.append("task.accepted")
    if task is None:
        return types
    type = event_type(task)
    if type == "task.progressed":
        rises = old.task is None or task.rank > old.task.rank
        wanted = rises and old.ended is None and task.progress is not None
        if wanted and any(route.matches(row, type) for route in rules.routes):
            types.append(type)
    elif type == "task.input_required":
        if row.awaits_input and not old.awaits_input and old.ended is None:
            types.append(type)
    elif type in ("task.succeeded", "task.failed") and supersedable(old.ended, type):
        types.append(type)
    return types


def supersedable(ended: EventType | None, type: EventType) -> bool:
    """Return True if an end of this type may follow the last one: any after lost, only succeeded after failed."""
    return ended in (None, "task.lost") or (ended == "task.failed" and type == "task.succeeded")


def next_poll(row: Submission, rules: Rules, *, called: bool = False) -> int | None:
    """Return the time of the next poll of this row. None: never.

    Only silence is noticed after a callback (`called`), after an answer without the task, and while a person is asked.
    """
    if row.task_id is None or (row.ended == "task.succeeded" and not row.unconfirmed):
        return None
    if row.ended in PROVISIONAL_TYPES or row.unconfirmed:
        if row.polls >= len(PROVISIONAL):
            return None
        return rules.now_ms + int(PROVISIONAL[row.polls] * 1000)
    if called or row.misses or row.awaits_input:
        return rules.now_ms + rules.policy.poll_ms
    return next_poll_ms(
        rules.now_ms,
        since_ms=row.risen_ms or row.created_ms,
        percent=(row.task.progress or 0) if row.task is not None else 0,
        usual_ms=rules.durations.usual_ms(row),
        longest_ms=rules.policy.poll_ms,
        shortest_ms=rules.durations.shortest_ms,
    )


def lose(row: Submission, reason: str, rules: Rules, *, type: EventType = "task.lost") -> Change:
    """End a submission without the provider's word, with the reason as a sentence."""
    superseded = row.ended
    row = replace(row, ended=type, detail=reason, send_due_ms=None, polls=0)
    row = replace(row, poll_due_ms=next_poll(row, rules))
    source: Source = "deadline" if type == "task.lost" else "submit"
    return _announce(row, rules, _event(row, type, rules, source=source, superseded=superseded))


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
    further = row.further if type == "task.succeeded" else 0
    reason = (row.reason or "The provider gave no reason.") if type in PROVISIONAL_TYPES else None
    return Event(
        id=event_id(row.id, type, task.progress if task else None, further),
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
        reason=reason,
        further=further,
        task=task,
    )


def _announce(row: Submission, rules: Rules, *events: Event) -> Change:
    return Change(submission=row, events=events, deliveries=fan_out(row, events, rules))


def fan_out(row: Submission, events: Sequence[Event], rules: Rules) -> tuple[Delivery, ...]:
    """Return the deliveries of new events. A result's wait for its files, at most as long as the policy allows."""
    waits_ms = row.late_ms if events and row.awaits_files(rules.now_ms) else None
    return tuple(
        Delivery(
            id=steady_id(event.id, destination) if rules.policy.steady else new_id(rules.now_ms),
            event_id=event.id,
            submission_id=row.id,
            destination=destination,
            created_ms=rules.now_ms,
            due_ms=(event.type == "task.succeeded" and waits_ms) or rules.now_ms,
        )
        for event in events
        for destination in rules.destinations(row, event.type)
    )
