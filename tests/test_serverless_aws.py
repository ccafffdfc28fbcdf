"""AWS Lambda by Amazon's own runtime client: cold and warm, a function URL and a schedule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from engine import PNG, Origin
from engine import serving as serving_pictures
from functions import TOKEN
from lambdas import Runtime, environment, request_event, scheduled_event
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.runtime import journal_of
from receiver.settings import load

HANDLERS = """
from receiver.serverless import aws
http, tick = aws(to=["file:./outputs"], budget=10)
"""
TASK = "17"


@dataclass
class Relay:
    """A provider over HTTP that knows which connections it was asked on."""

    url: str = ""
    sent: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    callers: set[object] = field(default_factory=set)
    """Connections it was asked on."""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mj/submit/imagine", self._submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self._list, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self._fetch),
            ]
        )

    async def _submit(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        self.sent = await request.json()
        return JSONResponse({"code": 1, "description": "", "result": TASK})

    async def _list(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        return JSONResponse([self.task] if self.task else [])

    async def _fetch(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        return JSONResponse(self.task)

    def ends(self, picture: str) -> dict[str, Any]:
        """The task has succeeded; what the callback says."""
        assert self.sent is not None
        self.task = {"id": TASK, "status": "SUCCESS", "progress": "100%", "action": "IMAGINE", "prompt": "a boat"}
        self.task |= {"imageUrl": picture, "state": self.sent["state"]}
        return self.task


@asynccontextmanager
async def provided(folder: Path) -> AsyncIterator[tuple[Relay, str, dict[str, str]]]:
    """A provider, a picture's link, and the variables that lead a function to both."""
    relay = Relay()
    folder.joinpath("handlers.py").write_text(HANDLERS)
    async with serving(relay.app()) as url, serving_pictures(Origin()) as origin:
        origin.files["/1.png"] = PNG
        yield (
            relay,
            f"{origin.url}/1.png",
            {
                "COMETAPI_KEY": "sk-0123456789",
                "RECEIVER_PROVIDER_URL": url,
                "RECEIVER_PUBLIC_URL": "https://fcodhubyw.lambda-url.ap-northeast-1.on.aws",
                "RECEIVER_KEYS": "k" * 32,
                "RECEIVER_API_TOKENS": f"ci:{TOKEN}",
                "RECEIVER_MEDIA_HOSTS": origin.url,
                "RECEIVER_DATA": str(folder / "data"),
                "RECEIVER_DISK": "persistent",
            },
        )


async def submit(runtime: Runtime) -> dict[str, Any]:
    body = json.dumps({"prompt": "a boat", "labels": {"order": "17"}}).encode()
    answer = await runtime.invoke(request_event("/submissions", body, authorization=f"Bearer {TOKEN}"))
    assert answer["statusCode"] == 201, answer
    found: dict[str, Any] = json.loads(answer["body"])
    return found


def callback(relay: Relay, picture: str) -> dict[str, Any]:
    assert relay.sent is not None
    path = httpx.URL(relay.sent["notifyHook"]).path
    return request_event(path, json.dumps(relay.ends(picture)).encode())


async def test_a_function_url_submits_and_delivers_cold_and_warm_with_one_client(tmp_path: Path) -> None:
    """The first invocation opens everything, the next ones find it open: the provider sees one connection."""
    async with (
        provided(tmp_path) as (relay, picture, variables),
        environment(tmp_path, "handlers.http", variables) as runtime,
    ):
        row = await submit(runtime)
        answer = await runtime.invoke(callback(relay, picture))
        assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"accepted": True})
        assert answer["isBase64Encoded"] is False
        assert sorted(path.suffix for path in (tmp_path / "outputs").iterdir()) == [".json", ".png"]
        again = await runtime.invoke(callback(relay, picture))
        assert again["statusCode"] == 200
        assert (len(relay.callers), runtime.failures) == (1, [])
        show = request_event(f"/submissions/{row['id']}", method="GET", authorization=f"Bearer {TOKEN}")
        assert json.loads((await runtime.invoke(show))["body"])["status"] == "succeeded"
        bad = await runtime.invoke(request_event("/callbacks/nonsense", b"{}"))
        assert (bad["statusCode"], bad["isBase64Encoded"]) == (401, False)
        assert json.loads(bad["body"])["title"] == "Unauthorized"
        # What a laptop sees of it: the same journal.
        async with journal_of(load(variables, tmp_path), existing=True) as journal:
            events = await journal.events(limit=10, submission_id=row["id"])
        assert [event.type for event in events] == ["task.succeeded", "task.accepted"]


async def test_an_environment_that_has_just_begun_takes_a_callback(tmp_path: Path) -> None:
    """Cold: another environment submitted, and has vanished."""
    async with provided(tmp_path) as (relay, picture, variables):
        async with environment(tmp_path, "handlers.http", variables) as runtime:
            await submit(runtime)
        async with environment(tmp_path, "handlers.http", variables) as runtime:
            answer = await runtime.invoke(callback(relay, picture))
            assert answer["statusCode"] == 200
            assert sorted(path.suffix for path in (tmp_path / "outputs").iterdir()) == [".json", ".png"]


async def test_a_schedule_brings_what_no_callback_announced(tmp_path: Path) -> None:
    """The other handler, for the hook that was stripped; its answer counts what it found."""
    variables_of_a_fast_poll = {"RECEIVER_POLL_INTERVAL": "1"}
    async with provided(tmp_path) as (relay, picture, variables):
        async with environment(tmp_path, "handlers.http", variables | variables_of_a_fast_poll) as runtime:
            await submit(runtime)
        relay.ends(picture)
        await asyncio.sleep(1)
        async with environment(tmp_path, "handlers.tick", variables) as runtime:
            assert await runtime.invoke(scheduled_event()) == {"reconcile": 1, "archive": 1, "dispatch": 1}
            assert await runtime.invoke(scheduled_event()) == {}
        assert sorted(path.suffix for path in (tmp_path / "outputs").iterdir()) == [".json", ".png"]


async def test_what_is_wrong_is_told_at_the_start(tmp_path: Path) -> None:
    """Lambda shows the sentence where it shows errors of the start."""
    async with provided(tmp_path) as (_, _, variables):
        wrong = {**variables, "RECEIVER_POLL_INTERVAL": "soon"}
        async with environment(tmp_path, "handlers.http", wrong) as runtime, asyncio.timeout(20):
            await runtime.failed.wait()
        assert "RECEIVER_POLL_INTERVAL is wrong" in runtime.failures[0]["errorMessage"]
