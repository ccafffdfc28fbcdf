"""A small world whose process can die at any write: what is outside (provider, destinations, time) outlives it, and
keeps the books that the promises are checked against."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
from answering import Answering
from engine import DEADLINE, KEYS, PUBLIC_URL, TLS, StillClock, answer, destination, wire_task

from receiver.deliveries import Receipt
from receiver.engine.archiver import Archiver
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.health import ProviderHealth, Troubles
from receiver.engine.reconciler import Reconciler
from receiver.errors import ProviderError, TokenError
from receiver.events import EventType
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.intake import Intake, Policy, Route
from receiver.intake.pace import Budget
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.media import Fetcher, MediaStore
from receiver.provider import Provider
from receiver.requests import build
from receiver.submissions import Submissions
from receiver.telemetry import redact_known
from receiver.tokens import Tokens
from receiver.verification import unwrap

POLICY = Policy(confirm_ms=30_000, poll_ms=15_000, deadline_ms=DEADLINE * 1000)
WRITES = frozenset({"add", "clamp", "change", "claim", "complete", "free_running", "pause", "register"})
RANKS: dict[EventType, int] = {
    "task.accepted": 0, "task.input_required": 1, "task.progressed": 3,
    "task.lost": 4, "task.failed": 5, "task.succeeded": 6,
}  # fmt: skip
Seam = Callable[[Any], Any]
"""Wraps a journal: where a broken build is made."""


class Dead(BaseException):
    """The process has ended. Nothing it still does has any effect."""


class Mortal:
    """The journal as its process uses it. The process dies at once, or before or after a write to come."""

    shared = False

    def __init__(self, journal: Any, wrong: list[str]) -> None:
        self._journal = journal
        self._wrong = wrong
        self.dead = False
        self.under_way = 0
        self._claimed: dict[str, int] = {}
        self._fuse: tuple[int, str] | None = None

    def light(self, writes: int, when: str) -> None:
        """Die `before` or `after` the n-th write from now."""
        self._fuse = writes, when

    def die(self) -> None:
        self.dead = True
        raise Dead

    def check(self) -> None:
        if self.dead:
            raise Dead

    def _burnt(self, name: str) -> str | None:
        if self._fuse is None or name not in WRITES:
            return None
        left, when = self._fuse
        self._fuse = (left - 1, when) if left > 1 else None
        return when if left == 1 else None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.check()
            burnt = self._burnt(name)
            if burnt == "before":
                self.die()
            self.under_way += 1
            try:
                result = await method(*args, **kwargs)
            finally:
                self.under_way -= 1
            self._note(name, args, result)
            if burnt == "after":
                self.die()
            self.check()
            return result

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Whose attempt is the last one of its delivery, and whether another one's end was recorded."""
        if name == "claim":
            self._claimed |= {work.delivery.id: work.delivery.attempt for work in result}
        elif name == "complete" and result and args[0].attempt < self._claimed.get(args[0].delivery_id, 0):
            self._wrong.append(f"an attempt that was taken over was recorded: {args[0].delivery_id}")


class Upstream:
    """The provider: its tasks, and what was sent to it."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.tasks: dict[str, dict[str, Any]] = {}
        self.made: dict[str, str] = {}
        """Submission → its task."""
        self.answers: list[str] = []
        """How the next submits end; then all are accepted."""
        self.trouble: httpx.Response | Exception | None = None
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.wrong: list[str] = []

    async def ask(self, mortal: Mortal, request: httpx.Request) -> httpx.Response:
        mortal.check()
        if "/submit/" in request.url.path:
            return self._submit(mortal, json.loads(request.content))
        if self.trouble is not None:
            return _given(self.trouble)
        if request.url.path.endswith("/list-by-condition"):
            ids = json.loads(request.content)["ids"]
            return httpx.Response(200, json=[self.tasks[id] for id in ids if id in self.tasks])
        task_id = request.url.path.split("/")[-2]
        return httpx.Response(200, json=self.tasks.get(task_id))

    def _submit(self, mortal: Mortal, body: dict[str, Any]) -> httpx.Response:
        submission_id = self._tokens.read_state_token(body["state"])
        how = self.answers.pop(0) if self.answers else "accepted"
        if not set(self.sent[submission_id]) <= {"busy", "unreachable"}:
            self.wrong.append(f"{submission_id} was sent again after {self.sent[submission_id]}")
        self.sent[submission_id].append(how)
        if how in ("accepted", "lost but made", "crash"):
            task_id = f"t{len(self.tasks)}"
            self.tasks[task_id] = wire_task(task_id, "SUBMITTED", state=body["state"])
            self.made[submission_id] = task_id
        if how == "crash":
            mortal.die()
        if how in ("lost but made", "lost"):
            raise httpx.ReadTimeout("no answer")
        if how == "unreachable":
            raise httpx.ConnectError("refused")
        return {"busy": answer(23), "refused": answer(24)}.get(how) or answer(1, task_id)


def _given(item: httpx.Response | Exception) -> httpx.Response:
    if isinstance(item, Exception):
        raise item
    return httpx.Response(item.status_code, headers=item.headers, content=item.content)


class Place:
    """A destination: does as told, the next of `plan`, else takes what comes. `once`: drops a key it knows."""

    def __init__(self, name: str, *, once: bool) -> None:
        self.name = name
        self.once = once
        self.plan: list[str] = []
        self.hangs = False
        self.effects: list[str] = []
        """Event ids, in the order they took effect."""
        self.rejected: set[str] = set()
        self.wrong: list[str] = []
        self._keys: set[str] = set()
        self._running: dict[str, Attempt] = {}
        self._highest: dict[str, tuple[int, int]] = {}
        self._gate = asyncio.Event()

    def release(self) -> None:
        """Let what hangs go on."""
        self.hangs = False
        self._gate.set()
        self._gate = asyncio.Event()

    def abandon(self) -> None:
        """Whoever ran attempts here is gone."""
        self._running.clear()

    async def deliver(self, mortal: Mortal, attempt: Attempt) -> Receipt:
        mortal.check()
        submission_id = attempt.event.submission_id
        self._begin(submission_id, attempt)
        try:
            if self.hangs:
                await self._gate.wait()
                mortal.check()
            return await self._do(self.plan.pop(0) if self.plan else "take", mortal, attempt)
        finally:
            if self._running.get(submission_id) is attempt:
                del self._running[submission_id]

    def _begin(self, submission_id: str, attempt: Attempt) -> None:
        if submission_id in self._running:
            self.wrong.append(f"two attempts of {submission_id} at once at {self.name}")
        self._running[submission_id] = attempt
        event = attempt.event
        rank = RANKS[event.type], (event.progress or 0) if event.type == "task.progressed" else 0
        if rank < self._highest.get(submission_id, rank):
            self.wrong.append(f"{attempt.event.id} came to {self.name} behind {self._highest[submission_id]}")
        self._highest[submission_id] = rank

    async def _do(self, what: str, mortal: Mortal, attempt: Attempt) -> Receipt:
        if what == "fail":
            raise RuntimeError("as told")
        if what == "later":
            raise RetryLater(30)
        if what == "pause":
            raise RetryLater(30, pause=True)
        if what == "reject":
            self.rejected.add(attempt.event.id)
            raise Rejected("as told")
        if not self.once or attempt.idempotency_key not in self._keys:
            self._keys.add(attempt.idempotency_key)
            if self.once and attempt.event.id in self.effects:
                self.wrong.append(f"{attempt.event.id} took effect twice at {self.name}")
            self.effects.append(attempt.event.id)
        if what == "crash":
            mortal.die()
        return Receipt(ref="made")


class Door:
    """A handler: one process's way to a place."""

    def __init__(self, place: Place, mortal: Mortal) -> None:
        self._place = place
        self._mortal = mortal

    async def deliver(self, attempt: Attempt) -> Receipt:
        return await self._place.deliver(self._mortal, attempt)

    async def aclose(self) -> None:
        pass


class Process:
    """The verbs on one journal, wired as the runtime does it."""

    def __init__(self, world: World, journal: Any) -> None:
        self.world = world
        self.journal = journal
        self.mortal = Mortal(world.seam(journal), world.recorded_wrong)
        seen: Journal = self.mortal  # type: ignore[assignment]  # it answers to every method
        clock, self.tokens = world.clock, world.tokens
        self.provider = Provider(
            base_url="https://relay.test", key="sk-0123456789", clock=clock,
            pool=Answering(lambda request: world.upstream.ask(self.mortal, request)),
        )  # fmt: skip
        routes = tuple(Route(destination=name, progress=True) for name in world.places)
        self.intake = Intake(seen, policy=POLICY, routes=routes, clock=clock, changed=lambda row: None)
        self.submissions = Submissions(
            journal=seen, provider=self.provider, intake=self.intake, tokens=self.tokens, store=world.store,
            clock=clock, destinations=world.places, public_url=PUBLIC_URL, deadline_ms=DEADLINE * 1000,
            submit_timeout=75.0,
        )  # fmt: skip
        archiver = Archiver(
            journal=seen, intake=self.intake, provider=self.provider, fetcher=world.fetcher, store=world.store,
            clock=clock,
        )  # fmt: skip
        health = ProviderHealth(troubles=Troubles(journal=seen, clock=clock), clock=clock)
        self.reconciler = Reconciler(
            journal=seen, provider=self.provider, health=health, intake=self.intake, archiver=archiver,
            tokens=self.tokens, policy=POLICY, budget=Budget(120), clock=clock,
        )  # fmt: skip
        self.seen = seen

    async def start_engine(self) -> None:
        """As a start does; a second time in one process, what still runs is left behind, as after a drain in vain."""
        world = self.world
        world.starts += 1
        for place in world.places.values():
            place.abandon()
        await self.seen.register(dict.fromkeys(world.places, "Door"))
        self.dispatcher = Dispatcher(
            journal=self.seen,
            destinations={
                name: destination(name, Door(place, self.mortal), concurrency=2, timeout=3600)
                for name, place in world.places.items()
            },
            store=world.store,
            clock=world.clock,
            owner=f"engine-{world.starts}",
            changed=lambda: None,
        )
        await self.seen.clamp(world.clock.now_ms())
        await self.seen.free_running(self.dispatcher.owner, world.clock.now_ms())

    async def submit(self) -> None:
        row = await self.submissions.prepare(build("shorten", prompt="a boat"))
        self.world.submitted.append(row.id)
        with contextlib.suppress(ProviderError):  # the row says the same
            await self.submissions.send(row.id, background=True)

    async def receive(self, body: dict[str, Any], url_token: str | None) -> None:
        """As the callback's address does. When it returns, the sender has had its 2xx."""
        text = json.dumps(body)
        try:
            found = unwrap(self.tokens, text.encode(), url_token)
        except TokenError:
            return
        await self.intake.received(found.submission_id, found.task, text.encode(), found.cause)
        self.world.acknowledged.append(redact_known(text))

    async def turn(self) -> None:
        """What the engine's loops do: each step once."""
        await self.seen.clamp(self.world.clock.now_ms())
        await self.submissions.send_once()
        await self.reconciler.reconcile_once()
        await self.dispatcher.dispatch_once()
        await self.rest()

    async def rest(self) -> None:
        """Until nothing moves but what hangs."""
        still = 0
        while still < 10:
            await asyncio.sleep(0 if not self.mortal.under_way else 0.0002)
            still = 0 if self.mortal.under_way else still + 1


class World:
    """Everything that outlives a process, its file included.

    Attributes:
        submitted: submissions whose call returned.
        acknowledged: bodies of callbacks that were answered 2xx.
    """

    def __init__(self, folder: Path, seam: Seam) -> None:
        self.folder = folder
        self.seam = seam
        self.clock = StillClock()
        self.tokens = Tokens(KEYS, max_age=72 * 3600, clock=self.clock)
        self.upstream = Upstream(self.tokens)
        self.places = {"plain": Place("plain", once=False), "once": Place("once", once=True)}
        self.store = MediaStore(folder / "media")
        self.fetcher = Fetcher(hosts=[], origins=[], max_bytes=1, timeout=1.0, tls=TLS)
        self.submitted: list[str] = []
        self.acknowledged: list[str] = []
        self.recorded_wrong: list[str] = []
        self.starts = 0
        self.lives = 0
        self.path = folder / "0" / "journal.db"
        self.process: Process | None = None

    async def act(self, action: Callable[[Process], Awaitable[None]]) -> None:
        """Do something in the process there is, or in a new one. It may die of it."""
        process = self.process or await self._start()
        try:
            await action(process)
            await process.rest()
        except Dead:
            pass  # the next life takes over what is left, below
        if process.mortal.dead:
            await self._bury(process)

    async def crash(self) -> None:
        """kill -9 at this moment."""
        if self.process is not None:
            self.process.mortal.dead = True
            await self._bury(self.process)

    async def stop(self) -> None:
        """SIGTERM: what runs is interrupted, what is open is closed."""
        if self.process is not None:
            process, self.process = self.process, None
            await process.dispatcher.drain(0)
            await self._close(process)

    async def _start(self) -> Process:
        self.process = Process(self, Journal(await open_store(self.path)))
        await self.process.start_engine()
        return self.process

    async def _bury(self, process: Process) -> None:
        """The next life finds the file and the log beside it just as they are now; nothing was closed."""
        self.process = None
        self.lives += 1
        old, self.path = self.path, self.folder / str(self.lives) / "journal.db"
        self.path.parent.mkdir()
        for end in ("", "-wal"):
            if old.with_name(old.name + end).exists():
                shutil.copyfile(old.with_name(old.name + end), self.path.with_name(self.path.name + end))
        await self._close(process)

    async def _close(self, process: Process) -> None:
        process.mortal.dead = True
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await process.provider.aclose()
        await process.journal.aclose()

    @property
    def wrong(self) -> Iterable[str]:
        """What anybody outside saw that must not be."""
        yield from self.upstream.wrong
        yield from self.recorded_wrong
        for place in self.places.values():
            yield from place.wrong
