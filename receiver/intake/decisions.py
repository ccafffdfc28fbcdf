"""What each kind of news does to a submission: one pure function for each, run by the journal inside its transaction.

Trust (both tokens of a callback are checked before it comes here):

    both tokens good, task id ours or not known yet   the callback is believed; a terminal one becomes a claim
    any of them not                                   the callback is kept, and the provider is asked now; where no
                                                      task is bound, about the task it names (see `hints`)

Confirmation: a claim is settled by the provider's own answer, fetched at 0, 2, 5, 10, 16 and 30 s (shares of
`confirm_ms`). Agreement, or the time running out, makes the event, marked `confirmed` or not; a fetch that only lags
is no contradiction. A claimed SUCCESS whose picture was downloaded from an allowed host beats a fetched FAILURE,
because relays fail tasks by their own clock (PROTOCOL.md §6).
"""

from __future__ import annotations

from typing import Any

from receiver.backoff import CONFIRM, MEDIA, SEND, wait, wait_forever
from receiver.errors import Refused
from receiver.events import Claim, Media, Reply, ReplyStatus, Submission, new_id
from receiver.intake.facts import ask_for_input, bind, lose, next_poll, observe, replace, supersedable
from receiver.intake.hints import seeks_task
from receiver.intake.rules import Rules
from receiver.journal import Change
from receiver.tasks import Task, event_type

GRACE_MS = 30_000
"""How long what is fresh belongs to whoever made it, before the engine takes it for an orphan of a crash."""

# The submit answer


def answered(row: Submission, task_ids: tuple[str, ...], outcome: str, rules: Rules) -> Change:
    """The provider took the request. Answers 1 and 22 set NOT_START, 21 for a dialogue MODAL; only a task object sets
    more. If a callback bound another task before the answer came, the answer wins: it came over our own connection.

    One answer may name several tasks (PROTOCOL.md §2, describe → all): each further one is a submission of its own."""
    task_id = task_ids[0]
    if row.task_id is not None and row.task_id != task_id:
        row = replace(row, task=None, claim=None, ended=None, media=(), media_due_ms=None, fallback_urls=())
    row = replace(row, outcome=outcome, detail=None)
    view = Task(id=task_id, status="MODAL" if outcome == "modal" else "NOT_START")
    change = _unless_claimed(row, observe(row, view, rules, source="submit"))
    further = tuple(_sibling(change.submission, other, rules) for other in task_ids[1:])
    return replace(change, additions=(*change.additions, *further))


def _sibling(row: Submission, task_id: str, rules: Rules) -> Submission:
    """A further task of the same answer. Its callbacks carry the first one's tokens, so it is polled."""
    return replace(
        row,
        id=new_id(rules.now_ms),
        task_id=task_id,
        task=Task(id=task_id, status="NOT_START"),
        once=None,
        hooked=False,
        callbacks=0,
        claim=None,
        ended=None,
        poll_due_ms=rules.now_ms + rules.policy.poll_ms,
    )


def refused(row: Submission, error: Refused, rules: Rules, *, tell: bool) -> Change | None:
    """The provider made no task and never will. `tell` the destinations when nobody waits for the answer."""
    if row.status == "accepted":
        return None
    row = replace(row, status="refused", outcome=error.outcome, detail=str(error), send_due_ms=None, once=None)
    return lose(row, str(error), rules, type="task.failed") if tell else Change(submission=row)


def postponed(row: Submission, outcome: str, text: str, after: float | None, rules: Rules) -> Change | None:
    """No task was made, and the same request may go out again later."""
    if row.status == "accepted":
        return None
    seconds = max(wait_forever(SEND, row.sends), after or 0)
    due = None if row.ended else rules.now_ms + int(seconds * 1000)
    return Change(submission=replace(row, status="prepared", outcome=outcome, detail=text, send_due_ms=due))


def unanswered(row: Submission, text: str, rules: Rules) -> Change | None:
    """The answer was lost or unclear. The request may have been charged, so it is never sent again; if a callback URL
    went along, a callback can still resolve it. One that came before, and was not believed, says what to ask about."""
    if row.status != "sending":
        return None
    due = rules.now_ms if row.callbacks else None
    row = replace(row, status="unknown", outcome="ambiguous", detail=text, send_due_ms=None, poll_due_ms=due)
    if row.hooked or row.ended:
        return Change(submission=row)
    return lose(row, f"{text} No callback URL went along, so no callback can tell what became of it.", rules)


# Replies to a task that asks for input


def reply_given(row: Submission, reply: Reply, rules: Rules) -> Change | None:
    """A person has answered. Nothing changes unless the task waits for input."""
    if not row.awaits_input or row.ended is not None:
        return None
    return Change(submission=replace(row, reply=reply, send_due_ms=rules.now_ms + GRACE_MS))


def replied(row: Submission, rules: Rules) -> Change | None:
    """The provider took the reply; the same task goes on, and has its time from now."""
    return _with_reply(row, "sent", deadline_ms=rules.now_ms + rules.policy.deadline_ms)


def reply_postponed(row: Submission, error: Refused, rules: Rules) -> Change | None:
    """The provider was busy: the reply goes out again later."""
    sends = row.reply.sends if row.reply else 1
    seconds = max(wait_forever(SEND, sends), error.retry_after or 0)
    return _with_reply(row, "waiting", send_due_ms=rules.now_ms + int(seconds * 1000), detail=str(error))


def reply_refused(row: Submission, error: Refused, rules: Rules) -> Change | None:
    """The provider will not take the reply, so the task waits for a person again."""
    change = _with_reply(row, "refused", detail=str(error))
    return ask_for_input(change.submission, rules) if change is not None else None


def reply_unanswered(row: Submission, text: str, rules: Rules) -> Change | None:
    """The answer to the reply was lost. It is never sent again; polls tell what became of the task."""
    return _with_reply(row, "unknown", detail=text)


def _with_reply(row: Submission, status: ReplyStatus, **fields: Any) -> Change | None:
    if row.reply is None or row.reply.status != "sending":
        return None
    reply = replace(row.reply, status=status)
    return Change(submission=replace(row, **{"reply": reply, "send_due_ms": None, **fields}))


# Callbacks


def received(row: Submission, view: Task, cause: str | None, rules: Rules) -> Change:
    """A verified callback."""
    row = replace(row, callbacks=row.callbacks + 1)
    if cause is None and row.task_id not in (None, view.id):
        cause = "other_task"
    if cause is not None:
        asks = (row.task_id is not None or seeks_task(row)) and row.ended != "task.succeeded"
        return Change(submission=replace(row, poll_due_ms=rules.now_ms) if asks else row, cause=cause)
    if view.terminal and rules.policy.confirm_ms > 0:
        return _claim(row, view, rules)
    return _unless_claimed(row, observe(row, view, rules, source="callback", confirmed=False))


def _claim(row: Submission, view: Task, rules: Rules) -> Change:
    """Remember what a terminal callback says, and ask the provider now."""
    type = event_type(view)
    if type not in ("task.succeeded", "task.failed") or not supersedable(row.ended, type):
        return Change(submission=row)
    if row.claim is not None and (row.claim.task.status == "SUCCESS" or view.status != "SUCCESS"):
        return Change(submission=row)
    change = _first_word(row, view, rules)
    claim = Claim(task=view, since_ms=rules.now_ms)
    row = replace(change.submission, claim=claim, poll_due_ms=rules.now_ms)
    return Change(submission=row, events=change.events, deliveries=change.deliveries)


def _first_word(row: Submission, view: Task, rules: Rules) -> Change:
    """The row bound to the task, with `task.accepted` if nobody has said so yet."""
    if row.status == "accepted":
        return Change(submission=bind(row, view.id))
    return observe(row, Task(id=view.id, status="NOT_START"), rules, source="callback")


def _unless_claimed(row: Submission, change: Change) -> Change:
    """A waiting claim keeps its own pace of asking."""
    if row.claim is None or change.submission.claim is None:
        return change
    kept = replace(change.submission, poll_due_ms=row.poll_due_ms)
    return replace(change, submission=kept)


# Polls


def polled(row: Submission, view: Task | None, rules: Rules, proof: tuple[Media, ...] = ()) -> Change:
    """The provider was asked. `view` is None when it did not know, or could not be reached.

    A view of another task is no answer: the submit answer has bound this one since we asked.

    `proof`: the files of a claimed SUCCESS, downloaded because the fetched view contradicts it.
    """
    if view is not None and view.id != row.task_id:
        view = None
    row = replace(row, misses=0 if view else row.misses + 1)
    if row.claim is not None:
        return _settle(row, row.claim, view, rules, proof)
    row = replace(row, polls=row.polls + 1 if row.ended else row.polls)
    if view is None:
        return Change(submission=replace(row, poll_due_ms=next_poll(row, rules)))
    return observe(row, view, rules, source="poll")


def _settle(row: Submission, claim: Claim, view: Task | None, rules: Rules, proof: tuple[Media, ...]) -> Change:
    claim = replace(claim, since_ms=min(claim.since_ms, rules.now_ms))  # the clock may have been set back since
    over = rules.now_ms >= claim.since_ms + rules.policy.confirm_ms
    closed = replace(row, claim=None)
    if view is not None and view.status == "SUCCESS":
        return observe(_with_links(closed, claim, view), view, rules, source="poll")
    if proof:
        return observe(closed, claim.task, rules, source="callback", confirmed=False, media=proof)
    if view is not None and view.terminal and (over or claim.task.status != "SUCCESS"):
        return observe(closed, view, rules, source="poll")
    if over:
        return observe(closed, claim.task, rules, source="callback", confirmed=False)
    return _ask_again(row, claim, view, rules)


def _with_links(row: Submission, claim: Claim, view: Task) -> Submission:
    """Keep the callback's links as the second source (PROTOCOL.md §10.4)."""
    links = claim.task.result_urls if claim.task.status == "SUCCESS" else ()
    return replace(row, fallback_urls=tuple(link for link in links if link not in view.result_urls))


def _ask_again(row: Submission, claim: Claim, view: Task | None, rules: Rules) -> Change:
    claim = replace(claim, asked=claim.asked + 1)
    steps = (claim.since_ms + int(share * rules.policy.confirm_ms) for share in CONFIRM)
    due = next(step for step in steps if step > rules.now_ms)
    if view is None or view.terminal:
        return Change(submission=replace(row, claim=claim, poll_due_ms=due))
    change = observe(row, view, rules, source="poll")
    kept = replace(change.submission, claim=claim, poll_due_ms=due)
    return Change(submission=kept, events=change.events, deliveries=change.deliveries)


# Our own clock


def expired(row: Submission, rules: Rules) -> Change | None:
    """The deadline has passed without an end."""
    if row.ended is not None or row.status == "refused" or row.claim is not None or rules.now_ms < row.deadline_ms:
        return None
    return lose(row, _why_lost(row), rules)


def _why_lost(row: Submission) -> str:
    if row.status == "prepared":
        return f"The request could not be sent before the deadline. {row.detail or ''}".strip()
    if row.task_id is None:
        return f"{row.detail or 'The answer to the submit was lost.'} No callback told what became of it."
    if row.misses:
        return f"The provider has given no word of task {row.task_id} in its last {row.misses} answers."
    return f"The provider still says {row.task_status or 'nothing'} of task {row.task_id} at the deadline."


# Media


def archived(row: Submission, media: tuple[Media, ...], rules: Rules) -> Change:
    """The result's files lie in the media store: what waited for them is due."""
    row = replace(row, media=media, media_problem=None, media_due_ms=None)
    return Change(submission=row, release_ms=rules.now_ms)


def not_archived(row: Submission, problem: str, permanent: bool, rules: Rules) -> Change:
    """A download failed. It is tried again on a schedule of minutes, unless that cannot help."""
    tries = row.media_tries + 1
    seconds = None if permanent else wait(MEDIA, tries)
    due = None if seconds is None else rules.now_ms + int(seconds * 1000)
    row = replace(row, media_problem=problem, media_tries=tries, media_due_ms=due)
    return Change(submission=row, release_ms=rules.now_ms if due is None else None)
