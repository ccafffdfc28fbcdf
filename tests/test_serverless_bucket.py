"""A function with its state in a bucket, on a real S3 server."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from buckets import KEY, SECRET, listed, reading, shared_server
from functions import TOKEN, Deployed, deployed
from handbooks import block
from lambdas import environment, request_event, scheduled_event
from msgspec.structs import replace
from providers import provided
from servers import receiver
from waiting import PATIENCE

from receiver.app.journals import journal_of
from receiver.serverless import Application
from receiver.settings import Settings, declared

pytestmark = pytest.mark.usefixtures("credentials")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AWS's own chain finds them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@asynccontextmanager
async def with_bucket(folder: Path, **other: Any) -> AsyncIterator[Deployed]:
    """Deploy a function with its journal and pictures in a bucket, and nothing on its own disk."""
    server = shared_server()
    database = f"s3://journals/{secrets.token_hex(6)}/.receiver?endpoint={server.url}&region=us-east-1"
    second = {"second": {"url": f"file:{folder / 'second'}"}}
    async with deployed(folder, **{"database": database, "destinations": second, "speed": 20, **other}) as function:
        yield function


def laptop(function: Deployed, folder: Path, *arguments: str) -> Any:
    """A command of another machine on the same bucket, and the JSON it prints."""
    env = {
        "RECEIVER_DATABASE": function.settings.database or "",
        "RECEIVER_KEYS": "k" * 32,
        "RECEIVER_PROVIDER_URL": function.settings.provider_url,
        "COMETAPI_KEY": "simulator",
        "RECEIVER_TO": function.settings.to,
        "RECEIVER_DESTINATIONS__SECOND__URL": f"file:{folder / 'second'}",
        "RECEIVER_PUBLIC_URL": function.settings.public_url or "",
        "RECEIVER_DATA": str(folder / "laptop"),
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    result = receiver(*arguments, "--json", folder=folder, env=env)
    assert result.code == 0, result
    return json.loads(result.out)


async def test_every_picture_reaches_two_places_by_callbacks_and_a_laptop_sees_how(tmp_path: Path) -> None:
    """Submitted from a laptop, delivered by the function, looked at and replayed from the laptop again."""
    async with with_bucket(tmp_path) as function:
        ready = (await function.http.get("/readyz")).json()
        assert (ready["ready"], "engines" in ready) == (True, False)  # it needs no other engine
        row = await asyncio.to_thread(laptop, function, tmp_path, "submit", "a boat", "--label", "order=17")
        await function.until(1)
        async with asyncio.timeout(PATIENCE):
            while await function.delivered(row["submission"]) != ["file succeeded", "second succeeded"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        events = await asyncio.to_thread(laptop, function, tmp_path, "events", "list", "--task", row["submission"])
        assert [event["type"] for event in events] == ["task.succeeded", "task.accepted"]
        deliveries = await asyncio.to_thread(laptop, function, tmp_path, "deliveries", "list")
        assert {item["destination"] for item in deliveries} == {"file", "second"}
        for path in (tmp_path / "second").iterdir():
            path.unlink()
        again = ("deliveries", "replay", "--task", row["submission"], "--destination", "second")
        await asyncio.to_thread(laptop, function, tmp_path, *again)
        await function.tick()
        assert function.pictures("second") == [".json", ".png"]


async def test_with_the_hook_stripped_the_tick_brings_it(tmp_path: Path) -> None:
    """Another instance than the one that submitted: the picture is in the bucket, not on a disk."""
    async with with_bucket(tmp_path, faults=["hook_stripped"]) as function:
        id = await function.submit()
        await function.clock.sleep(60)
        other = Application(replace(function.settings, data=tmp_path / "elsewhere"), clock=function.clock, limit=2000)
        found = await other.tick()
        await other.aclose()
        assert (found["reconcile"], found["archive"]) == (1, 1)
        assert await function.delivered(id) == ["file succeeded", "second succeeded"]
        assert function.pictures() == function.pictures("second") == [".json", ".png"]


async def test_ticks_of_several_instances_may_overlap(tmp_path: Path) -> None:
    """Every destination gets each result once, from any instance."""
    async with with_bucket(tmp_path, faults=["hook_stripped"]) as function:
        ids = [await function.submit(f"boat {number}") for number in range(3)]
        await function.clock.sleep(60)
        others = [Application(function.settings, clock=function.clock, limit=2000) for _ in range(2)]
        await asyncio.gather(function.application.tick(), *(other.tick() for other in others))
        for other in others:
            await other.aclose()
        async with journal_of(function.settings, existing=True) as journal:
            for id in ids:
                found = await journal.deliveries(limit=10, submission_id=id)
                assert [item.status for item in found] == ["succeeded", "succeeded"]
                for item in found:
                    outcomes = [attempt.outcome for attempt in await journal.attempts(item.id)]
                    assert outcomes.count("succeeded") == 1


async def test_the_handbooks_handlers_deliver_on_lambda(tmp_path: Path) -> None:
    """As they stand there, but for where the bucket is: to a bucket, by the journal in a bucket, and by the tick."""
    handlers = block("functions", "py")
    server, folder = shared_server(), secrets.token_hex(6)
    where = f"endpoint={server.url}&region=us-east-1"
    text = handlers.replace("s3://acme/.receiver", f"s3://journals/{folder}/.receiver?{where}")
    tmp_path.joinpath("handlers.py").write_text(
        text.replace("s3://acme/pictures", f"s3://journals/{folder}/pictures?{where}")
    )
    async with provided() as (relay, picture, variables):
        variables |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "RECEIVER_POLL_INTERVAL": "1"}
        async with environment(tmp_path, "handlers.http", variables) as http:
            for stripped in (False, True):
                body = json.dumps({"prompt": "a boat"}).encode()
                answer = await http.invoke(request_event("/submissions", body, authorization=f"Bearer {TOKEN}"))
                assert answer["statusCode"] == 201, answer
                end = request_event(relay.path, json.dumps(relay.ends(picture)).encode())
                if not stripped:
                    assert (await http.invoke(end))["statusCode"] == 200
        await asyncio.sleep(1)
        async with environment(tmp_path, "handlers.tick", variables) as tick:
            assert await tick.invoke(scheduled_event()) == {"reconcile": 1, "archive": 1, "dispatch": 1}
        assert (http.failures, tick.failures) == ([], [])
    found = [key for key in await listed(reading(server, "journals")) if key.startswith(f"{folder}/pictures/")]
    assert sorted(key.rpartition(".")[2] for key in found) == ["json", "json", "png", "png"]


def test_the_template_gives_a_function_url_both_its_permissions() -> None:
    """New ones answer 403 without the second (docs.aws.amazon.com/lambda/latest/dg/urls-auth.html)."""
    template = block("lambda", "yaml", "AWSTemplate")
    assert template.count("Type: AWS::Lambda::Permission") == 2
    assert re.search(r"Action: lambda:InvokeFunctionUrl\n +Principal: \"\*\"\n +FunctionUrlAuthType: NONE", template)
    assert re.search(r"Action: lambda:InvokeFunction\n +Principal: \"\*\"\n +InvokedViaFunctionUrl: true", template)
    known = {"RECEIVER_" + name.upper() for name in declared(Settings)} | {"COMETAPI_KEY"}
    named = set(re.findall(r"^ {8}([A-Z_]+): ", template, re.MULTILINE))
    assert named - known == set()
    assert {"RECEIVER_DATABASE", "RECEIVER_KEYS", "COMETAPI_KEY"} <= named
