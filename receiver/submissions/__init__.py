"""Submissions: journal a request, mint its tokens, send it once, and give the answer to intake.

The submission is journalled before the HTTP call, because a callback can outrun the answer and a timed-out request may
have been charged. There is no idempotency key (PROTOCOL.md §1), so a request whose answer was lost is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import Any, Concatenate, ParamSpec

from msgspec.structs import replace

from receiver import metrics
from receiver.backoff import JOURNAL
from receiver.clock import Clock
from receiver.errors import (
    Ambiguous,
    Conflict,
    InputError,
    JournalError,
    MediaError,
    NotFound,
    ProviderError,
    Refused,
    Unreachable,
    Unreadable,
)
from receiver.events import Input, Reply, Submission, new_id
from receiver.intake import Intake, Rules, transitions
from receiver.intake.followups import as_change, find_button, follow_up, once_name
from receiver.intake.transitions import GRACE_MS
from receiver.journal import Change, Journal
from receiver.media import Store
from receiver.media.links import read_link
from receiver.provider import Provider
from receiver.requests import PictureField, Request, build, check_filter, check_task_id, with_pictures
from receiver.submissions.inputs import data_uri, read_mask, read_picture
from receiver.submissions.options import MAX_LABEL, MAX_LABELS, Options, check_button
from receiver.telemetry import Log, span, trace_headers
from receiver.tokens import MAX_CALLBACK_URL, Tokens

__all__ = ["MAX_LABEL", "MAX_LABELS", "Addresses", "Options", "Submissions"]

P = ParamSpec("P")

log = Log("receiver.submissions")

SENDS_AT_ONCE = 10
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
            InputError: the URL is longer than the provider allows.
        """
        state = self._tokens.state_token(row.id)
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


class Submissions:
    """Prepares and sends submissions, follow-ups and replies, and takes over tasks of other programs.

    Args:
        journal, provider, intake, tokens, store, clock: its collaborators.
        destinations: all names.
        reply_origins: those of each destination that posts to a submission's own URL.
        public_url: our address for the provider. None: no callback URL is sent, and results are polled.
        deadline_ms: time after which a task counts as lost.
        submit_timeout: seconds. A `sending` row older than that and a grace was orphaned by a crash.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        tokens: Tokens,
        store: Store,
        clock: Clock,
        destinations: Collection[str],
        reply_origins: Mapping[str, Collection[str]] | None = None,
        public_url: str | None,
        deadline_ms: int,
        submit_timeout: float,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._store = store
        self._clock = clock
        self._destinations = destinations
        self._reply_origins = reply_origins or {}
        self._deadline_ms = deadline_ms
        self._addresses = Addresses(tokens, public_url)
        self._sending_ms = int(submit_timeout * clock.speed * 1000) + GRACE_MS
        self._under_way: set[asyncio.Task[Submission]] = set()

    async def prepare(self, request: Request, options: Options | None = None) -> Submission:
        """Check a request and journal it. Nothing has been sent when this returns.

        Returns:
            The submission, or the one that already has the name `options.once`.

        Raises:
            InputError: something in the request or the options cannot be sent.
            Conflict: the name belongs to another request.
            MediaError: a picture could not be stored.
            JournalError: it could not be journalled.
        """
        options = options or Options()
        options.check(self._destinations, self._reply_origins)
        now_ms = self._clock.now_ms()
        submission = Submission(
            id=new_id(now_ms),
            kind=request.kind,
            created_ms=now_ms,
            prompt=request.prompt,
            request=request.body,
            inputs=tuple([await self._store_picture(picture) for picture in request.pictures]),
            hooked=self._addresses.hooked,
            send_due_ms=now_ms + GRACE_MS,
            deadline_ms=now_ms + self._deadline_ms,
        )
        return await self._add(_with_options(submission, options))

    async def follow_up(
        self,
        parent: Submission,
        button: str,
        options: Options | None = None,
        *,
        again: bool = False,
        prompt: str | None = None,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
    ) -> Submission:
        """Journal a follow-up by button. A second one of the same button gives the first one, unless `again`.

        Args:
            parent: its task must have succeeded.
            button: its name for people: `U2`, `reroll`, `zoom`, a label, an emoji.
            options: None inherits the parent's.
            again: press it once more although it was pressed before.
            prompt: the reply, if the button asks for input.
            mask: area to repaint, as a path or data URI, if the button asks for that.
            account_filter: the provider's accountFilter. None inherits the parent's.

        Raises:
            InputError: the parent has not succeeded, or has no such button.
            ProviderError: the buttons could not be fetched.
        """
        check_button(button)
        chosen = check_filter(account_filter)
        if parent.ended != "task.succeeded" or parent.task_id is None:
            raise InputError(
                f"Task {parent.task_id or parent.id} has not succeeded, so nothing can follow it. "
                f"See: receiver tasks show {parent.id}"
            )
        view = await self._provider.fetch(parent.task_id)
        if view is not None and view.buttons:
            find_button(view, button)
        now_ms = self._clock.now_ms()
        submission = follow_up(parent, button, now_ms=now_ms, deadline_ms=self._deadline_ms)
        request = submission.request if chosen is None else {**submission.request, "accountFilter": chosen}
        submission = replace(submission, request=request, send_due_ms=now_ms + GRACE_MS, hooked=self._addresses.hooked)
        if options is not None:
            options.check(self._destinations, self._reply_origins)
            submission = _with_options(submission, options)
        once = (options.once if options else None) if again else once_name(parent.id, button)
        reply = await self._reply(parent.task_id, prompt, mask) if prompt is not None or mask is not None else None
        return await self._add(replace(submission, once=once, reply=reply))

    async def reply(self, row: Submission, *, prompt: str | None = None, mask: str | None = None) -> Submission:
        """Journal the reply to a task that asks for input. `send_reply` sends it.

        Raises:
            InputError: the task does not ask for input, or the reply cannot be sent.
        """
        reply = await self._reply(row.task_id, prompt, mask)
        row = await self._intake.take(row.id, transitions.reply_given, reply)
        if row.reply != reply:
            raise InputError(f"Task {row.task_id} does not ask for input now. See: receiver tasks show {row.id}")
        return row

    async def adopt(self, task_id: str, options: Options | None = None) -> Submission:
        """Take over a task that another program submitted. It is followed and delivered like our own.

        Raises:
            InputError: the task id is malformed.
            NotFound: the provider does not know the task.
            ProviderError: the provider did not answer.
        """
        options = options or Options()
        options.check(self._destinations, self._reply_origins)
        task_id = check_task_id(task_id)
        view = await self._provider.fetch(task_id)
        if view is None:
            raise NotFound(f"The provider does not know task {task_id}. Check the id, and that the key is the same.")
        now_ms = self._clock.now_ms()
        submission = Submission(
            id=new_id(now_ms),
            kind=view.action.lower() or "imagine",
            created_ms=now_ms,
            prompt=view.prompt,
            request={},
            status="accepted",
            outcome="adopted",
            task_id=task_id,
            poll_due_ms=now_ms,
            deadline_ms=now_ms + self._deadline_ms,
        )
        row = await self._journal.add(replace(_with_options(submission, options), once=f"task {task_id}"))
        return await self._intake.polled(row.id, view) if row.ended is None else row

    async def upload(self, request: Request) -> list[str]:
        """Upload pictures and return their links, in order. No task is made, and nothing is journalled.

        Raises:
            InputError: a picture cannot be sent.
            ProviderError: the provider did not accept them.
        """
        pictures = [(item.field, data_uri(*await read_picture(item.source))) for item in request.pictures]
        body = with_pictures(request.body, pictures)
        return list((await self._provider.submit(request.kind, body, speed=None)).urls)

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

    async def send_or_keep(self, submission_id: str) -> Submission:
        """Send a prepared submission now. A busy provider is no error, because the engine sends it again.

        Raises as `send` otherwise.
        """
        try:
            return await self.send(submission_id)
        except Refused as exc:
            row = await self._journal.get(submission_id)
            if row is None or not exc.retry:
                raise
            return row

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

    async def send_once(self) -> int:
        """Send the submissions that are due, and give up those that a crash orphaned. Return how many were due.

        One that fails does not hold up the others. The first such error is raised at the end.
        """
        due = await self._journal.due("send", self._clock.now_ms(), limit=SENDS_AT_ONCE)
        errors = []
        for row in due:
            try:
                await self._send_due(row)
            except (Refused, Ambiguous, Unreachable) as exc:
                log.warning("submission.not_accepted", submission=row.id, problem=str(exc))
            except Exception as exc:
                errors.append(exc)
        if errors:
            raise errors[0]
        return len(due)

    async def _send_due(self, row: Submission) -> None:
        lost = "The answer to the {} was lost: the process that sent it has ended."
        if row.status == "sending":
            await self._intake.take(row.id, transitions.unanswered, lost.format("submit"))
        elif row.status == "accepted" and row.reply is not None:
            if row.reply.status == "sending":
                await self._intake.take(row.id, transitions.reply_unanswered, lost.format("reply"))
            else:
                await self.send_reply(row.id)
        elif row.ended is None and row.deadline_ms <= self._clock.now_ms():
            await self._intake.take(row.id, transitions.expired)  # its deadline has passed, so it must not be charged
        else:
            await self.send(row.id, background=True)

    async def _reply(self, task_id: str | None, prompt: str | None, mask: str | None) -> Reply:
        request = build("modal", task_id=task_id or "", prompt=prompt, mask=mask)
        body = {key: value for key, value in request.body.items() if key != "taskId"}
        masks = [await self._store_picture(picture) for picture in request.pictures]
        return Reply(body=body, mask=masks[0] if masks else None)

    async def _store_picture(self, picture: PictureField) -> Input:
        """Put a request's picture into the media store. The journal holds its digest and size."""
        data, type = await (read_mask if picture.mask else read_picture)(picture.source)
        media = await self._store.put_bytes(data, url="")
        return Input(digest=media.digest, type=type, size=media.size, field=picture.field)

    async def _add(self, submission: Submission) -> Submission:
        self._addresses.of(submission)  # a URL that is too long must fail before the submission is journalled
        row = await self._journal.add(submission)
        if row.id != submission.id and row.once_digest != submission.once_digest:
            raise Conflict(f"That name was given to another request before, which is submission {row.id}.")
        return row

    async def _send(self, submission_id: str, *, background: bool) -> Submission:
        trace = trace_headers().get("traceparent")
        row, begun = await self._begin(submission_id, partial(transitions.sending, traceparent=trace))
        if not begun or row.status != "sending":
            return row
        outcome = "validation"  # until something is sent
        try:
            kind, body = await self._press(row) if row.button is not None else (row.kind, row.request)
            body = await self._with_pictures({**body, **self._addresses.of(row)}, row.inputs)
            outcome = "ambiguous"  # also of an exchange that is cut off
            accepted = await self._provider.submit(kind, body, speed=row.speed)
            outcome = accepted.outcome
        except Ambiguous as exc:
            after = await self._recorded(row, transitions.unanswered, str(exc))
            if after.status != "accepted":
                raise
            return after  # a callback was faster than the answer that got lost
        except _NOT_SENT as exc:
            error = _refusal(exc, retry=background)
            outcome = error.outcome
            if error.retry:
                await self._recorded(row, transitions.postponed, outcome, str(error), error.retry_after)
            else:
                await self._recorded(row, transitions.refused, error, announce=background)
            if isinstance(exc, ProviderError):
                raise
            raise error from exc
        finally:
            metrics.SUBMISSIONS.add(row.kind, "engine" if background else metrics.door.get(), outcome)
        row = replace(row, task_id=accepted.task_id)
        return await self._recorded(row, transitions.answered, accepted.task_ids, outcome)

    async def _send_reply(self, submission_id: str) -> Submission:
        row, begun = await self._begin(submission_id, transitions.reply_sending)
        if not begun or row.reply is None:
            return row
        try:
            body = {"taskId": row.task_id, **row.reply.body}
            body = await self._with_pictures(body, (row.reply.mask,) if row.reply.mask else ())
            await self._provider.submit("modal", body, speed=row.speed)
        except Ambiguous as exc:
            await self._recorded(row, transitions.reply_unanswered, str(exc))
            raise
        except _NOT_SENT as exc:
            error = _refusal(exc, retry=True)
            await self._recorded(row, transitions.reply_postponed if error.retry else transitions.reply_refused, error)
            if isinstance(exc, ProviderError):
                raise
            raise error from exc
        return await self._recorded(row, transitions.replied)

    async def _begin(
        self, submission_id: str, begin: Callable[[Submission, int], Change | None]
    ) -> tuple[Submission, bool]:
        """Move a row to `sending` in one transaction, so that only one process sends. Return it, and True if we do."""
        due_ms, begun = self._clock.now_ms() + self._sending_ms, False

        def transition(row: Submission) -> Change | None:
            nonlocal begun
            change = begin(row, due_ms)
            begun = change is not None
            return change

        changed = await self._journal.change(submission_id, transition)
        if changed is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        return changed.submission, begun

    async def _recorded(
        self,
        row: Submission,
        transition: Callable[Concatenate[Submission, Rules, P], Change | None],
        *facts: P.args,
        **more: P.kwargs,
    ) -> Submission:
        """Journal the provider's answer. Tried a few times, because it comes once. The log has it in any case."""
        for seconds in JOURNAL:
            try:
                return await self._intake.take(row.id, transition, *facts, **more)
            except JournalError as exc:
                log.error("submission.recording", submission=row.id, task=row.task_id, problem=str(exc))
            await self._clock.sleep(seconds)
        return await self._intake.take(row.id, transition, *facts, **more)

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


_NOT_SENT = (Refused, Unreachable, MediaError, InputError)
"""Errors of a request that made no task."""


def _refusal(exc: Exception, *, retry: bool) -> Refused:
    """Return the refusal that an error stands for. `retry`: it is sent again once the provider or a picture is back."""
    if isinstance(exc, Refused):
        return exc
    if isinstance(exc, Unreachable):
        return Refused(str(exc), outcome="unreachable", retry=retry)
    if isinstance(exc, MediaError):
        text = f"A picture of the request is gone: {exc}"
        return Refused(text, outcome="validation", retry=retry and not exc.permanent)
    return Refused(str(exc), outcome="validation", retry=False)


def _with_options(submission: Submission, options: Options) -> Submission:
    return replace(
        submission,
        speed=options.speed or submission.speed,
        labels=dict(options.labels) or submission.labels,
        user_state=options.state if options.state is not None else submission.user_state,
        destinations=options.to or submission.destinations,
        auto=tuple(button.strip() for button in options.auto),
        reply_to=None if options.reply_to is None else str(read_link(options.reply_to)),
        once=options.once,
        once_digest=options.once_digest,
    )
