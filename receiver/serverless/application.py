"""The ASGI application of a function: whatever a request begins is carried on before its answer is given."""

from __future__ import annotations

import asyncio
import hmac
import tempfile
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.clock import Clock
from receiver.courier import BUDGET
from receiver.errors import JournalError, ReceiverError, SettingsError
from receiver.runtime import Shifts, courier_app, open_courier, open_runtime
from receiver.settings import Destination, Settings, load
from receiver.telemetry import configure, learn, use_logging
from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.serverless")

LIMIT = 120.0
"""Seconds the platform gives a request, if nobody says otherwise."""
SPARE = 5.0
"""Of these, what opening and closing a shift may take."""
TICK = "/tick"


def asgi(*, budget: float = BUDGET, limit: float = LIMIT, **settings: Any) -> Application:
    """An application for Cloud Run, Vercel, or whatever serves ASGI and lets nothing go on after the answer.

    Args:
        budget: seconds a callback may be held to deliver what it brings; the rest waits for the next one or a tick.
        limit: seconds the platform gives a request; see to it that it is told the same. Less than `budget` and
            `submit_timeout` together lets nothing be sent again by itself.
        settings: single settings over those that are read from the environment and `receiver.toml`.

    Raises:
        SettingsError: a setting is wrong.
    """
    return Application(_settings(settings), budget=budget, limit=limit)


class Application:
    """Opens at the first request, on the event loop that brings it, and stays open as long as the process.

    `POST /tick` with `Authorization: Bearer <cron_secret>` looks at everything; GET, too, for schedulers that know no
    other method.
    """

    def __init__(
        self, settings: Settings, *, budget: float = BUDGET, limit: float = LIMIT, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._budget = budget
        self._limit = limit
        self._stack = AsyncExitStack()
        self._app: ASGIApp | None = None
        self._shifts: Shifts | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def tick(self, limit: float | None = None) -> dict[str, int]:
        """Look at everything that is due, whoever left it, and carry it on.

        Args:
            limit: seconds the platform gives; those of the application if None.

        Returns:
            How much each step found to do; nothing where there is no journal.

        Raises:
            ReceiverError: it cannot be opened, or the journal cannot be used.
        """
        await self._open()
        if self._shifts is None:
            return {}
        found = await self._shifts.tick(self._seconds(limit or self._limit, None))
        log.info("tick.done", **found)
        return found

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        stack, self._stack, self._app = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def _open(self) -> ASGIApp:
        async with self._opening:
            if self._app is None:
                self._app = await self._opened()
            return self._app

    async def _opened(self) -> ASGIApp:
        settings = self._settings
        if settings.database_kind == "none":
            courier = await self._stack.enter_async_context(
                open_courier(settings, budget=self._budget, clock=self._clock)
            )
            return courier_app(courier, seconds=self._limit)
        opening = open_runtime(settings, engine=Shifts, clock=self._clock)
        runtime = await self._stack.enter_async_context(opening)
        assert isinstance(runtime.engine, Shifts)  # noqa: S101 - we have asked for it
        self._shifts = runtime.engine
        self._shifts.progress = any(_wants_progress(item) for item in settings.resolved_destinations())
        return runtime.app

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan, where a server tells it: what is wrong stops the start."""
        await receive()
        try:
            await self._open()
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = await self._open()
        except ReceiverError as exc:
            log.error("function.not_opened", problem=str(exc))
            closed = Problem(503, "Receiver could not start here. Its log says why.", {"Retry-After": "5"})
            await problem(closed)(scope, receive, send)
            return
        if "aws.context" in scope:  # its answers come whole: a stream would last until the platform ends it
            scope = {**scope, "headers": [(name, text) for name, text in scope["headers"] if name != b"accept"]}
        if scope["path"] == TICK:
            await (await self._ticked(scope))(scope, receive, send)
        elif self._shifts is None or scope["method"] != "POST":
            await app(scope, receive, send)
        else:
            await self._worked(self._shifts, app, scope, receive, send)

    async def _worked(self, shifts: Shifts, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer is kept back until what the request began is done, or its time is over."""
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        before, came = shifts.begun, self._clock.monotonic()
        await app(scope, receive, keep)
        good = any(message.get("status", 500) < 300 for message in kept)
        begun = shifts.begun > before
        left = _limit(scope, self._limit - (self._clock.monotonic() - came))
        try:
            await shifts.work(self._seconds(left, self._budget), begun=begun, look=good)
        except JournalError as exc:
            log.error("shift.failed", problem=str(exc))  # what was answered stands in the journal all the same
        for message in kept:
            await send(message)

    def _seconds(self, limit: float, budget: float | None) -> float:
        """How long a shift may last. It may send something as long as the answer to that has its time, too."""
        assert self._shifts is not None  # noqa: S101 - nobody else asks
        most = limit - SPARE - self._settings.submit_timeout
        self._shifts.sends = most >= min(budget or SPARE, SPARE)
        if not self._shifts.sends:
            most = limit - SPARE
        return max(most if budget is None else min(most, budget), 1.0)

    async def _ticked(self, scope: Scope) -> Response:
        secret = self._settings.cron_secret
        if secret is None:
            return problem(Problem(404, "There is nothing here: set RECEIVER_CRON_SECRET."))
        if scope["method"] not in ("GET", "POST"):
            return problem(Problem(405, "A tick comes by POST or GET.", {"Allow": "GET, POST"}))
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {secret.get_secret_value()}".encode()):
            return problem(Problem(401, "The secret is missing or wrong.", {"WWW-Authenticate": "Bearer"}))
        try:
            found = await self.tick(_limit(scope, self._limit))
        except JournalError as exc:
            return problem(Problem(503, "The journal cannot be used. Receiver's log says why.", cause=str(exc)))
        return Response(msgspec.json.encode(found), media_type="application/json")


def _limit(scope: MutableMapping[str, Any], otherwise: float) -> float:
    """What is left of the platform's time, where it tells (AWS: `Context.get_remaining_time_in_millis`)."""
    context = scope.get("aws.context")
    return otherwise if context is None else float(context.get_remaining_time_in_millis()) / 1000


def _settings(overrides: dict[str, Any]) -> Settings:
    """The settings, with what differs in a function: its disk is nobody else's, and gone with it. Logs as a command
    has them, where the process is a platform's; elsewhere they are the program's business."""
    settings = load(overrides=overrides)
    if settings.platform_variables:
        configure(level=settings.log_level, format=settings.log_format, secrets=settings.secret_values())
    else:
        use_logging()
    if settings.sources["data"] == "default" and settings.database_kind != "sqlite":
        settings = load(overrides={**overrides, "data": Path(tempfile.gettempdir(), "receiver")})
    if not settings.keys and settings.database_kind != "sqlite":
        raise SettingsError(
            "RECEIVER_KEYS is not set, and a key made here would vanish with this instance. Make one with "
            "`openssl rand -hex 32`, and set it wherever something is submitted, too."
        )
    learn(settings.secret_values())
    return settings


def _wants_progress(item: Destination) -> bool:
    return item.progress or bool({"task.accepted", "task.progressed"} & set(item.events))
