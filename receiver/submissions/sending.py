"""Send: what is journalled goes out once, and its answer goes to intake.

There is no idempotency key (PROTOCOL.md §1), so a request whose answer was lost is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from receiver.backoff import JOURNAL
from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, JournalError, MediaError, NotFound, Refused, Unreachable, Unreadable
from receiver.events import Submission
from receiver.followups import as_change, find_button
from receiver.inputs import data_uri
from receiver.intake import Intake
from receiver.intake.facts import replace
from receiver.journal import Change, Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.requests import with_pictures
from receiver.submissions.addresses import Addresses

log = structlog.get_logger("receiver.submissions")

CHANGE_AFTER = 3
"""Sends after which a relay that shows no buttons is taken for one that has none."""


class Sending:
    """Sends submissions, and replies to tasks that ask for input.

    Args:
        journal, provider, intake, store, clock: what it works with.
        addresses: gives each submission its `state` and callback URL.
        sending_ms: a `sending` row older than that was orphaned by a crash.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        addresses: Addresses,
        store: Store,
        clock: Clock,
        sending_ms: int,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._addresses = addresses
        self._store = store
        self._clock = clock
        self._sending_ms = sending_ms
        self._under_way: set[asyncio.Task[Submission]] = set()

    async def send(self, submission_id: str, *, tell: bool = False) -> Submission:
        """Send a prepared submission, once. One that another process is sending is left alone.

        Whoever is cancelled here leaves the exchange going (see `drain`): its answer is worth what the request costs.

        Args:
            submission_id: which.
            tell: nobody waits for the answer, so a refusal becomes an event.

        Raises:
            Refused: no task was made. With `retry` true the submission stays `prepared` and the engine sends it again.
            Ambiguous: the answer was lost; it is never sent again.
            Unreachable: nothing was sent.
            JournalError: the journal cannot be written; before the request, or with its answer in the log only.
        """
        return await self.exchange(self._send(submission_id, tell=tell), f"submit {submission_id}")

    async def exchange(self, talk: Coroutine[Any, Any, Submission], name: str) -> Submission:
        """Talk to the provider to the end, whoever stops waiting for it."""
        task = asyncio.create_task(talk, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def drain(self, grace: float) -> None:
        """Wait `grace` seconds for the answers under way. What is cut off then becomes `unknown` in time."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace)
            for task in late:
                log.warning("submission.cut_off", exchange=task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Submission]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, the row says the same

    async def _send(self, submission_id: str, *, tell: bool) -> Submission:
        row = await self._start(submission_id)
        if row is None:
            return await self.get(submission_id)
        try:
            kind, body = await self._request(row)
            accepted = await self._provider.submit(kind, body, speed=row.speed)
        except Refused as exc:
            await self._not_accepted(row, exc, tell=tell)
            raise
        except Unreachable as exc:
            await self._not_accepted(row, Refused(str(exc), outcome="unreachable", retry=tell), tell=tell)
            raise
        except Ambiguous as exc:
            after = await self.recorded(row, partial(self._intake.unanswered, row.id, str(exc)))
            if after.status != "accepted":
                raise
            return after  # a callback was faster than the answer that got lost
        except MediaError as exc:
            retry = tell and not exc.permanent
            error = Refused(f"A picture of the request is gone: {exc}", outcome="validation", retry=retry)
            await self._not_accepted(row, error, tell=tell)
            raise error from exc
        except InputError as exc:
            error = Refused(str(exc), outcome="validation", retry=False)
            await self._not_accepted(row, error, tell=tell)
            raise error from exc
        write = partial(self._intake.answered, row.id, accepted.task_ids, accepted.outcome)
        return await self.recorded(row, write, task=accepted.task_id)

    async def recorded(
        self, row: Submission, write: Callable[[], Awaitable[Submission]], *, task: str | None = None
    ) -> Submission:
        """Journal what the provider said; tried a few times, because it says it once. The log has it in any case."""
        for seconds in JOURNAL:
            try:
                return await write()
            except JournalError as exc:
                log.error("submission.recording", submission=row.id, task=task, problem=str(exc))
            await self._clock.sleep(seconds)
        return await write()

    async def _start(self, submission_id: str) -> Submission | None:
        """prepared → sending, in one transaction, so that only one process sends. None: somebody else does, or did."""
        due = self._clock.now_ms() + self._sending_ms
        started = False

        def decide(row: Submission) -> Change | None:
            nonlocal started
            if row.status != "prepared":
                return None
            if row.ended is not None:
                return Change(submission=replace(row, send_due_ms=None))  # it has ended, so it is never due again
            started = True
            return Change(submission=replace(row, status="sending", sends=row.sends + 1, send_due_ms=due))

        changed = await self._journal.change(submission_id, decide)
        return changed.submission if changed is not None and started else None

    async def _not_accepted(self, row: Submission, error: Refused, *, tell: bool) -> None:
        if error.retry:
            write = partial(self._intake.postponed, row.id, error.outcome, str(error), error.retry_after)
        else:
            write = partial(self._intake.refused, row.id, error, tell=tell)
        await self.recorded(row, write)

    async def get(self, submission_id: str) -> Submission:
        """Raises NotFound."""
        row = await self._journal.get(submission_id)
        if row is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        return row

    async def _request(self, row: Submission) -> tuple[str, dict[str, Any]]:
        """(kind, body) as it goes out: the journalled fields, the pictures, our state and callback URL. A button is
        looked up now, because its `customId` is not stable."""
        kind, body = await self._press(row) if row.button is not None else (row.kind, row.request)
        pictures = [(item.field, data_uri(await self._store.read(item.digest), item.type)) for item in row.inputs]
        return kind, with_pictures({**body, **self._addresses.of(row)}, pictures)

    async def _press(self, row: Submission) -> tuple[str, dict[str, Any]]:
        """A follow-up by button. Where a relay shows no buttons for good, `submit/change` says the common ones."""
        button, task_id = row.button or "", row.request["taskId"]
        try:
            task = await self._provider.fetch(task_id)
        except Unreadable as exc:
            raise Refused(str(exc), outcome="not_ready", retry=True) from exc
        if task is None:
            text = f"The provider does not know task {task_id} any more, so nothing can follow it."
            raise Refused(text, outcome="not_found", retry=False)
        if task.buttons:
            return "action", {**row.request, "customId": find_button(task, button).custom_id}
        change = as_change(button)
        if change is not None and row.sends > CHANGE_AFTER:
            return "change", {"taskId": task_id, "action": change[0], "index": change[1]}
        text = f"The provider shows no buttons of task {task_id}."
        raise Refused(text, outcome="not_ready", retry=row.sends <= CHANGE_AFTER)
