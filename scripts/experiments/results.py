"""Results of several files: one link is dead, the CDN is away, or one answer names more than anybody can have."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builds.replacing import replaced
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from experiments.base import Experiment, Outcome
from experiments.polling import submit
from experiments.servers import here, served
from experiments.sizes import Memory
from receiver.clock import Clock
from receiver.engine import archiver
from receiver.events import Submission
from receiver.journal import files
from receiver.testing import make_media

SPEED = 300.0
"""An hour is twelve seconds."""
AWAY = 3600.0
FILES = 4
MANY = 6500
SOON = 10.0
"""Real seconds within which the results of others must be there."""
TWENTY_MINUTES = (3, 7, 20, 30, 60, 120, 300, 600)


@dataclass
class Provider:
    """A relay and its CDN. Each task succeeds at once.

    Attributes:
        drawn: the picture behind each link, with a few further bytes that make it different.
        links: number of links of each task, by its number.
        away: True while the CDN answers 503.
        dead: numbers of links that the CDN answers 403.
        slow: numbers of tasks whose files never end.
    """

    drawn: bytes
    links: dict[int, int] = field(default_factory=dict)
    away: bool = False
    dead: frozenset[int] = frozenset()
    slow: frozenset[int] = frozenset()
    requests: set[tuple[int, int]] = field(default_factory=set)
    refused: int = 0
    _tasks: int = 0

    @property
    def app(self) -> Starlette:
        """The provider as a web application."""
        return Starlette(
            routes=[
                Route("/mj/submit/imagine", self._submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self._list, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self._fetch),
                Route("/files/{task:int}/{link:int}", self._file),
            ]
        )

    async def _submit(self, request: Request) -> Response:
        self._tasks += 1
        return JSONResponse({"code": 1, "description": "Submit success", "result": str(self._tasks)})

    async def _list(self, request: Request) -> Response:
        return JSONResponse([self._task(request, id) for id in json.loads(await request.body())["ids"]])

    async def _fetch(self, request: Request) -> Response:
        return JSONResponse(self._task(request, request.path_params["id"]))

    def _task(self, request: Request, id: str) -> dict[str, Any]:
        links = [{"url": f"{request.base_url}files/{id}/{at}"} for at in range(self.links.get(int(id), FILES))]
        return {"id": id, "action": "IMAGINE", "status": "SUCCESS", "progress": "100%", "imageUrls": links}

    async def _file(self, request: Request) -> Response:
        task, link = request.path_params["task"], request.path_params["link"]
        self.requests.add((task, link))
        if self.away or link in self.dead:
            self.refused += 1
            return Response("<html>not now</html>", 503 if self.away else 403, media_type="text/html")
        if task in self.slow:
            await asyncio.sleep(3600)
        return Response(self.drawn + b"%d %d" % (task, link), media_type="image/png")


class DeadLink:
    """One of four links is dead, and for an hour so is the whole CDN."""

    name = "dead-link"
    summary = "one of four links dead, the CDN away for an hour: three files are delivered then, and the fourth later"
    promises = ("P3", "P11")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._bring(folder, 8 if quick else 40, patience=60)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Give up after twenty minutes."""
        with replaced(files, "MEDIA", TWENTY_MINUTES):
            return await self._bring(folder, 2, patience=3)

    async def _bring(self, folder: Path, tasks: int, *, patience: float) -> Outcome:
        begun, outputs = time.monotonic(), folder / "outputs"
        provider = Provider(make_media(folder / "drawn")[0].path.read_bytes(), away=True, dead=frozenset({2}))
        async with (
            served(provider.app) as url,
            here(folder, clock=Clock(SPEED), provider_url=url, poll_interval=15.0, deadline=4200.0) as world,
        ):
            await submit(world.receiver, tasks)
            await world.receiver.clock.sleep(AWAY)
            told = sum("media_problem" in path.read_text() for path in outputs.glob("*.json"))
            early = _pictures(outputs)
            provider.away = False
            await _until(outputs, tasks * (FILES - 1), patience)
            three = _pictures(outputs)
            provider.dead = frozenset()
            await _until(outputs, tasks * FILES, patience)
            await world.receiver.stop_engine()
        four = _pictures(outputs)
        fine = told == tasks and not early and three == tasks * (FILES - 1)
        return Outcome(
            injected=provider.refused,
            acknowledged=tasks * FILES,
            lost=tasks * FILES - four,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{tasks} results: {early} files while the CDN was away, {three} with one link dead, then {four}",
            problem=None if fine else f"{told} of {tasks} results said what was missing; {three} files came at first",
        )


class LargeResult:
    """One answer names thousands of files, eight others never end, and the rest is as usual."""

    name = "large-result"
    summary = "a result of 6,500 links beside eight that never end: 16 are asked for, and others come within 10 s"
    promises = ("P9",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._share(folder, 10 if quick else 40, patience=SOON)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Eight downloads at once, without a limit for one result, and without turns."""
        with ExitStack() as stack:
            for owner, name, value in (
                (files, "MAX_FILES", MANY),
                (archiver, "AT_ONCE", 8),
                (archiver, "PER_RESULT", 8),
                (archiver, "TURN_SECONDS", 3600.0),
            ):
                stack.enter_context(replaced(owner, name, value))
            return await self._share(folder, 10, patience=3)

    async def _share(self, folder: Path, good: int, *, patience: float) -> Outcome:
        begun, outputs = time.monotonic(), folder / "outputs"
        small = make_media(folder / "drawn")[0].path.read_bytes()
        provider = Provider(small, links={1: MANY}, slow=frozenset(range(2, 10)))
        async with (
            served(provider.app) as url,
            here(folder, provider_url=url, poll_interval=2.0, deadline=4200.0) as world,
        ):
            memory = Memory()
            rows = [*await submit(world.receiver, 1), *await submit(world.receiver, 8)]
            await _until(outputs, 1, patience)
            rows = await submit(world.receiver, good)
            since = time.monotonic()
            came = await _all_here(world.receiver.journal.find, rows, 2.0 + SOON)
            seconds = time.monotonic() - since
            await world.receiver.stop_engine()
        asked = sum(task == 1 for task, _ in provider.requests)
        faults = [f"{asked} files of one result were asked for" if asked > files.MAX_FILES else "", memory.fault]
        return Outcome(
            injected=9,
            acknowledged=good,
            lost=good - came,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{asked} files of the large result asked for; {came} of {good} others in {seconds:.1f} s; "
            f"memory + {memory.grown:.0f} MB",
            problem="; ".join(filter(None, faults)) or None,
        )


async def _all_here(find: Any, rows: list[Submission], seconds: float) -> int:
    """Return how many results have all their files within that time."""
    until = time.monotonic() + seconds
    while True:
        found = [await find(row.id) for row in rows]
        here = sum(len(row.media) == FILES for row in found)
        if here == len(rows) or time.monotonic() >= until:
            return here
        await asyncio.sleep(0.1)


def _pictures(outputs: Path) -> int:
    return len(list(outputs.glob("[0-9]*.png")))


async def _until(outputs: Path, count: int, seconds: float) -> None:
    """Wait until there are so many pictures, or for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and _pictures(outputs) < count:  # noqa: ASYNC110 - files
        await asyncio.sleep(0.1)


EXPERIMENTS: tuple[Experiment, ...] = (DeadLink(), LargeResult())
