"""Receiver for Python users: one object that submits, follows, delivers, and mounts into a web application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.functions import Function, OnEvent, check_function, check_registration
from receiver.app.handle import TaskHandle
from receiver.app.options import to_options
from receiver.app.requests import Requests
from receiver.clock import Clock
from receiver.deliveries import DeliveryStatus
from receiver.errors import NotStarted, PayloadError
from receiver.events import EventType
from receiver.journal import Trouble
from receiver.journal.selection import Replayed, Selection
from receiver.settings import Settings, load
from receiver.telemetry import use_logging
from receiver.verification import Unwrapped, unwrap
from receiver.web.callbacks import MAX_BODY
from receiver.web.health import livez
from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.app")

ROLE = "python"
"""What other processes are told about who is the engine."""

F = TypeVar("F", bound=OnEvent)


class Receiver(Requests):
    """Submit Midjourney tasks and get every result, even if no callback ever comes and this process restarts.

    Making one is cheap and touches nothing. It works between the start and the end of `async with`, or of the
    `lifespan` of the application it is mounted into::

        async with Receiver() as receiver:
            task = await receiver.imagine("a paper boat --v 6.1")
            event = await task.result()

        receiver = Receiver()
        app = FastAPI(lifespan=receiver.lifespan)
        app.mount("/receiver", receiver.app)

    Args:
        settings: None reads them as the command line does: environment and `receiver.toml`.
        engine: whether to become the engine as soon as no other process is; without an engine somewhere nothing is
            polled or delivered.
        clock: the time; only tests need another one.
        overrides: single settings over those that were read, e.g. `to="file:./album"`.
    """

    def __init__(
        self, settings: Settings | None = None, *, engine: bool = True, clock: Clock | None = None, **overrides: Any
    ) -> None:
        if settings is not None and overrides:
            raise TypeError(f"Give either settings or single values like {next(iter(overrides))}, not both.")
        if unknown := overrides.keys() - Settings.model_fields.keys():
            raise TypeError(f"There is no setting {min(unknown)!r}; `receiver settings` lists them all.")
        self._settings = settings
        self._overrides = overrides
        self._engine = engine
        self._clock = clock
        self._functions: dict[str, Function] = {}
        self._stack: AsyncExitStack | None = None
        self._runtime: Runtime | None = None
        self.app: Starlette = create_mountable(lambda: self._started().app, self.lifespan)
        """The web application, to be mounted or served by itself: callbacks, health."""

    # Start and end

    async def __aenter__(self) -> Self:
        """Open the journal and start what is behind it.

        Raises:
            SettingsError: a setting is missing, wrong or unsafe.
            JournalError: the journal cannot be opened.
        """
        if self._stack is not None:
            raise RuntimeError("This Receiver has been started already.")
        self._stack = AsyncExitStack()
        use_logging()
        try:
            settings = self._settings or load(overrides=self._overrides)
            functions = self._functions.values()
            opening = open_runtime(settings, clock=self._clock, functions=functions)
            self._runtime = await self._stack.enter_async_context(opening)
        except BaseException:
            self._stack = None
            raise
        if self._engine:
            self._runtime.start_engine_beside(ROLE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop taking work, let what runs finish for a while, close everything."""
        stack = self._stack or AsyncExitStack()
        try:
            await stack.aclose()
        finally:
            self._stack = self._runtime = None

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start with an application and end with it: the argument of that name in Starlette and FastAPI.

        With a lifespan of your own, enter it there::

            @asynccontextmanager
            async def lifespan(app):
                async with receiver.lifespan(app), database():
                    yield
        """
        async with self:
            yield

    def on(
        self, *types: EventType, name: str | None = None, concurrency: int = 4, timeout: float = 60.0
    ) -> Callable[[F], F]:
        """Register an `async def` function as a destination. It gets the event and returns a Receipt or None; it may
        raise `RetryLater` or `Rejected`, and anything else is tried again as for any destination.

        Deliveries are journalled under the name. After a restart, those still owed go to the function that then has
        it; where none has, they wait. The function is called where the engine runs, and an engine that does not know
        it owes it nothing: let this process be the one. It may be called twice for one event, after a crash or a
        failure: `event.id` is the same then.

        Example::

            @receiver.on("task.succeeded", name="catalogue")
            async def add(event: Event) -> None:
                await database.add(event.submission_id, event.prompt, event.labels)

        Args:
            types: which events; none: every decisive one.
            name: what the destination is called; it must be given, and stay.
            concurrency: how many calls may run at once.
            timeout: seconds one call may take.

        Raises:
            TypeError: the name is missing, or the function is not `async def`.
            ValueError: a value that cannot be taken, or a name that is taken.
            RuntimeError: Receiver has been started already.
        """
        checked = check_registration(types, name, concurrency, timeout)

        def register(function: F) -> F:
            check_function(function)
            if self._stack is not None:
                raise RuntimeError(f"Receiver has been started already; register {checked!r} before that.")
            if checked in self._functions:
                raise ValueError(f"A function is registered as {checked!r} already; each needs a name of its own.")
            self._functions[checked] = Function(
                call=function, name=checked, types=frozenset(types), concurrency=concurrency, timeout=timeout
            )
            return function

        return register

    # Tasks there are

    async def watch(
        self,
        task_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        state: str | None = None,
        to: Sequence[str] | None = None,
        auto: Sequence[str] = (),
    ) -> TaskHandle:
        """Take over a task that something else submitted with the same key: it is followed and delivered like our
        own. Watched twice, it is one submission, with what was said the first time.

        Example::

            task = await receiver.watch("1733728800000000", labels={"from": "n8n"})

        Args:
            task_id: as the provider calls it.
            labels, state, to, auto: see `How`.

        Raises:
            NotFound: the provider does not know it.
            InputError, ProviderError: as `imagine`.
        """
        options = to_options({"labels": labels, "state": state, "to": to, "auto": auto})
        return TaskHandle(self._started, await self._started().submissions.adopt(task_id, options))

    async def task(self, reference: str) -> TaskHandle:
        """An earlier task, also of another process or before a restart.

        Example::

            task = await receiver.task(event.submission_id)

        Args:
            reference: a submission id, its beginning or end (6 characters or more), or a task id.

        Raises:
            NotFound: there is none, or more than one.
        """
        return TaskHandle(self._started, await self._started().journal.find(reference))

    async def tasks(self, *, limit: int = 20, status: str | None = None) -> list[TaskHandle]:
        """The newest tasks first.

        Example::

            for task in await receiver.tasks(limit=5, status="failed"):
                print(task.id, task.submission.prompt)

        Args:
            limit: how many.
            status: a submission's (`accepted`), a task's (`IN_PROGRESS`), or an end (`succeeded`, `failed`, `lost`).
        """
        rows = await self._started().journal.submissions(limit=limit, status=status)
        return [TaskHandle(self._started, row) for row in rows]

    async def troubles(self) -> list[Trouble]:
        """What does not work outside as the engine last saw it, oldest first: a provider that cannot be asked,
        callbacks that never come. No result is lost by any of it.

        Example::

            for trouble in await receiver.troubles():
                print(trouble.name, trouble.text)
        """
        return await self._started().journal.troubles()

    # Replay

    async def replay(
        self,
        *ids: str,
        task: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        to: str | None = None,
        as_new: bool = False,
    ) -> list[Replayed]:
        """Make deliveries owed again; the engine delivers them, each with the idempotency key it had.

        Example::

            for done in await receiver.replay(status="dead", destination="catalogue"):
                print(done.delivery_id, done.outcome)

        Args:
            ids: delivery ids; without any, all that fit the rest. One thing at least must be given.
            task: of one task, as `task` takes it.
            destination: that went to this destination.
            status: `dead`, `succeeded`, …
            since, until: made in this time; a time without a zone is local.
            to: bring them to this destination instead of where they went before.
            as_new: with a new idempotency key, so that no destination takes them for repeats.

        Returns:
            What became of each. One that is still owed (`owed`) or runs (`running`) gets no second attempt by this.

        Raises:
            InputError: nothing was selected, or a destination is not there.
            NotFound: there is no such delivery or task.
        """
        runtime = self._started()
        selection = Selection(
            ids=ids,
            submission_id=(await runtime.journal.find(task)).id if task is not None else None,
            destination=destination,
            status=status,
            since_ms=None if since is None else int(since.timestamp() * 1000),
            until_ms=None if until is None else int(until.timestamp() * 1000),
        )
        orders = await runtime.replay.of_deliveries(selection, to=to, as_new=as_new)
        return await runtime.replay.carry_out(orders)

    # Callbacks, for those who receive them with a framework of their own

    def unwrap(self, body: bytes, url_token: str | None) -> Unwrapped:
        """Verify a callback without keeping it: whose it is, what it says, and whether both tokens agree.

        Example::

            callback = receiver.unwrap(request.body, url_token)
            print(callback.submission_id, callback.task.status, callback.trusted)

        Args:
            body: as it came.
            url_token: the last part of the URL's path; None where the URL has none.

        Raises:
            TokenError: nothing of it is signed by us; answer 401.
            NotJSON, NotATask: the body is no task object; answer 400 or 422.
        """
        return unwrap(self._started().tokens, body, url_token)

    async def receive(self, body: bytes, url_token: str | None) -> bool:
        """Verify a callback and journal it, as the endpoint of `app` does. It is on disk when this returns.

        Example::

            accepted = await receiver.receive(request.body, url_token)
            return Response(status=200 if accepted else 202)

        Returns:
            Whether it is believed; False when the provider is asked instead.

        Raises:
            TokenError, NotJSON, NotATask: as `unwrap`.
            PayloadError: the body is larger than any callback.
            NotFound: its submission is not in this journal; answer 404.
            JournalError: it was not kept; answer 503, which says so to a sender that tries again.
        """
        runtime = self._started()
        if len(body) > MAX_BODY:
            raise PayloadError(f"A callback may have {MAX_BODY // 1024} KiB at most.")
        callback = unwrap(runtime.tokens, body, url_token)
        return await runtime.intake.received(callback.submission_id, callback.task, body, callback.cause)

    def _started(self) -> Runtime:
        if self._runtime is None:
            raise NotStarted(
                "Receiver has not started, or has ended. Use it inside `async with Receiver() as receiver:`, "
                "or give your application the argument `lifespan=receiver.lifespan`."
            )
        return self._runtime


def create_mountable(started: Callable[[], ASGIApp], lifespan: Lifespan[Starlette]) -> Starlette:
    """Return an app that hands every request to the running Receiver's. It exists before Receiver starts.

    Args:
        started: returns the app of the running Receiver, or raises NotStarted.
        lifespan: used when the app is served by itself. A server ignores a mounted app's.
    """
    app = Starlette(routes=[Route("/livez", livez), Route("/{path:path}", LazyApp(started))], lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


class LazyApp:
    """The app of the running Receiver, or a 503 that says why there is none. Logged once."""

    def __init__(self, started: Callable[[], ASGIApp]) -> None:
        self._started = started
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self._started()
        except NotStarted as exc:
            if not self._told:
                log.error("receiver.not_started", problem=str(exc))
            self._told = True
            app = problem(Problem(503, str(exc), {"Retry-After": "5"}))
        # Parameters of the outer app's route may have the names of ours.
        await app({**scope, "path_params": {}}, receive, send)
