"""The container of one process: the only place that picks concrete classes and reads settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from receiver.app.functions import Function
from receiver.app.setups import differing_destinations, differing_keys, kept_setup, setup_of
from receiver.backoff import UNLINKED
from receiver.clock import Clock
from receiver.engine.alerts import Alerts
from receiver.engine.archiver import Archiver
from receiver.engine.attempts import OpenDestination
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.engine import DRAIN_SECONDS, TICK, Engine
from receiver.engine.health import CallbackHealth, ProviderHealth, Troubles
from receiver.engine.reconciler import Reconciler
from receiver.engine.snapshot import Snapshot
from receiver.errors import EngineRunning, EngineStopped, JournalError, MediaError, NotFound, ReceiverError
from receiver.events import Submission
from receiver.intake import Intake, Policy, Route
from receiver.intake.pace import Budget
from receiver.journal import LASTING_ROLES, Journal
from receiver.journal.troubles import find_troubles
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Keep, Retention
from receiver.media import Fetcher, Store, Thumbnails, open_store
from receiver.provider import Provider
from receiver.settings import MEDIA_HOSTS, Settings, ensure_keys, require_provider_key
from receiver.settings.kinds import show_base_url
from receiver.submissions import Submissions
from receiver.telemetry import Log
from receiver.tokens import Tokens

if TYPE_CHECKING:
    from receiver.web.admission import Admission

log = Log("receiver.engine")

STATELESS_UNLINKED = 15.0
"""Time for the links of a SUCCESS in stateless mode, where the caller waits for the answer."""
WATCH_SECONDS = 0.5
"""Interval between looks at a watched row, because another process may change it."""

OUTAGE_SECONDS = 60.0
"""Time for a journal to come back before a waiting caller gets the error. A server restarts in less."""
_PASSING = frozenset({"crowded", "full", "io", "locked", "readonly", "uncertain", "unopened", "unreachable"})
"""Faults that may end by themselves. A server is read-only while it takes over from another."""

_KINDS = {
    "callbacks": "callbacks do not come",
    "dead": "deliveries are dead",
    "paused": "a destination is paused",
    "provider": "the provider cannot be used",
}
"""Text of a trouble in `/readyz`, by the first word of its name."""

T = TypeVar("T")


class RetryOutage:
    """Retries of calls while the journal is away. The outage is logged once for all callers of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0

    async def __call__(self, call: Callable[[], Awaitable[T]], *, seconds: float = OUTAGE_SECONDS) -> T:
        """Return the result of `call`. While the journal is away, call again, for up to `seconds`."""
        until: float | None = None
        try:
            while True:
                try:
                    return await call()
                except JournalError as exc:
                    if exc.fault not in _PASSING or (until is not None and self._clock.monotonic() >= until):
                        raise
                    if until is None:
                        until = self._clock.monotonic() + seconds
                        if not self._waiting:
                            log.warning("journal.away", problem=str(exc))
                        self._waiting += 1
                await self._clock.sleep(TICK)
        finally:
            if until is not None:
                self._waiting -= 1


class Runtime:
    """The objects of one process, made by `open_runtime`. Its engine is started apart."""

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
        self.routes = routes
        self.clock = clock
        self.retry_outage = RetryOutage(clock)
        self.settings = settings
        self._becoming: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self.tokens = Tokens(ensure_keys(settings), max_age=settings.token_max_age, clock=clock)
        self.store = store_of(settings)
        self.thumbnails = Thumbnails(self.store)
        self.provider = provider_of(settings, clock)
        self.fetcher = fetcher_of(settings)
        self._policy = Policy(
            confirm_ms=int(settings.confirm_within * 1000),
            poll_ms=int(settings.poll_interval * 1000),
            deadline_ms=int(settings.deadline * 1000),
            # In stateless mode one request sees the whole end of a task.
            unlinked_ms=int((STATELESS_UNLINKED if steady else UNLINKED) * 1000),
            steady=steady,
        )
        self.function = function
        self.intake = Intake(journal, policy=self._policy, routes=routes, clock=clock)
        self.admission: Admission | None = None
        """Of `web_app`, which alone imports the web framework."""
        self.submissions = Submissions(
            journal=journal,
            provider=self.provider,
            intake=self.intake,
            tokens=self.tokens,
            store=self.store,
            clock=clock,
            destinations=destinations.keys(),
            reply_origins={item.destination: item.reply_origins for item in routes if item.reply_origins},
            public_url=settings.public_url,
            deadline_ms=self._policy.deadline_ms,
            submit_timeout=settings.submit_timeout,
        )
        self.dispatcher = Dispatcher(
            journal=journal, destinations=destinations, store=self.store, clock=clock, owner=""
        )
        self.replay = Replay(journal=journal, destinations=destinations.keys(), clock=clock)
        self.snapshot = Snapshot(journal=journal, clock=clock, bucket=settings.database_kind == "bucket")
        self.engine = self._engine(destinations, exit_on_stall=exit_on_stall)
        self.intake.changed = self.engine.changed
        self.dispatcher.changed = self.replay.changed = self.engine.slot_free

    def _engine(self, destinations: Mapping[str, OpenDestination], *, exit_on_stall: bool) -> Engine:
        archiver = Archiver(
            journal=self.journal,
            intake=self.intake,
            provider=self.provider,
            fetcher=self.fetcher,
            store=self.store,
            clock=self.clock,
            # In a function nothing may run after the answer.
            thumbnails=None if self.function else self.thumbnails,
        )
        troubles = Troubles(journal=self.journal, clock=self.clock)
        reconciler = Reconciler(
            journal=self.journal,
            provider=self.provider,
            health=ProviderHealth(troubles=troubles, clock=self.clock),
            intake=self.intake,
            archiver=archiver,
            tokens=self.tokens,
            policy=self._policy,
            budget=Budget(self.settings.polls_per_minute),
            clock=self.clock,
        )
        callback_health = CallbackHealth(
            journal=self.journal,
            troubles=troubles,
            clock=self.clock,
            public_url=self.settings.public_url and show_base_url(self.settings.public_url),
            poll_seconds=self.settings.poll_interval,
        )
        return Engine(
            journal=self.journal,
            dispatcher=self.dispatcher,
            archiver=archiver,
            submissions=self.submissions,
            waiting=lambda: 0 if self.admission is None else self.admission.waiting,
            store=self.store,
            leading={
                "send": self.submissions.send_once,
                "reconcile": reconciler.reconcile_once,
                "archive": archiver.archive_once,
                "callbacks": callback_health.check_once,
                "alerts": Alerts(journal=self.journal, routes=self.routes, clock=self.clock).alert_once,
                "purge": retention_of(self.settings, self.journal, self.clock, store=self.store).sweep_once,
                **({"metrics": self.snapshot.take_once} if self.settings.metrics else {}),
            },
            destinations={
                name: str(getattr(item.handler, "name", None) or type(item.handler).__name__)
                for name, item in destinations.items()
            },
            clock=self.clock,
            exit_on_stall=exit_on_stall,
            function=self.function,
            poll_ms=self._policy.poll_ms,
        )

    async def check_media(self) -> None:
        """Raise MediaError if the media store cannot be used, or differs from that of the engines."""
        if self.journal.shared and not self.engine_running:
            await check_same_store(self.journal, self.store)
        await self.store.check()

    async def check_media_to_start(self) -> None:
        """Raise MediaError if the media store needs an operator. One that is only out of reach is logged, because it
        comes back by itself and callbacks are accepted without it."""
        try:
            await self.check_media()
        except MediaError as exc:
            if not exc.away:
                raise
            log.error("media.away", store=self.store.place, problem=str(exc))

    async def check_engines(self) -> None:
        """Raise EngineStopped if no engine runs on this journal."""
        if not await self.journal.engines():
            raise EngineStopped(
                "No engine runs: callbacks are accepted, but nothing is polled or delivered until one starts "
                "(receiver worker)."
            )

    async def check_troubles(self) -> None:
        """Raise ReceiverError if something needs an operator. It names no destination and no address."""
        if troubles := await find_troubles(self.journal, self.clock.now_ms(), space=False):
            kinds = sorted({item.name.partition(" ")[0] for item in troubles})
            raise ReceiverError(
                f"Something needs you: {', '.join(_KINDS[kind] for kind in kinds)}. See: receiver doctor"
            )

    # The engine

    @property
    def engine_running(self) -> bool:
        """True if this process is an engine."""
        return self.engine.running

    async def start_engine(self, role: str) -> None:
        """Become an engine of this journal. Without effect if we are one. Raise EngineRunning if another one excludes
        us."""
        await self.engine.start(role)
        if role in LASTING_ROLES:
            mine, kept = setup_of(self.settings), kept_setup(self.journal)
            other = await kept.read()
            for problem in (differing_keys(mine, other), differing_destinations(mine, other)):
                if problem is not None:
                    log.warning("settings.differ", problem=problem)
            await kept.update(lambda _: mine)

    async def start_engine_when_free(self, role: str, *, unless: frozenset[str] = frozenset()) -> None:
        """Become an engine as soon as no other one excludes us and the journal can be used. A lasting role waits for
        ever. Raise EngineRunning if one of `unless` excludes us."""
        logged = False
        seconds = float("inf") if role in LASTING_ROLES else OUTAGE_SECONDS
        while True:
            try:
                await self.retry_outage(lambda: self.start_engine(role), seconds=seconds)
            except EngineRunning as exc:
                if exc.holder in unless:
                    raise
                if not logged:
                    log.info("engine.waiting", holder=exc.holder)
                logged = True
                await self.clock.sleep(TICK)
            else:
                return

    def start_engine_beside(self, role: str) -> None:
        """Become an engine in the background, as `start_engine_when_free` does. If that fails, `watch` raises it."""

        def started(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (failure := task.exception()) is not None:
                traceback = None if isinstance(failure, ReceiverError) else failure
                log.error("engine.not_started", problem=str(failure), exc_info=traceback)
                self._failure = failure
                self.engine.news.set()

        self._becoming = asyncio.create_task(self.start_engine_when_free(role), name="engine start")
        self._becoming.add_done_callback(started)

    async def stop_engine(self) -> None:
        """Stop taking work, let running attempts finish for a while, and leave the engines. Idempotent."""
        try:
            if self._becoming is not None:
                self._becoming.cancel()
                await asyncio.wait([self._becoming])
        finally:
            await self.engine.stop()

    # News

    async def watch(self, submission_id: str) -> AsyncGenerator[Submission, None]:
        """Yield the submission now, and again after each change, until the caller leaves. An outage of the journal is
        retried (see `retry_outage`). Raise the error of an engine that could not start in the background."""
        last: Submission | None = None
        while True:
            self.engine.news.clear()
            if self._failure is not None:
                raise self._failure
            row = await self.retry_outage(lambda: self.journal.get(submission_id))
            if row is None:
                raise NotFound(f"There is no submission {submission_id} in this journal.")
            if row != last:
                yield row
                last = row
            await self.clock.wait(self.engine.news, WATCH_SECONDS)

    async def aclose(self) -> None:
        """Stop the engine, wait for the answers of submits under way, and close all connections. Idempotent."""
        await self.stop_engine()
        if self.admission is not None:
            await self.admission.aclose()
        await self.submissions.drain(DRAIN_SECONDS)
        await self.provider.aclose()
        await self.fetcher.aclose()
        await self.thumbnails.aclose()
        await self.store.aclose()


def proxy_for(settings: Settings, url: str) -> str | None:
    """Return the proxy on the way to a URL, or None."""
    parts = urlsplit(url)
    if settings.proxy is None or parts.scheme != "https":
        return None
    # Imported only where there is a proxy, because it imports an HTTP client of its own.
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # noqa: PLC0415

    return None if proxy_bypass_environment(parts.netloc, {"no": settings.no_proxy}) else settings.proxy


def provider_of(settings: Settings, clock: Clock) -> Provider:
    """Return the client of the provider. Raise SettingsError if its address or key is missing or wrong."""
    return Provider(
        base_url=settings.provider_url,
        key=require_provider_key(settings),
        clock=clock,
        proxy=proxy_for(settings, settings.provider_url),
        submit_timeout=settings.submit_timeout,
    )


def fetcher_of(settings: Settings) -> Fetcher:
    """Return the fetcher. It trusts the operator's own addresses: the provider's origin, and exact origins."""
    parts = urlsplit(settings.provider_url)
    exact = [host for host in settings.media_hosts if "://" in host]
    return Fetcher(
        hosts=[*MEDIA_HOSTS, *(host for host in settings.media_hosts if "://" not in host)],
        origins=[f"{parts.scheme}://{parts.netloc}", *exact],
        max_bytes=settings.media_max_bytes,
        timeout=settings.media_timeout,
        proxy_for=lambda url: proxy_for(settings, url) if settings.media_proxy else None,
    )


async def replay_of(settings: Settings, journal: Journal) -> Replay:
    """Return a replay to the destinations of the settings, and to functions that an engine has registered by name."""
    registered = await journal.registered()
    functions = [name for name, handler in registered.items() if handler == Function.name]
    names = {*functions, *(item.name for item in settings.resolved_destinations())}
    return Replay(journal=journal, destinations=names, clock=Clock())


def retention_of(
    settings: Settings, journal: Journal, clock: Clock | None = None, *, store: Store | None = None
) -> Retention:
    """Return the retention with the ages of the settings, and with their media store if none is given."""
    return Retention(journal=journal, store=store or store_of(settings), clock=clock or Clock(), keep=keep_of(settings))


def store_of(settings: Settings) -> Store:
    """Return the media store. Raise SettingsError if its URL is wrong."""
    return open_store(settings.media_place, cache=settings.media_cache_folder, cache_bytes=settings.media_cache_bytes)


async def check_same_store(journal: Journal, store: Store) -> None:
    """Raise MediaError unless all engines of a shared journal have this media store."""
    mine = await store.identity()
    for item in await journal.engines():
        if item.store not in ("", mine):  # a copy has none
            raise MediaError(
                f"The media store here, {store.place} ({mine}), is another than that of `receiver {item.role}` on "
                f"{item.host} ({item.store}): neither would find the other's pictures. Give all of them the same one "
                "with RECEIVER_MEDIA: a bucket, or one shared folder."
            )


def keep_of(settings: Settings) -> Keep:
    """Return the ages of the settings."""
    return Keep(callbacks=settings.keep_callbacks, media=settings.keep_media, submissions=settings.keep_submissions)
