"""Reconcile: ask the provider about every task that has been silent for too long, and end what is overdue.

Polling is the ground truth (PROTOCOL.md §10): callbacks only make it faster. What the provider may answer, and what
comes of it; nothing of it ends a task but a task object of that very task, and our own deadline:

    429, 403 without a body, code 30     the account backs off, as long as Retry-After says, at most an hour
    429 whose Retry-After is nonsense    the account backs off: 5, 10, 20, 40 and then 60 s
    401, 403 (the key), 402 (quota)      the same
    redirect, 404 or HTML on every path  the same
    no connection, no TLS                the same
    a hang, a slow drip                  the same, after 20 s in all
    5xx, cut short, too long, packed     the tasks are fetched one by one, eight at most to begin with; when that
                                         makes no sense either, the same
    the list works, a fetch does not     a miss of that task; the others go on
    200 and nothing, `null`              a miss: that is how a provider says it does not know the task
    another task's object                a miss

A miss is counted, and asked about again at the usual pace. Both kinds are told once when they begin, a round of misses
when it is the third in a row, and once when they are over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence

import structlog

from receiver.clock import Clock
from receiver.engine.archiver import Archiver
from receiver.errors import MediaError, NotFound, PayloadError, ProviderError, Refused, TokenError, Unreadable
from receiver.events import Media, Submission
from receiver.health import ProviderHealth
from receiver.intake import Intake, Policy
from receiver.journal import Journal
from receiver.provider import Provider
from receiver.tasks import Task, decode_json, read_task
from receiver.tokens import Tokens

log = structlog.get_logger("receiver.engine.reconciler")

BATCH = 50
FETCHES = 8
"""Fetches at once."""
HINTS = 5
"""Tasks at most that are asked about for one submission, the last ones named."""
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
        health: ProviderHealth,
        intake: Intake,
        archiver: Archiver,
        tokens: Tokens,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._health = health
        self._intake = intake
        self._archiver = archiver
        self._tokens = tokens
        self._policy = policy
        self._clock = clock
        self._trouble: list[BaseException] = []

    async def reconcile_once(self) -> int:
        """Ask about what is due, then settle what is overdue: where nobody has asked for long, as in a function, a task
        may have ended well before its deadline. Returns how many submissions it moved.

        A submission that cannot be moved keeps no other back; what stopped it is raised at the end.
        """
        self._trouble = []
        moved = await self._poll() + await self._expire()
        if self._trouble:
            raise self._trouble[0]
        return moved

    async def _poll(self) -> int:
        if self._health.paused:
            return await self._settle_unasked()
        due = [(row, await self._tasks_of(row)) for row in await self._journal.due_polls(self._clock.now_ms(), BATCH)]
        ids = list(dict.fromkeys(id for _, ids in due for id in ids))
        answers: dict[str, Answer] = {}
        try:
            answers = await self._ask(ids)
        except ProviderError as exc:
            await self._health.failed(exc)
            return await self._settle_unasked()
        refusals = _of_the_account(answers)
        await self._judge(answers, refusals)
        # What the account was refused, or was not asked for any more, stays due.
        clear = answers.keys() - refusals.keys()
        return await self._all(
            self._take(row, [answers[id] for id in ids]) for row, ids in due if clear.issuperset(ids)
        )

    async def _tasks_of(self, row: Submission) -> list[str]:
        """The task bound; where there is none yet, those that the last callbacks named."""
        if row.task_id is not None:
            return [row.task_id]
        named = [_task_id(callback.body) for callback in await self._journal.callbacks(row.id, limit=4 * HINTS)]
        return list(dict.fromkeys(id for id in reversed(named) if id))[:HINTS]

    async def _ask(self, ids: list[str]) -> dict[str, Answer]:
        """What was answered for each task. Those a list leaves out are fetched one by one (PROTOCOL.md §6: a relay may
        forget some); so are all when the list makes no sense, because one task may have spoilt it.

        Fetches go out in waves, in any order. After one that brings nothing but trouble the rest waits for the next
        round: a provider that hangs would else hold up for minutes what the list has brought.

        Raises:
            ProviderError: nothing could be asked.
        """
        answers: dict[str, Answer] = {}
        problem: ProviderError | None = None
        listed: Mapping[str, Task] | None = None
        try:
            listed = await self._provider.list_tasks(ids)
        except Unreadable as exc:
            problem = exc
        answers.update(listed or {})
        left = [task_id for task_id in ids if task_id not in answers]
        random.shuffle(left)
        for start in range(0, len(left), FETCHES):
            wave = left[start : start + FETCHES]
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

    async def _judge(self, answers: Mapping[str, Answer], refusals: Mapping[str, Refused]) -> None:
        """What the round says of the provider."""
        if refusals:
            await self._health.failed(next(iter(refusals.values())))
        elif answers:
            await self._health.answered()
            words = sum(isinstance(answer, Task) for answer in answers.values())
            problem = next((str(answer) for answer in answers.values() if isinstance(answer, ProviderError)), UNKNOWN)
            self._health.heard(len(answers), words, problem)

    async def _all(self, moves: Iterable[Awaitable[object]]) -> int:
        """Side by side. A submission that was purged meanwhile needs nothing more."""
        results = await asyncio.gather(*moves, return_exceptions=True)
        failed = [error for error in results if isinstance(error, BaseException)]
        self._trouble += [error for error in failed if not isinstance(error, NotFound)]
        return len(results) - len(failed)

    async def _take(self, row: Submission, answers: Sequence[Answer]) -> None:
        views = [answer for answer in answers if isinstance(answer, Task)]
        if row.task_id is None:
            await self._identify(row, views)
            return
        view = next(iter(views), None)
        proof = await self._proof(row) if _contradicts(row, view) else ()
        await self._intake.polled(row.id, view, proof)

    async def _identify(self, row: Submission, views: Sequence[Task]) -> None:
        """Bind the task that holds our state token in the provider's own answer. What callbacks said counts nothing."""
        ours = next((view for view in views if self._made_for(view) == row.id), None)
        if ours is None:
            await self._intake.unidentified(row.id)
            return
        log.info("submission.identified", submission=row.id, task=ours.id)
        await self._intake.identified(row.id, ours)

    def _made_for(self, view: Task) -> str | None:
        """The submission whose token the task holds."""
        try:
            return self._tokens.read_state_token(view.state)
        except TokenError:
            return None

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
        # One from the future was made before the clock was set back: it is asked about anew.
        late = [row for row in due if row.claim is not None and not over < row.claim.since_ms <= now_ms]
        return await self._all(self._intake.polled(row.id, None) for row in late)

    async def _expire(self) -> int:
        now_ms = self._clock.now_ms()
        overdue = await self._journal.overdue(now_ms, limit=BATCH)
        return await self._all(
            self._intake.expired(row.id) for row in overdue if row.claim is None and not self._unasked(row, now_ms)
        )

    def _unasked(self, row: Submission, now_ms: int) -> bool:
        """Whether it waits to be asked about in a later round, which there will be."""
        return row.poll_due_ms is not None and row.poll_due_ms <= now_ms and not self._health.paused


UNKNOWN = "The provider knows none of them; check that the key and the address are those they were submitted with."


def _of_the_account(answers: Mapping[str, Answer]) -> dict[str, Refused]:
    """Refusals that mean everybody: to ask less; any other only where nothing was answered, because one task may be
    forbidden to us that others are not."""
    heard = any(not isinstance(answer, ProviderError) for answer in answers.values())
    refused = {id: answer for id, answer in answers.items() if isinstance(answer, Refused)}
    return {id: answer for id, answer in refused.items() if answer.retry or not heard}


def _contradicts(row: Submission, view: Task | None) -> bool:
    """Whether the provider says FAILURE where a doubly signed callback said SUCCESS."""
    claims_success = row.claim is not None and row.claim.task.status == "SUCCESS"
    return claims_success and view is not None and view.terminal and view.status != "SUCCESS"


def _task_id(body: bytes) -> str | None:
    """The task a kept callback names."""
    try:
        return read_task(decode_json(body)).id
    except PayloadError:
        return None
