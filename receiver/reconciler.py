"""Reconcile: ask the provider about every task that has been silent for too long, and end what is overdue.

Polling is the ground truth (PROTOCOL.md §10): callbacks only make it faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping

import structlog

from receiver.archiver import Archiver
from receiver.backoff import PROVIDER, wait_forever
from receiver.clock import Clock
from receiver.errors import MediaError, NotFound, ProviderError, Refused, Unreadable
from receiver.events import Media, Submission
from receiver.intake import Intake, Policy
from receiver.journal.base import Journal
from receiver.provider import Provider
from receiver.tasks import Task

log = structlog.get_logger("receiver.reconciler")

BATCH = 50
FETCHES = 8
"""Fetches at once."""
UNASKED = 1000
"""Rows looked at for claims while nobody can be asked."""
PROOF_SECONDS = 10.0

Answer = Task | ProviderError | None
"""None: the provider does not know the task."""


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
        self._pause_ms = 0
        self._trouble: list[BaseException] = []

    async def reconcile_once(self) -> int:
        """Ask about what is due, settle what is overdue. Returns how many submissions it moved.

        A submission that cannot be moved keeps no other back; what stopped it is raised at the end.
        """
        self._trouble = []
        moved = await self._expire() + await self._poll()
        if self._trouble:
            raise self._trouble[0]
        return moved

    async def _poll(self) -> int:
        if self._paused():
            return await self._settle_unasked()
        due = await self._journal.due_polls(self._clock.now_ms(), limit=BATCH)
        if not due:
            return 0
        try:
            answers = await self._ask(list(dict.fromkeys(row.task_id for row in due if row.task_id)))
        except ProviderError as exc:
            self._back_off(exc)
            return await self._settle_unasked()
        self._recovered()
        refusals = [answer for answer in answers.values() if isinstance(answer, Refused)]
        if refusals:
            self._back_off(refusals[0])
        return await self._each([row for row in due if not isinstance(self._of(row, answers), Refused)], answers)

    async def _ask(self, ids: list[str]) -> dict[str, Answer]:
        """What was answered for each task. Those a list leaves out are fetched one by one (PROTOCOL.md §6: a relay may
        forget some); so are all when the list makes no sense, because one task may have spoilt it.

        Raises:
            ProviderError: nothing could be asked.
        """
        answers: dict[str, Answer] = {}
        unread: Unreadable | None = None
        try:
            answers.update(await self._provider.list_tasks(ids))
        except Unreadable as exc:
            unread = exc
        left = [task_id for task_id in ids if task_id not in answers]
        gate = asyncio.Semaphore(FETCHES)
        answers.update(zip(left, await asyncio.gather(*(self._fetch(id, gate) for id in left)), strict=True))
        if unread is not None and all(isinstance(answer, ProviderError) for answer in answers.values()):
            raise next((answer for answer in answers.values() if isinstance(answer, Refused)), unread)
        return answers

    async def _fetch(self, task_id: str, gate: asyncio.Semaphore) -> Answer:
        async with gate:
            try:
                return await self._provider.fetch(task_id)
            except ProviderError as exc:
                log.info("task.unanswered", task=task_id, problem=str(exc))
                return exc

    async def _each(self, rows: list[Submission], answers: Mapping[str, Answer]) -> int:
        return await self._all(self._take(row, self._of(row, answers)) for row in rows)

    @staticmethod
    def _of(row: Submission, answers: Mapping[str, Answer]) -> Answer:
        return answers.get(row.task_id or "")

    async def _all(self, moves: Iterable[Awaitable[object]]) -> int:
        """Side by side. A submission that was purged meanwhile needs nothing more."""
        results = await asyncio.gather(*moves, return_exceptions=True)
        failed = [error for error in results if isinstance(error, BaseException)]
        self._trouble += [error for error in failed if not isinstance(error, NotFound)]
        return len(results) - len(failed)

    async def _take(self, row: Submission, answer: Answer) -> None:
        view = answer if isinstance(answer, Task) else None
        proof = await self._proof(row) if _contradicts(row, view) else ()
        await self._intake.polled(row.id, view, proof)

    async def _proof(self, row: Submission) -> tuple[Media, ...]:
        """The files of a claimed SUCCESS, if they can be downloaded: then the fetched FAILURE is false.

        Everybody's polls wait for this one, so it may not take long; the claim is asked about again.
        """
        assert row.claim is not None  # noqa: S101 - `_contradicts` has looked
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                return await self._archiver.download(row.claim.task.result_urls)
        except (MediaError, TimeoutError) as exc:
            log.info("claim.unproven", submission=row.id, problem=str(exc) or f"no picture within {PROOF_SECONDS:g} s")
            return ()

    async def _settle_unasked(self) -> int:
        """Claims whose time is over while nobody can be asked. They stand behind everything else that is due."""
        now_ms = self._clock.now_ms()
        due = await self._journal.due_polls(now_ms, limit=UNASKED)
        over = now_ms - self._policy.confirm_ms
        # One from the future was made before the clock was set back: it begins anew.
        late = [row for row in due if row.claim is not None and not over < row.claim.since_ms <= now_ms]
        return await self._each(late, {})

    async def _expire(self) -> int:
        overdue = await self._journal.overdue(self._clock.now_ms(), limit=BATCH)
        return await self._all(self._intake.expired(row.id) for row in overdue if row.claim is None)

    def _paused(self) -> bool:
        """The upper bound frees us when the clock was set back."""
        return 0 < self._not_before_ms - self._clock.now_ms() <= self._pause_ms

    def _back_off(self, error: ProviderError) -> None:
        self._failures += 1
        asked = (error.retry_after or 0) if isinstance(error, Refused) else 0
        seconds = max(wait_forever(PROVIDER, self._failures), asked)
        self._pause_ms = int(seconds * 1000)
        self._not_before_ms = self._clock.now_ms() + self._pause_ms
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
