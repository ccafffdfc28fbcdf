"""Harm that a provider's words and a stranger's forged result can do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from builds.replacing import replaced
from builds.seams import unwatched
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import receiver.tasks as reading
from experiments.base import Experiment, Outcome
from experiments.servers import here, served
from experiments.sizes import Memory
from experiments.stage import PATIENCE, Callback, Ledger, Target, callbacks, http_client, post, seed
from experiments.witnesses import Witness
from receiver.clock import Clock
from receiver.intake import transitions
from receiver.testing import make_media

ANSWER, DELIVERY = 1.0, 10.0
"""Seconds in which 99 % of the callbacks of others are answered, and all their results delivered."""
SPEED = 20.0


class HostileWords:
    """A provider whose every word is as long as the door allows, or longer."""

    name = "hostile-words"
    summary = "prompts, reasons, buttons and links of 200 KB in callbacks and polls: others are answered within 1 s"
    promises = ("P7",)
    pieces = ("a", " ", "://", "[a](", "1. ", "画", "<@", "\n")
    others = 40

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._speak(folder, 2 if quick else 6, self.pieces)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Bound nothing, and read prompts by the pattern that once stopped the process."""

        def unbounded(text: str, longest: int) -> str:
            return text if len(text) <= longest else re.sub(r"\S*://\S*", "", text[:40_000]) + text[40_000:]

        with unwatched(), replaced(reading, "cut", unbounded):
            return await self._speak(folder, 1, "ab")

    async def _speak(self, folder: Path, times: int, pieces: Sequence[str]) -> Outcome:
        begun, witness = time.monotonic(), Witness("place")
        targets = await seed(folder / "data", len(pieces) + self.others)
        hostile = dict(zip(pieces, targets, strict=False))
        good = list(callbacks(targets[len(pieces) :], steps=4))
        answers = {target.task_id: told(target, piece) for piece, target in hostile.items()}
        flood, ledger, waits = Ledger(), Ledger(), []
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(served(provider(answers)))
            own: dict[str, Any] = {"provider_url": url, "poll_interval": 2.0}
            world = await stack.enter_async_context(here(folder, functions=[witness.function()], **own))
            http = await stack.enter_async_context(http_client(world.url))

            async def speak() -> None:
                for piece, target in [*hostile.items()] * times:
                    item = Callback(0, target, False, json.dumps(answers[target.task_id]).encode())
                    await post(http, item, flood)
                    end = told(target, piece) | {"status": "FAILURE", "imageUrls": []}
                    await post(http, Callback(0, target, True, json.dumps(end).encode()), flood)

            memory = Memory()
            speaking = asyncio.create_task(speak())
            for item in good:
                at = time.monotonic()
                await post(http, item, ledger)
                waits.append(time.monotonic() - at)
                await asyncio.sleep(0.01)
            sent = time.monotonic()
            while witness.ended < self.others and time.monotonic() - sent < DELIVERY:  # noqa: ASYNC110 - a count
                await asyncio.sleep(0.02)
            delivered = time.monotonic() - sent
            await speaking
        slow = sorted(waits)[int(len(waits) * 0.99)]
        faults = [
            f"others were answered within {slow:.1f} s" if slow > ANSWER else "",
            f"{witness.ended} of {self.others} results within {DELIVERY:g} s" if witness.ended < self.others else "",
            f"answers to the provider: {flood.answers}" if flood.answers.keys() - {200, 400, 429} else "",
            memory.fault,
        ]
        return Outcome(
            injected=flood.answers.total(),
            acknowledged=len(ledger.acknowledged),
            lost=len(good) - len(ledger.acknowledged),
            doubled=witness.repeated,
            seconds=time.monotonic() - begun,
            notes=f"p99 of others {slow * 1000:.0f} ms, their results within {delivered:.1f} s; "
            f"memory + {memory.grown:.0f} MB",
            problem="; ".join(filter(None, faults)) or None,
        )


def told(target: Target, piece: str) -> dict[str, Any]:
    """Return a task of at most 256 KiB whose words are a piece again and again."""
    size = len(json.dumps(piece)) - 2

    def text(length: int) -> str:
        return piece * (length // size)

    return {
        "id": target.task_id,
        "state": target.state_token,
        "status": "IN_PROGRESS",
        "progress": "50%",
        "prompt": text(60_000),
        "promptEn": text(30_000),
        "description": text(30_000),
        "failReason": text(40_000),
        "buttons": [{"customId": f"MJ::{number}", "label": text(300), "emoji": text(300)} for number in range(100)],
        "imageUrls": [{"url": f"https://example.com/{number}.png"} for number in range(500)],
        "properties": {"finalPrompt": text(10_000)},
    }


class ForgedResults:
    """A stranger with both tokens of each task, and a provider that says otherwise."""

    name = "forged-results"
    summary = "SUCCESS forged with both tokens against a fetched FAILURE or IN_PROGRESS: only the real ends arrive"
    promises = ("P5",)
    each = 5

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._forge(folder)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Take the provider's other status for a view that lags."""
        with replaced(transitions, "contradicts", lambda view, claimed: False):
            return await self._forge(folder)

    async def _forge(self, folder: Path) -> Outcome:
        begun, witness, clock = time.monotonic(), Witness("place"), Clock(SPEED)
        targets = await seed(folder / "data", 2 * self.each)
        failed, running = targets[: self.each], targets[self.each :]
        answers = {item.task_id: view_of(item, "FAILURE", failReason="blocked by the filter") for item in failed}
        answers |= {item.task_id: view_of(item, "IN_PROGRESS", progress="40%") for item in running}
        picture, ledger = make_media(folder / "drawn")[0].path.read_bytes(), Ledger()
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(served(provider(answers, picture)))
            own: dict[str, Any] = {"provider_url": url, "confirm_within": 30.0, "poll_interval": 15.0}
            world = await stack.enter_async_context(here(folder, clock=clock, functions=[witness.function()], **own))
            http = await stack.enter_async_context(http_client(world.url))
            for item in targets:
                forged = view_of(item, "SUCCESS", imageUrl=f"{url}/forged.png")
                await post(http, Callback(0, item, True, json.dumps(forged).encode()), ledger)
            await clock.sleep(45)  # the time for the provider to confirm is over
            for item in running:
                answers[item.task_id] = view_of(item, "SUCCESS", imageUrl=f"{url}/real.png")
            until = time.monotonic() + PATIENCE
            while sum(map(bool, ends(witness).values())) < len(targets) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        found = ends(witness)
        forgeries = sum("forged" in end for seen in found.values() for end in seen)
        real = sum(found.get(item.id) == ["task.failed"] for item in failed)
        real += sum("real" in "".join(found.get(item.id, ())) for item in running)
        return Outcome(
            injected=ledger.answers[200],
            acknowledged=len(targets),
            lost=len(targets) - real,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{real} of {len(targets)} real ends delivered, {forgeries} forged ones",
            problem=f"{forgeries} forged results were delivered" if forgeries else None,
        )


def view_of(target: Target, status: str, **more: str) -> dict[str, str]:
    return {"id": target.task_id, "state": target.state_token, "status": status, "progress": "100%", **more}


def ends(witness: Witness) -> dict[str, list[str]]:
    """Return the ends that a destination got, by submission: the type, and the link of a success."""
    return {
        id: [
            event.task.image_url if event.type == "task.succeeded" and event.task else event.type
            for event in events
            if event.type in ("task.succeeded", "task.failed", "task.lost")
        ]
        for id, events in witness.seen.items()
    }


def provider(answers: dict[str, dict[str, Any]], picture: bytes = b"") -> Starlette:
    """Return a provider that knows these tasks, and has one picture under every name."""

    async def fetch(request: Request) -> Response:
        return JSONResponse(answers.get(request.path_params["id"]))

    async def listed(request: Request) -> Response:
        return JSONResponse([answers[id] for id in (await request.json())["ids"] if id in answers])

    async def drawn(request: Request) -> Response:
        return Response(picture, media_type="image/png")

    return Starlette(
        routes=[
            Route("/mj/task/list-by-condition", listed, methods=["POST"]),
            Route("/mj/task/{id}/fetch", fetch),
            Route("/{name}", drawn),
        ]
    )


EXPERIMENTS: tuple[Experiment, ...] = (HostileWords(), ForgedResults())
