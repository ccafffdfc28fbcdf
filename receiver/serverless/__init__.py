"""Receiver in a function: it works while it answers a request, and keeps its state in a bucket or nowhere.

from receiver.serverless import asgi                       Cloud Run, Vercel, any platform that serves ASGI
app = asgi(database="s3://acme/.receiver", to=["s3://acme/pictures"])

from receiver.serverless import aws                        AWS Lambda
http, tick = aws(database="s3://acme/.receiver", to=["s3://acme/pictures"])

Both open at the first request. `open_stateless` submits where there is no journal.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.app.factory import open_runtime
from receiver.app.stateless import BUDGET, open_stateless_receive, stateless_app
from receiver.app.stateless_submit import StatelessSubmit, open_stateless_submit
from receiver.app.web import web_app
from receiver.clock import Clock
from receiver.engine.engine import Engine
from receiver.errors import JournalError, ReceiverError, SettingsError, require
from receiver.settings import Settings, load
from receiver.settings.checks import platform_of
from receiver.telemetry import Log, configure, learn, use_logging
from receiver.web.callers import Callers
from receiver.web.problems import Problem, problem

__all__ = ["Application", "asgi", "aws", "open_stateless"]

log = Log("receiver.serverless")

LIMIT = 120.0
"""Default of the seconds that the platform gives a request."""
SPARE = 5.0
"""Seconds of the limit that are kept for opening and closing."""
TICK = "/tick"

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]
"""A Lambda handler: (event, context) → answer."""
_TEXT = ["application/json", "application/problem+json", "text/plain"]
"""Our media types that need no Base64 on AWS."""


def asgi(*, budget: float = BUDGET, limit: float = LIMIT, **settings: Any) -> Application:
    """Return an application for Cloud Run, Vercel, or any platform that serves ASGI and stops after the answer.

    Args:
        budget: seconds a callback may be held to deliver what it brings. The rest waits for the next one or a tick.
        limit: seconds the platform gives a request. Set the same there. If it is less than `budget` and
            `submit_timeout` together, nothing is sent again automatically.
        settings: single settings, which override the environment and `receiver.toml`. A wrong one fails the start of
            the server with a sentence, or each request with 503 where a platform runs no start.
    """
    try:
        return Application(_read(settings), budget=budget, limit=limit)
    except SettingsError as exc:
        return Application(exc)


def _read(given: Mapping[str, Any]) -> Settings:
    """Return the settings of this function, and set up its logs."""
    found = load(overrides=given)
    if platform_of(found):  # the process belongs to the platform, elsewhere logs are the program's business
        configure(level=found.log_level, format=found.log_format, secrets=found.secret_values())
    else:
        use_logging()
    if found.sources["data"] == "default" and found.database_kind != "sqlite":  # the disk vanishes with the instance
        found = load(overrides={**given, "data": Path(tempfile.gettempdir(), "receiver")})
    if not found.keys and found.database_kind != "sqlite":
        raise SettingsError(
            "RECEIVER_KEYS is not set, and a key made here would vanish with this instance. Make one with "
            "`openssl rand -hex 32`, and set it also where tasks are submitted.",
            page="functions",
        )
    learn(found.secret_values())
    return found


def aws(*, budget: float = BUDGET, **settings: Any) -> tuple[Handler, Handler]:
    """Return the handlers of a function URL (or API Gateway, or a load balancer) and of a schedule.

    Both may be handlers of one function or of two, and share an event loop that stays open between invocations. The
    time limit is read from the context of each invocation. Set it to at least 100 s more than `budget`, or nothing is
    sent again automatically.

    The arguments are those of `asgi`.

    Raises:
        SettingsError: a setting is wrong, or the extra `aws` is not installed.
    """
    require("mangum", extra="aws", why="AWS Lambda", page="lambda")
    from mangum import Mangum  # noqa: PLC0415 - an optional extra

    application = Application(_read(settings), budget=budget)
    logging.getLogger("mangum").setLevel(logging.WARNING)  # it logs paths, which hold tokens
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Mangum asks for one
    adapter = Mangum(application, lifespan="off", text_mime_types=_TEXT)

    def http(event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(loop)
        return adapter(event, context)

    def tick(event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(loop)
        limit = context.get_remaining_time_in_millis() / 1000
        return dict(loop.run_until_complete(application.tick(limit)))

    return http, tick


@asynccontextmanager
async def open_stateless(**settings: Any) -> AsyncIterator[StatelessSubmit]:
    """Open what submits without a journal. The endpoint receives the results.

    `settings` are single settings, which override the environment and `receiver.toml`.

    Raises:
        SettingsError: a setting is missing, wrong, or needs a journal.
    """
    use_logging()
    async with open_stateless_submit(load(overrides=settings)) as stateless:
        yield stateless


class Application:
    """Opens at the first request, on that request's event loop, and stays open as long as the process.

    `POST /tick` with `Authorization: Bearer <cron_secret>` carries on everything that is due. GET works too, for
    schedulers without other methods. With an error in place of settings it does not open.
    """

    _settings: Settings

    def __init__(
        self,
        settings: Settings | SettingsError,
        *,
        budget: float = BUDGET,
        limit: float = LIMIT,
        clock: Clock | None = None,
    ) -> None:
        self._given = settings
        self._clock = clock or Clock()
        self._budget = budget
        self._limit = limit
        self._stack = AsyncExitStack()
        self._app: ASGIApp | None = None
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # not every platform runs one; an error in it stops the start
            await receive()
            try:
                await self._open()
            except Exception as exc:
                text = f"Error: {exc.with_page}" if isinstance(exc, ReceiverError) else str(exc)
                await send({"type": "lifespan.startup.failed", "message": text})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = await self._open()
        except ReceiverError as exc:
            log.error("function.not_opened", problem=str(exc))
            closed = Problem(503, "Receiver could not start here. Its log says why.", {"Retry-After": "5"})
            await problem(closed)(scope, receive, send)
            return
        if "aws.context" in scope:  # AWS takes whole answers only: a stream would last until the platform ends it
            scope = {**scope, "headers": [(name, text) for name, text in scope["headers"] if name != b"accept"]}
        if scope["path"] == TICK:
            await (await self._answer_tick(scope))(scope, receive, send)
        elif self._engine is None or scope["method"] != "POST":
            await app(scope, receive, send)
        else:
            await self._answer_after_work(self._engine, app, scope, receive, send)

    async def tick(self, limit: float | None = None) -> dict[str, int]:
        """Carry on everything that is due, also what other processes began.

        Return how much each step found to do, nothing without a journal. `limit` is the seconds that the platform
        gives, if they differ from the application's.

        Raises:
            ReceiverError: Receiver cannot be opened, or the journal cannot be used.
        """
        await self._open()
        if self._engine is None:
            return {}
        found = await self._engine.run_everything(self._seconds(limit or self._limit, None))
        log.info("tick.done", **found)
        return found

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        stack, self._stack, self._app = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def _open(self) -> ASGIApp:
        clock, enter = self._clock, self._stack.enter_async_context
        async with self._opening:
            if self._app is not None:
                return self._app
            if isinstance(self._given, SettingsError):
                raise self._given
            settings = self._settings = self._given
            if settings.database_kind == "none":
                stateless = await enter(open_stateless_receive(settings, budget=self._budget, clock=clock))
                self._app = stateless_app(stateless, seconds=self._limit)
                return self._app
            opened = await enter(open_runtime(settings, function=True, clock=clock))
            self._engine = opened.engine
            self._engine.progress = any(
                item.progress or {"task.accepted", "task.progressed"} & set(item.events)
                for item in settings.resolved_destinations()
            )
            self._app = web_app(opened)
            return self._app

    async def _answer_after_work(
        self, engine: Engine, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Hold the answer until what the request began is done, or its time is over."""
        answer: list[Message] = []

        async def hold(message: Message) -> None:
            answer.append(message)

        before, came = engine.begun, self._clock.monotonic()
        await app(scope, receive, hold)
        good = any(message.get("status", 500) < 300 for message in answer)
        begun = engine.begun > before
        left = _limit(scope, self._limit - (self._clock.monotonic() - came))
        try:
            await engine.run_until_idle(self._seconds(left, self._budget), begun=begun, look=good)
        except JournalError as exc:
            log.error("run.failed", problem=str(exc))  # what was answered is in the journal all the same
        for message in answer:
            await send(message)

    def _seconds(self, limit: float, budget: float | None) -> float:
        """Return how long the work may last. It may send something only if there is time for the answer to that."""
        assert self._engine is not None  # noqa: S101 - both callers have checked it
        most = limit - SPARE - self._settings.submit_timeout
        self._engine.sends = most >= min(budget or SPARE, SPARE)
        if not self._engine.sends:
            most = limit - SPARE
        return max(most if budget is None else min(most, budget), 1.0)

    async def _answer_tick(self, scope: Scope) -> Response:
        secret = self._settings.cron_secret
        if secret is None:
            return problem(Problem(404, "There is nothing here. Set RECEIVER_CRON_SECRET."))
        if scope["method"] not in ("GET", "POST"):
            return problem(Problem(405, "A tick is a POST or GET.", {"Allow": "GET, POST"}))
        try:
            Callers({"tick": secret.text}, "RECEIVER_CRON_SECRET").named(Headers(scope=scope))
            found = await self.tick(_limit(scope, self._limit))
        except Problem as exc:
            return problem(exc)
        except JournalError as exc:
            return problem(Problem(503, "The journal cannot be used. Receiver's log says why.", cause=str(exc)))
        return Response(msgspec.json.encode(found), media_type="application/json")


def _limit(scope: MutableMapping[str, Any], default: float) -> float:
    """Return what is left of the platform's time, if it says so (AWS: `Context.get_remaining_time_in_millis`)."""
    context = scope.get("aws.context")
    return default if context is None else float(context.get_remaining_time_in_millis()) / 1000
