"""A provider, and Receiver in a function that it can reach: real HTTP on both sides, fast clocks, no engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flows import PROMPT, SIDE, SPEED, served
from starlette.types import ASGIApp, Receive, Scope, Send
from waiting import PATIENCE

from receiver.app.journals import journal_of
from receiver.bodies import certificates
from receiver.cli.servers import address, bind
from receiver.clock import Clock
from receiver.events import Submission
from receiver.serverless import Application
from receiver.settings import Settings
from receiver.simulator import Simulator

TOKEN = "t" * 32
CRON = "c" * 32


@dataclass
class Deployed:
    """A function, as the world sees it: an address, and whatever lies in its journal and folders."""

    simulator: Simulator
    application: Application
    settings: Settings
    outputs: Path
    clock: Clock
    http: httpx.AsyncClient
    requests: Requests

    async def submit(self, prompt: str = PROMPT, **other: Any) -> str:
        """`POST /submissions`; the id."""
        answer = await self.http.post("/submissions", json={"prompt": prompt, **other}, headers=bearer(TOKEN))
        assert answer.status_code in (201, 202), answer.text
        return str(answer.json()["id"])

    async def tick(self) -> dict[str, int]:
        answer = await self.http.post("/tick", headers=bearer(CRON))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def row(self, submission_id: str) -> Submission:
        """Read as a laptop does: by another process's journal."""
        async with journal_of(self.settings, existing=True) as journal:
            return await journal.find(submission_id)

    async def delivered(self, submission_id: str) -> list[str]:
        """The statuses at each place of a submission.

        The clock is fast, so that a result may have gone out, or have been about to, before its picture was there. The
        event with the picture comes later, and cancels what is pending of the other.
        """
        async with journal_of(self.settings, existing=True) as journal:
            found = await journal.deliveries(limit=50, submission_id=submission_id)
        return sorted({f"{item.destination} {item.status}" for item in found if item.status != "cancelled"})

    def pictures(self, name: str = "outputs") -> list[str]:
        return sorted(path.suffix for path in (self.outputs.parent / name).glob("*"))

    async def until(self, count: int) -> None:
        """Until so many results lie in the folder, each with its JSON, which comes last, and no request is open.

        The folder alone says too little: the request that filled it may still be delivering elsewhere.
        """
        async with asyncio.timeout(PATIENCE):
            while self.pictures().count(".json") < count or self.requests.open:  # noqa: ASYNC110 - another process's folder
                await asyncio.sleep(0.01)


class Requests:
    """Counts what the function has been asked and has not yet answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        self.open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.open -= 1


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@asynccontextmanager
async def deployed(
    folder: Path,
    *,
    faults: Iterable[str] = (),
    profile: str = "relay",
    speed: float = SPEED,
    budget: float = 1000.0,
    limit: float = 2000.0,
    **settings: Any,
) -> AsyncIterator[Deployed]:
    """The function behind its address, and the provider that calls it. Its seconds pass as fast as the clock's."""
    simulator = Simulator(profile=profile, speed=speed, faults=faults, side=SIDE)
    clock = Clock(speed)
    with bind("127.0.0.1", 0) as provider, bind("127.0.0.1", 0) as own:
        chosen = Settings(
            **{
                "provider_url": address(provider),
                "provider_key": "simulator",
                "public_url": address(own),
                "data": folder / "data",
                "to": f"file:{folder / 'outputs'}",
                "keys": ("k" * 32,),
                "api_tokens": {"ci": TOKEN},
                "cron_secret": CRON,
                **settings,
            }
        )
        application = Application(chosen, budget=budget, limit=limit, clock=clock)
        asked = Requests(application)
        async with (
            served(simulator.app, provider),
            served(asked, own),
            httpx.AsyncClient(base_url=address(own), verify=certificates(), timeout=PATIENCE) as http,
        ):
            yield Deployed(simulator, application, chosen, folder / "outputs", clock, http, asked)
