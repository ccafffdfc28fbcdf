"""The one door in: the submit answer, callbacks, polls and our own deadline meet here and give the same events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from receiver.clock import Clock
from receiver.errors import NotFound, Refused
from receiver.events import Callback, Media, Reply, Submission
from receiver.intake import decisions, hints
from receiver.intake.rules import Policy, Route, Rules
from receiver.journal import Change, Changed, Journal
from receiver.tasks import Task

__all__ = ["Intake", "Policy", "Route", "Rules"]

log = structlog.get_logger("receiver.intake")


class Intake:
    """Runs decisions on the journal and says what came of them.

    Args:
        journal: where everything is written.
        policy: the pace.
        routes: what each destination wants.
        clock: the time.
        changed: called after each commit with the row, which may be due for something now.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        policy: Policy,
        routes: tuple[Route, ...],
        clock: Clock,
        changed: Callable[[Submission], None],
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._routes = routes
        self._clock = clock
        self._changed = changed

    async def answered(self, submission_id: str, task_ids: tuple[str, ...], outcome: str) -> Submission:
        """The provider took the request, and made one task or several."""
        return await self._decide(submission_id, partial(decisions.answered, task_ids=task_ids, outcome=outcome))

    async def refused(self, submission_id: str, error: Refused, *, tell: bool) -> Submission:
        """The provider made no task and never will."""
        return await self._decide(submission_id, partial(decisions.refused, error=error, tell=tell))

    async def postponed(self, submission_id: str, outcome: str, text: str, after: float | None) -> Submission:
        """No task was made; the request goes out again later."""
        decide = partial(decisions.postponed, outcome=outcome, text=text, after=after)
        return await self._decide(submission_id, decide)

    async def unanswered(self, submission_id: str, text: str) -> Submission:
        """The answer to the submit was lost or unclear."""
        return await self._decide(submission_id, partial(decisions.unanswered, text=text))

    async def reply_given(self, submission_id: str, reply: Reply) -> Submission:
        """A person has answered a task that asks for input."""
        return await self._decide(submission_id, partial(decisions.reply_given, reply=reply))

    async def replied(self, submission_id: str) -> Submission:
        """The provider took the reply."""
        return await self._decide(submission_id, decisions.replied)

    async def reply_postponed(self, submission_id: str, error: Refused) -> Submission:
        """The provider was too busy for the reply."""
        return await self._decide(submission_id, partial(decisions.reply_postponed, error=error))

    async def reply_refused(self, submission_id: str, error: Refused) -> Submission:
        """The provider will not take the reply."""
        return await self._decide(submission_id, partial(decisions.reply_refused, error=error))

    async def reply_unanswered(self, submission_id: str, text: str) -> Submission:
        """The answer to the reply was lost or unclear."""
        return await self._decide(submission_id, partial(decisions.reply_unanswered, text=text))

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool:
        """A verified callback: journalled before this returns, whatever becomes of it.

        Returns:
            Whether it was accepted; False when the provider is asked instead.

        Raises:
            NotFound: the token is ours, but there is no such submission.
            JournalError: nothing was journalled.
        """
        callback = Callback(submission_id=submission_id, received_ms=self._clock.now_ms(), cause=cause, body=body)
        decide = partial(decisions.received, view=_without_state(view), cause=cause)
        changed = await self._journal.change(submission_id, self._deciding(decide), callback)
        changed = self._report(submission_id, changed)
        return changed.problem is None and cause is None and changed.submission.task_id == view.id

    async def polled(self, submission_id: str, view: Task | None, proof: tuple[Media, ...] = ()) -> Submission:
        """The provider was asked; None: it did not know, or could not be reached."""
        view = None if view is None else _without_state(view)
        return await self._decide(submission_id, partial(decisions.polled, view=view, proof=proof))

    async def identified(self, submission_id: str, view: Task) -> Submission:
        """The provider's own answer about a task that a callback named holds our state token."""
        return await self._decide(submission_id, partial(hints.identified, view=_without_state(view)))

    async def unidentified(self, submission_id: str) -> Submission:
        """None of the tasks that callbacks named is known to be this submission's."""
        return await self._decide(submission_id, hints.unidentified)

    async def expired(self, submission_id: str) -> Submission:
        """Our own deadline has passed."""
        return await self._decide(submission_id, decisions.expired)

    async def archived(self, submission_id: str, media: tuple[Media, ...]) -> Submission:
        """The result's files lie in the media store."""
        return await self._decide(submission_id, partial(decisions.archived, media=media))

    async def not_archived(self, submission_id: str, problem: str, *, permanent: bool) -> Submission:
        """A download failed."""
        decide = partial(decisions.not_archived, problem=problem, permanent=permanent)
        return await self._decide(submission_id, decide)

    async def _decide(self, submission_id: str, decision: Callable[..., Change | None]) -> Submission:
        changed = await self._journal.change(submission_id, self._deciding(decision))
        return self._report(submission_id, changed).submission

    def _deciding(self, decision: Callable[..., Change | None]) -> Callable[[Submission], Change | None]:
        return partial(decision, rules=Rules(now_ms=self._clock.now_ms(), policy=self._policy, routes=self._routes))

    def _report(self, submission_id: str, changed: Changed | None) -> Changed:
        if changed is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        if changed.problem is not None:
            log.error("callback.undecided", submission=submission_id, exc_info=changed.problem)
        for event in changed.events:
            if event.type == "task.progressed":
                continue  # ten for each task; the journal has them
            log.info(
                event.type,
                submission=submission_id,
                task=event.task_id,
                event_id=event.id,
                source=event.source,
                reason=event.reason,
                confirmed=event.confirmed,
            )
        self._changed(changed.submission)
        return changed


def _without_state(view: Task) -> Task:
    """The view without the echo of our token: what is kept here is shown to people and handed to handlers."""
    return msgspec.structs.replace(view, state="")
