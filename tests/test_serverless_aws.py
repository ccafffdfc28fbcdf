"""AWS Lambda by Amazon's own runtime client: cold and warm, a function URL and a schedule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from functions import TOKEN
from lambdas import Runtime, environment, request_event, scheduled_event
from providers import Relay, provided
from waiting import PATIENCE

from receiver.app.journals import journal_of
from receiver.settings import load

HANDLERS = """
from receiver.serverless import aws
http, tick = aws(to=["file:./outputs"], budget=10)
"""


@asynccontextmanager
async def deployed(folder: Path) -> AsyncIterator[tuple[Relay, str, dict[str, str]]]:
    """Handlers in the folder, a provider, a picture's link, and the variables that lead a function to them."""
    folder.joinpath("handlers.py").write_text(HANDLERS)
    async with provided() as (relay, picture, variables):
        yield relay, picture, {**variables, "RECEIVER_DATA": str(folder / "data"), "RECEIVER_DISK": "persistent"}


async def submit(runtime: Runtime) -> dict[str, Any]:
    body = json.dumps({"prompt": "a boat", "labels": {"order": "17"}}).encode()
    answer = await runtime.invoke(request_event("/submissions", body, authorization=f"Bearer {TOKEN}"))
    assert answer["statusCode"] == 201, answer
    found: dict[str, Any] = json.loads(answer["body"])
    return found


def callback(relay: Relay, picture: str) -> dict[str, Any]:
    return request_event(relay.path, json.dumps(relay.ends(picture)).encode())


async def test_a_function_url_submits_and_delivers_cold_and_warm_with_one_client(tmp_path: Path) -> None:
    """The first invocation opens everything, the next ones find it open: the provider sees one connection."""
    async with (
        deployed(tmp_path) as (relay, picture, variables),
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
        events = request_event(f"/submissions/{row['id']}/events", method="GET", authorization=f"Bearer {TOKEN}")
        events["headers"]["accept"] = "text/event-stream"  # which would last for ever
        listed = json.loads((await runtime.invoke(events))["body"])
        assert sorted(item["type"] for item in listed) == ["task.accepted", "task.succeeded"]
        bad = await runtime.invoke(request_event("/callbacks/nonsense", b"{}"))
        assert (bad["statusCode"], bad["isBase64Encoded"]) == (401, False)
        assert json.loads(bad["body"])["title"] == "Unauthorized"
        log = (tmp_path / "log").read_text()
        assert '"event":"delivery.succeeded"' in log
        assert relay.path.rpartition("/")[2] not in log
        assert TOKEN not in log
        # What a laptop sees of it: the same journal.
        async with journal_of(load(variables, tmp_path), existing=True) as journal:
            events = await journal.events(limit=10, submission_id=row["id"])
        assert [event.type for event in events] == ["task.succeeded", "task.accepted"]


async def test_an_environment_that_has_just_begun_takes_a_callback(tmp_path: Path) -> None:
    """Cold: another environment submitted, and has vanished."""
    async with deployed(tmp_path) as (relay, picture, variables):
        async with environment(tmp_path, "handlers.http", variables) as runtime:
            await submit(runtime)
        async with environment(tmp_path, "handlers.http", variables) as runtime:
            answer = await runtime.invoke(callback(relay, picture))
            assert answer["statusCode"] == 200
            assert sorted(path.suffix for path in (tmp_path / "outputs").iterdir()) == [".json", ".png"]


async def test_a_schedule_brings_what_no_callback_announced(tmp_path: Path) -> None:
    """The `tick` handler finds the result without a callback, and returns how much it found."""
    variables_of_a_fast_poll = {"RECEIVER_POLL_INTERVAL": "1"}
    async with deployed(tmp_path) as (relay, picture, variables):
        async with environment(tmp_path, "handlers.http", variables | variables_of_a_fast_poll) as runtime:
            await submit(runtime)
        relay.ends(picture)
        await asyncio.sleep(1)
        async with environment(tmp_path, "handlers.tick", variables) as runtime:
            assert await runtime.invoke(scheduled_event()) == {"reconcile": 1, "archive": 1, "dispatch": 1}
            assert await runtime.invoke(scheduled_event()) == {}
        assert sorted(path.suffix for path in (tmp_path / "outputs").iterdir()) == [".json", ".png"]


async def test_what_is_wrong_is_told_at_the_start(tmp_path: Path) -> None:
    """Lambda shows the sentence among the errors of the start."""
    async with deployed(tmp_path) as (_, _, variables):
        wrong = {**variables, "RECEIVER_POLL_INTERVAL": "soon"}
        async with environment(tmp_path, "handlers.http", wrong) as runtime, asyncio.timeout(PATIENCE):
            await runtime.failed.wait()
        assert "RECEIVER_POLL_INTERVAL cannot be 'soon'" in runtime.failures[0]["errorMessage"]
