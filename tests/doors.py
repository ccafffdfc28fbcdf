"""The callback endpoint on a real server with a real journal, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from servers import serving
from waiting import PATIENCE

from receiver.bodies import certificates
from receiver.clock import Clock
from receiver.events import Submission, new_id
from receiver.intake import Intake, Policy, Route
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.tokens import Tokens
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz

KEY = "k" * 32
MARKER = "MARKER-b7e1"
TASK = "1773314942177684"
MAX_AGE = 72 * 3600.0
JSON = {"Content-Type": "application/json"}


class Shifted(Clock):
    """A clock that is wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


def tokens(*, key: str = KEY, shift: float = 0) -> Tokens:
    return Tokens([key], max_age=MAX_AGE, clock=Shifted(shift))


@dataclass(frozen=True)
class Door:
    """The endpoint on a real server, with its journal."""

    url: str
    file: Path
    journal: Journal
    callbacks: Callbacks
    admission: Admission
    client: httpx.AsyncClient

    async def submission(self, *, task_id: str | None = TASK) -> Submission:
        """Add a submission that expects callbacks. Without a task id its submit answer has not come yet."""
        now_ms = Clock().now_ms()
        row = Submission(
            id=new_id(now_ms),
            kind="imagine",
            created_ms=now_ms,
            prompt="a paper boat",
            request={"prompt": "a paper boat"},
            hooked=True,
            status="accepted" if task_id else "sending",
            task_id=task_id,
            deadline_ms=now_ms + 4_200_000,
        )
        await self.journal.add(row)
        return row

    async def post(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.client.post(self.url + path, content=content, headers=JSON if headers is None else headers)

    async def kept(self, row: Submission) -> list[str | None]:
        """Return the causes of the callbacks in the journal."""
        return [callback.cause for callback in await self.journal.callbacks(row.id)]

    async def stored(self) -> int:
        """Return how many callbacks are stored."""
        return await asyncio.to_thread(self._count)

    def _count(self) -> int:
        with contextlib.closing(sqlite3.connect(self.file)) as db:
            return int(db.execute("SELECT count(*) FROM callbacks").fetchone()[0])

    async def types(self, row: Submission) -> list[str]:
        """Return the types of the events, the oldest first."""
        return [event.id.split(".", 1)[1] for event in await self.journal.events(limit=50, submission_id=row.id)][::-1]


@asynccontextmanager
async def opened(
    folder: Path, *, policy: Policy, body_timeout: float = 10.0, ballast: bool = False, **bounds: Any
) -> AsyncIterator[Door]:
    journal = Journal(await open_store(folder / "journal.db", ballast=ballast))
    routes = (Route(destination="file", progress=True),)
    intake = Intake(journal, policy=policy, routes=routes, clock=Clock(), changed=lambda row: None)
    admission = Admission(journal.check, **bounds)
    callbacks = Callbacks(intake=intake, tokens=tokens(), admission=admission, body_timeout=body_timeout)
    app = create_app(callbacks=callbacks, readyz=Readyz({}))
    try:
        async with (
            serving(app) as url,
            httpx.AsyncClient(verify=certificates(), trust_env=False, timeout=PATIENCE) as client,
        ):
            yield Door(url, folder / "journal.db", journal, callbacks, admission, client)
    finally:
        await admission.aclose()
        await journal.aclose()


def path(row: Submission) -> str:
    return f"/callbacks/{tokens().url_token(row.id)}"


def body(row: Submission, **changes: Any) -> bytes:
    task = {"id": TASK, "status": "IN_PROGRESS", "progress": "46%", "state": tokens().state_token(row.id)}
    return json.dumps({**task, **changes}).encode()


def assert_problem(response: httpx.Response, status: int) -> None:
    """Check that the answer is a problem (RFC 9457) without any of the input."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["detail"].endswith(".")
    assert MARKER not in response.text
