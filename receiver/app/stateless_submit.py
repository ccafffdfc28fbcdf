"""Submits in stateless mode, without a journal: the endpoint that the provider calls delivers the result.

The submission's labels and destinations travel in its `state` (see `Tag`). `app.stateless` is the endpoint.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec

from receiver.app.container import provider_of
from receiver.clock import Clock
from receiver.errors import InputError, SettingsError
from receiver.events import Submission, new_id
from receiver.provider import Provider
from receiver.requests import Request, with_pictures
from receiver.settings import Settings, require_provider_key
from receiver.submissions import Addresses, Options
from receiver.submissions.inputs import data_uri, read_mask, read_picture
from receiver.tasks import Task
from receiver.telemetry import Log, learn
from receiver.tokens import Tag, Tokens, write_tag

log = Log("receiver.stateless")

_NEEDS_JOURNAL = {
    "state": "A state of your own has no room beside ours, but a label has",
    "auto": "Buttons cannot be pressed later, because nothing remembers them",
    "reply_to": "A URL for the reply cannot be used later, because nothing remembers it",
    "once": "A name cannot be unique, because nothing remembers it",
}


class StatelessSubmit:
    """Submits without a journal. `public_url` is the address of the endpoint for the provider."""

    def __init__(self, *, provider: Provider, tokens: Tokens, clock: Clock, public_url: str | None) -> None:
        self._provider = provider
        self._tokens = tokens
        self._clock = clock
        self._addresses = Addresses(tokens, public_url)

    async def submit(self, request: Request, options: Options | None = None) -> Submission:
        """Send a request and return the accepted submission. The provider must call the endpoint with its result.

        Raises:
            InputError: a value is wrong, or needs a journal. Nothing was sent.
            Refused: no task was made. Nothing sends it again.
            Ambiguous: the answer was lost. If a task was made, its callback is delivered all the same.
            Unreachable: nothing was sent.
        """
        options = options or Options()
        for name, why in _NEEDS_JOURNAL.items():
            if getattr(options, name):
                raise InputError(f"{why}. With a journal in a bucket there is one.", page="functions")
        if not self._addresses.hooked:
            raise InputError(
                "Without a journal a result comes by callback only, and RECEIVER_PUBLIC_URL is not set. "
                "Set it to the address of the endpoint.",
                page="functions",
            )
        options.check(options.to or ())  # only the endpoint knows the destinations
        now_ms = self._clock.now_ms()
        row = Submission(
            id=new_id(now_ms), kind=request.kind, created_ms=now_ms, prompt=request.prompt, request=request.body,
            speed=options.speed, labels=dict(options.labels), destinations=options.to, hooked=True, status="accepted",
            deadline_ms=now_ms,
        )  # fmt: skip
        tag = Tag(submission_id=row.id, destinations=row.destinations, labels=row.labels)
        address = {**self._addresses.of(row), "state": self._tokens.state_token(write_tag(tag))}
        pictures = [
            (item.field, data_uri(*await (read_mask if item.mask else read_picture)(item.source)))
            for item in request.pictures
        ]
        body = with_pictures({**request.body, **address}, pictures)
        accepted = await self._provider.submit(request.kind, body, speed=options.speed)
        log.info("submission.accepted", submission=row.id, task=accepted.task_id, outcome=accepted.outcome)
        return msgspec.structs.replace(row, task_id=accepted.task_id, outcome=accepted.outcome)

    async def ask(self, task_id: str) -> Task | None:
        """Return the task as the provider shows it now. None: it does not know it. Raise ProviderError."""
        return await self._provider.fetch(task_id)


@asynccontextmanager
async def open_stateless_submit(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[StatelessSubmit]:
    """Open a `StatelessSubmit`. No destination is opened.

    Raises:
        SettingsError: a setting is missing, wrong, or needs a journal.
    """
    check_keys(settings)
    key, keys = require_provider_key(settings), tuple(key.text for key in settings.keys)
    learn([*settings.secret_values(), key])
    clock = clock or Clock()
    async with aclosing(provider_of(settings, clock)) as provider:
        tokens = Tokens(keys, max_age=settings.token_max_age, clock=clock)
        yield StatelessSubmit(provider=provider, tokens=tokens, clock=clock, public_url=settings.public_url)


def check_keys(settings: Settings) -> None:
    """Raise SettingsError if there is no signing key."""
    if not settings.keys:
        raise SettingsError(
            "RECEIVER_KEYS is not set. Without a journal the submitting and the receiving program share nothing else: "
            "make one with `openssl rand -hex 32`, and set it at both."
        )
