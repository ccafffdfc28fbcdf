"""Reconcile: ask the provider about every task that has been silent for too long, and end what is overdue.

Polling is the ground truth (PROTOCOL.md §10): callbacks only make it faster.
"""

from __future__ import annotations

import structlog

from receiver.archiver import Archiver
from receiver.backoff import PROVIDER, wait_forever
from receiver.clock import Clock
from receiver.errors import MediaError, ProviderError, Refused
from receiver.events import Media, Submission
from receiver.intake import Intake, Policy
from receiver.journal.base import Journal
from receiver.provider import Provider
from receiver.tasks import Task

log = structlog.get_logger("receiver.reconciler")

BATCH = 50


class Reconciler:
    """Polls by due time, in batches.

    While the provider cannot be asked at all (down, rate-limited, wrong key) the whole account backs off together; rows
    stay due, and only claims whose time is over are settled without it.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        archiver: Archiver,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._archiver = archiver
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._not_before_ms = 0

    async def reconcile_once(self) -> int:
        """Ask about what is due, settle what is overdue. Returns how many submissions it moved."""
        expired = await self._expire()
        due = await self._journal.due_polls(self._clock.now_ms(), limit=BATCH)
        if not due:
            return expired
        if self._clock.now_ms() < self._not_before_ms:
            return expired + await self._settle_unasked(due)
        try:
            views = await self._ask(due)
        except ProviderError as exc:
            self._back_off(exc)
            return expired + await self._settle_unasked(due)
        self._recovered()
        for row in due:
            await self._take(row, views.get(row.task_id or ""))
        return expired + len(due)

    async def _ask(self, due: list[Submission]) -> dict[str, Task]:
        """Views by task id, the ids a list leaves out fetched one by one (PROTOCOL.md §6: a relay may forget some)."""
        ids = list(dict.fromkeys(row.task_id for row in due if row.task_id))
        views = await self._provider.list_tasks(ids)
        for task_id in ids:
            if task_id not in views and (view := await self._provider.fetch(task_id)) is not None:
                views[task_id] = view
        return views

    async def _take(self, row: Submission, view: Task | None) -> None:
        proof = await self._proof(row) if _contradicts(row, view) else ()
        await self._intake.polled(row.id, view, proof)

    async def _proof(self, row: Submission) -> tuple[Media, ...]:
        """The files of a claimed SUCCESS, if they can be downloaded: then the fetched FAILURE is false."""
        assert row.claim is not None  # noqa: S101 - `_contradicts` has looked
        try:
            return await self._archiver.download(row.claim.task.result_urls)
        except MediaError as exc:
            log.info("claim.unproven", submission=row.id, problem=str(exc))
            return ()

    async def _settle_unasked(self, due: list[Submission]) -> int:
        """Claims whose time is over while nobody can be asked."""
        over = self._clock.now_ms() - self._policy.confirm_ms
        late = [row for row in due if row.claim is not None and row.claim.since_ms <= over]
        for row in late:
            await self._intake.polled(row.id, None)
        return len(late)

    async def _expire(self) -> int:
        overdue = await self._journal.overdue(self._clock.now_ms(), limit=BATCH)
        waiting = [row for row in overdue if row.claim is None]
        for row in waiting:
            await self._intake.expired(row.id)
        return len(waiting)

    def _back_off(self, error: ProviderError) -> None:
        self._failures += 1
        asked = (error.retry_after or 0) if isinstance(error, Refused) else 0
        seconds = max(wait_forever(PROVIDER, self._failures), asked)
        self._not_before_ms = self._clock.now_ms() + int(seconds * 1000)
        level = log.warning if self._failures == 1 else log.debug
        level("provider.unavailable", problem=str(error), again_in=round(seconds))

    def _recovered(self) -> None:
        if self._failures:
            log.info("provider.recovered", failures=self._failures)
        self._failures = 0


def _contradicts(row: Submission, view: Task | None) -> bool:
    """Whether the provider says FAILURE where a doubly signed callback said SUCCESS."""
    claims_success = row.claim is not None and row.claim.task.status == "SUCCESS"
    return claims_success and view is not None and view.terminal and view.status != "SUCCESS"
