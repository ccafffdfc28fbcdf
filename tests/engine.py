"""A small kit for the engine's verbs: a real SQLite journal, a clock that stands still, a provider behind httpx's
transport seam, a real origin for pictures on 127.0.0.1, and handlers that record what they are given."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import httpx
import journals
import structlog
from answering import Answering
from waiting import PATIENCE

from receiver.clock import Clock
from receiver.deliveries import Delivery, Receipt
from receiver.engine.archiver import Archiver
from receiver.engine.attempts import OpenDestination
from receiver.engine.dispatcher import STUCK_SECONDS, Dispatcher
from receiver.engine.health import ProviderHealth, Troubles
from receiver.engine.reconciler import Reconciler
from receiver.errors import JournalError
from receiver.events import Event, Submission
from receiver.handlers.base import Attempt
from receiver.intake import Intake, Policy, Route
from receiver.intake.pace import Budget
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.media import Fetcher, MediaStore, Store
from receiver.provider import Provider
from receiver.requests import build
from receiver.submissions import Options, Submissions
from receiver.tasks import Task
from receiver.telemetry import configure
from receiver.tokens import Tokens

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(600)
KEYS = ("k" * 32,)
TLS = httpcore.default_ssl_context()
"""Made once, because it takes 20 ms."""
PUBLIC_URL = "https://receiver.example.com"
POLICY = Policy(confirm_ms=30_000, poll_ms=15_000, media_wait_ms=120_000)
DEADLINE = 4200
"""Seconds."""


class StillClock(Clock):
    """Stands at `time` until a test moves it; whoever sleeps on it wakes only then."""

    def __init__(self, time: float = 1_800_000_000.0) -> None:
        super().__init__()
        self.time = time
        self.passed = 0.0
        self.slept: list[float] = []
        self.waited: list[float] = []
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.passed

    def advance(self, seconds: float) -> None:
        """Let time pass, also backwards."""
        self.passed += max(seconds, 0.0)
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, while no time passes."""
        self.time += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        until = self.time + seconds
        self.waited.append(seconds)
        while not event.is_set() and self.time < until:
            waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._moved.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for item in waiting:
                    item.cancel()
        return event.is_set()


# --- the provider ------------------------------------------------------------------------------------------------

Answer = httpx.Response | Exception
Submitting = Callable[[httpx.Request], Awaitable[Answer]]


def answer(code: int, result: str | None = None, *, status: int = 200, **other: Any) -> httpx.Response:
    """A submit answer (PROTOCOL.md §2)."""
    headers = other.pop("headers", None)
    body = {"code": code, "description": "as told", "result": result, "properties": None} | other
    return httpx.Response(status, json=body, headers=headers)


def wire_task(task_id: str, status: str = "IN_PROGRESS", **other: Any) -> dict[str, Any]:
    """A task object as the provider sends it (PROTOCOL.md §5). A result without links is one of text."""
    progress = {"SUCCESS": "100%", "IN_PROGRESS": "46%"}.get(status, "")
    action = "DESCRIBE" if status == "SUCCESS" and "image" not in "".join(other) else "IMAGINE"
    return {"id": task_id, "status": status, "progress": progress, "prompt": "a boat", "action": action} | other


@dataclass
class Relay:
    """The provider: answers submits in the order given, and questions from `tasks`.

    Attributes:
        submits: what the next submits are answered with; the last one repeats. An exception is raised instead.
        tasks: task objects by id.
        unlisted: ids that list-by-condition leaves out.
        fetches: answers to single fetches, before `tasks`.
        down: answers every question instead.
        on_submit: is called with each submit before it is answered.
    """

    submits: list[Answer] = field(default_factory=lambda: [answer(1, "17")])
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    unlisted: set[str] = field(default_factory=set)
    fetches: dict[str, Answer] = field(default_factory=dict)
    listing: Answer | None = None
    down: Answer | None = None
    on_submit: Callable[[httpx.Request], Awaitable[None]] | None = None
    submitted: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Ids listed or fetched, in order."""

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        if "/submit/" in request.url.path:
            return await self._submit(request)
        if self.down is not None:
            return _given(self.down)
        if request.url.path.endswith("/list-by-condition"):
            return self._list(json.loads(request.content)["ids"])
        return self._fetch(request.url.path.split("/")[-2])

    async def _submit(self, request: httpx.Request) -> httpx.Response:
        self.submitted.append(json.loads(request.content))
        if self.on_submit is not None:
            await self.on_submit(request)
        return _given(self.submits.pop(0) if len(self.submits) > 1 else self.submits[0])

    def _list(self, ids: list[str]) -> httpx.Response:
        self.asked += ids
        if self.listing is not None:
            return _given(self.listing)
        return httpx.Response(200, json=[self.tasks[i] for i in ids if i in self.tasks and i not in self.unlisted])

    def _fetch(self, task_id: str) -> httpx.Response:
        self.asked.append(task_id)
        if task_id in self.fetches:
            return _given(self.fetches[task_id])
        if task_id in self.tasks:
            return httpx.Response(200, json=self.tasks[task_id])
        return httpx.Response(400, json={"code": 4, "description": "task_no_found ", "type": "upstream_error"})


def _given(item: Answer) -> httpx.Response:
    if isinstance(item, Exception):
        raise item
    return httpx.Response(item.status_code, headers=item.headers, content=item.content)


# --- the origin of pictures --------------------------------------------------------------------------------------


@dataclass
class Origin:
    """A web server for pictures and what else is put there: `files` are served, what is in `hanging` waits, else 404.

    Attributes:
        statuses: answers of these paths, until taken away.
        requests: paths asked for, in order.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    hanging: dict[str, asyncio.Event] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0][15:]) if length else 0)
            self.requests.append(path)
            if path in self.hanging:
                await self.hanging[path].wait()
            status = self.statuses.get(path, 200 if path in self.files else 404)
            body = self.files.get(path, b"") if status == 200 else b""
            line = f"HTTP/1.1 {status} As-Told\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(line.encode() + body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(origin: Origin) -> AsyncIterator[Origin]:
    """The origin on a free port while the block runs."""
    server = await asyncio.start_server(origin.handle, "127.0.0.1", 0)
    origin.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield origin
    finally:
        for event in origin.hanging.values():
            event.set()
        server.close()


# --- handlers ----------------------------------------------------------------------------------------------------

Behaviour = Callable[[Attempt], Awaitable[Receipt]]


class Recording:
    """A handler that keeps its attempts and then does as told: raises or returns the next of `does`, the last repeats.

    An item that is callable is called with the attempt and awaited.
    """

    def __init__(self, *does: Receipt | BaseException | Behaviour) -> None:
        self.attempts: list[Attempt] = []
        self.closed = 0
        self._does = list(does) or [Receipt(ref="made")]

    async def deliver(self, attempt: Attempt) -> Receipt:
        self.attempts.append(attempt)
        item = self._does.pop(0) if len(self._does) > 1 else self._does[0]
        if isinstance(item, BaseException):
            raise item
        return item if isinstance(item, Receipt) else await item(attempt)

    async def aclose(self) -> None:
        self.closed += 1


class Faulty:
    """A journal whose named methods fail some times first: the seam at which a full disk or a lock shows."""

    shared = False

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.failing: dict[str, int] = {}
        self.calls: list[str] = []

    def subscribe(self, changed: Any) -> None:
        self._journal.subscribe(changed)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.failing.get(name, 0) > 0:
                self.failing[name] -= 1
                raise JournalError("The journal cannot be used: the disk is full.")
            return await method(*args, **kwargs)

        return call


# --- all together ------------------------------------------------------------------------------------------------


@dataclass
class Kit:
    """The verbs on one journal, as the runtime would wire them."""

    journal: Journal
    clock: StillClock
    relay: Relay
    provider: Provider
    store: Store
    tokens: Tokens
    intake: Intake
    submissions: Submissions
    archiver: Archiver
    reconciler: Reconciler
    origin: Origin
    woken: list[float]

    async def submit(self, prompt: str = "a boat", **other: Any) -> Submission:
        """Prepare and send."""
        row = await self.prepared(prompt, **other)
        return await self.submissions.send(row.id)

    async def prepared(self, prompt: str = "a boat", **other: Any) -> Submission:
        """Journal a request; what the request does not take is an option of its submission."""
        asked = {name: other.pop(name) for name in ("bot_type", "pictures", "account_filter") if name in other}
        return await self.submissions.prepare(build("imagine", prompt=prompt, **asked), Options(**other))

    async def row(self, submission_id: str) -> Submission:
        row = await self.journal.get(submission_id)
        assert row is not None
        return row

    async def types(self, submission_id: str) -> list[str]:
        """Types of the submission's events in the order they became known."""
        return [event.type for event in await self.events(submission_id)]

    async def events(self, submission_id: str) -> list[Event]:
        return (await self.journal.events(limit=100, submission_id=submission_id))[::-1]

    async def deliveries(self, submission_id: str) -> list[Delivery]:
        return (await self.journal.deliveries(limit=100, submission_id=submission_id))[::-1]

    async def calls_back(self, row: Submission, status: str, task_id: str | None = None, **other: Any) -> bool:
        """A doubly signed callback."""
        view = Task(id=task_id or row.task_id or "", status=status, **other)
        return await self.intake.received(row.id, view, b"{}", None)

    async def succeeded(self, **other: Any) -> Submission:
        """A submission whose result the provider has confirmed; `other` are fields of its task object."""
        task_id = f"t{len(self.relay.submitted)}"
        self.relay.submits = [answer(1, task_id)]
        row = await self.submit()
        self.relay.tasks[task_id] = wire_task(task_id, "SUCCESS", **other)
        self.clock.advance(16)
        await self.reconciler.reconcile_once()
        return await self.row(row.id)

    def dispatcher(self, *destinations: OpenDestination, owner: str = "engine-1", **other: Any) -> Dispatcher:
        return Dispatcher(
            journal=other.get("journal", self.journal),
            destinations={item.name: item for item in destinations},
            store=self.store,
            clock=self.clock,
            owner=owner,
            changed=lambda: self.woken.append(self.clock.time),
            stuck_seconds=other.get("stuck_seconds", STUCK_SECONDS),
        )


def destination(name: str, handler: Any, *, concurrency: int = 4, timeout: float = 5.0) -> OpenDestination:
    return OpenDestination(name=name, handler=handler, concurrency=concurrency, timeout=timeout)


async def _sqlite(path: Path) -> Journal:
    return Journal(await open_store(path))


@asynccontextmanager
async def engine(
    folder: Path,
    *,
    clock: StillClock | None = None,
    relay: Relay | None = None,
    public_url: str | None = PUBLIC_URL,
    routes: Iterable[str] = ("main",),
    progress: bool = False,
    policy: Policy = POLICY,
    keys: tuple[str, ...] = KEYS,
    faulty: bool = False,
    provider: Provider | None = None,
    store: Store | None = None,
    at: journals.Store | None = None,
    per_minute: int = 120,
) -> AsyncIterator[Kit]:
    """A kit on the journal in `folder`. Opened again on the same folder it is another process.

    `provider`: a real client in place of the relay's, which its owner closes.
    `store`: a media store in place of a folder.
    `at`: where the journal lies instead.
    `per_minute`: the budget of polls.
    """
    clock = clock or StillClock()
    relay = relay or Relay()
    async with contextlib.AsyncExitStack() as stack:
        origin = await stack.enter_async_context(serving(Origin()))
        real = await (_sqlite(folder / "journal.db") if at is None else at.open())
        stack.push_async_callback(real.aclose)
        journal: Any = Faulty(real) if faulty else real
        if provider is None:
            provider = Provider(base_url="https://relay.test", key="sk-0123456789", clock=clock, pool=Answering(relay))
            stack.push_async_callback(provider.aclose)
        fetcher = Fetcher(hosts=[], origins=[origin.url], max_bytes=10**6, timeout=5.0, tls=TLS)
        stack.push_async_callback(fetcher.aclose)
        store, tokens = store or MediaStore(folder / "media"), Tokens(keys, max_age=72 * 3600, clock=clock)
        woken: list[float] = []
        intake = Intake(
            journal,
            policy=policy,
            routes=tuple(Route(destination=name, progress=progress) for name in routes),
            clock=clock,
            changed=lambda row: woken.append(clock.time),
        )
        submissions = Submissions(
            journal=journal, provider=provider, intake=intake, tokens=tokens, store=store, clock=clock,
            destinations=tuple(routes), public_url=public_url, deadline_ms=DEADLINE * 1000, submit_timeout=75.0,
        )  # fmt: skip
        archiver = Archiver(
            journal=journal, intake=intake, provider=provider, fetcher=fetcher, store=store, clock=clock
        )
        reconciler = Reconciler(
            journal=journal, provider=provider, intake=intake, archiver=archiver, policy=policy, clock=clock,
            health=ProviderHealth(troubles=Troubles(journal=journal, clock=clock), clock=clock), tokens=tokens,
            budget=Budget(per_minute),
        )  # fmt: skip
        await real.register(dict.fromkeys(routes, "recording"))
        yield Kit(
            journal=journal, clock=clock, relay=relay, provider=provider, store=store, tokens=tokens, intake=intake,
            submissions=submissions, archiver=archiver, reconciler=reconciler, origin=origin, woken=woken,
        )  # fmt: skip
        await archiver.stop()
        await submissions.drain(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; a test that waits in vain fails."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.001)


def forget_logging() -> None:
    """Undo what a command in this process has configured."""
    configure()
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    gc.unfreeze()  # a server that ran in this process has frozen what there was


@contextlib.contextmanager
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log lines written in the block, of every level. They are written nowhere else."""
    logger = logging.getLogger("receiver")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with structlog.testing.capture_logs() as lines:
            yield lines
    finally:
        logger.setLevel(level)
