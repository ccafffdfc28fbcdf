"""Confirming: nothing binds a task to a submission here but the provider's own answer, which must show our `state`."""

from __future__ import annotations

import asyncio

import structlog
from ulid import ULID

from receiver.clock import Clock
from receiver.errors import MediaError, NotDelivered, ProviderError, TokenError
from receiver.events import Claim, Media, Submission
from receiver.intake import Policy, Route, Rules
from receiver.intake.decisions import polled
from receiver.intake.facts import observe, replace
from receiver.journal.base import Change
from receiver.media import Fetcher, Store
from receiver.provider import Provider
from receiver.tasks import Task
from receiver.tokens import Tag, Tokens

log = structlog.get_logger("receiver.courier")

PROOF_SECONDS = 10.0
"""How long the download of a result may take that the provider calls a failure."""


class Confirming:
    """Turns a callback that ends a task into what is owed, by the rules that hold with a journal, too.

    The provider is asked at once and again after 2, 5, 10, 16 and 30 s (shares of `policy.confirm_ms`).
    """

    def __init__(
        self,
        *,
        provider: Provider,
        fetcher: Fetcher,
        tokens: Tokens,
        policy: Policy,
        routes: tuple[Route, ...],
        clock: Clock,
    ) -> None:
        self._provider = provider
        self._fetcher = fetcher
        self._tokens = tokens
        self._policy = policy
        self._routes = routes
        self._clock = clock

    async def confirm(self, submission_id: str, view: Task, cause: str | None, store: Store) -> Change:
        """What the callback amounts to.

        Args:
            submission_id: by the callback's tokens.
            view: what the callback says; an end.
            cause: why it is not believed; None: both tokens agree.
            store: where a disputed result is downloaded to.

        Raises:
            NotDelivered: the provider did not show a task with our `state` in time, or shows another one.
        """
        row = _row(submission_id, view, self._clock.now_ms())
        if cause is None and self._policy.confirm_ms <= 0:
            row = _tagged(row, self._tokens.read_tag(view.state))
            return observe(row, _without_state(view), self._rules(), source="callback", confirmed=False)
        bound = False
        while True:
            fetched = await self._fetch(view.id)
            if fetched is not None and (tag := self._tag(submission_id, fetched)) is not None:
                row, bound = _tagged(replace(row, prompt=fetched.prompt or row.prompt), tag), True
            else:
                fetched = None  # not known to be ours yet, so its word counts nothing
            change = await self._settle(row, fetched, store)
            if change.submission.claim is None:
                break
            row = change.submission
            await self._clock.sleep(((row.poll_due_ms or 0) - self._clock.now_ms()) / 1000)
        if not bound:
            seconds = self._policy.confirm_ms / 1000
            raise NotDelivered(f"The provider did not show task {view.id} with our state within {seconds:g} s.")
        return change

    async def _fetch(self, task_id: str) -> Task | None:
        try:
            return await self._provider.fetch(task_id)
        except ProviderError as exc:
            log.info("task.unanswered", task=task_id, problem=str(exc))
            return None

    def _tag(self, submission_id: str, fetched: Task) -> Tag | None:
        """What the task's `state` carries; None as long as a relay shows none (PROTOCOL.md §5).

        Raises:
            NotDelivered: it is not this submission's, and never will be.
        """
        if not fetched.state:
            return None
        try:
            tag = self._tokens.read_tag(fetched.state)
        except TokenError:
            tag = None
        if tag is None or tag.submission_id != submission_id:
            raise NotDelivered(f"Task {fetched.id} is not the one that submission {submission_id} made.")
        return tag

    async def _settle(self, row: Submission, fetched: Task | None, store: Store) -> Change:
        proof: tuple[Media, ...] = ()
        if fetched is not None:
            fetched = _without_state(fetched)
            if row.claim is not None and row.claim.task.status == "SUCCESS" != fetched.status and fetched.terminal:
                proof = await self._proof(row.claim, store)
        return polled(row, fetched, self._rules(), proof)

    async def _proof(self, claim: Claim, store: Store) -> tuple[Media, ...]:
        """The files of a SUCCESS that the provider contradicts: if they can be had, its FAILURE is false."""
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                return await self._fetcher.fetch_all(claim.task.result_urls, store)
        except (MediaError, TimeoutError) as exc:
            log.info("claim.unproven", task=claim.task.id, problem=str(exc))
            return ()

    def _rules(self) -> Rules:
        return Rules(now_ms=self._clock.now_ms(), policy=self._policy, routes=self._routes)


def _row(submission_id: str, view: Task, now_ms: int) -> Submission:
    """The submission as far as a callback shows it, with the callback's word as a claim."""
    return Submission(
        id=submission_id,
        kind=view.action.lower() or "imagine",
        created_ms=ULID.from_str(submission_id).milliseconds,
        prompt=view.prompt,
        request={},
        status="accepted",
        hooked=True,
        task_id=view.id,
        deadline_ms=now_ms,
        claim=Claim(task=_without_state(view), since_ms=now_ms),
    )


def _tagged(row: Submission, tag: Tag) -> Submission:
    return replace(row, labels=dict(tag.labels), destinations=tag.destinations)


def _without_state(view: Task) -> Task:
    return replace(view, state="")
