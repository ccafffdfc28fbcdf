"""Reconcile: ask the provider about every task that has been silent for too long, and end what is overdue.

Polling is the ground truth (PROTOCOL.md §10). Callbacks only make it faster. Only a task object of that very task, or
our own deadline, ends a task. The provider's answers:

    429, 403 without a body, code 30     the account backs off, as long as Retry-After says, at most an hour
    429 whose Retry-After is nonsense    the account backs off: 5, 10, 20, 40 and then 60 s
    401, 403 (the key), 402 (quota)      the same
    redirect, 404 or HTML on every path  the same
    no connection, no TLS                the same
    a hang, a slow drip                  the same, after 20 s in all
    5xx, cut short, too long, packed     the tasks are fetched one by one, eight at most to begin with. If no fetch is
                                         answered either, the same
    the list works, a fetch does not     a miss of that task, and the others go on
    200 and nothing, `null`              a miss: a provider's way to say that it does not know the task
    another task's object                a miss

A miss is counted, and the task is polled again at the usual pace. A backoff is logged once when it begins and once when
it is over. So is a row of rounds with nothing but misses, from the third round on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress

from receiver.clock import Clock
from receiver.engine.archiver import Archiver
from receiver.engine.health import ProviderHealth
from receiver.errors import MediaError, NotFound, PayloadError, ProviderError, Refused, TokenError, Unreadable
from receiver.events import Submission
from receiver.intake import Intake, Policy, transitions
from receiver.intake.pace import Budget
from receiver.journal import Journal
from receiver.provider import Provider
from receiver.tasks import Task, decode_task
from receiver.telemetry import Log
from receiver.tokens import Tokens

log = Log("receiver.engine.reconciler")

BATCH = 50
TOGETHER_MS = 1000
"""Tasks due so soon are asked about in the same request."""
FETCHES = 8
"""Fetches at once."""
CANDIDATES = 5
"""Tasks asked about for one submission without a task: the last ones that callbacks named."""
UNASKED = 1000
"""Rows searched for claims while the provider is out of reach."""
PROOF_SECONDS = 10.0
UNKNOWN = "The provider knows none of them. Check that the key and the address are the ones they were submitted with."

Answer = Task | ProviderError | None
"""None: the provider does not know the task."""


class Reconciler:
    """Polls by due time, in batches.

    While the provider is out of reach (down, rate limit, wrong key) the whole account backs off. Rows stay due, and
    only claims whose time is over are settled without it.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        health: ProviderHealth,
        intake: Intake,
        archiver: Archiver,
        tokens: Tokens,
        policy: Policy,
        budget: Budget,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._health = health
        self._intake = intake
        self._archiver = archiver
        self._tokens = tokens
        self._policy = policy
        self._budget = budget
        self._clock = clock
        self._errors: list[BaseException] = []

    async def reconcile_once(self) -> int:
        """Poll the tasks that are due, then end the overdue ones. Return how many submissions changed.

        Polls come first, because after a long pause, as in a function, a task may have ended before its deadline. A
        submission that fails does not hold up the others. The first error is raised at the end.
        """
        self._errors = []
        moved = await self._poll() + await self._expire()
        if self._errors:
            raise self._errors[0]
        return moved

    async def _poll(self) -> int:
        if self._health.paused:
            return await self._settle_unasked()
        if wait := self._budget.wait(self._clock.monotonic()):
            await self._clock.sleep(wait)
        now_ms = self._clock.now_ms()
        rows = await self._journal.due("poll", now_ms + TOGETHER_MS, BATCH)
        if all((row.poll_due_ms or 0) > now_ms for row in rows):
            return 0
        due = [(row, await self._tasks_of(row)) for row in rows]
        try:
            answers = await self._ask(list(dict.fromkeys(id for _, ids in due for id in ids)))
        except ProviderError as exc:
            await self._health.failed(exc)
            return await self._settle_unasked()
        problems = {id: answer for id, answer in answers.items() if isinstance(answer, ProviderError)}
        # A refusal to ask so much concerns the account. Any other does only if nothing was answered: one task may be
        # forbidden that others are not.
        refusals = {
            id: answer
            for id, answer in problems.items()
            if isinstance(answer, Refused) and (answer.retry or len(problems) == len(answers))
        }
        if refusals:
            await self._health.failed(next(iter(refusals.values())))
        elif answers:
            await self._health.answered()
            known = sum(isinstance(answer, Task) for answer in answers.values())
            self._health.heard(len(answers), known, next((str(exc) for exc in problems.values()), UNKNOWN))
        # Tasks that the account was refused, or that were not asked about, stay due.
        clear = answers.keys() - refusals.keys()
        return await self._all(
            self._take(row, [answers[id] for id in ids]) for row, ids in due if clear.issuperset(ids)
        )

    async def _tasks_of(self, row: Submission) -> list[str]:
        """Return the bound task. Without one, return the candidates: the tasks that the last callbacks named."""
        if row.task_id is not None:
            return [row.task_id]
        named = []
        for callback in await self._journal.callbacks(row.id, limit=4 * CANDIDATES):
            with suppress(PayloadError):
                named.append(decode_task(callback.body).id)
        return list(dict.fromkeys(id for id in reversed(named) if id))[:CANDIDATES]

    async def _ask(self, ids: list[str]) -> dict[str, Answer]:
        """Return the answer for each task. Tasks that a list leaves out are fetched one by one, because a relay may
        forget some (PROTOCOL.md §6). If the list is unreadable, all are, because one task may have spoilt it.

        After a wave of fetches that all fail, the rest waits for the next round, so that a provider that hangs does not
        hold up the list's answers. Raise ProviderError if it is out of reach.
        """
        answers: dict[str, Answer] = {}
        problem: ProviderError | None = None
        listed: Mapping[str, Task] | None = None
        try:
            self._budget.spend(1)
            listed = await self._provider.list_tasks(ids)
        except Unreadable as exc:
            problem = exc
        answers.update(listed or {})
        left = [task_id for task_id in ids if task_id not in answers]
        random.shuffle(left)
        for start in range(0, len(left), FETCHES):
            wave = left[start : start + FETCHES]
            self._budget.spend(len(wave))
            fetched = await asyncio.gather(*map(self._fetch, wave))
            answers.update(zip(wave, fetched, strict=True))
            if all(isinstance(answer, ProviderError) for answer in fetched):
                break
        failed = [answer for answer in answers.values() if isinstance(answer, ProviderError)]
        if listed is None and failed and len(failed) == len(answers):
            raise next((answer for answer in failed if isinstance(answer, Refused)), problem or failed[0])
        return answers

    async def _fetch(self, task_id: str) -> Answer:
        try:
            return await self._provider.fetch(task_id)
        except ProviderError as exc:
            log.info("task.unanswered", task=task_id, problem=str(exc))
            return exc

    async def _all(self, changes: Iterable[Awaitable[object]]) -> int:
        """Run the changes side by side, and collect their errors. A submission purged meanwhile is none."""
        results = await asyncio.gather(*changes, return_exceptions=True)
        failed = [error for error in results if isinstance(error, BaseException)]
        self._errors += [error for error in failed if not isinstance(error, NotFound)]
        return len(results) - len(failed)

    async def _take(self, row: Submission, answers: Sequence[Answer]) -> None:
        views = [answer for answer in answers if isinstance(answer, Task)]
        if row.task_id is None:
            # Only our state token in the provider's own answer counts, whatever callbacks said.
            for view in views:
                if self._is_ours(view, row):
                    break
            else:
                await self._intake.take(row.id, transitions.unidentified)
                return
            log.info("submission.identified", submission=row.id, task=view.id)
            await self._intake.identified(row.id, view)
            return
        found = next(iter(views), None)
        claim = row.claim.task if row.claim is not None and row.claim.task.status == "SUCCESS" else None
        timed_out = found is not None and found.relay_timed_out
        proof = claim is not None and timed_out and await self._proof(row.id, claim)
        ours = found is not None and self._is_ours(found, row)
        await self._intake.polled(row.id, found, proof=proof, ours=ours)

    def _is_ours(self, view: Task, row: Submission) -> bool:
        """Return True if the provider's own answer holds our state token."""
        with suppress(TokenError):
            return self._tokens.read_state_token(view.state) == row.id
        return False

    async def _proof(self, submission_id: str, task: Task) -> bool:
        """Return True if a file of a claimed SUCCESS can be downloaded. Then the relay's own time-out is false.

        All polls wait for this one, so its time is short. The claim is polled again.
        """
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                return await self._archiver.proves(task)
        except (MediaError, TimeoutError) as exc:
            problem = str(exc) or f"no picture within {PROOF_SECONDS:g} s"
            log.info("claim.unproven", submission=submission_id, problem=problem)
            return False

    async def _settle_unasked(self) -> int:
        """Settle the claims whose time is over while the provider is out of reach. They may be the last rows due."""
        now_ms = self._clock.now_ms()
        due = await self._journal.due("poll", now_ms, limit=UNASKED)
        over = now_ms - self._policy.confirm_ms
        # A claim from the future was made before the clock was set back, and starts again.
        late = [row for row in due if row.claim is not None and not over < row.claim.since_ms <= now_ms]
        return await self._all(self._intake.polled(row.id, None) for row in late)

    async def _expire(self) -> int:
        """End the overdue submissions, except those that a later round will poll first."""
        now_ms, paused = self._clock.now_ms(), self._health.paused
        overdue = [row for row in await self._journal.due("deadline", now_ms, limit=BATCH) if row.claim is None]
        return await self._all(
            self._intake.take(row.id, transitions.expired)
            for row in overdue
            if paused or row.poll_due_ms is None or row.poll_due_ms > now_ms
        )
