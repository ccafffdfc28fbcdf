"""The container of one process: the only place that picks concrete classes and reads settings."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import cached_property
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette

from receiver.app.functions import FunctionHandler
from receiver.clock import Clock
from receiver.engine.archiver import Archiver
from receiver.engine.attempts import OpenDestination
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.engine import DRAIN_SECONDS, Engine
from receiver.engine.loops import TICK, Step
from receiver.engine.reconciler import Reconciler
from receiver.errors import EngineRunning, EngineStopped, JournalError, MediaError, NotFound, ReceiverError
from receiver.events import Submission
from receiver.health import CallbackHealth, ProviderHealth, Troubles
from receiver.intake import Intake, Policy, Route
from receiver.journal import LASTING_ROLES, Journal
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Keep, Retention
from receiver.media import Fetcher, Store, open_store
from receiver.provider import Provider
from receiver.settings import Settings, ensure_keys, require_provider_key
from receiver.submissions import Submissions
from receiver.tokens import Tokens
from receiver.web.admission import Admission
from receiver.web.api import Api
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz

log = structlog.get_logger("receiver.engine")

WATCH_SECONDS = 0.5
"""Another process may move what we watch, so we look that often."""

T = TypeVar("T")
OUTAGE_SECONDS = 60.0
"""How long the journal may be away before a caller that waits gets the error. A server restarts in less."""

_PASSING = frozenset({"crowded", "full", "io", "locked", "readonly", "uncertain", "unopened", "unreachable"})
"""Faults that may end by themselves. A server is read-only while it takes over from another."""


class RetryOutage:
    """Retries of calls while the journal is away. The outage is logged once for all callers of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0

    async def __call__(self, call: Callable[[], Awaitable[T]], *, seconds: float = OUTAGE_SECONDS) -> T:
        """Return the result of `call`. While the journal is away, call again.

        Raises:
            JournalError: it was away for `seconds`, or it needs an operator.
        """
        try:
            return await call()
        except JournalError as exc:
            if exc.fault not in _PASSING:
                raise
            if not self._waiting:
                log.warning("journal.away", problem=str(exc))
        self._waiting += 1
        try:
            return await self._again(call, self._clock.monotonic() + seconds)
        finally:
            self._waiting -= 1

    async def _again(self, call: Callable[[], Awaitable[T]], until: float) -> T:
        while True:
            await self._clock.sleep(TICK)
            try:
                return await call()
            except JournalError as exc:
                if exc.fault not in _PASSING or self._clock.monotonic() >= until:
                    raise


class Runtime:
    """Everything wired together for one process: submit, receive, watch, and, once it was started, the engine.

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
        exit_on_stall: bool = False,
        function: bool = False,
        steady: bool = False,
    ) -> None:
        self.journal = journal
        self.destinations = destinations
        self.clock = clock
        self.retry_outage = RetryOutage(clock)
        self._settings = settings
        self._news = asyncio.Event()
        self._becoming: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.tokens = Tokens(ensure_keys(settings), max_age=settings.token_max_age, clock=clock)
        self.store = store_of(settings)
        self.provider = Provider(
            base_url=settings.provider_url,
            key=require_provider_key(settings),
            clock=clock,
            submit_timeout=settings.submit_timeout,
        )
        self.fetcher = fetcher_of(settings)
        self._policy = dataclasses.replace(policy_of(settings), steady=steady)
        self.intake = Intake(journal, policy=self._policy, routes=routes, clock=clock, changed=self._changed)
        # In a function nothing may go on after the answer, so no probe either.
        self.admission = Admission(None if function else journal.check)
        self.submissions = self._submissions(destinations)
        self.dispatcher = Dispatcher(
            journal=journal,
            destinations=destinations,
            store=self.store,
            clock=clock,
            owner="",
            changed=self._slot_free,
        )
        self.replay = Replay(journal=journal, destinations=destinations.keys(), clock=clock, changed=self._slot_free)
        self.engine = self._engine(destinations, exit_on_stall=exit_on_stall)
        self._function = function

    def _submissions(self, destinations: Mapping[str, OpenDestination]) -> Submissions:
        return Submissions(
            journal=self.journal,
            provider=self.provider,
            intake=self.intake,
            tokens=self.tokens,
            store=self.store,
            clock=self.clock,
            destinations=destinations.keys(),
            public_url=self._settings.public_url,
            deadline_ms=int(self._settings.deadline * 1000),
            submit_timeout=self._settings.submit_timeout,
        )

    def _engine(self, destinations: Mapping[str, OpenDestination], *, exit_on_stall: bool) -> Engine:
        archiver = Archiver(
            journal=self.journal, intake=self.intake, fetcher=self.fetcher, store=self.store, clock=self.clock
        )
        return Engine(
            journal=self.journal,
            dispatcher=self.dispatcher,
            archiver=archiver,
            submissions=self.submissions,
            waiting=lambda: self.admission.waiting,
            store=self.store,
            leading=self._leading(archiver),
            destinations={name: _kind(item) for name, item in destinations.items()},
            clock=self.clock,
            exit_on_stall=exit_on_stall,
        )

    def _leading(self, archiver: Archiver) -> dict[str, Step]:
        """What the leader alone does, step by step."""
        troubles = Troubles(journal=self.journal, clock=self.clock)
        reconciler = Reconciler(
            journal=self.journal,
            provider=self.provider,
            health=ProviderHealth(troubles=troubles, clock=self.clock),
            intake=self.intake,
            archiver=archiver,
            tokens=self.tokens,
            policy=self._policy,
            clock=self.clock,
        )
        callback_health = CallbackHealth(
            journal=self.journal,
            troubles=troubles,
            clock=self.clock,
            public_url=self._settings.public_url,
            poll_seconds=self._settings.poll_interval,
        )
        return {
            "send": self.submissions.send_once,
            "reconcile": reconciler.reconcile_once,
            "archive": archiver.archive_once,
            "callbacks": callback_health.check_once,
            "purge": retention_of(self._settings, self.journal, self.clock, store=self.store).sweep_once,
        }

    @cached_property
    def app(self) -> Starlette:
        """The web application: callbacks and health, and the API where there are tokens for it."""
        callbacks = Callbacks(intake=self.intake, tokens=self.tokens, admission=self.admission)
        media = {"media": self.check_media}
        checks = {
            "journal": self.journal.check,
            "disk": self.journal.check_space,
            **({} if self.store.remote else media),
            "engine": self.engine.check,  # without effect where other processes are the engines
        }
        notes = {
            **(media if self.store.remote else {}),  # a callback is kept without it, too
            **({"engines": self._check_engines} if self.journal.shared and not self._function else {}),
        }
        return create_app(callbacks=callbacks, readyz=Readyz(checks, notes=notes), api=self._api())

    async def check_media(self) -> None:
        """Raises MediaError where the media store cannot be used, or is another than that of the engines."""
        if self.journal.shared and not self.engine_running:
            await check_same_store(self.journal, self.store)
        await self.store.check()

    async def check_media_to_start(self) -> None:
        """Like `check_media`, but for a media store that is merely away."""
        await check_to_start(self.check_media, self.store)

    async def _check_engines(self) -> None:
        if not await self.journal.engines():
            raise EngineStopped(
                "No engine lives: callbacks are kept, but nothing is polled or delivered until one starts "
                "(receiver worker)."
            )

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

    # The engine

    @property
    def engine_running(self) -> bool:
        """Whether this process is an engine."""
        return self.engine.running

    async def start_engine(self, role: str) -> None:
        """Become an engine of this journal; without effect if we are one. Raises EngineRunning where another process
        is, and we may not run beside it."""
        await self.engine.start(role)

    async def start_engine_when_free(self, role: str, *, unless: frozenset[str] = frozenset()) -> None:
        """Become an engine as soon as no other process keeps us from it, and the journal can be used: one that is to
        go on for years waits for that without end.

        Raises:
            EngineRunning: one of `unless` keeps us from it.
            ReceiverError: somebody has to mend something.
        """
        told = False
        seconds = float("inf") if role in LASTING_ROLES else OUTAGE_SECONDS
        while True:
            try:
                await self.retry_outage(lambda: self.start_engine(role), seconds=seconds)
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
        """Become an engine in the background, as soon as no other process keeps us from it. If that fails, `watch`
        raises it."""
        self._becoming = asyncio.create_task(self.start_engine_when_free(role), name="engine start")
        self._becoming.add_done_callback(self._became)

    def _became(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("engine.not_started", problem=str(failure), exc_info=_unexpected(failure))
            self._failure = failure
            self._news.set()

    async def stop_engine(self) -> None:
        """Stop taking work, let what runs finish for a while, give way to others. Idempotent."""
        try:
            if self._becoming is not None:
                self._becoming.cancel()
                await asyncio.wait([self._becoming])
        finally:
            await self.engine.stop()

    # What happens

    async def watch(self, submission_id: str) -> AsyncGenerator[Submission, None]:
        """The submission now, and again after each change, until the caller leaves. A journal that is away for a moment
        ends nothing: see `retry_outage`.

        Raises:
            NotFound: there is no such submission.
            JournalError: it cannot be read; for a minute, where that may pass.
            ReceiverError: the engine, which was to start beside, could not.
        """
        last: Submission | None = None
        while True:
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            row = await self.retry_outage(lambda: self.journal.get(submission_id))
            if row is None:
                raise NotFound(f"There is no submission {submission_id} in this journal.")
            if row != last:
                yield row
                last = row
            await self.clock.wait(self._news, WATCH_SECONDS)

    def _changed(self, row: Submission) -> None:
        self._news.set()
        self.engine.changed(row)

    def _slot_free(self) -> None:
        self._news.set()
        self.engine.slot_free()

    async def aclose(self) -> None:
        """Stop the engine, let submits under way get their answers, close our connections. Idempotent."""
        await self.stop_engine()
        await self.admission.aclose()
        await self.submissions.drain(DRAIN_SECONDS)
        await self.provider.aclose()
        await self.fetcher.aclose()
        await self.store.aclose()


def policy_of(settings: Settings) -> Policy:
    return Policy(
        confirm_ms=int(settings.confirm_within * 1000),
        poll_ms=int(settings.poll_interval * 1000),
        deadline_ms=int(settings.deadline * 1000),
    )


def fetcher_of(settings: Settings) -> Fetcher:
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


async def replay_of(settings: Settings, journal: Journal) -> Replay:
    """Replay to the destinations of the settings, and to functions that an engine has registered by name."""
    registered = await journal.registered()
    functions = [name for name, handler in registered.items() if handler == FunctionHandler.name]
    names = {*functions, *(item.name for item in settings.resolved_destinations())}
    return Replay(journal=journal, destinations=names, clock=Clock())


def retention_of(
    settings: Settings, journal: Journal, clock: Clock | None = None, *, store: Store | None = None
) -> Retention:
    """Retention with the ages of the settings, and with their media store if none is given."""
    return Retention(journal=journal, store=store or store_of(settings), clock=clock or Clock(), keep=keep_of(settings))


def store_of(settings: Settings) -> Store:
    """The media store. Raises SettingsError where its URL makes none."""
    return open_store(settings.media_place, cache=settings.media_cache_folder, cache_bytes=settings.media_cache_bytes)


async def check_to_start(check: Callable[[], Awaitable[None]], store: Store) -> None:
    """Check a media store before work begins. One that is merely away comes back by itself, and callbacks are kept
    without it: that is told, and keeps nobody from starting.

    Raises:
        MediaError: somebody has to mend something.
    """
    try:
        await check()
    except MediaError as exc:
        if not exc.away:
            raise
        log.error("media.away", store=store.place, problem=str(exc))


async def check_same_store(journal: Journal, store: Store) -> None:
    """Check that the engines of a journal that several processes share have this media store.

    Raises:
        MediaError: one has another.
    """
    mine = await store.identity()
    for item in await journal.engines():
        if item.store not in ("", mine):  # a copy or a compaction has none
            raise MediaError(
                f"The media store here, {store.place} ({mine}), is another than that of `receiver {item.role}` on "
                f"{item.host} ({item.store}): neither would find the other's pictures. Give all of them the same one "
                "with RECEIVER_MEDIA: a bucket, or one folder that all of them see."
            )


def keep_of(settings: Settings) -> Keep:
    """The ages of the settings."""
    return Keep(callbacks=settings.keep_callbacks, media=settings.keep_media, submissions=settings.keep_submissions)
