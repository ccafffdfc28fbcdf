"""Sending without a journal: what the endpoint must know of a submission travels in its `state`."""

from __future__ import annotations

import structlog

from receiver.clock import Clock
from receiver.errors import InputError
from receiver.events import Submission, new_id
from receiver.inputs import data_uri, read_mask, read_picture
from receiver.intake.facts import replace
from receiver.provider import Provider
from receiver.requests import PictureField, Request, with_pictures
from receiver.submissions import Options
from receiver.submissions.addresses import Addresses
from receiver.tags import Tag, write_tag
from receiver.tokens import Tokens

log = structlog.get_logger("receiver.courier")

_NEEDS_JOURNAL = {
    "state": "A state of your own has no room beside ours; use a label",
    "auto": "Buttons cannot be pressed by themselves, because nobody remembers them",
    "once": "No name can be taken once, because nobody remembers it",
}


class Sending:
    """Sends requests, and keeps nothing of them."""

    def __init__(self, *, provider: Provider, tokens: Tokens, clock: Clock, public_url: str | None) -> None:
        self._provider = provider
        self._tokens = tokens
        self._clock = clock
        self._addresses = Addresses(tokens, public_url)

    async def submit(self, request: Request, options: Options) -> Submission:
        """Send a request. Its result comes to the endpoint, if the provider calls it.

        Returns:
            The submission as it stands: accepted, with its task id.

        Raises:
            InputError: something cannot be sent without a journal, or at all; nothing was sent.
            Refused: no task was made; nothing sends it again.
            Ambiguous: the answer was lost. If a task was made, its callback is delivered all the same.
            Unreachable: nothing was sent.
        """
        row = self._prepare(request, options)
        address = {**self._addresses.of(row), "state": self._state(row)}
        pictures = [(item.field, await _read(item)) for item in request.pictures]
        body = with_pictures({**request.body, **address}, pictures)
        accepted = await self._provider.submit(request.kind, body, speed=options.speed)
        log.info("submission.accepted", submission=row.id, task=accepted.task_id, outcome=accepted.outcome)
        return replace(row, task_id=accepted.task_id, outcome=accepted.outcome)

    def _prepare(self, request: Request, options: Options) -> Submission:
        for name, why in _NEEDS_JOURNAL.items():
            if getattr(options, name):
                raise InputError(f"{why}. With a journal in a bucket there is one.")
        if not self._addresses.hooked:
            raise InputError(
                "Without a journal a result comes by callback only, and RECEIVER_PUBLIC_URL is not set. "
                "Set it to the address of the endpoint."
            )
        options.check(options.to or ())  # which destinations there are, the endpoint alone knows
        now_ms = self._clock.now_ms()
        return Submission(
            id=new_id(now_ms),
            kind=request.kind,
            created_ms=now_ms,
            prompt=request.prompt,
            request=request.body,
            speed=options.speed,
            labels=dict(options.labels),
            destinations=options.to,
            hooked=True,
            status="accepted",
            deadline_ms=now_ms,
        )

    def _state(self, row: Submission) -> str:
        tag = Tag(submission_id=row.id, destinations=row.destinations, labels=row.labels)
        return self._tokens.state_token(write_tag(tag))


async def _read(picture: PictureField) -> str:
    return data_uri(*await (read_mask if picture.mask else read_picture)(picture.source))
