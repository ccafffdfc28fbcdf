"""Functions on a bucket: killed between any two of its puts, two at once, without ticks, and with a store that fails.

The bucket is SeaweedFS, a process beside this one. A function is an application that is opened anew for each instance;
one that is killed reaches the bucket no more from one put to the next, and is abandoned.
"""

from __future__ import annotations

import asyncio
import operator
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from buckets import KEY, SECRET, shared_server
from builds.postgres import hasty
from builds.replacing import replaced
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from stores import Fault, proxied

from experiments.base import Experiment, Outcome
from experiments.servers import served
from experiments.stage import KEY as SIGNING_KEY
from receiver.app.journals import journal_of
from receiver.bucket import BucketOptions
from receiver.bucket.client import Bucket, StoredObject, Tag
from receiver.clock import Clock
from receiver.engine.engine import Engine
from receiver.errors import JournalError
from receiver.journal import Journal, bucket
from receiver.serverless import Application
from receiver.settings import Settings

TIMES = {"EXPIRE_SECONDS": 2.0, "HEARTBEAT_SECONDS": 0.5}
"""Membership with shorter times, because the experiment waits for them with each kill."""
WRITES = 20
"""More than the request of a callback takes."""
AT_ONCE = 8
SHARE = 0.2
FAULTS: tuple[Fault, ...] = ("busy", "done", "reset done")
DAY = 86_400.0
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
SECRET_OF_HOOK = "whsec_" + "ab" * 16
TOKEN = "a-token-of-the-experiments-alone"  # noqa: S105 - no secret: it opens this run's own functions


# A provider, and a webhook that tells what reached it how often


@dataclass
class World:
    """The provider of all tasks of a run: each has succeeded as soon as it is asked about.

    Attributes:
        hooks: task id → where its callback goes.
        got: (event, webhook-id) → how often it came.
    """

    url: str = ""
    hooks: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    got: Counter[tuple[str, str]] = field(default_factory=Counter)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mj/submit/imagine", self._submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self._list, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self._fetch),
                Route("/picture.png", self._picture),
                Route("/hook", self._hook, methods=["POST"]),
            ]
        )

    def task(self, id: str) -> dict[str, Any]:
        done = {"status": "SUCCESS", "progress": "100%", "imageUrl": f"{self.url}/picture.png"}
        return {"id": id, "action": "IMAGINE", "prompt": "a boat", "state": self.states[id], **done}

    @property
    def doubled(self) -> int:
        """Number of events that reached the webhook under more than one id, so that the repeat could not be dropped."""
        ids = Counter(event for event, _ in self.got)
        return sum(count - 1 for count in ids.values())

    async def _submit(self, request: Request) -> Response:
        body = await request.json()
        id = str(len(self.states) + 1)
        self.states[id] = body["state"]
        self.hooks[id] = httpx.URL(body["notifyHook"]).path
        return JSONResponse({"code": 1, "description": "", "result": id})

    async def _list(self, request: Request) -> Response:
        ids = (await request.json())["ids"]
        return JSONResponse([self.task(id) for id in ids if id in self.states])

    async def _fetch(self, request: Request) -> Response:
        return JSONResponse(self.task(request.path_params["id"]))

    async def _picture(self, request: Request) -> Response:
        return Response(PICTURE, media_type="image/png")

    async def _hook(self, request: Request) -> Response:
        event = (await request.json())["id"]
        self.got[event, request.headers["webhook-id"]] += 1
        return Response(status_code=204)


@asynccontextmanager
async def provided() -> AsyncIterator[World]:
    world = World()
    async with served(world.app()) as world.url:
        yield world


# Instances


@dataclass
class Life:
    """The number of writes that an instance has left. `over` is set when it wants one more."""

    writes: int
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Fatal(Bucket):
    """The bucket of an instance that is killed before one of its writes."""

    def __init__(self, bucket: Bucket, life: Life | None) -> None:
        self.__dict__.update(vars(bucket))
        self._life = life

    def _check(self, writes: int = 0) -> None:
        if self._life is not None:
            self._life.writes -= writes
            if self._life.writes < 0:
                self._life.over.set()
            if self._life.over.is_set():
                raise JournalError("This instance has been killed.")

    async def get(self, key: str) -> StoredObject | None:
        self._check()
        return await super().get(key)

    async def get_if_changed(self, key: str, tag: Tag) -> StoredObject | Tag | None:
        self._check()
        return await super().get_if_changed(key, tag)

    async def put(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        self._check(1)
        return await super().put(key, data, attributes)

    async def create(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        self._check(1)
        return await super().create(key, data, attributes)

    async def replace(self, key: str, data: bytes | bytearray, tag: Tag) -> Tag:
        self._check(1)
        return await super().replace(key, data, tag)

    async def delete(self, keys: Sequence[str]) -> None:
        self._check(1)
        await super().delete(keys)


life_of_opener: ContextVar[Life | None] = ContextVar("life", default=None)
"""The life of the instance that opens its journal here. None: it is not killed."""


def mortal() -> AbstractContextManager[None]:
    """Let each instance that is opened while the block runs end with its life."""
    client_of = bucket.client_of

    def open_fatal(options: BucketOptions, folder: str) -> Bucket:
        return Fatal(client_of(options, folder), life_of_opener.get())

    return replaced(bucket, "client_of", open_fatal)


class Shifted(Clock):
    """The world's time, but for a difference."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.ahead = seconds

    def now(self) -> float:
        return super().now() + self.ahead


def place(world: World, folder: Path, endpoint: str | None = None) -> Settings:
    """Settings of a function with a bucket's folder of its own: to a folder here, and to the webhook."""
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    url = f"s3://journals/{secrets.token_hex(8)}?endpoint={endpoint or shared_server().url}&region=us-east-1"
    given: dict[str, Any] = {
        "database": url,
        "data": folder / "data",
        "keys": [SIGNING_KEY],
        "provider_url": world.url,
        "provider_key": "experiments",
        "public_url": "http://function",
        "to": f"file:{folder / 'outputs'} {world.url}/hook#{SECRET_OF_HOOK}",
        "media_hosts": [world.url],
        "poll_interval": 2.0,
        "api_tokens": {"experiments": TOKEN},
    }
    return Settings(**given)


@asynccontextmanager
async def instance(
    settings: Settings, *, life: Life | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[Application, httpx.AsyncClient]]:
    """A function that has just been started, and a client of it."""
    mark = life_of_opener.set(life)
    application = Application(settings, clock=clock)
    try:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://function", timeout=60) as http:
            yield application, http
    finally:
        await application.aclose()
        life_of_opener.reset(mark)


async def submit(http: httpx.AsyncClient) -> None:
    answer = await http.post("/submissions", json={"prompt": "a boat"}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 201, answer.text


async def call_back(http: httpx.AsyncClient, world: World, task: str) -> bool:
    """Send the callback of a task's end. Return True if it was answered 2xx."""
    return (await http.post(world.hooks[task], json=world.task(task))).is_success


def missing(folder: Path, world: World, wanted: int) -> int:
    """Results that did not reach the folder or the webhook, of so many."""
    there = len(list((folder / "outputs").glob("*.png")))
    return (wanted - there) + (wanted - len({event for event, _ in world.got}))


class Killed:
    """An instance is killed before its nth write to the bucket, for every n of a callback's request."""

    name = "function-killed"
    summary = "a function is killed between any two puts of a callback: nothing acknowledged is lost, each effect once"
    promises = ("P2", "P3")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._kill(folder, range(0, WRITES, 3 if quick else 1))

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Never free the deliveries of a killed instance."""

        async def never(self: Journal, *values: Any) -> int:
            return 0

        with replaced(Journal, "free_running", never):
            return await self._kill(folder, range(11, 19))

    async def _kill(self, folder: Path, numbers: range) -> Outcome:
        begun = time.monotonic()
        with mortal(), hasty(TIMES):
            results = [
                result
                for start in range(0, len(numbers), AT_ONCE)
                for result in await asyncio.gather(
                    *(self._one(folder / str(n), n) for n in numbers[start : start + AT_ONCE])
                )
            ]
        return Outcome(
            injected=sum(killed for killed, _, _, _ in results),
            acknowledged=len(results) + sum(kept for _, kept, _, _ in results),
            lost=sum(lost for _, _, lost, _ in results),
            doubled=sum(doubled for _, _, _, doubled in results),
            seconds=time.monotonic() - begun,
            notes=f"killed before write 1 to {WRITES}" if numbers.step == 1 else "",
        )

    async def _one(self, folder: Path, writes: int) -> tuple[bool, bool, int, int]:
        """Return (killed, acknowledged, lost, doubled) of one callback.

        The submission was acknowledged. So its result is lost if it does not arrive, or if the journal never records
        that it did.
        """
        async with provided() as world:
            settings = place(world, folder)
            async with instance(settings) as (_, http):
                await submit(http)
            life = Life(writes)
            async with instance(settings, life=life) as (_, http):
                request = asyncio.create_task(call_back(http, world, "1"))
                end = asyncio.create_task(life.over.wait())
                await asyncio.wait({request, end}, return_when=asyncio.FIRST_COMPLETED)
                kept = request.done() and request.result()
                for task in (request, end):
                    task.cancel()
                await asyncio.gather(request, end, return_exceptions=True)
            await asyncio.sleep(TIMES["EXPIRE_SECONDS"])
            async with instance(settings) as (application, _):
                await application.tick(120)
            async with journal_of(settings, existing=True) as journal:
                owed = [item for item in await journal.deliveries(limit=10) if item.status != "succeeded"]
            twice = world.doubled + max(len(list((folder / "outputs").glob("*.png"))) - 1, 0)
            return life.over.is_set(), kept, max(missing(folder, world, 1), len(owed)), twice


class AtOnce:
    """Two instances whose clocks differ by a minute get every callback at the same time, while both of them tick."""

    name = "functions-at-once"
    summary = "two functions, their clocks a minute apart, get each callback at once and tick beside: each effect once"
    promises = ("P3", "P4")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._meet(folder, 8 if quick else 40)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Overwrite a submission, even if another process has written it meanwhile."""
        replace = Bucket.replace

        async def heedless(self: Bucket, key: str, data: bytes | bytearray, tag: Tag) -> Tag:
            if key.startswith("submissions/"):
                await asyncio.sleep(0.05)
                return await self.put(key, data)
            return await replace(self, key, data, tag)

        with replaced(Bucket, "replace", heedless):
            return await self._meet(folder, 8)

    async def _meet(self, folder: Path, tasks: int) -> Outcome:
        begun = time.monotonic()
        async with provided() as world:
            settings = place(world, folder)
            one = instance(settings, clock=Shifted(-30))
            two = instance(settings, clock=Shifted(+30))
            async with one as (first, http), two as (second, other):
                for _ in range(tasks):
                    await submit(http)
                kept = await asyncio.gather(
                    *(call_back(client, world, str(n + 1)) for n in range(tasks) for client in (http, other)),
                    first.tick(120),
                    second.tick(120),
                    return_exceptions=True,
                )
                await first.tick(120)
        return Outcome(
            injected=tasks,
            acknowledged=sum(answer is True for answer in kept),
            lost=missing(folder, world, tasks),
            doubled=sum(world.got.values()) - len(world.got) + world.doubled,
            seconds=time.monotonic() - begun,
            notes=f"{sum(world.got.values())} posts of {tasks} results",
        )


class NoTick:
    """Nothing is called back, and no tick runs for a day. Then another submission comes."""

    name = "no-tick"
    summary = "no callback and no tick for a day: the next request brings every picture, and calls none of them lost"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._sleep(folder, 12 if quick else 40)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Carry on what a request has begun, and look at nothing else."""
        run_until_idle = Engine.run_until_idle

        async def own(self: Engine, seconds: float, *, begun: bool = True, look: bool = True) -> None:
            await run_until_idle(self, seconds, begun=begun, look=False)

        with replaced(Engine, "run_until_idle", own):
            return await self._sleep(folder, 4)

    async def _sleep(self, folder: Path, tasks: int) -> Outcome:
        begun, clock = time.monotonic(), Shifted()
        async with provided() as world:
            settings = place(world, folder)
            async with instance(settings, clock=clock) as (_, http):
                for _ in range(tasks):
                    await submit(http)
            before = missing(folder, world, tasks)
            clock.ahead = DAY
            async with instance(settings, clock=clock) as (_, http):
                await submit(http)
            async with journal_of(settings, existing=True) as journal:
                ends = Counter(event.type for event in await journal.events(limit=1000))
        return Outcome(
            injected=before // 2,
            acknowledged=tasks,
            lost=missing(folder, world, tasks),
            doubled=world.doubled,
            seconds=time.monotonic() - begun,
            problem=f"{ends['task.lost']} were called lost first" if ends["task.lost"] else None,
        )


class StoreErrors:
    """The store answers 503, or 500 after having written, or closes the connection then; what is sent again for that
    meets its own write, and gets 412."""

    name = "store-errors"
    summary = (
        "one request in five to a function's bucket gets 503, or 500 or nothing after it was done: nothing is lost"
    )
    promises = ("P2", "P3")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._fail(folder, 6 if quick else 40)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Treat some submissions that could not be put as put, and go on with what is in memory."""
        put, dice, dropped = Bucket._put, random.Random(1), set[str]()  # noqa: S311 - no secret

        async def careless(self: Bucket, key: str, *values: Any, **more: Any) -> Tag:
            if key in dropped or (key.startswith("submissions/") and dice.random() < 2 * SHARE):
                dropped.add(key)
                return Tag("")
            return await put(self, key, *values, **more)

        return await self._fail(folder, 6, careless)

    async def _fail(self, folder: Path, tasks: int, put: Any = Bucket._put) -> Outcome:
        begun, dice, done = time.monotonic(), random.Random(1), Counter[str]()  # noqa: S311 - no secret

        def fault(method: str, path: str) -> Fault | None:
            found: Fault | None = dice.choice(FAULTS) if dice.random() < SHARE else None
            if found is not None:
                done[found] += 1
            return found

        async with provided() as world, proxied(shared_server().url) as proxy:
            settings = place(world, folder, proxy.url)
            async with instance(settings) as (application, http):
                for _ in range(tasks):
                    await submit(http)
                with replaced(Bucket, "_put", put):
                    proxy.fault = fault
                    kept = await asyncio.gather(*(call_back(http, world, str(n + 1)) for n in range(tasks)))
                    proxy.fault = lambda method, path: None
                    await asyncio.sleep(6)  # the first retry of what failed
                    for _ in range(2):
                        await application.tick(120)
            async with journal_of(settings, existing=True) as journal:
                rows = {row.task_id: row.id for row in await journal.submissions(limit=tasks)}
                stored = [bool(await journal.callbacks(rows[str(n + 1)])) for n in range(tasks)]
        return Outcome(
            injected=done.total(),
            acknowledged=tasks + sum(kept),
            lost=missing(folder, world, tasks) + sum(map(operator.gt, kept, stored)),
            doubled=world.doubled,
            seconds=time.monotonic() - begun,
            notes=", ".join(f"{count} {name}" for name, count in done.items()),
        )


EXPERIMENTS: tuple[Experiment, ...] = (Killed(), AtOnce(), NoTick(), StoreErrors())
