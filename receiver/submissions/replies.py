"""Reply: answer a task that asks for input (MODAL). The same task goes on (PROTOCOL.md §2, modal)."""

from __future__ import annotations

from functools import partial

from receiver.clock import Clock
from receiver.errors import Ambiguous, MediaError, Refused, Unreachable
from receiver.events import Reply, Submission
from receiver.inputs import data_uri
from receiver.intake import Intake
from receiver.intake.facts import replace
from receiver.journal import Change, Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.requests import with_pictures
from receiver.submissions.sending import Sending


class Replies:
    """Sends the reply a submission holds, once its task asks for it."""

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        store: Store,
        sending: Sending,
        clock: Clock,
        sending_ms: int,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._store = store
        self._sending = sending
        self._clock = clock
        self._sending_ms = sending_ms

    async def send(self, submission_id: str) -> Submission:
        """Send the waiting reply, once. One that another process is sending is left alone.

        Raises:
            Refused: the provider did not take it. With `retry` true it goes out again by itself.
            Ambiguous: the answer was lost; it is never sent again.
            Unreachable: nothing was sent; it goes out again by itself.
        """
        return await self._sending.exchange(self._send(submission_id), f"reply {submission_id}")

    async def _send(self, submission_id: str) -> Submission:
        row = await self._start(submission_id)
        if row is None or row.reply is None:
            return await self._sending.get(submission_id)
        try:
            body = {"taskId": row.task_id, **row.reply.body}
            if mask := row.reply.mask:
                body = with_pictures(body, [(mask.field, data_uri(await self._store.read(mask.digest), mask.type))])
            await self._provider.submit("modal", body, speed=row.speed)
        except (Refused, Unreachable, MediaError) as exc:
            await self._not_taken(row, exc)
            raise
        except Ambiguous as exc:
            await self._sending.recorded(row, partial(self._intake.reply_unanswered, row.id, str(exc)))
            raise
        return await self._sending.recorded(row, partial(self._intake.replied, row.id))

    async def _not_taken(self, row: Submission, exc: Refused | Unreachable | MediaError) -> None:
        if isinstance(exc, Refused):
            error = exc
        else:
            retry = isinstance(exc, Unreachable) or not exc.permanent
            error = Refused(str(exc), outcome="unreachable", retry=retry)
        write = self._intake.reply_postponed if error.retry else self._intake.reply_refused
        await self._sending.recorded(row, partial(write, row.id, error))

    async def _start(self, submission_id: str) -> Submission | None:
        """waiting → sending, in one transaction. None: there is nothing to send, or somebody else does."""
        due = self._clock.now_ms() + self._sending_ms
        started: list[Reply] = []

        def decide(row: Submission) -> Change | None:
            if row.reply is None or row.reply.status != "waiting" or row.task_status != "MODAL" or row.ended:
                return None
            reply = replace(row.reply, status="sending", sends=row.reply.sends + 1)
            started.append(reply)
            return Change(submission=replace(row, reply=reply, send_due_ms=due))

        changed = await self._journal.change(submission_id, decide)
        return changed.submission if changed is not None and started else None
