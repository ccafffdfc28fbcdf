"""The simulated provider: its answers, callbacks, faults and pictures, judged by the recorded payloads."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.simulator import FAULTS, PROFILES, Simulator
from receiver.simulator import course as courses
from receiver.simulator.chance import dice
from receiver.simulator.csharp import encode as csharp_encode
from receiver.simulator.faults import Faults
from receiver.simulator.pictures import grid, preview
from receiver.simulator.prompts import picture_size, scene_words, speed

PAYLOADS = Path(__file__).parent / "payloads"
PROMPT = "a paper boat floating on calm water at sunrise --v 6.1"
HOOK = "http://hooks.test/cb"
ORIGIN = "http://provider.test"
FAST = 200.0


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / name).read_text())


def request_body(**changes: Any) -> dict[str, Any]:
    return {**payload("request_01_imagine.json"), "notifyHook": HOOK, **changes}


def kind(value: Any) -> Any:
    """The JSON type of a value; of objects and of the first item of lists also what is inside."""
    if isinstance(value, dict):
        return {key: kind(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kind(item) for item in value[:1]]
    names = {type(None): "null", bool: "boolean", str: "string", int: "number", float: "number"}
    return names[type(value)]


class Hooks:
    """A receiver of callbacks that remembers them and can be waited for."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.requests: list[Request] = []
        self._answer = (status, headers)
        self._arrived = asyncio.Event()
        methods = ["GET", "POST"]
        self.app = Starlette(routes=[Route("/{path:path}", self._receive, methods=methods)])

    async def _receive(self, request: Request) -> Response:
        self.raw.append(await request.body())
        self.requests.append(request)
        self.bodies.append(json.loads(self.raw[-1]))
        self._arrived.set()
        return Response(None, *self._answer)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(body["status"], body["progress"]) for body in self.bodies]

    async def until(self, done: Callable[["Hooks"], bool]) -> None:
        async with asyncio.timeout(10):
            while not done(self):
                self._arrived.clear()
                await self._arrived.wait()

    async def until_end(self, ends: int = 1) -> None:
        await self.until(lambda hooks: sum(status in courses.TERMINAL for status, _ in hooks.told) >= ends)


class Run:
    """A simulator, a client of it, and a receiver of its callbacks."""

    def __init__(self, simulator: Simulator, client: httpx.AsyncClient, hooks: Hooks) -> None:
        self.simulator, self.client, self.hooks = simulator, client, hooks

    async def submit(self, path: str = "/mj/submit/imagine", **changes: Any) -> httpx.Response:
        return await self.client.post(path, json=request_body(**changes))

    async def task_id(self, **changes: Any) -> str:
        return str((await self.submit(**changes)).json()["result"])

    async def fetch(self, task_id: str) -> Any:
        return (await self.client.get(f"/mj/task/{task_id}/fetch")).json()

    async def fetch_until(self, task_id: str, done: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(10):
            while not done(task := await self.fetch(task_id)):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.005)
        return task


@asynccontextmanager
async def running(hooks: Hooks | None = None, **options: Any) -> AsyncIterator[Run]:
    hooks = hooks or Hooks()
    async with AsyncExitStack() as stack:
        calls = await stack.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(app=hooks.app)))
        simulator = Simulator(**{"speed": FAST, "client": calls, **options})
        stack.push_async_callback(simulator.aclose)
        transport = httpx.ASGITransport(app=simulator.app)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=ORIGIN))
        yield Run(simulator, client, hooks)


# --- the course of a task ----------------------------------------------------------------------------------


async def test_default_course() -> None:
    """A task is accepted with code 1 and a string id, calls back each change once, and ends in a picture."""
    async with running() as run:
        answer = await run.submit()
        assert kind(answer.json()) == kind(payload("submit_01_ok_cometapi.json"))
        assert answer.json()["code"] == 1
        await run.hooks.until_end()
        percents = [f"{n}%" for n in (0, 15, 31, 46, 62, 78, 93)]
        assert run.hooks.told == [
            ("SUBMITTED", "0%"),
            *(("IN_PROGRESS", percent) for percent in percents),
            ("SUCCESS", "100%"),
        ]
        task = await run.fetch(answer.json()["result"])
        assert (task["status"], task["progress"], task["failReason"]) == ("SUCCESS", "100%", None)
        assert len(task["buttons"]) == 9
        picture = await run.client.get(task["imageUrl"])
        assert picture.content.startswith(b"\x89PNG\r\n\x1a\n")
        assert "content-length" not in picture.headers
        raw = await run.client.get(run.hooks.bodies[-1]["imageUrl"])
        assert raw.content == picture.content
        assert run.simulator.pictures == 2


async def test_default_fetch_is_live_and_never_empty() -> None:
    """The default profile has a status from the first fetch on, and a list of buttons."""
    async with running(speed=1) as run:
        task = await run.fetch(await run.task_id(state="mine"))
        assert (task["status"], task["progress"], task["buttons"]) == ("NOT_START", "0%", [])
        assert (task["state"], task["imageUrl"], task["failReason"]) == ("mine", "", None)


async def test_previews() -> None:
    """While a task is IN_PROGRESS its links show a smaller, coarser picture."""
    async with running(speed=20) as run:
        await run.submit()
        await run.hooks.until(lambda hooks: hooks.told[-1:] == [("IN_PROGRESS", "31%")])
        body = run.hooks.bodies[-1]
        for link in (body["imageUrl"], (await run.fetch(body["id"]))["imageUrl"]):
            shown = await run.client.get(link)
            assert shown.headers["content-type"] == "image/webp"
            assert Image.open(io.BytesIO(shown.content)).size == (512, 512)
        assert "?rand=" in (await run.fetch(body["id"]))["imageUrl"]


async def test_every_link_of_a_finished_task_works() -> None:
    """Thumbnail and the four single pictures of a C# callback can be downloaded."""
    async with running() as run:
        await run.submit()
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        thumbnail = await run.client.get(body["thumbnailUrl"])
        assert Image.open(io.BytesIO(thumbnail.content)).size == (256, 256)
        for single in body["imageUrls"]:
            picture = await run.client.get(single["url"])
            assert Image.open(io.BytesIO(picture.content)).size == (512, 512)
            assert (await run.client.get(single["thumbnail"])).headers["content-type"] == "image/webp"
        assert run.simulator.pictures == 9


async def test_pictures_that_are_not_there() -> None:
    """The relay's picture route fails in its own words for unknown and unfinished tasks."""
    async with running(speed=1) as run:
        unknown = await run.client.get("/mj/image/123")
        assert (unknown.status_code, unknown.json()) == (400, {"error": "midjourney_task_not_found"})
        early = await run.client.get(f"/mj/image/{await run.task_id()}")
        assert (early.status_code, early.json()) == (500, {"error": "http_get_image_failed"})
        gone = await run.client.get("/attachments/1/2/nothing.png?ex=1&is=1&hm=1")
        assert (gone.status_code, gone.json()) == (404, {"error": "This content is no longer available."})
        assert run.simulator.pictures == 0


@pytest.mark.parametrize(
    ("path", "changes", "mode"),
    [
        ("/mj/submit/imagine", {}, "FAST"),
        ("/mj-turbo/mj/submit/imagine", {}, "TURBO"),
        ("/mj-relax/mj/submit/imagine", {"prompt": "x --turbo"}, "RELAX"),
        ("/mj/mj/submit/imagine", {"accountFilter": {"modes": ["TURBO"]}, "prompt": "x --relax"}, "TURBO"),
        ("/mj/submit/imagine", {"accountFilter": None, "prompt": "x --relax"}, "RELAX"),
    ],
)
async def test_speed(path: str, changes: dict[str, Any], mode: str) -> None:
    """Path, then accountFilter, then a flag in the prompt choose the speed."""
    async with running() as run:
        await run.submit(path, **changes)
        await run.hooks.until_end()
        assert run.hooks.bodies[-1]["mode"] == mode


def test_durations() -> None:
    """Turbo takes about 18 s, fast 36 s, relax 90 s; the statuses come in order."""
    for mode, seconds in (("turbo", 18), ("fast", 36), ("relax", 90)):
        for seed in range(20):
            course = courses.plan(mode, dice(seed))
            moments = [step.after for step in course]
            assert moments == sorted(moments)
            assert moments[-1] == pytest.approx(seconds, rel=0.08)
            assert len(course) == 10


async def test_time_stamps_follow_the_simulated_clock() -> None:
    """Start to finish takes some 35 s by the time stamps, however fast the clock runs."""
    async with running() as run:
        await run.submit()
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert 30_000 < body["finishTime"] - body["startTime"] < 40_000
        assert body["id"].isdigit()
        assert int(body["id"][:-3]) == pytest.approx(body["submitTime"], abs=2)


async def test_same_seed_same_run() -> None:
    """The same seed and submits give the same course, callbacks and pictures; another seed does not."""

    async def run_once(seed: int) -> tuple[Any, ...]:
        async with running(seed=seed, faults=["reordered", "duplicated", "queued"]) as run:
            ids = [await run.task_id(), await run.task_id()]
            await run.hooks.until(lambda hooks: len(hooks.told) == 36)
            told = [[body["progress"] for body in run.hooks.bodies if body["id"] == i] for i in ids]
            last = {body["id"]: body["startTime"] - body["submitTime"] for body in run.hooks.bodies}
            pictures = [(await run.client.get(f"/mj/image/{task_id}")).content for task_id in ids]
            return told, pictures, [last[task_id] for task_id in ids]

    first, again, other = [await run_once(seed) for seed in (1, 1, 2)]
    assert first[:2] == again[:2]
    assert first[2] == pytest.approx(again[2], abs=2)
    assert first[0] != other[0]
    assert len({*first[1], *other[1]}) == 4


# --- what clients send -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer k"},
        {"Authorization": "bearer k"},
        {"Authorization": "k"},
        {"mj-api-secret": "k"},
    ],
)
async def test_accepted_keys(headers: dict[str, str]) -> None:
    """A key is read from each of the places clients put it."""
    async with running(key="k") as run:
        run.client.headers.update(headers)
        assert (await run.submit()).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"mj-api-secret": "wrong"}])
async def test_refused_keys(headers: dict[str, str]) -> None:
    """Without the key every call but pictures is answered 401 as the relay does; the submit is noted."""
    async with running(key="k") as run:
        run.client.headers.update(headers)
        answers = [
            await run.submit(),
            await run.client.get("/mj/task/1/fetch"),
            await run.client.post("/mj/task/list-by-condition", json={"ids": []}),
        ]
        assert [answer.status_code for answer in answers] == [401] * 3
        assert kind(answers[0].json()) == kind(payload("error_06_openai_style_401.json"))
        assert len(run.simulator.submits) == 1
        assert (await run.client.get("/mj/image/1")).status_code == 400


async def test_no_key_set_accepts_anything() -> None:
    """Without a key of its own the simulator lets everybody in."""
    async with running() as run:
        assert (await run.submit()).json()["code"] == 1
        run.client.headers["Authorization"] = "Bearer whatever"
        assert (await run.submit()).json()["code"] == 1


@pytest.mark.parametrize("prefix", ["/mj", "/mj-fast/mj", "/mj-turbo/mj", "/mj-relax/mj", "/mj/mj", "/mj/mj-fast/mj"])
async def test_prefixes(prefix: str) -> None:
    """Every endpoint is served under every prefix clients use."""
    async with running() as run:
        task_id = (await run.submit(f"{prefix}/submit/imagine")).json()["result"]
        fetched = await run.client.get(f"{prefix}/task/{task_id}/fetch")
        listed = await run.client.post(f"{prefix}/task/list-by-condition", json={"ids": [task_id]})
        assert fetched.json()["id"] == listed.json()[0]["id"] == task_id


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "", "notifyHook": ""},
        {"state": None, "notifyHook": None, "base64Array": None, "botType": None, "accountFilter": None},
        {"base64": None, "trackId": 7, "unknown": {"a": [1]}},
        {"accountFilter": {"modes": None, "remark": "x"}},
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
async def test_tolerated_submits(profile: str, changes: dict[str, Any]) -> None:
    """Nulls, empty strings and unknown keys do no harm."""
    async with running(profile=profile) as run:
        assert (await run.submit(**changes)).json()["code"] == 1
        assert run.simulator.submits == [request_body(**changes)]


async def test_tolerated_queries() -> None:
    """Fetch may carry a body; ids may be numbers or null; unknown ids are left out of a list."""
    async with running() as run:
        one, two = await run.task_id(), await run.task_id()
        headers = {"Content-Type": "application/json"}
        fetched = await run.client.request("GET", f"/mj/task/{one}/fetch", content=b"{}", headers=headers)
        assert fetched.json()["id"] == one
        path = "/mj/task/list-by-condition"
        listed = await run.client.post(path, json={"ids": [int(one), two, "404"]})
        assert {task["id"] for task in listed.json()} == {one, two}
        nothing: list[Any] = [{"ids": None}, {}, {"ids": []}, []]
        for body in nothing:
            assert (await run.client.post(path, json=body)).json() == []


@pytest.mark.parametrize(
    ("profile", "status", "content"),
    [("default", 400, True), ("relay", 400, True), ("java", 200, False), ("csharp", 204, False)],
)
async def test_unknown_task(profile: str, status: int, content: bool) -> None:
    """An unknown id is code 4 at the relay and an empty answer at the proxies."""
    async with running(profile=profile) as run:
        answer = await run.client.get("/mj/task/404/fetch")
        assert answer.status_code == status
        expected = payload("error_04_relay_task_not_found_400.json")
        assert answer.json() == expected if content else answer.content == b""


@pytest.mark.parametrize(
    "changes",
    [{"prompt": ""}, {"prompt": None}, {"prompt": "  "}, {"state": "x" * 256}, {"notifyHook": "x" * 2001}],
)
async def test_validation(changes: dict[str, Any]) -> None:
    """No prompt, or a state or hook that is too long, is code 4 and makes no task."""
    async with running() as run:
        answer = (await run.submit(**changes)).json()
        assert (answer["code"], answer["result"]) == (4, None)
        assert len(run.simulator.submits) == 1


@pytest.mark.parametrize(
    ("profile", "status", "code"),
    [("default", 400, 4), ("relay", 400, 4), ("csharp", 200, -1), ("java", 200, 1)],
)
async def test_wrong_types(profile: str, status: int, code: int) -> None:
    """A number for the prompt is refused by relay and C#, each in its way, and taken by Java."""
    async with running(profile=profile) as run:
        answer = await run.submit(prompt=42)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
@pytest.mark.parametrize("profile", PROFILES)
async def test_unreadable_bodies(profile: str, content: bytes) -> None:
    """What is no JSON object is answered without a crash and without a task."""
    async with running(profile=profile) as run:
        answer = await run.client.post("/mj/submit/imagine", content=content)
        assert answer.status_code in {200, 400}
        assert answer.json().get("result") is None
        assert run.simulator.submits == [{}]


def test_unknown_names() -> None:
    """An unknown fault or profile, or a speed of nothing, is refused with a sentence that helps."""
    with pytest.raises(ValueError, match=r"nonsense.*banned_word"):
        Simulator(faults=["nonsense"])
    with pytest.raises(ValueError, match=r"nonsense.*csharp"):
        Simulator(profile="nonsense")
    with pytest.raises(ValueError, match="speed"):
        Simulator(speed=0)


# --- profiles, judged by the recorded payloads -------------------------------------------------------------


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
        async with asyncio.timeout(10):
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
    async with running(profile="relay") as run:
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


# --- faults ------------------------------------------------------------------------------------------------


async def test_queued() -> None:
    """A queued task is answered with 22 and starts some seconds later than others."""
    async with running(faults=["queued"]) as run:
        answer = (await run.submit()).json()
        assert (answer["code"], kind(answer["result"])) == (22, "string")
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert body["id"] == answer["result"]
        assert body["startTime"] - body["submitTime"] > 3500


async def test_queue_full() -> None:
    """The first two submits find the queue full, the third is accepted."""
    async with running(faults=["queue_full"]) as run:
        answers = [(await run.submit()).json() for _ in range(3)]
        assert [answer["code"] for answer in answers] == [23, 23, 1]
        assert answers[0]["result"] is None
        assert len(run.simulator.submits) == 3


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        ("banned_word", 200, "submit_04_banned_24.json"),
        ("validation", 200, "submit_07_validation_4.json"),
        ("unauthorized", 401, "error_06_openai_style_401.json"),
        ("ambiguous_created", 400, "error_02_relay_upstream_timeout_400.json"),
        ("ambiguous_lost", 400, "error_02_relay_upstream_timeout_400.json"),
    ],
)
async def test_refusals_like_the_recorded(fault: str, status: int, name: str) -> None:
    """A refused submit has the body of the recorded refusal and is noted all the same."""
    async with running(faults=[fault]) as run:
        answer = await run.submit()
        assert answer.status_code == status
        assert kind(answer.json()) == kind(payload(name))
        assert answer.json().get("code") == payload(name).get("code")
        assert len(run.simulator.submits) == 1


async def test_banned_word_is_in_the_prompt() -> None:
    """The banned word named is one of the prompt's."""
    async with running(faults=["banned_word"]) as run:
        facts = (await run.submit()).json()["properties"]
        assert facts["bannedWord"] in facts["promptEn"]


async def test_ambiguous() -> None:
    """After the same ambiguous answer one fault's task runs and calls back, the other's never existed."""
    async with running(faults=["ambiguous_created"]) as created, running(faults=["ambiguous_lost"]) as lost:
        assert (await created.submit()).json() == (await lost.submit()).json()
        await created.hooks.until_end()
        task_id = created.hooks.bodies[0]["id"]
        assert (await created.fetch(task_id))["status"] == "SUCCESS"
        assert lost.hooks.bodies == []


@pytest.mark.parametrize("profile", PROFILES)
async def test_failure(profile: str) -> None:
    """A failing task ends without a picture, with a reason and no progress."""
    async with running(profile=profile, faults=["failure"]) as run:
        await run.submit()
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert (body["status"], body["progress"], body["failReason"]) == ("FAILURE", "", "任务超时")
        assert body["imageUrl"] is None


async def test_hook_stripped() -> None:
    """A stripped hook is never called, yet the task ends."""
    async with running(faults=["hook_stripped"]) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        assert run.hooks.bodies == []
        assert run.simulator.callbacks == []


async def test_duplicated() -> None:
    """Every callback comes twice."""
    async with running(faults=["duplicated"]) as run:
        await run.submit()
        await run.hooks.until_end(2)
        assert len(run.hooks.bodies) == 18
        assert all(run.hooks.told.count(told) == 2 for told in run.hooks.told)


async def test_dropped() -> None:
    """The end is never called back."""
    async with running(faults=["dropped"]) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        await run.hooks.until(lambda hooks: len(hooks.told) == 8)
        assert all(status != "SUCCESS" for status, _ in run.hooks.told)


async def test_reordered() -> None:
    """The end is called back before some of the progress, and nothing is told before it happened."""
    async with running(faults=["reordered"]) as run:
        await run.submit()
        await run.hooks.until(lambda hooks: len(hooks.told) == 9)
        statuses = [status for status, _ in run.hooks.told]
        assert 0 < statuses.index("SUCCESS") < 8


async def test_late() -> None:
    """Callbacks lag 20 s behind: fetch shows the end before the callback of it comes."""
    async with running(faults=["late"], speed=50) as run:
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == "SUCCESS")
        assert ("SUCCESS", "100%") not in run.hooks.told
        await run.hooks.until_end()


PRECEDENCE = (
    ("unauthorized", None),
    ("validation", 4),
    ("banned_word", 24),
    ("ambiguous_created", 5),
    ("ambiguous_lost", 5),
    ("queue_full", 23),
    ("queued", 22),
)


class OneSubmit:
    """A first submit that counts how often it was accepted."""

    number, prompt, properties, made = 1, PROMPT, MappingProxyType({"discordInstanceId": "1"}), 0

    def accept(self) -> str:
        self.made += 1
        return "1773314942177684"


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(PRECEDENCE, 2)))
def test_precedence(stronger: tuple[str, int | None], weaker: tuple[str, int | None]) -> None:
    """Of two faults that answer a submit the stronger does, in whatever order they are named."""
    submit = OneSubmit()
    answer = Faults([weaker[0], stronger[0]]).answer(submit)
    assert answer is not None
    assert isinstance(answer.body, dict)
    assert answer.body.get("code") == stronger[1]
    assert submit.made == (stronger[0] in {"ambiguous_created", "queued"})


@pytest.mark.parametrize("profile", PROFILES)
async def test_all_faults_at_once(profile: str) -> None:
    """Every fault together is still an answer."""
    async with running(profile=profile, faults=FAULTS) as run:
        assert (await run.submit()).status_code == 401


@pytest.mark.parametrize("pair", list(combinations(["failure", "duplicated", "dropped", "reordered", "late"], 2)))
async def test_pairs_of_callback_faults(pair: tuple[str, str]) -> None:
    """Faults of the course and of callbacks add up."""
    async with running(faults=pair) as run:
        end = "FAILURE" if "failure" in pair else "SUCCESS"
        await run.fetch_until(await run.task_id(), lambda task: task["status"] == end)
        calls = 2 if "failure" in pair else 9
        expected = (calls - ("dropped" in pair)) * (2 if "duplicated" in pair else 1)
        await run.hooks.until(lambda hooks: len(hooks.told) == expected)
        assert all(status != end for status, _ in run.hooks.told) == ("dropped" in pair)


# --- callbacks ---------------------------------------------------------------------------------------------


async def test_state_and_hook_are_echoed() -> None:
    """The state comes back as sent, and the hook stands in properties for all to see."""
    async with running() as run:
        await run.submit(state="猫 état+1")
        await run.hooks.until_end()
        assert all(body["state"] == "猫 état+1" for body in run.hooks.bodies)
        assert run.hooks.bodies[0]["properties"]["notifyHook"] == HOOK


@pytest.mark.parametrize("status", [302, 307, 404, 500])
async def test_answers_change_nothing(status: int) -> None:
    """Whatever a callback is answered with, it is noted, not repeated and not followed."""
    hooks = Hooks(status, {"location": "http://hooks.test/elsewhere"})
    async with running(hooks) as run:
        await run.submit()
        await hooks.until_end()
        assert len(hooks.bodies) == 9
        assert {request.url.path for request in hooks.requests} == {"/cb"}
        assert {sent.http_status for sent in run.simulator.callbacks} == {status}


@pytest.mark.parametrize("hook", ["http://127.0.0.1:1/cb", "not a url", "ftp://x/y", "http://["])
async def test_unreachable_hooks(hook: str) -> None:
    """A hook that cannot be called is noted with the reason, and the task goes on."""
    async with running(client=None) as run:
        task_id = await run.task_id(notifyHook=hook)
        await run.fetch_until(task_id, lambda task: task["status"] == "SUCCESS")
        sent = run.simulator.callbacks[0]
        assert (sent.task_id, sent.status, sent.http_status) == (task_id, "SUBMITTED", None)
        assert sent.error


async def test_aclose_stops_callbacks() -> None:
    """Closing drops what has not been sent, and may be done twice."""
    async with running(speed=1, client=None) as run:
        await run.submit()
        await run.simulator.aclose()
        await run.simulator.aclose()
        assert run.simulator.callbacks == []


async def test_over_real_http() -> None:
    """Under uvicorn, lifespan included, a task goes from submit to picture over real sockets."""
    hooks, simulator = Hooks(), Simulator(speed=FAST)
    async with (
        served(hooks.app) as receiver,
        served(simulator.app) as provider,
        httpx.AsyncClient() as client,
    ):
        answer = await client.post(f"{provider}/mj/submit/imagine", json=request_body(notifyHook=f"{receiver}/cb"))
        await hooks.until_end()
        task = (await client.get(f"{provider}/mj/task/{answer.json()['result']}/fetch")).json()
        assert task["imageUrl"].startswith(provider)
        picture = await client.get(task["imageUrl"])
        assert picture.content == (await client.get(hooks.bodies[-1]["imageUrl"])).content
        assert picture.headers["transfer-encoding"] == "chunked"


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    # Whoever connects before the server is up waits instead of being refused.
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    running_server = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running_server
        listener.close()


# --- pictures ----------------------------------------------------------------------------------------------

PROMPTS = [
    PROMPT,
    "a cat watching the stars --ar 16:9",
    "city skyline at night",
    "a cabin in a misty forest --ar 2:3",
    "hot air balloons over a meadow of wild flowers",
    "a mountain lake in autumn",
    "a lighthouse in the storm",
    "a ringed planet above desert dunes",
    "an old oak tree, birds",
    "the sound of silence",
    "猫",
    "--v 6.1",
    "x" * 3000,
    "a sailing boat " * 200,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_grid(prompt: str) -> None:
    """Every prompt gives a PNG below 1.5 MB of four different pictures, in the proportions of --ar."""
    png = grid(prompt, 42)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) < 1_500_000
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.size == picture_size(prompt)
    width, height = picture.width // 2, picture.height // 2
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    tiles = [picture.crop((x, y, x + width, y + height)).resize((16, 16)).tobytes() for x, y in corners]
    for one, other in combinations(tiles, 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) > 4


def test_grid_is_deterministic() -> None:
    """The same prompt and seed give the same bytes; another seed or prompt does not."""
    assert grid(PROMPT, 7) == grid(PROMPT, 7)
    assert grid(PROMPT, 7) != grid(PROMPT, 8)
    assert grid(PROMPT, 7) != grid(f"{PROMPT} x", 7)


def test_grid_is_drawn_quickly() -> None:
    """A grid takes well below a second, also on a busy machine."""
    started = time.process_time()
    grid(PROMPT, 9)
    assert time.process_time() - started < 1.0


def test_preview_becomes_finer() -> None:
    """A preview is half as large, and with more progress closer to the picture."""
    png = grid(PROMPT, 7)
    small = Image.open(io.BytesIO(png)).convert("RGB").resize((512, 512)).tobytes()

    def distance(percent: int) -> int:
        shown = Image.open(io.BytesIO(preview(png, percent)))
        assert shown.size == (512, 512)
        return sum(abs(a - b) for a, b in zip(shown.convert("RGB").tobytes(), small, strict=True))

    assert distance(15) > distance(46) > distance(93)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        ("x", (1024, 1024)),
        ("x --ar 16:9", (1366, 768)),
        ("x --ar 0:0", (1024, 1024)),
        ("x --ar 99:1", (1774, 592)),
    ],
)
def test_picture_size(prompt: str, size: tuple[int, int]) -> None:
    """The proportions follow --ar, at most 3:1, at about the same area."""
    assert picture_size(prompt) == size


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (PROMPT, "a paper boat floating on calm water at sunrise"),
        ("https://x.test/a.png a cat --ar 16:9 --v 6.1", "a cat"),
        ("a well-known place --tile --no text", "a well-known place"),
    ],
)
def test_scene_words(prompt: str, words: str) -> None:
    """Flags and picture links are no part of the scene."""
    assert scene_words(prompt) == words


def test_speed_of_unknown_modes() -> None:
    """A mode nobody knows counts as none."""
    assert speed(None, ["LUDICROUS"], "x") == "fast"


def test_without_pillow() -> None:
    """Without Pillow the names of faults can still be read, and a Simulator says what to install."""
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from receiver.simulator import FAULTS, Simulator\n"
        "assert FAULTS\n"
        "Simulator()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    assert "pip install 'imagine-receiver[simulator]'" in done.stderr


def test_imports_nothing_of_receiver() -> None:
    """The wire format is written twice on purpose: the simulator knows no other part of the product."""
    for module in (Path(__file__).parents[1] / "receiver" / "simulator").glob("*.py"):
        for line in module.read_text().splitlines():
            if line.strip().startswith(("from receiver", "import receiver")):
                assert line.strip().startswith("from receiver.simulator"), (module.name, line)
