"""Stateless mode, without a journal: a callback is confirmed and delivered in the request that brings it.

The submission's labels and destinations travel in its `state` (see `Tag`). A callback becomes a submission of a
temporary SQLite journal, and the engine runs on that until idle.

    neither token is ours                    401 as everywhere, and nothing is done
    no end (progress, MODAL)                 200, because nothing is delivered
    an end, and every delivery succeeded     200
    an end that was not delivered in time    500, and the rest is tried again when the callback comes again

Nothing is stored beyond the process. The same event has the same idempotency key in every process, so that a
destination that remembers keys gets it once.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import structlog
from starlette.applications import Starlette
from ulid import ULID

from receiver.app.container import provider_of
from receiver.app.factory import open_runtime
from receiver.backoff import CONFIRM
from receiver.clock import Clock
from receiver.engine.engine import Engine
from receiver.errors import InputError, NotDelivered, ProviderError, SettingsError, TokenError
from receiver.events import Submission, new_id
from receiver.intake import Intake
from receiver.journal import Journal
from receiver.journal.selection import Order
from receiver.provider import Provider
from receiver.requests import Request, with_pictures
from receiver.settings import Settings, require_provider_key
from receiver.submissions import Options
from receiver.submissions.inputs import data_uri, read_mask, read_picture
from receiver.submissions.sending import Addresses
from receiver.tasks import Task
from receiver.telemetry import learn
from receiver.tokens import Tag, Tokens, write_tag
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz

log = structlog.get_logger("receiver.stateless")

BUDGET = 20.0
"""Seconds for the download and all deliveries of one callback together, after its confirmation."""
REMEMBERED = 1000
"""Submissions in the temporary journal, because senders repeat the end after some seconds (PROTOCOL.md §7)."""
AT_ONCE = 64
"""Callbacks in one process. Each holds files on disk and an open request until it is delivered."""
_NEEDS_JOURNAL = {
    "state": "A state of your own has no room beside ours, but a label has",
    "auto": "Buttons cannot be pressed later, because nothing remembers them",
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


@dataclass(kw_only=True, eq=False)
class StatelessReceive:
    """Takes callbacks in the place of `Intake`. Its parts share a temporary journal."""

    journal: Journal
    intake: Intake
    engine: Engine
    provider: Provider
    tokens: Tokens
    clock: Clock
    destinations: Collection[str]  # all names
    confirm_seconds: float  # time for the provider to confirm a result. 0 accepts a doubly signed callback
    budget: float = BUDGET
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary, init=False)

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool:
        """Confirm and deliver a verified callback. Return True if it was delivered, or is no end.

        `cause` is the reason not to accept it without the provider, or None if both tokens agree.

        Raises:
            NotDelivered: it could not be confirmed, or a destination did not get it. The text has the reason.
        """
        if not view.terminal:
            return True
        turn = self._turns.setdefault(submission_id, asyncio.Lock())
        async with turn:
            row = await self.journal.get(submission_id)
            if row is None:
                await self._add(submission_id, view, cause)
                await self.intake.received(submission_id, view, body, None)
            else:
                await self._retry(row)
            await self.engine.run_until_idle(self.confirm_seconds + self.budget, look=False)
            await self._check(submission_id)
        return True

    async def _add(self, submission_id: str, view: Task, cause: str | None) -> None:
        """Journal the submission of a callback. Its tokens may leak, so the provider must show the task with our
        `state`."""
        if cause is None and self.confirm_seconds <= 0:
            tag = self.tokens.read_tag(view.state)
        else:
            tag = await self._shown_tag(submission_id, view)
        unknown = [name for name in tag.destinations or () if name not in self.destinations]
        if unknown:
            raise NotDelivered(
                f"Submission {submission_id} names the destination {unknown[0]!r}, which is not here. "
                f"There are: {', '.join(sorted(self.destinations))}."
            )
        now_ms = self.clock.now_ms()
        await self.journal.add(
            Submission(
                id=submission_id,
                kind=view.action.lower() or "imagine",
                created_ms=ULID.from_str(submission_id).milliseconds,
                prompt=view.prompt,
                request={},
                labels=dict(tag.labels),
                destinations=tag.destinations,
                hooked=True,
                status="accepted",
                task_id=view.id,
                deadline_ms=now_ms + int(self.confirm_seconds * 1000),  # the request cannot wait longer
            )
        )
        self._seen[submission_id] = None
        while len(self._seen) > REMEMBERED:
            oldest, _ = self._seen.popitem(last=False)
            await self.journal.erase(oldest, force=True)

    async def _shown_tag(self, submission_id: str, view: Task) -> Tag:
        """Return the tag in the provider's own answer about a task. Asked at 0, 2, 5, 10, 16 and 30 s, because a relay
        shows `state` late (PROTOCOL.md §5). Raise NotDelivered if it shows none in time, or another submission's."""
        clock, seconds = self.clock, self.confirm_seconds
        began = clock.monotonic()
        for share in CONFIRM:
            await clock.sleep(began + share * seconds - clock.monotonic())
            try:
                shown = await self.provider.fetch(view.id)
            except ProviderError as exc:
                log.info("task.unanswered", task=view.id, problem=str(exc))
                continue
            if shown is None or not shown.state:
                continue
            with suppress(TokenError):
                if (tag := self.tokens.read_tag(shown.state)).submission_id == submission_id:
                    return tag
            raise NotDelivered(f"Task {view.id} is not the one that submission {submission_id} made.")
        raise NotDelivered(f"The provider did not show task {view.id} with our state within {seconds:g} s.")

    async def _retry(self, row: Submission) -> None:
        """Continue after an earlier callback: poll again, and make failed deliveries due."""
        self.engine.changed(row)
        left = [
            Order(event_id=item.event_id, submission_id=row.id, destination=item.destination, delivery_id=item.id)
            for item in await self.journal.deliveries(limit=1000, submission_id=row.id)
            if item.status in ("pending", "dead")
        ]
        if left:
            await self.journal.replay(left, self.clock.now_ms())
            self.engine.changed(row)

    async def _check(self, submission_id: str) -> None:
        row = await self.journal.get(submission_id)
        if row is None or row.ended is None:
            raise NotDelivered(f"Submission {submission_id} could not be confirmed in time.")
        problems = sorted(
            f"{item.destination}: {item.detail or 'it was not delivered in time'}"
            for item in await self.journal.deliveries(limit=1000, submission_id=submission_id)
            if item.status not in ("succeeded", "cancelled")
        )
        if problems:
            event_id = f"{submission_id}.{row.ended}"
            raise NotDelivered(f"Event {event_id} did not reach every destination. {'; '.join(problems)}")


@asynccontextmanager
async def open_stateless_submit(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[StatelessSubmit]:
    """Open a `StatelessSubmit`. No destination is opened.

    Raises:
        SettingsError: a setting is missing, wrong, or needs a journal.
    """
    _check_settings(settings)
    key, keys = require_provider_key(settings), tuple(key.get_secret_value() for key in settings.keys)
    learn([*settings.secret_values(), key])
    clock = clock or Clock()
    provider = provider_of(settings, clock)
    try:
        tokens = Tokens(keys, max_age=settings.token_max_age, clock=clock)
        yield StatelessSubmit(provider=provider, tokens=tokens, clock=clock, public_url=settings.public_url)
    finally:
        await provider.aclose()


@asynccontextmanager
async def open_stateless_receive(
    settings: Settings, *, budget: float = BUDGET, clock: Clock | None = None
) -> AsyncIterator[StatelessReceive]:
    """Open a `StatelessReceive` on a temporary journal.

    Raises:
        SettingsError: a setting is missing, wrong, or needs a journal.
    """
    _check_settings(settings)
    for item in settings.resolved_destinations():
        if item.progress or {"task.accepted", "task.progressed"} & set(item.events):
            raise SettingsError(
                f"Destination {item.name}: progress needs a journal, which remembers earlier events. Remove it, or "
                "keep a journal in a bucket."
            )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-")))
        temporary = settings.model_copy(
            update={"database": f"sqlite:{folder / 'receiver.db'}", "data": folder, "media": None}
        )
        runtime = await stack.enter_async_context(open_runtime(temporary, clock=clock, function=True, steady=True))
        runtime.engine.progress = False
        yield StatelessReceive(
            journal=runtime.journal,
            intake=runtime.intake,
            engine=runtime.engine,
            provider=runtime.provider,
            tokens=runtime.tokens,
            clock=runtime.clock,
            destinations=runtime.destinations.keys(),
            confirm_seconds=settings.confirm_within,
            budget=budget,
        )


def stateless_app(receive: StatelessReceive, *, seconds: float) -> Starlette:
    """Return the web application for callbacks and health. A callback that takes longer than `seconds` gets a 503."""
    admission = Admission(None, most=AT_ONCE, max_wait=seconds, kept="It may have been delivered in part.")
    return create_app(
        callbacks=Callbacks(intake=receive, tokens=receive.tokens, admission=admission), readyz=Readyz({})
    )


def _check_settings(settings: Settings) -> None:
    if not settings.keys:
        raise SettingsError(
            "RECEIVER_KEYS is not set. Without a journal the submitting and the receiving program share nothing else: "
            "make one with `openssl rand -hex 32`, and set it at both."
        )
