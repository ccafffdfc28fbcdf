"""Intake: the one entry of facts. The submit answer, callbacks, polls and our own deadline make the same events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import msgspec
from msgspec.structs import replace

from receiver import metrics
from receiver.clock import Clock
from receiver.errors import NotFound, TooManyCallbacks
from receiver.events import TERMINAL_TYPES, Callback, Submission
from receiver.intake import transitions
from receiver.intake.pace import Durations
from receiver.intake.transitions import Policy, Route, Rules
from receiver.journal import Change, Changed, Journal
from receiver.journal.files import Outcome
from receiver.tasks import Task
from receiver.telemetry import Log, redact_body, redact_known, span

__all__ = ["Intake", "Policy", "Route", "Rules"]

P = ParamSpec("P")

log = Log("receiver.intake")


class Intake:
    """Runs transitions on the journal, logs the new events, and returns the changed row.

    Args:
        journal: holds the submissions.
        policy: the intervals.
        routes: the events that each destination gets.
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
        changed: Callable[[Submission], None] = lambda row: None,
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._routes = routes
        self._clock = clock
        self._durations = Durations()
        self.changed = changed

    async def take(
        self,
        submission_id: str,
        transition: Callable[Concatenate[Submission, Rules, P], Change | None],
        *facts: P.args,
        **more: P.kwargs,
    ) -> Submission:
        """Take facts about a submission by the transition that stands for them. Return the row after it.

        Raises:
            NotFound: there is no such submission.
            JournalError: nothing was journalled.
        """
        rules = self._rules()
        changed = await self._journal.change(submission_id, lambda row: transition(row, rules, *facts, **more))
        return self._report(submission_id, changed).submission

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool:
        """Journal a verified callback. It is committed when this returns, whether it is accepted or not.

        Returns:
            True if it was accepted, False if the provider is asked instead.

        Raises:
            NotFound: the token is ours, but there is no such submission.
            TooManyCallbacks: the submission has had its share.
            JournalError: nothing was journalled.
        """
        kept, one_token = redact_body(body, view.state.encode() if cause is None else b"")
        callback = Callback(submission_id=submission_id, received_ms=self._clock.now_ms(), cause=cause, body=kept)
        # Nearly every body holds one token alone, the good one in its `state`, and no escape that could hide another.
        clean = one_token and b"\\" not in body
        plain = replace(view, state="") if clean else _without_secrets(view)
        rules, size = self._rules(), len(kept)
        changed = await self._journal.change(
            submission_id, lambda row: transitions.received(row, rules, plain, cause, size), callback
        )
        if changed is not None and changed.refused:
            raise TooManyCallbacks(f"Submission {submission_id} has had its share of callbacks. It is polled.")
        changed = self._report(submission_id, changed)
        return changed.problem is None and cause is None and changed.submission.task_id == view.id

    async def polled(
        self, submission_id: str, view: Task | None, *, proof: bool = False, ours: bool = False
    ) -> Submission:
        """Take the provider's answer to a poll. None: it did not know the task, or was out of reach."""
        view = None if view is None else _without_secrets(view)
        return await self.take(submission_id, transitions.polled, view, proof=proof, ours=ours)

    async def identified(self, submission_id: str, view: Task) -> Submission:
        """Take the candidate that holds our state token in the provider's own answer."""
        return await self.take(submission_id, transitions.identified, _without_secrets(view))

    async def tried(self, submission_id: str, view: Task | None, outcomes: dict[str, Outcome]) -> Submission:
        """Take the outcomes of downloads of a result's files, by place."""
        view = None if view is None else _without_secrets(view)
        return await self.take(submission_id, transitions.tried, view, outcomes)

    def _rules(self) -> Rules:
        return Rules(now_ms=self._clock.now_ms(), policy=self._policy, routes=self._routes, durations=self._durations)

    def _report(self, submission_id: str, changed: Changed | None) -> Changed:
        if changed is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        if changed.problem is not None:
            log.error("callback.undecided", submission=submission_id, exc_info=changed.problem)
        for event in changed.events:
            if event.type == "task.progressed":
                continue  # ten for each task; the journal has them
            if event.type == "task.succeeded" and event.supersedes is None and not event.further:
                self._durations.learn(changed.submission, event)
            if event.type in TERMINAL_TYPES and not event.further:
                metrics.ENDS.add(event.type, event.source)
                metrics.TASK_SECONDS.observe((event.created_ms - changed.submission.created_ms) / 1000, event.type)
            with span("receiver.event", link=changed.submission.traceparent, event=event.id, source=event.source):
                pass  # its callback or poll, as a moment
            log.info(
                event.type,
                submission=submission_id,
                task=event.task_id,
                event_id=event.id,
                source=event.source,
                reason=event.reason,
                confirmed=event.confirmed,
            )
        self.changed(changed.submission)
        return changed


def _without_secrets(view: Task) -> Task:
    """Return the view without the echo of our token, and without secrets that the provider repeats in any text.

    Rows are shown to people and given to handlers.
    """
    plain = replace(view, state="")
    text = msgspec.json.encode(plain).decode()
    if "\\" not in text and redact_known(text) == text:
        return plain  # nearly every view
    return msgspec.convert(_redacted(msgspec.to_builtins(plain)), Task)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_known(value)
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value
