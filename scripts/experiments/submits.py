"""Submits whose answer never comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from builds import clocks
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.base import Experiment, Outcome
from experiments.servers import Server, served, server
from experiments.stage import PATIENCE, delivered, http_client, rows
from receiver.simulator import Simulator

TOKEN = "experiments-16-or-more"  # noqa: S105
ANSWERED = 1.0
"""Seconds Receiver waits for the answer to a submit."""
ENDS = {"cut": "task.succeeded", "hung": "task.succeeded", "unmade": "task.lost", "killed": None}
"""Fate of a submit → its end; None: any.

    cut     the task is made, and the connection breaks in the middle of the answer
    hung    the task is made, and the answer does not come in time
    unmade  the connection breaks in the middle of the answer, and no task was made
    killed  the task is made, and Receiver is killed while it waits for the answer
"""


class Unreliable:
    """The simulated provider behind a connection with these faults. A prompt begins with what becomes of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: Counter[str] = Counter()
        """Number of times that each prompt was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/submit/imagine"):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        prompt = json.loads(body)["prompt"]
        self.seen[prompt] += 1
        fate = prompt.split()[0]
        if fate != "unmade":
            await self._make(scope, body)
        if fate in ("hung", "killed"):
            await receive()  # until the other side goes
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b'{"code": 1, ', "more_body": True})
        raise ConnectionAbortedError("in the middle of the answer")

    async def _make(self, scope: Scope, body: bytes) -> None:
        """Let the provider make the task, and drop its answer."""

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            return

        await self._app(scope, receive, send)


class AnswerLost:
    """A real `receiver serve`, whose clock is faster, takes submissions over HTTP; its provider is the simulator behind
    such a connection. Clients that got no answer ask again with the same `Idempotency-Key`."""

    name = "answer-lost"
    summary = "the submit's answer is lost, or Receiver is killed while it waits: never sent twice, and always an end"
    promises = ("P1",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._submit(folder, 2 if quick else 10, build="set-clock", to_the_end=True)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Send once more what was not answered. Its end need not be waited for."""
        return await self._submit(folder, 2, build="set-clock+send-again", to_the_end=False)

    async def _submit(self, folder: Path, each: int, *, build: str, to_the_end: bool) -> Outcome:
        begun, data = time.monotonic(), folder / "data"
        clocks.make(folder)
        prompts = {fate: [f"{fate} {number}" for number in range(each)] for fate in ENDS}
        asked = [prompt for some in prompts.values() for prompt in some]
        async with unreliable() as (provider, url), server(folder, build=build, **settings(url)) as item:
            item.let_callbacks_come()
            await item.start()
            killed = prompts.pop("killed")
            await asyncio.gather(*(submit(item, prompt) for some in prompts.values() for prompt in some))
            await killing(item, provider, killed)
            if to_the_end:
                await until_ended(data)
                await delivered(data)
                await asyncio.sleep(1)  # some time more, in which nothing may be sent either
            ends = dict(rows(data, "SELECT body ->> '$.prompt', ended FROM submissions"))
        return Outcome(
            injected=len(asked),
            acknowledged=len(asked),
            lost=len(set(asked) - ends.keys()),
            doubled=sum(times - 1 for times in provider.seen.values()),
            seconds=time.monotonic() - begun,
            notes=", ".join(f"{count} {end}" for end, count in Counter(ends.values()).items()),
            problem=_problem(ends) if to_the_end else None,
        )


async def killing(item: Server, provider: Unreliable, prompts: list[str]) -> None:
    """Submit, and kill Receiver while it waits for the answers."""
    submitting = [asyncio.create_task(submit(item, prompt)) for prompt in prompts]
    while any(not provider.seen[prompt] for prompt in prompts):  # noqa: ASYNC110 - a count is no event
        await asyncio.sleep(0.005)
    await item.kill()
    await item.start()
    await asyncio.gather(*submitting)


def settings(url: str) -> dict[str, str]:
    """Of a Receiver that takes submissions over HTTP, and asks the provider in earnest."""
    return {
        "RECEIVER_PROVIDER_URL": url,
        "RECEIVER_API_TOKENS": f"client:{TOKEN}",
        "RECEIVER_SUBMIT_TIMEOUT": f"{ANSWERED:g}s",
        "RECEIVER_POLL_INTERVAL": "15s",
        "RECEIVER_CONFIRM_WITHIN": "30s",
        "RECEIVER_DEADLINE": "140s",
    }


def _problem(ends: dict[str, str]) -> str | None:
    wrong = [f"{prompt!r} ended in {end}" for prompt, end in ends.items() if ENDS[prompt.split()[0]] not in (None, end)]
    return "; ".join(wrong[:3]) or None


@asynccontextmanager
async def unreliable() -> AsyncIterator[tuple[Unreliable, str]]:
    """The provider on real HTTP, and its URL."""
    app = Unreliable(Simulator(profile="relay", speed=clocks.SPEED).app)
    async with served(app) as url:
        yield app, url


async def submit(item: Server, prompt: str) -> None:
    """Submit once, as a client does: again with the same name until there is an answer."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": prompt}
    until = time.monotonic() + PATIENCE
    async with http_client(item.url) as http:
        while time.monotonic() < until:
            try:
                answer = await http.post("/submissions", json={"prompt": prompt}, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code not in (200, 201, 202):
                raise RuntimeError(f"{prompt!r} was answered {answer.status_code}: {answer.text}")
            return
    raise RuntimeError(f"{prompt!r} was not answered in {PATIENCE:g} s.")


async def until_ended(data: Path) -> None:
    """Until every submission has its end. Raises RuntimeError if that does not come."""
    until = time.monotonic() + PATIENCE
    statement = "SELECT count(*) FROM submissions WHERE ended IS NULL OR status IN ('prepared', 'sending')"
    while left := rows(data, statement)[0][0]:
        if time.monotonic() > until:
            raise RuntimeError(f"{left} submissions have no end after {PATIENCE:g} s.")
        await asyncio.sleep(0.1)


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


EXPERIMENTS: tuple[Experiment, ...] = (AnswerLost(),)
