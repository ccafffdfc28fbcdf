"""The simulated provider: its tasks, what it takes from clients, and its callbacks."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from simulators import FAST, HOOK, PROMPT, Hooks, kind, payload, request_body, running, served

from receiver.extras import install
from receiver.simulator import PROFILES, Simulator
from receiver.simulator.prompts import scene_words, speed
from receiver.simulator.timeline import dice, plan

# --- the timeline of a task --------------------------------------------------------------------------------


async def test_default_timeline() -> None:
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
    async with running(speed=8, side=1024) as run:
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
    async with running(side=1024) as run:
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
            timeline = plan(mode, dice(seed))
            moments = [step.after for step in timeline]
            assert moments == sorted(moments)
            assert moments[-1] == pytest.approx(seconds, rel=0.08)
            assert len(timeline) == 10


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
    """The same seed and submits give the same timeline, callbacks and pictures; another seed does not."""

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


# --- words and modules -------------------------------------------------------------------------------------


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
    """Without Pillow the names of faults can still be read, and serving a simulator says what to install."""
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from receiver.simulator import FAULTS, Simulator\n"
        "from receiver.testing import simulating\n"
        "assert FAULTS\n"
    )
    for use, words in (
        ("Simulator()", "Install Receiver's extra `simulator`."),
        ("with simulating(): pass", install("simulator")),
    ):
        command = [sys.executable, "-c", code + use]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert words in done.stderr


def test_imports_nothing_of_receiver() -> None:
    """The wire format is written twice on purpose: the simulator knows no other part of the product."""
    for module in (Path(__file__).parents[1] / "receiver" / "simulator").rglob("*.py"):
        for line in module.read_text().splitlines():
            if line.strip().startswith(("from receiver", "import receiver")):
                assert line.strip().startswith("from receiver.simulator"), (module.name, line)
