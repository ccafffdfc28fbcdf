"""Receiver for Python users: an object that submits, follows, delivers, and mounts into a web application."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.functions import Function, OnEvent, check_function, check_registration
from receiver.app.handle import TaskHandle
from receiver.app.web import web_app
from receiver.clock import Clock
from receiver.deliveries import DeliveryStatus
from receiver.errors import InputError, NotStarted, PayloadError, ReceiverError
from receiver.events import DISPLAY_STATUSES, DisplayStatus, EventType
from receiver.journal import Trouble
from receiver.journal.selection import Replayed
from receiver.journal.store import Filter
from receiver.requests import build
from receiver.settings import CONCURRENCY, Settings, declared, load
from receiver.submissions.options import SubmitOptions, to_options
from receiver.telemetry import Log, use_logging
from receiver.verification import Unwrapped, unwrap
from receiver.web.callbacks import MAX_BODY
from receiver.web.health import livez
from receiver.web.problems import Problem, problem

log = Log("receiver.app")

ROLE = "python"
"""The engine's role, as other processes see it."""

F = TypeVar("F", bound=OnEvent)


class Receiver:
    """Submit Midjourney tasks and get every result, even if no callback ever comes and this process restarts.

    The constructor opens nothing. Use the object inside `async with`, or inside the `lifespan` of the application it
    is mounted into::

        async with Receiver() as receiver:
            task = await receiver.imagine("a paper boat --v 6.1")
            event = await task.result()

        receiver = Receiver()
        app = FastAPI(lifespan=receiver.lifespan)
        app.mount("/receiver", receiver.app)

    Args:
        settings: None reads them as the command line does: environment and `receiver.toml`.
        engine: True becomes the engine as soon as no other process is. Without any engine nothing is polled or
            delivered.
        clock: the time. Only tests need another one.
        overrides: single settings that override those that were read, e.g. `to="file:./album"`.
    """

    def __init__(
        self, settings: Settings | None = None, *, engine: bool = True, clock: Clock | None = None, **overrides: Any
    ) -> None:
        if settings is not None and overrides:
            raise TypeError(f"Give either settings or single values like {next(iter(overrides))}, not both.")
        if unknown := overrides.keys() - declared(Settings).keys():
            raise TypeError(f"There is no setting {min(unknown)!r}. `receiver settings` lists them all.")
        self._settings = settings
        self._overrides = overrides
        self._engine = engine
        self._clock = clock
        self._functions: dict[str, Function] = {}
        self._stack: AsyncExitStack | None = None
        self._runtime: Runtime | None = None
        self._web_app: Starlette | None = None
        self.app: Starlette = Mountable(self._web, self.lifespan)
        """The web application, to be mounted or served by itself: callbacks, health, and the API."""

    # Start and end

    async def __aenter__(self) -> Self:
        """Open the journal and start the engine.

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
        """Stop taking work, let running attempts finish for a while, and close everything."""
        try:
            await (self._stack or AsyncExitStack()).aclose()
        finally:
            self._stack = self._runtime = None

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start and end with an application: the argument of that name in Starlette and FastAPI.

        Enter it inside a lifespan of your own::

            @asynccontextmanager
            async def lifespan(app):
                async with receiver.lifespan(app), database():
                    yield
        """
        async with self:
            yield

    def on(
        self, *types: EventType, name: str | None = None, concurrency: int = CONCURRENCY, timeout: float = 60.0
    ) -> Callable[[F], F]:
        """Register an `async def` function as a destination. It gets the event and returns a Receipt or None. It may
        raise `RetryLater` or `Rejected`. After any other exception it is called again, as for any destination.

        Deliveries are journalled under the name. After a restart, outstanding ones go to the function with that name,
        and wait if there is none. The function is called in the engine's process. An engine that does not know it makes
        no deliveries to it, so this process must be the engine. A crash may repeat a call, with the same `event.id`.

        Example::

            @receiver.on("task.succeeded", name="catalogue")
            async def add(event: Event) -> None:
                await database.add(event.submission_id, event.prompt, event.labels)

        Args:
            types: event types. None: every decisive one.
            name: name of the destination. Required, and it must not change.
            concurrency: calls at once.
            timeout: seconds one call may take.

        Raises:
            TypeError: the name is missing, or the function is not `async def`.
            ValueError: a value is wrong, or the name is in use.
            RuntimeError: Receiver has been started already.
        """
        checked = check_registration(types, name, concurrency, timeout)

        def register(function: F) -> F:
            check_function(function)
            if self._stack is not None:
                raise RuntimeError(f"Receiver has been started already; register {checked!r} before that.")
            if checked in self._functions:
                raise ValueError(f"A function is registered as {checked!r} already. Each needs a name of its own.")
            self._functions[checked] = Function(
                call=function, destination=checked, types=frozenset(types), concurrency=concurrency, timeout=timeout
            )
            return function

        return register

    # Requests. A test compares the signatures with `KINDS`.

    async def imagine(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        pictures: Sequence[str] = (),
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """A grid of four pictures from a prompt, or a video if the prompt starts with a link and says `--video`.

        Example::

            task = await receiver.imagine("a paper boat --v 6.1", labels={"order": "17"}, to=["album"])

        Args:
            prompt: 1–6000 characters. It holds parameters such as `--ar 3:2`, and links to reference pictures at its
                start.
            bot_type: MID_JOURNEY or NIJI_JOURNEY.
            pictures: at most 5 reference pictures, as paths, data URIs or links.
            account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.
            options: see `SubmitOptions`.

        Returns:
            The task. A busy provider is no error: the request is kept, and the engine sends it again.

        Raises:
            InputError: a value cannot be sent, and nothing was.
            Conflict: the name `once` was given to another request.
            Refused: the provider will make no task of it.
            Unreachable: the provider could not be reached, and nothing was sent.
            Ambiguous: the answer was lost. The request may have been charged, so it is never sent again. If a task
                was made and a callback URL was sent, the result still comes to the destinations.
            JournalError, MediaError: nothing was sent.
        """
        return await self._submit("imagine", locals())

    async def blend(
        self,
        pictures: Sequence[str],
        *,
        dimensions: str | None = None,
        bot_type: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """One grid out of 2–5 pictures.

        Example::

            task = await receiver.blend(["cat.png", "boat.png"], dimensions="LANDSCAPE")

        Args:
            pictures: paths, data URIs or links.
            dimensions: PORTRAIT, SQUARE or LANDSCAPE.
            bot_type, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit("blend", locals())

    async def describe(
        self,
        source: str,
        *,
        bot_type: str | None = None,
        language: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Prompts that could have made a picture: the result's `task.texts`.

        Example::

            task = await receiver.describe("boat.png")
            event = await task.result()
            print(event.task.texts)

        Args:
            source: a path, data URI or link.
            language: of the texts, like `en` or `zh-CN`. Not every provider knows it.
            bot_type, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit("describe", locals())

    async def shorten(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Shorter prompts that mean the same: the result's `task.texts`. Arguments and errors are as in `imagine`.

        Example::

            task = await receiver.shorten("a very, very small paper boat on calm and quiet water")
        """
        return await self._submit("shorten", locals())

    async def video(
        self,
        image: str | None = None,
        *,
        prompt: str,
        motion: str = "low",
        action: str | None = None,
        index: int | None = None,
        task_id: str | None = None,
        end_image: str | None = None,
        loop: bool | None = None,
        video_type: str | None = None,
        batch_size: int | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Videos out of a picture, or of an earlier video task.

        Example::

            task = await receiver.video("boat.png", prompt="the boat sails away", motion="high")

        Args:
            image: the first frame, as a path, data URI or link. An `action` needs none.
            prompt: the events in the video.
            motion: low or high.
            action: a word like `extend`, for an earlier video task. It needs `task_id` and `index`.
            index: number of a video of that task, 0–3.
            task_id: the provider's id of that task.
            end_image: the last frame, given as `image`.
            loop: True if the end leads into the beginning.
            video_type: vid_1.1_i2v_480 or vid_1.1_i2v_720.
            batch_size: number of videos: 1, 2 or 4.
            options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit("video", locals())

    async def edits(
        self,
        prompt: str,
        image: str,
        *,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """A grid of four pictures made out of one by a prompt.

        Example::

            task = await receiver.edits("the boat is red", "boat.png", mask="hull.png")

        Args:
            image: a path, data URI or link.
            mask: area to repaint, as a path or data URI: white is repainted.
            prompt, account_filter, options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit("edits", locals())

    async def swap(self, source: str, target: str, **options: Unpack[SubmitOptions]) -> TaskHandle:
        """The face of one picture in another.

        Example::

            task = await receiver.swap("face.png", "portrait.png")

        Args:
            source: the picture with the face, as a path, data URI or link.
            target: the picture it goes into.
            options: as `imagine`, whose errors are raised here too.
        """
        return await self._submit("swap", locals())

    async def upload(self, pictures: Sequence[str], *, account_filter: Mapping[str, Any] | None = None) -> list[str]:
        """Links for 1–5 pictures, to be used in prompts. No task is made, and nothing is journalled.

        Example::

            [link] = await receiver.upload(["boat.png"])
            task = await receiver.imagine(f"{link} in a storm --v 6.1")
        """
        request = build("upload", pictures=pictures, account_filter=account_filter)
        return await self._started().submissions.upload(request)

    async def _submit(self, kind: str, arguments: dict[str, Any]) -> TaskHandle:
        """Journal and send a request, given all arguments of its method."""
        options: SubmitOptions = arguments.pop("options")
        del arguments["self"]
        request, runtime = build(kind, **arguments), self._started()
        row = await runtime.submissions.prepare(request, to_options(options, request))
        return TaskHandle(self._started, await runtime.submissions.send_or_keep(row.id))

    # Existing tasks

    async def watch(
        self,
        task_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        state: str | None = None,
        to: Sequence[str] | None = None,
        auto: Sequence[str] = (),
        reply_to: str | None = None,
    ) -> TaskHandle:
        """Take over a task that another program submitted with the same key. It is followed and delivered like our own.
        A second call returns the same submission, with the options of the first.

        Example::

            task = await receiver.watch("1733728800000000", labels={"from": "n8n"})

        The other arguments are as in `SubmitOptions`, and errors as in `imagine`. NotFound says that the provider does
        not know the id.
        """
        options = to_options({"labels": labels, "state": state, "to": to, "auto": auto, "reply_to": reply_to})
        return TaskHandle(self._started, await self._started().submissions.adopt(task_id, options))

    async def task(self, reference: str) -> TaskHandle:
        """Return an earlier task, also of another process or from before a restart.

        Example::

            task = await receiver.task(event.submission_id)

        The reference is a submission id, its beginning or end (6 characters or more), or a task id. NotFound says that
        no submission matches, or more than one does.
        """
        return TaskHandle(self._started, await self._started().journal.find(reference))

    async def tasks(self, *, limit: int = 20, status: DisplayStatus | None = None) -> list[TaskHandle]:
        """Return tasks, the newest first.

        Example::

            for task in await receiver.tasks(limit=5, status="failed"):
                print(task.id, task.submission.prompt)

        `status` is one of those that `receiver tasks list` shows. InputError names them.
        """
        if status is not None and status not in DISPLAY_STATUSES:
            raise InputError(f"status is one of {', '.join(DISPLAY_STATUSES)}, not {status[:80]!r}.", page="words")
        rows = await self._started().journal.submissions(Filter(status=status), limit=limit)
        return [TaskHandle(self._started, row) for row in rows]

    async def troubles(self) -> list[Trouble]:
        """Return outside faults as the engine last saw them, oldest first: a provider out of reach, callbacks that
        never come. None of them loses a result.

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
        """Make deliveries due again. The engine delivers them, each with its old idempotency key.

        Example::

            for done in await receiver.replay(status="dead", destination="catalogue"):
                print(done.delivery_id, done.outcome)

        Args:
            ids: delivery ids. Without any, all deliveries that match the conditions. Give at least one condition.
            task: deliveries of one task, with a reference as in `task`.
            destination: deliveries to this destination.
            status: `dead`, `succeeded`, …
            since, until: deliveries made in this time. A time without a zone is local.
            to: deliver to this destination instead.
            as_new: use a new idempotency key, so that no destination drops them as repeats.

        Returns:
            The outcome of each. A delivery that is still due (`owed`) or runs (`running`) gets no second attempt.

        Raises:
            InputError: nothing was selected, or a destination does not exist.
            NotFound: a delivery or the task does not exist.
        """
        runtime = self._started()
        selection = Filter(
            ids=ids or None,
            submission_id=(await runtime.journal.find(task)).id if task is not None else None,
            destination=destination,
            status=status,
            since_ms=None if since is None else int(since.timestamp() * 1000),
            until_ms=None if until is None else int(until.timestamp() * 1000),
        )
        orders = await runtime.replay.of_deliveries(selection, to=to, as_new=as_new)
        return await runtime.replay.carry_out(orders)

    # Callbacks, for users with a web framework of their own

    def unwrap(self, body: bytes, url_token: str | None) -> Unwrapped:
        """Verify a callback without journalling it. Return its submission, its task, and the result of both tokens.

        Example::

            callback = receiver.unwrap(request.body, url_token)
            print(callback.submission_id, callback.task.status, callback.trusted)

        The URL's token is the last part of its path, or None.

        Raises:
            TokenError: neither token is ours. Answer 401.
            NotJSON, NotATask: the body is no task object. Answer 400 or 422.
        """
        return unwrap(self._started().tokens, body, url_token)

    async def receive(self, body: bytes, url_token: str | None) -> bool:
        """Verify a callback and journal it, as the endpoint of `app` does. It is committed when this returns.

        Example::

            accepted = await receiver.receive(request.body, url_token)
            return Response(status=200 if accepted else 202)

        Return True if it was accepted, False if the provider is asked instead.

        Raises:
            TokenError, NotJSON, NotATask: as `unwrap`.
            PayloadError: the body is larger than any callback.
            NotFound: its submission is not in this journal. Answer 404.
            JournalError: it was not journalled. Answer 503, so that a sender with retries sends it again.
        """
        runtime = self._started()
        if len(body) > MAX_BODY:
            raise PayloadError(f"A callback may have {MAX_BODY // 1024} KiB at most.")
        callback = unwrap(runtime.tokens, body, url_token)
        return await runtime.intake.received(callback.submission_id, callback.task, callback.body, callback.cause)

    def _web(self) -> Starlette:
        runtime = self._started()
        if self._web_app is None:
            self._web_app = web_app(runtime)
        return self._web_app

    def _started(self) -> Runtime:
        if self._runtime is None:
            raise NotStarted(
                "Receiver has not started, or has ended. Use it inside `async with Receiver() as receiver:`, "
                "or give your application the argument `lifespan=receiver.lifespan`."
            )
        return self._runtime


class Mountable(Starlette):
    """App that hands every request to the running Receiver's, which `started` returns.

    Its lifespan is used when it is served by itself. A server ignores a mounted app's. A failed start is a sentence in
    the server's log, where Starlette writes a traceback. A request without a running Receiver gets a 503 with the
    reason, which is logged once.
    """

    def __init__(self, started: Callable[[], ASGIApp], lifespan: Lifespan[Starlette]) -> None:
        super().__init__(routes=[Route("/livez", livez), Mount("/", self._hand_on)], lifespan=lifespan)
        self.router.redirect_slashes = False
        self._started = started
        self._logged = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            failure = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(failure, ReceiverError):
                message = {**message, "message": f"Error: {failure.with_page}"}
            await send(message)

        await super().__call__(scope, receive, answer if scope["type"] == "lifespan" else send)

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self._started()
        except NotStarted as exc:
            if not self._logged:
                log.error("receiver.not_started", problem=str(exc))
            self._logged = True
            app = problem(Problem(503, str(exc), {"Retry-After": "5"}))
        # Parameters of the outer app's route may have the names of ours.
        await app({**scope, "path_params": {}}, receive, send)
