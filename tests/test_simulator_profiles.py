"""The profiles, judged by the recorded payloads."""

import asyncio
import json
from typing import Any

import pytest
from simulators import HOOK, ORIGIN, PAYLOADS, kind, payload, running
from waiting import PATIENCE

from receiver.simulator.profiles import csharp_encode


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("callback_01_java_submitted", ("SUBMITTED", "0%")),
        ("callback_02_java_in_progress_0", ("IN_PROGRESS", "0%")),
        ("callback_03_java_in_progress_46_webp", ("IN_PROGRESS", "46%")),
        ("callback_05_java_failure_timeout", ("FAILURE", "")),
        ("callback_11_csharp_submitted", ("SUBMITTED", "0%")),
        ("callback_13_csharp_success", ("SUCCESS", "100%")),
        ("callback_14_csharp_failure_banned", ("FAILURE", "")),
        ("callback_18_csharp_late_progress_after_success", ("IN_PROGRESS", None)),
    ],
)
async def test_callbacks_like_the_recorded(name: str, told: tuple[str, str | None]) -> None:
    """In the same situation a callback has the keys, order of keys, types and nulls of the recorded one."""
    profile, faults = name.split("_")[2], ["failure"] if told[0] == "FAILURE" else []
    async with running(profile=profile, faults=faults) as run:
        await run.submit()
        await run.hooks.until_end()
        found = next(
            body for body in run.hooks.bodies if body["status"] == told[0] and told[1] in {body["progress"], None}
        )
    recorded = payload(f"{name}.json")
    if name == "callback_14_csharp_failure_banned":
        # Refused before it started; ours times out after the start.
        recorded["startTime"] = 1773314943101
    assert kind(found) == kind(recorded)
    assert list(found) == list(recorded)


async def test_csharp_bytes_like_the_recorded() -> None:
    """C# bodies are ASCII, with everything unusual as \\uXXXX, and carry no User-Agent."""
    prompt = '猫 & "boat" <x>'
    async with running(profile="csharp") as run:
        await run.submit(prompt=prompt)
        await run.hooks.until_end()
        raw = run.hooks.raw[-1]
        headers = run.hooks.requests[-1].headers
    recorded = (PAYLOADS / "callback_20_csharp_wire_escaping.raw.json").read_bytes()
    escaped = rb"\u732b \u0026 \u0022boat\u0022 \u003Cx\u003E"
    assert escaped in recorded
    assert escaped.lower() in raw.lower()
    assert raw.isascii()
    assert not set(b"&<>+'") & set(raw)
    assert json.loads(raw)["prompt"] == prompt
    assert list(json.loads(raw)) == list(json.loads(recorded))
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert "user-agent" not in headers


def test_csharp_encoding_round_trips() -> None:
    """Escaping loses nothing, backslashes and control characters included."""
    body = {"a": "\\u0041 \\\" \n\t\x7f`'+🔄", "b": [1, None, True]}
    assert json.loads(csharp_encode(body)) == body


async def test_java_headers_and_bytes() -> None:
    """Java sends raw UTF-8 and a content type without charset; 0 % comes twice."""
    async with running(profile="java") as run:
        await run.submit(prompt="猫")
        await run.hooks.until_end()
        assert run.hooks.told.count(("IN_PROGRESS", "0%")) == 2
        assert len(run.hooks.told) == 10
        assert "猫".encode() in run.hooks.raw[0]
        assert run.hooks.requests[0].headers["content-type"] == "application/json"
        fetched = await run.fetch(run.hooks.bodies[0]["id"])
        assert list(fetched) == list(payload("callback_01_java_submitted.json"))


async def test_java_hook_is_a_template() -> None:
    """Java encodes a hook's % again and cannot call one with braces."""
    async with running(profile="java") as run:
        await run.submit(notifyHook=f"{HOOK}/a%2Fb")
        await run.hooks.until_end()
        assert run.hooks.requests[0].scope["raw_path"] == b"/cb/a%252Fb"
        await run.submit(notifyHook=f"{HOOK}/{{x}}")
        async with asyncio.timeout(PATIENCE):
            while len(run.simulator.callbacks) < 20:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.005)
        assert "variable" in (run.simulator.callbacks[-1].error or "")


async def test_csharp_loop() -> None:
    """C# tells only what rose, at most every 3 s, and the end twice, 3 s apart."""
    async with running(profile="csharp") as run:
        await run.submit("/mj-turbo/mj/submit/imagine")
        await run.hooks.until_end(2)
        *before, end, again = run.hooks.told
        assert end == again == ("SUCCESS", "100%")
        assert len(set(before)) == len(before) <= 7
        assert run.hooks.bodies[-1] == run.hooks.bodies[-2]


async def test_relay_before_its_first_poll() -> None:
    """The relay's first view is empty, in fetch as in list, and like the recorded ones."""
    async with running(profile="relay") as run:
        task_id = await run.task_id(prompt="A beautiful girl")
        fetched = await run.fetch(task_id)
        recorded = payload("fetch_01_relay_before_first_poll.json")
        same = (
            "status",
            "state",
            "progress",
            "failReason",
            "buttons",
            "properties",
            "startTime",
            "description",
        )
        assert {key: fetched[key] for key in same} == {key: recorded[key] for key in same}
        assert kind(fetched) == kind(recorded)
        assert list(fetched) == list(recorded)
        listed = await run.client.post("/mj/task/list-by-condition", json={"ids": [task_id, "404"]})
        assert kind(listed.json()) == kind(payload("fetch_07_list_by_condition.json"))


async def test_relay_in_progress_and_after() -> None:
    """Polled, the relay shows what it saw, with its own link; a preview's link carries ?rand=."""
    async with running(profile="relay", speed=20) as run:
        task_id = await run.task_id(prompt="A beautiful girl")
        seen = await run.fetch_until(task_id, lambda task: task["status"] == "IN_PROGRESS" and task["imageUrl"])
        assert kind(seen) == kind(payload("fetch_02_relay_in_progress.json"))
        assert seen["imageUrl"].startswith(f"{ORIGIN}/mj/image/{task_id}?rand=")
        done = await run.fetch_until(task_id, lambda task: task["status"] == "SUCCESS")
        assert done["imageUrl"] == f"{ORIGIN}/mj/image/{task_id}"
        assert done["failReason"] == ""
        assert set(payload("fetch_05_cometapi_docs.json")) <= set(done)
        await run.hooks.until_end()
        assert "/attachments/" in run.hooks.bodies[-1]["imageUrl"]


async def test_relay_view_lags() -> None:
    """The relay looks every 15 s only: of nine percentages it shows at most three."""
    async with running(profile="relay") as run:
        task_id, views = await run.task_id(), set()

        def note(task: Any) -> bool:
            views.add((task["status"], task["progress"]))
            return bool(task["status"] == "SUCCESS")

        await run.fetch_until(task_id, note)
        assert ("", "0%") in views
        assert len(views) <= 5


async def test_relay_failure_reads_100_percent() -> None:
    """The relay writes 100% on a FAILURE, where the proxies write nothing."""
    async with running(profile="relay", faults=["failure"]) as run:
        task = await run.fetch_until(await run.task_id(), lambda task: task["status"] == "FAILURE")
        assert (task["progress"], task["imageUrl"], task["buttons"]) == ("100%", "", [])
        assert task["failReason"] == "任务超时"


async def test_relay_rewrites_code_22() -> None:
    """The relay turns 22 into 1 and leaves numberOfQueues."""
    async with running(profile="relay", faults=["queued"]) as run:
        answer = (await run.submit()).json()
        assert answer["code"] == 1
        assert answer["properties"]["numberOfQueues"] >= 1
