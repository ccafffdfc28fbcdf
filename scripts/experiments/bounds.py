"""Harm that one event, one callback token and one stranger can do to all others."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
from builds.replacing import replaced
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from experiments.base import Experiment, Outcome
from experiments.kills import BUSY
from experiments.servers import here, served
from experiments.sizes import Memory
from experiments.stage import Callback, Ledger, callbacks, http_client, post, rows, seed
from experiments.witnesses import Witness, view
from receiver.events import Event, Submission
from receiver.intake import transitions
from receiver.intake.transitions import MAX_CALLBACK_BYTES, MAX_CALLBACKS
from receiver.journal import journal
from receiver.web.connections import MAX_CONNECTIONS, Connection

HELD_UP = 10.0
"""Seconds one event may hold up others at its own destination (P9)."""
ANSWER = 1.0
"""Seconds in which 99 % of the requests of others are answered. On a busy machine, `kills.BUSY` times as long as the
slowest answer before the attack."""


class PoisonEvents:
    """Events that one destination refuses, before good ones."""

    name = "poison-events"
    summary = "30 events that a destination refuses, then 60 good ones: these arrive within 10 s"
    promises = ("P9",)
    bad, good = 30, 60

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._deliver(folder)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Probe a paused destination with what is due first."""
        with replaced(journal, "PROBES", (0.0,)):
            return await self._deliver(folder)

    async def _deliver(self, folder: Path) -> Outcome:
        begun, refused = time.monotonic(), 0
        targets = await seed(folder / "data", self.bad + self.good)
        poison = {target.id for target in targets[: self.bad]}

        async def take(event: Event) -> None:
            nonlocal refused
            if event.submission_id in poison:
                refused += 1
                raise ConnectionError("the server answered 500")

        witness = Witness("place", take)
        async with here(folder, functions=[witness.function()]) as world:
            memory = Memory()
            for target in targets:
                await world.receiver.intake.received(target.id, view(target.task_id, 50), b"{}", None)
            sent = time.monotonic()
            while time.monotonic() - sent < HELD_UP and witness.count < self.good:  # noqa: ASYNC110 - counts
                await asyncio.sleep(0.05)
            waited = time.monotonic() - sent
        missing = self.good - witness.count
        faults = [f"{missing} good ones waited for more than {HELD_UP:g} s" if missing else "", memory.fault]
        return Outcome(
            injected=refused,
            acknowledged=self.good,
            lost=0,
            doubled=witness.repeated,
            seconds=time.monotonic() - begun,
            notes=f"{witness.count} of {self.good} good ones within {waited:.1f} s, {refused} refusals; "
            f"memory + {memory.grown:.0f} MB",
            problem="; ".join(filter(None, faults)) or None,
        )


class StolenToken:
    """A flood of large callbacks under one token, before and after the end of its task."""

    name = "stolen-token"
    summary = "a flood of callbacks under one token: few rows, one question to the provider in 2 s, others in 1 s"
    promises = ("P5", "P7")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._flood(folder, 6.0 if quick else 30.0)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Keep every callback, and ask about each."""

        def always(row: Submission, size: int) -> bool:
            return True

        with replaced(transitions, "has_room", always), replaced(transitions, "ASK_MS", 0):
            return await self._flood(folder, 4.0)

    async def _flood(self, folder: Path, seconds: float) -> Outcome:
        begun, questions = time.monotonic(), 0
        stolen, *others = await seed(folder / "data", 40)

        async def answer(request: Request) -> Response:
            nonlocal questions
            if request.method == "POST":
                questions += 1
                return JSONResponse([{"id": stolen.task_id, "status": "IN_PROGRESS", "progress": "10%"}])
            return JSONResponse({"id": stolen.task_id, "status": "IN_PROGRESS", "progress": "10%"})

        task = {"id": stolen.task_id, "status": "IN_PROGRESS", "state": "forged", "padding": "x" * 60_000}
        forged = Callback(0, stolen, False, json.dumps(task).encode())
        ledger, flood = Ledger(), Ledger()
        provider = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
        async with served(provider) as url, here(folder, provider_url=url) as world, http_client(world.url) as http:
            plain, memory = await plain_answer(http), Memory()
            until = time.monotonic() + seconds

            async def send() -> None:
                while time.monotonic() < until:
                    await post(http, forged, flood)

            sending = [asyncio.create_task(send()) for _ in range(8)]
            waits = []
            for item in callbacks(others, steps=4):
                at = time.monotonic()
                await post(http, item, ledger)
                waits.append(time.monotonic() - at)
                await asyncio.sleep(seconds / 250)
            await asyncio.gather(*sending)
        kept, size = rows(
            folder / "data", "SELECT count(*), sum(length(body)) FROM callbacks WHERE submission_id = :id",
            {"id": stolen.id},
        )[0]  # fmt: skip
        slow, limit = sorted(waits)[int(len(waits) * 0.99)], max(ANSWER, BUSY * plain)
        faults = [
            f"{kept} callbacks with {size:,} bytes were kept"
            if kept > MAX_CALLBACKS or size > MAX_CALLBACK_BYTES
            else "",
            f"{questions} questions in {seconds:g} s" if questions > seconds / 2 + 2 else "",
            f"others were answered within {slow:.2f} s" if slow > limit else "",
            memory.fault,
        ]
        return Outcome(
            injected=flood.answers.total(),
            acknowledged=len(ledger.acknowledged),
            lost=len(waits) - len(ledger.acknowledged),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{flood.answers.total():,} callbacks, {kept} kept ({size:,} bytes), {questions} questions; "
            f"p99 of others {slow * 1000:.0f} ms; memory + {memory.grown:.0f} MB",
            problem="; ".join(filter(None, faults)) or None,
        )


class SilentConnections:
    """More silent connections than a server has room for, while others call back."""

    name = "silent-connections"
    summary = "300 silent connections beyond the limit: health checks and callbacks are answered within 1 s"
    promises = ("P7",)
    beyond = 300

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._hold(folder)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Let no connection give way."""
        with replaced(Connection, "_make_room", lambda self: None):
            return await self._hold(folder)

    async def _hold(self, folder: Path) -> Outcome:
        begun, ledger, healthy, waits = time.monotonic(), Ledger(), 0, []
        items = list(callbacks(await seed(folder / "data", 4)))[:40]
        count = MAX_CONNECTIONS + self.beyond
        async with here(folder) as world:
            async with http_client(world.url) as http:
                limit = max(ANSWER, BUSY * await plain_answer(http))
            memory = Memory()
            port = int(world.url.rpartition(":")[2])
            with ExitStack() as stack:
                for _ in range(count):
                    with suppress(ConnectionError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        stack.callback(writer.close)
                for item in items:
                    at = time.monotonic()
                    async with http_client(world.url) as http:  # a new connection each
                        await post(http, item, ledger)
                        waits.append(time.monotonic() - at)
                    async with http_client(world.url) as http:
                        with suppress(httpx.TransportError):
                            healthy += (await http.get("/livez")).status_code == 200
        slow = sorted(waits)[int(len(waits) * 0.99)]
        faults = [
            "" if healthy == len(items) else f"{healthy} of {len(items)} health checks",
            f"callbacks in {slow:.1f} s" if slow > limit else "",
            memory.fault,
        ]
        return Outcome(
            injected=count,
            acknowledged=len(ledger.acknowledged),
            lost=len(items) - len(ledger.acknowledged),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{healthy} of {len(items)} health checks; p99 of callbacks {slow * 1000:.0f} ms; "
            f"memory + {memory.grown:.0f} MB",
            problem="; ".join(filter(None, faults)) or None,
        )


async def plain_answer(http: httpx.AsyncClient) -> float:
    """Return the seconds of the slowest of some answers before the attack."""
    waits = []
    for _ in range(20):
        at = time.monotonic()
        await http.get("/livez")
        waits.append(time.monotonic() - at)
    return max(waits)


EXPERIMENTS: tuple[Experiment, ...] = (PoisonEvents(), StolenToken(), SilentConnections())
