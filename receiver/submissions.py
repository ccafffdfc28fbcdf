"""Submit: journal the request, mint its tokens, send it once, and hand the answer to intake.

The submission is journalled before the HTTP call, because a callback can outrun the answer and a timed-out request may
have been charged. There is no idempotency key (PROTOCOL.md §1), so a request whose answer was lost is never sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, MediaError, NotFound, Refused, Unreachable
from receiver.events import Input, Submission, new_id
from receiver.inputs import MAX_PICTURES, data_uri, read_picture
from receiver.intake import Intake
from receiver.intake.facts import replace
from receiver.journal.base import Change, Journal
from receiver.media import MediaStore
from receiver.provider import Provider, check_speed, imagine_body
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

    async def prepare(self, request: Imagine) -> Submission:
        """Check a request and journal it. Nothing has gone out when this returns.

        Raises:
            InputError: something in the request cannot be sent.
            JournalError: it could not be journalled.
        """
        body = imagine_body(request.prompt, bot_type=request.bot_type, account_filter=request.account_filter)
        check_speed(request.speed)
        _check_labels(request.labels)
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

        `tell`: nobody waits for the answer, so a refusal becomes an event.

        Raises:
            Refused: no task was made. With `retry` true the submission stays `prepared` and the engine sends it again.
            Ambiguous: the answer was lost; it is never sent again.
            Unreachable: nothing was sent.
        """
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
            await self._intake.unanswered(row.id, str(exc))
            raise
        except MediaError as exc:
            error = Refused(f"A picture of the request is gone: {exc}", outcome="validation", retry=False)
            await self._not_accepted(row, error, tell=tell)
            raise error from exc
        return await self._intake.answered(row.id, accepted.task_id, accepted.outcome)

    async def send_once(self) -> int:
        """The engine's step: send what is due, and give up what a crash orphaned. Returns how many were due."""
        due = await self._journal.due_sends(self._clock.now_ms(), limit=10)
        for row in due:
            if row.status == "sending":
                text = "The answer to the submit was lost: the process that sent it has ended."
                await self._intake.unanswered(row.id, text)
            else:
                await self._send_quietly(row)
        return len(due)

    async def _send_quietly(self, row: Submission) -> None:
        try:
            await self.send(row.id, tell=True)
        except (Refused, Ambiguous, Unreachable) as exc:
            log.warning("submission.not_accepted", submission=row.id, problem=str(exc))

    async def _start(self, submission_id: str) -> Submission | None:
        """prepared → sending, in one transaction, so that only one process sends. None: somebody else does, or did."""
        due = self._clock.now_ms() + self._sending_ms
        started = False

        def decide(row: Submission) -> Change | None:
            nonlocal started
            if row.status != "prepared" or row.ended is not None:
                return None
            started = True
            return Change(submission=replace(row, status="sending", sends=row.sends + 1, send_due_ms=due))

        changed = await self._journal.change(submission_id, decide)
        return changed.submission if changed is not None and started else None

    async def _not_accepted(self, row: Submission, error: Refused, *, tell: bool) -> None:
        if error.retry:
            await self._intake.postponed(row.id, error.outcome, str(error), error.retry_after)
        else:
            await self._intake.refused(row.id, error, tell=tell)

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
