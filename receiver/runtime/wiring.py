"""The one place that picks concrete classes and reads settings; everything below receives plain arguments."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette

from receiver.archiver import Archiver
from receiver.callback_health import CallbackHealth
from receiver.clock import Clock
from receiver.clock_steps import ClockSteps
from receiver.dispatcher import Dispatcher, OpenDestination
from receiver.errors import EngineRunning, JournalError, NotFound, ReceiverError, SettingsError
from receiver.events import Submission
from receiver.handlers import registry
from receiver.intake import Intake, Policy, Route
from receiver.journal.base import Journal
from receiver.journal.sqlite import open_journal
from receiver.media import Fetcher
from receiver.provider import Provider
from receiver.provider_health import ProviderHealth
from receiver.reconciler import Reconciler
from receiver.replay import Replay
from receiver.runtime.functions import Function
from receiver.runtime.routing import route_of
from receiver.runtime.upkeep import retention_of, store_of
from receiver.settings import Destination, Settings, check_platform, ensure_keys, require_provider_key
from receiver.submissions import Submissions
from receiver.telemetry import learn
from receiver.tokens import Tokens
from receiver.troubles import Troubles
from receiver.watchdog import Stall, Watchdog, tell, within
from receiver.web.admission import Admission
from receiver.web.api import Api
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz
from receiver.worker import TICK, Worker

log = structlog.get_logger("receiver.engine")

DRAIN_SECONDS = 4.0
"""How long running attempts may go on after the engine was told to stop."""
CLOSE_SECONDS = 1.0
"""How long all handlers together may take to close."""
ACCUSE_SECONDS = 1.0
"""How long the journal may take to keep which delivery our loop stands still in."""
MANY_CALLBACKS = 24
REST_SECONDS = 0.15
"""How long the engine begins nothing new while so many callbacks wait to be written down."""
WATCH_SECONDS = 0.5
"""Another process may move what we watch, so we look that often."""


class Runtime:
    """Everything wired together for one process: submit, receive, watch, and, when it holds the lock, the engine.

    Made by `open_runtime`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        destinations: Mapping[str, OpenDestination],
        routes: tuple[Route, ...],
        clock: Clock,
        stalled: Callable[[Stall], None],
    ) -> None:
        self.journal = journal
        self.clock = clock
        self._settings = settings
        self._destinations = destinations
        self._news = asyncio.Event()
        self._becoming: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        policy = _policy(settings)
        self.tokens = Tokens(ensure_keys(settings), max_age=settings.token_max_age, clock=clock)
        self.store = store_of(settings)
        self.provider = Provider(
            base_url=settings.provider_url,
            key=require_provider_key(settings),
            clock=clock,
            submit_timeout=settings.submit_timeout,
        )
        self.fetcher = _fetcher(settings)
        self.intake = Intake(journal, policy=policy, routes=routes, clock=clock, changed=self._changed)
        self.admission = Admission(journal.check)
        self.submissions = Submissions(
            journal=journal,
            provider=self.provider,
            intake=self.intake,
            tokens=self.tokens,
            store=self.store,
            clock=clock,
            destinations=destinations.keys(),
            public_url=settings.public_url,
            deadline_ms=int(settings.deadline * 1000),
            submit_timeout=settings.submit_timeout,
        )
        self._archiver = Archiver(
            journal=journal, intake=self.intake, fetcher=self.fetcher, store=self.store, clock=clock
        )
        troubles = Troubles(journal=journal, clock=clock)
        reconciler = Reconciler(
            journal=journal,
            provider=self.provider,
            health=ProviderHealth(troubles=troubles, clock=clock),
            intake=self.intake,
            archiver=self._archiver,
            tokens=self.tokens,
            policy=policy,
            clock=clock,
        )
        callback_health = CallbackHealth(
            journal=journal,
            troubles=troubles,
            clock=clock,
            public_url=settings.public_url,
            poll_seconds=settings.poll_interval,
        )
        self.dispatcher = Dispatcher(
            journal=journal,
            destinations=destinations,
            store=self.store,
            clock=clock,
            owner=_owner(),
            changed=self._slot_free,
        )
        self._clock_steps = ClockSteps(journal=journal, clock=clock)
        self.replay = Replay(journal=journal, destinations=destinations.keys(), clock=clock, changed=self._slot_free)
        self._worker = Worker(
            {
                "send": self.submissions.send_once,
                "reconcile": reconciler.reconcile_once,
                "archive": self._archiver.archive_once,
                "dispatch": self._dispatch,
                "clock": self._clock_steps.check_once,
                "callbacks": callback_health.check_once,
                "purge": retention_of(settings, journal, clock).sweep_once,
            },
            clock=clock,
        )
        self._on_stall = stalled
        self._watchdog = Watchdog(stalled=self._stalled, running=self.dispatcher.running)

    @cached_property
    def app(self) -> Starlette:
        """The web application: callbacks and health, and the API where there are tokens for it."""
        callbacks = Callbacks(intake=self.intake, tokens=self.tokens, admission=self.admission)
        checks = {
            "journal": self.journal.check,
            "disk": self.journal.check_space,
            "media": self.store.check,
            "engine": self._check_engine,
        }
        readyz = Readyz(checks)
        return create_app(callbacks=callbacks, readyz=readyz, api=self._api())

    def _api(self) -> Api | None:
        if not self._settings.api_tokens:
            return None
        return Api(
            tokens={name: secret.get_secret_value() for name, secret in self._settings.api_tokens.items()},
            submissions=self.submissions,
            journal=self.journal,
            provider=self.provider,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            admission=self.admission,
        )

    async def _check_engine(self) -> None:
        """Without effect where another process is the engine."""
        self._worker.check()

    @property
    def engine_running(self) -> bool:
        """Whether this process is the engine."""
        return self._worker.running

    async def start_engine(self, role: str) -> None:
        """Become the engine of this journal; without effect if we are. Raises EngineRunning when another process is."""
        if self._worker.started:
            return
        self.journal.become_engine(role)
        try:
            await self._prepare_engine(role)
        except BaseException:
            self.journal.resign()
            raise
        self._worker.start()
        self._watchdog.start()

    async def _prepare_engine(self, role: str) -> None:
        await self.store.check()
        await self.journal.register({name: _kind(item) for name, item in self._destinations.items()})
        self._clock_steps.restart()
        freed = await self.dispatcher.take_over(_owner())
        owed = await self.journal.owed_destinations()
        log.info(
            "engine.started",
            role=role,
            freed=freed,
            destinations=sorted(self._destinations),
            unknown=[name for name in owed if name not in self._destinations],
        )

    async def start_engine_when_free(self, role: str, *, unless: frozenset[str] = frozenset()) -> None:
        """Become the engine as soon as no other process is. Raises EngineRunning when one of `unless` is."""
        told = False
        while True:
            try:
                await self.start_engine(role)
            except EngineRunning as exc:
                if exc.holder in unless:
                    raise
                if not told:
                    log.info("engine.waiting", holder=exc.holder)
                told = True
                await self.clock.sleep(TICK)
            else:
                return

    def start_engine_beside(self, role: str) -> None:
        """Become the engine in the background, as soon as no other process is. If that fails, `watch` raises it."""
        self._becoming = asyncio.create_task(self.start_engine_when_free(role), name="engine start")
        self._becoming.add_done_callback(self._became)

    def _became(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("engine.not_started", problem=str(failure), exc_info=_unexpected(failure))
            self._failure = failure
            self._news.set()

    async def stop_engine(self) -> None:
        """Stop taking work, let what runs finish for a while, give the lock back. Idempotent."""
        if self._becoming is not None:
            self._becoming.cancel()
            await asyncio.wait([self._becoming])
        if self._worker.started:
            await self._worker.stop()
            await self._archiver.stop()
            await asyncio.gather(self.dispatcher.drain(DRAIN_SECONDS), self.submissions.drain(DRAIN_SECONDS))
            log.info("engine.stopped")
        self._watchdog.stop()
        self.journal.resign()

    async def watch(self, submission_id: str) -> AsyncGenerator[Submission, None]:
        """The submission now, and again after each change, until the caller leaves.

        Raises:
            NotFound: there is no such submission.
            ReceiverError: the engine, which was to start beside, could not.
        """
        last: Submission | None = None
        while True:
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            row = await self.journal.get(submission_id)
            if row is None:
                raise NotFound(f"There is no submission {submission_id} in this journal.")
            if row != last:
                yield row
                last = row
            await self.clock.wait(self._news, WATCH_SECONDS)

    async def aclose(self) -> None:
        """Stop the engine, let submits under way get their answers, close our connections. Idempotent."""
        await self.stop_engine()
        await self.admission.aclose()
        await self.submissions.drain(DRAIN_SECONDS)
        await self.provider.aclose()
        await self.fetcher.aclose()

    def _stalled(self, stall: Stall) -> None:
        """In the watchdog's thread: first who it was, for the engine after us."""
        if (delivery := stall.delivery) is not None:
            within(ACCUSE_SECONDS, lambda: self._accuse(delivery))
        self._on_stall(stall)

    def _accuse(self, delivery: str) -> None:
        try:
            self.journal.accuse(delivery)
        except JournalError as exc:
            log.error("delivery.not_accused", delivery=delivery, problem=str(exc))

    def _changed(self, row: Submission) -> None:
        """Wake who has work with the row now: to wake all at each callback would cost more than the callback."""
        self._news.set()
        now_ms = self.clock.now_ms()
        self._worker.wake("dispatch")
        if row.send_due_ms is not None and row.send_due_ms <= now_ms:
            self._worker.wake("send")
        if row.poll_due_ms is not None and row.poll_due_ms <= now_ms:
            self._worker.wake("reconcile")
        if row.media_due_ms is not None and row.media_due_ms <= now_ms:
            self._worker.wake("archive")

    async def _dispatch(self) -> int:
        """Callbacks first: what is to be delivered lies in the journal already."""
        if self.admission.waiting >= MANY_CALLBACKS:
            await self.clock.sleep(REST_SECONDS)
        return await self.dispatcher.dispatch_once()

    def _slot_free(self) -> None:
        self._news.set()
        self._worker.wake("dispatch")


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    clock: Clock | None = None,
    functions: Iterable[Function] = (),
    stalled: Callable[[Stall], None] = tell,
) -> AsyncIterator[Runtime]:
    """A Runtime on its journal, closed at the end of the block.

    Args:
        settings: as loaded.
        clock: the time; a real one if None.
        functions: destinations registered in code, beside those of the settings.
        stalled: what to do when the event loop stands still while we are the engine: log it, or, where the process is
            ours, `watchdog.end_process`.

    Raises:
        SettingsError: a setting is missing, wrong or unsafe.
        JournalError: the journal cannot be opened.
    """
    check_platform(settings)
    learn([*settings.secret_values(), require_provider_key(settings), *ensure_keys(settings)])
    async with AsyncExitStack() as stack:
        destinations: dict[str, OpenDestination] = {}
        stack.push_async_callback(_close, destinations)  # also those before one that cannot be opened
        routes = []
        for item in settings.resolved_destinations():
            destinations[item.name] = _open(item)
            routes.append(route_of(item))
        for function in functions:
            if function.name in destinations:
                raise SettingsError(
                    f"The destination {function.name!r} is in the settings and registered in code as well. "
                    "Give one of them another name."
                )
            destinations[function.name] = function.destination()
            routes.append(function.route())
        _check_links(destinations)
        journal = await stack.enter_async_context(journal_of(settings))
        runtime = Runtime(
            settings,
            journal=journal,
            destinations=destinations,
            routes=tuple(routes),
            clock=clock or Clock(),
            stalled=stalled,
        )
        stack.push_async_callback(runtime.aclose)
        yield runtime


@asynccontextmanager
async def journal_of(settings: Settings, *, existing: bool = False) -> AsyncIterator[Journal]:
    """The journal alone, for commands that only read. `existing`: do not make a new one."""
    path = settings.database_path
    if existing and not path.exists():
        raise JournalError(
            f"There is no journal at {path} yet. Submit something first, or name the right one with RECEIVER_DATABASE."
        )
    journal = await open_journal(path, ballast=not existing, anywhere=settings.disk == "network")
    try:
        yield journal
    finally:
        await journal.aclose()


def _policy(settings: Settings) -> Policy:
    return Policy(
        confirm_ms=int(settings.confirm_within * 1000),
        poll_ms=int(settings.poll_interval * 1000),
        deadline_ms=int(settings.deadline * 1000),
    )


def _fetcher(settings: Settings) -> Fetcher:
    """What the operator named is trusted: the provider's own origin, and exact origins in the allow-list."""
    parts = urlsplit(settings.provider_url)
    exact = [host for host in settings.media_hosts if "://" in host]
    return Fetcher(
        hosts=[host for host in settings.media_hosts if "://" not in host],
        origins=[f"{parts.scheme}://{parts.netloc}", *exact],
        max_bytes=settings.media_max_bytes,
        timeout=settings.media_timeout,
    )


def _unexpected(failure: BaseException) -> BaseException | None:
    """What needs a traceback in the log: errors of ours are sentences already."""
    return None if isinstance(failure, ReceiverError) else failure


def _kind(item: OpenDestination) -> str:
    """The handler's name, as users know it."""
    return str(getattr(item.handler, "name", None) or type(item.handler).__name__)


def _owner() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"


async def _close(destinations: Mapping[str, OpenDestination]) -> None:
    """Side by side and for a while only: a handler that fails or hangs here keeps nobody from ending."""
    closing = {asyncio.create_task(item.handler.aclose()): name for name, item in destinations.items()}
    done, late = await asyncio.wait(closing, timeout=CLOSE_SECONDS) if closing else (set(), set())
    for task in late:
        task.cancel()
        log.warning("destination.not_closed", destination=closing[task], problem="it takes too long")
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("destination.not_closed", destination=closing[task], problem=str(error))


def _check_links(destinations: Mapping[str, OpenDestination]) -> None:
    """A handler's `waits_for` names the destination whose link it shows. Raises SettingsError where there is none."""
    for item in destinations.values():
        wanted = getattr(item.handler, "waits_for", None)
        if wanted is not None and (wanted not in destinations or wanted == item.name):
            others = ", ".join(name for name in destinations if name != item.name) or "none"
            raise SettingsError(
                f"Destination {item.name}: its option link names {wanted!r}, but the other destinations are: {others}."
            )


def _open(item: Destination) -> OpenDestination:
    return OpenDestination(
        name=item.name, handler=registry.build(item), concurrency=item.concurrency, timeout=item.timeout
    )
