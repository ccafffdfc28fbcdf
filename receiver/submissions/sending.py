"""Submit: journal the request, mint its tokens, send it once, and hand the answer to intake.

The submission is journalled before the HTTP call, because a callback can outrun the answer and a timed-out request may
have been charged. There is no idempotency key (PROTOCOL.md §1), so a request whose answer was lost is never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from receiver.backoff import JOURNAL
from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, JournalError, MediaError, NotFound, Refused, Unreachable
from receiver.events import Input, Submission, new_id
from receiver.inputs import MAX_PICTURES, data_uri, read_picture
from receiver.intake import Intake
from receiver.intake.facts import replace
from receiver.journal.base import Change, Journal
from receiver.media import MediaStore
from receiver.provider import Provider, check_speed, imagine_body
from receiver.tasks import clean_text
from receiver.tokens import MAX_CALLBACK_URL, MAX_STATE, Tokens

log = structlog.get_logger("receiver.submissions")

GRACE_MS = 30_000
"""How long a fresh submission belongs to whoever made it, before the engine takes it for an orphan of a crash."""
MAX_LABELS = 32
MAX_LABEL = 200
"""Characters of a label's name or value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagine:
    """A request for pictures from a prompt.

    Attributes:
        prompt: with the provider's own parameters in it (`--ar 3:2`).
        bot_type: MID_JOURNEY, NIJI_JOURNEY, or None for the provider's default.
        pictures: reference pictures, as paths or data URIs.
        account_filter: see PROTOCOL.md §2.
        speed: fast, turbo, relax, or None for the provider's default.
        labels: the caller's own names and values; every event carries them.
        state: the caller's own state; every event carries it.
    """

    prompt: str
    bot_type: str | None = None
    pictures: tuple[str, ...] = ()
    account_filter: Mapping[str, Any] | None = None
    speed: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None


class Submissions:
    """Prepares and sends submissions.

    Args:
        journal, provider, intake, tokens, store, clock: what it works with.
        public_url: where the provider can reach us; None: no callback URL is sent, and results are polled.
        deadline_ms: how long a task may take before it counts as lost.
        submit_timeout: seconds; a `sending` row older than that and a grace was orphaned by a crash.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        provider: Provider,
        intake: Intake,
        tokens: Tokens,
        store: MediaStore,
        clock: Clock,
        public_url: str | None,
        deadline_ms: int,
        submit_timeout: float,
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._intake = intake
        self._tokens = tokens
        self._store = store
        self._clock = clock
        self._public_url = public_url.rstrip("/") if public_url else None
        self._deadline_ms = deadline_ms
        self._sending_ms = int(submit_timeout * clock.speed * 1000) + GRACE_MS
        self._sending: set[asyncio.Task[Submission]] = set()

    async def prepare(self, request: Imagine) -> Submission:
        """Check a request and journal it. Nothing has gone out when this returns.

        Raises:
            InputError: something in the request cannot be sent.
            MediaError: a picture could not be kept.
            JournalError: it could not be journalled.
        """
        body = imagine_body(request.prompt, bot_type=request.bot_type, account_filter=request.account_filter)
        check_speed(request.speed)
        _check_labels(request.labels)
        _check_text("The state", request.state or "")
        inputs = await self._keep_pictures(request.pictures)
        now_ms = self._clock.now_ms()
        submission = Submission(
            id=new_id(now_ms),
            kind="imagine",
            created_ms=now_ms,
            prompt=body["prompt"],
            request=body,
            inputs=inputs,
            speed=request.speed,
            labels=dict(request.labels),
            user_state=request.state,
            hooked=self._public_url is not None,
            send_due_ms=now_ms + GRACE_MS,
            deadline_ms=now_ms + self._deadline_ms,
        )
        self._callback_fields(submission)  # a URL that is too long must fail before anything is journalled
        await self._journal.add(submission)
        return submission

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
        task = asyncio.create_task(self._send(submission_id, tell=tell), name=f"submit {submission_id}")
        self._sending.add(task)
        task.add_done_callback(self._sent)
        return await asyncio.shield(task)

    async def drain(self, grace: float) -> None:
        """Wait `grace` seconds for the answers under way. What is cut off then becomes `unknown` in time."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=grace)
            for task in late:
                log.warning("submission.cut_off", exchange=task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _sent(self, task: asyncio.Task[Submission]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, the row says the same

    async def _send(self, submission_id: str, *, tell: bool) -> Submission:
        row = await self._start(submission_id)
        if row is None:
            return await self._get(submission_id)
        try:
            body = await self._body(row)
            accepted = await self._provider.submit(row.kind, body, speed=row.speed)
        except Refused as exc:
            await self._not_accepted(row, exc, tell=tell)
            raise
        except Unreachable as exc:
            await self._not_accepted(row, Refused(str(exc), outcome="unreachable", retry=tell), tell=tell)
            raise
        except Ambiguous as exc:
            after = await self._recorded(row, partial(self._intake.unanswered, row.id, str(exc)))
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
        write = partial(self._intake.answered, row.id, accepted.task_id, accepted.outcome)
        return await self._recorded(row, write, task=accepted.task_id)

    async def _recorded(
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

    async def send_once(self) -> int:
        """The engine's step: send what is due, and give up what a crash orphaned. Returns how many were due.

        One that fails keeps no other back; the first such error is raised at the end.
        """
        due = await self._journal.due_sends(self._clock.now_ms(), limit=10)
        errors = []
        for row in due:
            try:
                await self._move(row)
            except (Refused, Ambiguous, Unreachable) as exc:
                log.warning("submission.not_accepted", submission=row.id, problem=str(exc))
            except Exception as exc:
                errors.append(exc)
        if errors:
            raise errors[0]
        return len(due)

    async def _move(self, row: Submission) -> None:
        if row.status == "sending":
            text = "The answer to the submit was lost: the process that sent it has ended."
            await self._intake.unanswered(row.id, text)
        elif row.ended is None and row.deadline_ms <= self._clock.now_ms():
            await self._intake.expired(row.id)  # nobody waits for it any more, so it must not be charged
        else:
            await self.send(row.id, tell=True)

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
        await self._recorded(row, write)

    async def _get(self, submission_id: str) -> Submission:
        row = await self._journal.get(submission_id)
        if row is None:
            raise NotFound(f"There is no submission {submission_id} in this journal.")
        return row

    async def _body(self, row: Submission) -> dict[str, Any]:
        """The request as it goes out: the journalled fields, the pictures, our state and callback URL."""
        body = {**row.request, **self._callback_fields(row)}
        if row.inputs:
            body["base64Array"] = [data_uri(await self._store.read(item.digest), item.type) for item in row.inputs]
        return body

    def _callback_fields(self, row: Submission) -> dict[str, str]:
        """`state` always; `notifyHook` when the provider can reach us: our URL with the token in its path, made of
        unreserved characters only, because the Java sender expands and encodes it again (PROTOCOL.md §7)."""
        state = self._tokens.state_token(row.id)
        if len(state) > MAX_STATE:
            raise InputError(f"The state token has more than {MAX_STATE} characters.")
        if not row.hooked or self._public_url is None:
            return {"state": state}
        hook = f"{self._public_url}/callbacks/{self._tokens.url_token(row.id)}"
        if len(hook) > MAX_CALLBACK_URL:
            raise InputError(
                f"The callback URL has {len(hook)} characters, more than {MAX_CALLBACK_URL}. "
                "Shorten RECEIVER_PUBLIC_URL."
            )
        return {"state": state, "notifyHook": hook}

    async def _keep_pictures(self, pictures: tuple[str, ...]) -> tuple[Input, ...]:
        """Put the request's pictures into the media store; the journal keeps digest and size."""
        if len(pictures) > MAX_PICTURES:
            raise InputError(f"A request takes at most {MAX_PICTURES} pictures, not {len(pictures)}.")
        checked = [await read_picture(picture) for picture in pictures]
        kept = [await self._store.put_bytes(data, url="") for data, _ in checked]
        return tuple(Input(digest=media.digest, type=media.type, size=media.size) for media in kept)


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InputError(f"A submission takes at most {MAX_LABELS} labels, not {len(labels)}.")
    for name, value in labels.items():
        if not name or len(name) > MAX_LABEL or len(value) > MAX_LABEL:
            raise InputError(f"The label {name[:40]!r} is empty or longer than {MAX_LABEL} characters.")
        _check_text(f"The label {name[:40]!r}", name + value)


def _check_text(what: str, text: str) -> None:
    """What no JSON and no database takes; a terminal hands it over when bytes are no UTF-8."""
    if clean_text(text) != text:
        raise InputError(f"{what} holds a NUL or half a character, which cannot be stored; remove it.")
