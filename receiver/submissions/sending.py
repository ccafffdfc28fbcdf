"""Sending: a journalled submission or reply goes to the provider once, and the answer goes to intake.

There is no idempotency key (PROTOCOL.md §1), so a request whose answer was lost is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from msgspec.structs import replace

from receiver import metrics
from receiver.backoff import JOURNAL
from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, JournalError, MediaError, NotFound, Refused, Unreachable, Unreadable
from receiver.events import Input, Submission
from receiver.intake import Intake
from receiver.intake.followups import as_change, find_button
from receiver.journal import Change, Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.requests import with_pictures
from receiver.submissions.inputs import data_uri
from receiver.telemetry import span, trace_headers
from receiver.tokens import MAX_CALLBACK_URL, MAX_STATE, Tokens

log = structlog.get_logger("receiver.submissions")

CHANGE_AFTER = 3
"""Sends after which a relay that shows no buttons counts as one that never does."""


class Addresses:
    """The `state` and the callback URL of a submission, each with a token.

    Args:
        tokens: signs them.
        public_url: our address for the provider. None: no callback URL is sent, and results are polled.
    """

    def __init__(self, tokens: Tokens, public_url: str | None) -> None:
        self._tokens = tokens
        self._public_url = public_url.rstrip("/") if public_url else None

    @property
    def hooked(self) -> bool:
        """True if callbacks can come at all."""
        return self._public_url is not None

    def of(self, row: Submission) -> dict[str, str]:
        """Return `state`, and `notifyHook` if the provider can reach us.

        The URL holds unreserved characters only, because the Java sender expands and encodes it again (PROTOCOL.md §7).

        Raises:
            InputError: one of them is longer than the provider allows.
        """
        state = self._tokens.state_token(row.id)
        if len(state) > MAX_STATE:
            raise InputError(f"The state token has more than {MAX_STATE} characters.")
        if not row.hooked or self._public_url is None:
            return {"state": state}
        hook = f"{self._public_url}/callbacks/{self._tokens.url_token(row.id)}"
        if len(hook) > MAX_CALLBACK_URL:
            raise InputError(
                f"The callback URL has {len(hook)} characters, more than {MAX_CALLBACK_URL}. "
                "Shorten RECEIVER_PUBLIC_URL.",
                page="proxy",
            )
        return {"state": state, "notifyHook": hook}


class Sending:
    """Sends submissions, and replies to tasks that ask for input.

    Args:
        journal, provider, intake, store, clock: its collaborators.
        addresses: gives each submission its `state` and callback URL.
        sending_ms: age at which a `sending` row was orphaned by a crash.
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

    async def send(self, submission_id: str, *, background: bool = False) -> Submission:
        """Send a prepared submission, once. If another process sends it, return the row as it is.

        If the caller is cancelled, the exchange goes on (see `drain`), because its answer is worth its cost.

        Args:
            submission_id: its id.
            background: True if no caller waits for the answer. Then a refusal becomes an event.

        Raises:
            Refused: no task was made. With `retry` true the submission stays `prepared` and the engine sends it again.
            Ambiguous: the answer was lost. It is never sent again.
            Unreachable: nothing was sent.
            JournalError: the journal cannot be written. After the request, its answer is in the log only.
        """
        with span("receiver.submit", submission=submission_id):
            return await self._shielded(self._send(submission_id, background=background), f"submit {submission_id}")

    async def send_reply(self, submission_id: str) -> Submission:
        """Send the waiting reply, once. If another process sends it, return the row as it is.

        Raises:
            Refused: the provider refused it. With `retry` true the engine sends it again.
            Ambiguous: the answer was lost. It is never sent again.
            Unreachable: nothing was sent. The engine sends it again.
        """
        return await self._shielded(self._send_reply(submission_id), f"reply {submission_id}")

    async def drain(self, grace: float) -> None:
        """Wait `grace` seconds for the answers under way. An exchange cut off then becomes `unknown` in time."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=grace)
            for task in late:
                log.warning("submission.cut_off", exchange=task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _shielded(self, exchange: Coroutine[Any, Any, Submission], name: str) -> Submission:
        """Run an exchange with the provider to its end, even if the caller is cancelled."""
        task = asyncio.create_task(exchange, name=name)

        def ended(task: asyncio.Task[Submission]) -> None:
            self._under_way.discard(task)
            if not task.cancelled():
                task.exception()  # the caller has it, and the row says the same

        self._under_way.add(task)
        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _send(self, submission_id: str, *, background: bool) -> Submission:
        trace = trace_headers().get("traceparent")

        def begin(row: Submission, due_ms: int) -> Submission | None:
            if row.status != "prepared":
                return None
            if row.ended is not None:
                return replace(row, send_due_ms=None)  # it has ended, so it is never due again
            return replace(row, status="sending", sends=row.sends + 1, send_due_ms=due_ms, traceparent=trace)

        row, started = await self._begin(submission_id, begin)
        if not started or row.status != "sending":
            return row
        try:
            with _counted(row.kind, background=background) as outcomes:
                kind, body = await self._press(row) if row.button is not None else (row.kind, row.request)
                body = await self._with_pictures({**body, **self._addresses.of(row)}, row.inputs)
                accepted = await self._provider.submit(kind, body, speed=row.speed)
                outcomes.append(accepted.outcome)
        except Refused as exc:
            await self._not_accepted(row, exc, background=background)
            raise
        except Unreachable as exc:
            error = Refused(str(exc), outcome="unreachable", retry=background)
            await self._not_accepted(row, error, background=background)
            raise
        except Ambiguous as exc:
            after = await self._recorded(row, partial(self._intake.unanswered, row.id, str(exc)))
            if after.status != "accepted":
                raise
            return after  # a callback was faster than the answer that got lost
        except (MediaError, InputError) as exc:
            text, retry = str(exc), False
            if isinstance(exc, MediaError):
                text, retry = f"A picture of the request is gone: {exc}", background and not exc.permanent
            error = Refused(text, outcome="validation", retry=retry)
            await self._not_accepted(row, error, background=background)
            raise error from exc
        write = partial(self._intake.answered, row.id, accepted.task_ids, accepted.outcome)
        return await self._recorded(row, write, task=accepted.task_id)

    async def _send_reply(self, submission_id: str) -> Submission:
        def begin(row: Submission, due_ms: int) -> Submission | None:
            if row.reply is None or row.reply.status != "waiting" or row.task_status != "MODAL" or row.ended:
                return None
            reply = replace(row.reply, status="sending", sends=row.reply.sends + 1)
            return replace(row, reply=reply, send_due_ms=due_ms)

        row, started = await self._begin(submission_id, begin)
        if not started or row.reply is None:
            return row
        try:
            body = {"taskId": row.task_id, **row.reply.body}
            body = await self._with_pictures(body, (row.reply.mask,) if row.reply.mask else ())
            await self._provider.submit("modal", body, speed=row.speed)
        except (Refused, Unreachable, MediaError) as exc:
            error = exc
            if not isinstance(error, Refused):
                retry = isinstance(error, Unreachable) or not error.permanent
                error = Refused(str(error), outcome="unreachable", retry=retry)
            write = self._intake.reply_postponed if error.retry else self._intake.reply_refused
            await self._recorded(row, partial(write, row.id, error))
            raise
        except Ambiguous as exc:
            await self._recorded(row, partial(self._intake.reply_unanswered, row.id, str(exc)))
            raise
        return await self._recorded(row, partial(self._intake.replied, row.id))

    async def _begin(
        self, submission_id: str, begin: Callable[[Submission, int], Submission | None]
    ) -> tuple[Submission, bool]:
        """Move a row to `sending` in one transaction, so that only one process sends. Return it, and True if we do."""
        due_ms = self._clock.now_ms() + self._sending_ms
        started = False

        def transition(row: Submission) -> Change | None:
            nonlocal started
            after = begin(row, due_ms)
            started = after is not None
            return None if after is None else Change(submission=after)

        changed = await self._journal.change(submission_id, transition)
        if changed is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        return changed.submission, started

    async def _recorded(
        self, row: Submission, write: Callable[[], Awaitable[Submission]], *, task: str | None = None
    ) -> Submission:
        """Journal the provider's answer. Tried a few times, because it comes once. The log has it in any case."""
        for seconds in JOURNAL:
            try:
                return await write()
            except JournalError as exc:
                log.error("submission.recording", submission=row.id, task=task, problem=str(exc))
            await self._clock.sleep(seconds)
        return await write()

    async def _not_accepted(self, row: Submission, error: Refused, *, background: bool) -> None:
        if error.retry:
            write = partial(self._intake.postponed, row.id, error.outcome, str(error), error.retry_after)
        else:
            write = partial(self._intake.refused, row.id, error, announce=background)
        await self._recorded(row, write)

    async def _with_pictures(self, body: dict[str, Any], inputs: tuple[Input, ...]) -> dict[str, Any]:
        pictures = [(item.field, data_uri(await self._store.read(item.digest), item.type)) for item in inputs]
        return with_pictures(body, pictures)

    async def _press(self, row: Submission) -> tuple[str, dict[str, Any]]:
        """Return (kind, body) of a follow-up by button, looked up now because its `customId` is not stable.

        If a relay never shows buttons, `submit/change` stands for the common ones.
        """
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


@contextmanager
def _counted(kind: str, *, background: bool) -> Iterator[list[str]]:
    """Count a send by its outcome: the one that the block appends to the list, or that of its error."""
    outcomes: list[str] = []
    try:
        yield outcomes
    except (Refused, Unreachable, Ambiguous, MediaError, InputError) as exc:
        other = "unreachable" if isinstance(exc, Unreachable) else "ambiguous" if isinstance(exc, Ambiguous) else None
        outcomes.append(exc.outcome if isinstance(exc, Refused) else other or "validation")
        raise
    finally:
        door = "engine" if background else metrics.door.get()
        metrics.SUBMISSIONS.add(kind, door, *outcomes or ["ambiguous"])
