"""Receiver for Python users: one object that submits, follows, delivers, and mounts into a web application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from starlette.applications import Starlette

from receiver.clock import Clock
from receiver.deliveries import DeliveryStatus
from receiver.errors import NotStarted, PayloadError
from receiver.events import EventType
from receiver.journal.base import Trouble
from receiver.journal.selection import Replayed, Selection
from receiver.provider import Request, requests
from receiver.runtime.functions import Function, OnEvent, check_function, check_registration
from receiver.runtime.handle import TaskHandle, send
from receiver.runtime.mounting import create_mountable
from receiver.runtime.options import How, to_options
from receiver.runtime.wiring import Runtime, open_runtime
from receiver.settings import Settings, load
from receiver.telemetry import use_logging
from receiver.verification import Unwrapped, unwrap
from receiver.web.callbacks import MAX_BODY

ROLE = "python"
"""What other processes are told about who is the engine."""

F = TypeVar("F", bound=OnEvent)


class Receiver:
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

    # Requests. All take `How` beside their own fields, and raise the same errors.

    async def imagine(
        self,
        prompt: str,
        *,
        bot_type: str | None = None,
        pictures: Sequence[str] = (),
        account_filter: Mapping[str, Any] | None = None,
        **how: Unpack[How],
    ) -> TaskHandle:
        """A grid of four pictures from a prompt; a video, where the prompt starts with a link and says `--video`.

        Example::

            task = await receiver.imagine("a paper boat --v 6.1", labels={"order": "17"}, to=["album"])

        Args:
            prompt: 1–6000 characters; parameters such as `--ar 3:2` stand in it, links to reference pictures at its
                start.
            bot_type: MID_JOURNEY or NIJI_JOURNEY.
            pictures: at most 5 reference pictures, as paths or data URIs.
            account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.
            how: see `How`.

        Returns:
            The task. A provider that is only busy is no error: the request is kept, and the engine sends it again.

        Raises:
            InputError: a value that cannot be sent; nothing was.
            Conflict: the name `once` was given to another request.
            Refused: the provider will make no task of it.
            Unreachable: the provider could not be reached; nothing was sent.
            Ambiguous: the answer was lost. It may have been charged, so it is never sent again; if a task was made
                and a callback URL went along, the result still comes to the destinations.
            JournalError, MediaError: nothing was sent.
        """
        request = requests.imagine(prompt, bot_type=bot_type, pictures=pictures, account_filter=account_filter)
        return await self._submit(request, how)

    async def blend(
        self, pictures: Sequence[str], *, dimensions: str | None = None, bot_type: str | None = None, **how: Unpack[How]
    ) -> TaskHandle:
        """One grid out of 2–5 pictures.

        Example::

            task = await receiver.blend(["cat.png", "boat.png"], dimensions="LANDSCAPE")

        Args:
            pictures: paths or data URIs.
            dimensions: PORTRAIT, SQUARE or LANDSCAPE.
            bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.blend(pictures, dimensions=dimensions, bot_type=bot_type), how)

    async def describe(
        self, source: str, *, bot_type: str | None = None, language: str | None = None, **how: Unpack[How]
    ) -> TaskHandle:
        """Prompts that could have made a picture: the result's `task.texts`.

        Example::

            task = await receiver.describe("boat.png")
            event = await task.result()
            print(event.task.texts)

        Args:
            source: a path, data URI or link.
            language: of the texts, like `en` or `zh-CN`; not every provider knows it.
            bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.describe(source, bot_type=bot_type, language=language), how)

    async def shorten(self, prompt: str, *, bot_type: str | None = None, **how: Unpack[How]) -> TaskHandle:
        """Shorter prompts that mean the same: the result's `task.texts`.

        Example::

            task = await receiver.shorten("a very, very small paper boat on calm and quiet water")

        Args:
            prompt, bot_type, how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.shorten(prompt, bot_type=bot_type), how)

    async def video(
        self,
        image: str | None = None,
        *,
        prompt: str | None = None,
        motion: str = "low",
        action: str | None = None,
        index: int | None = None,
        task_id: str | None = None,
        end_image: str | None = None,
        loop: bool | None = None,
        video_type: str | None = None,
        batch_size: int | None = None,
        **how: Unpack[How],
    ) -> TaskHandle:
        """Videos out of a picture, or of an earlier video task.

        Example::

            task = await receiver.video("boat.png", prompt="the boat sails away", motion="high")

        Args:
            image: the first frame, as a path, data URI or link; an `action` needs none.
            prompt: what happens in the video.
            motion: low or high.
            action: what to do with an earlier video task, e.g. `extend`; needs `task_id` and `index`.
            index: which of that task's videos, 0–3.
            task_id: that task, as the provider calls it.
            end_image: the last frame, given as `image`.
            loop: whether the end leads into the beginning.
            video_type: vid_1.1_i2v_480 or vid_1.1_i2v_720.
            batch_size: how many videos: 1, 2 or 4.
            how: as `imagine`, whose errors are raised here too.
        """
        request = requests.video(
            image,
            prompt=prompt,
            motion=motion,
            action=action,
            index=index,
            task_id=task_id,
            end_image=end_image,
            loop=loop,
            video_type=video_type,
            batch_size=batch_size,
        )
        return await self._submit(request, how)

    async def edits(
        self,
        prompt: str,
        image: str,
        *,
        mask: str | None = None,
        account_filter: Mapping[str, Any] | None = None,
        **how: Unpack[How],
    ) -> TaskHandle:
        """A grid of four pictures made out of one by a prompt.

        Example::

            task = await receiver.edits("the boat is red", "boat.png", mask="hull.png")

        Args:
            image: a path, data URI or link.
            mask: where to repaint, as a path or data URI: white is repainted.
            prompt, account_filter, how: as `imagine`, whose errors are raised here too.
        """
        request = requests.edits(prompt, image, mask=mask, account_filter=account_filter)
        return await self._submit(request, how)

    async def swap(self, source: str, target: str, **how: Unpack[How]) -> TaskHandle:
        """The face of one picture in another.

        Example::

            task = await receiver.swap("face.png", "portrait.png")

        Args:
            source: the picture with the face, as a path, data URI or link.
            target: the picture it goes into.
            how: as `imagine`, whose errors are raised here too.
        """
        return await self._submit(requests.swap(source, target), how)

    async def upload(self, pictures: Sequence[str], *, account_filter: Mapping[str, Any] | None = None) -> list[str]:
        """Links for 1–5 pictures, to be used in prompts. No task is made, and nothing is journalled.

        Example::

            [link] = await receiver.upload(["boat.png"])
            task = await receiver.imagine(f"{link} in a storm --v 6.1")

        Raises:
            InputError, ProviderError: as `imagine`.
        """
        request = requests.upload(pictures, account_filter=account_filter)
        return await self._started().submissions.upload(request)

    async def _submit(self, request: Request, how: How) -> TaskHandle:
        runtime = self._started()
        row = await runtime.submissions.prepare(request, to_options(how, request))
        return TaskHandle(self._started, await send(runtime, row))

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
