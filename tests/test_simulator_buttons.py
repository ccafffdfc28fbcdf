"""Buttons: which there are, what each makes, windows that ask first, and customIds that go stale."""

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image
from simulators import HOOK, PROMPT, Run, kind, payload, running

from receiver.simulator import PROFILES

Task = dict[str, Any]
GRID = ["U1", "U2", "U3", "U4", "🔄", "V1", "V2", "V3", "V4"]
SINGLE = [
    *("Upscale (Subtle)", "Upscale (Creative)", "Vary (Subtle)", "Vary (Strong)", "Vary (Region)"),
    *("Zoom Out 2x", "Zoom Out 1.5x", "Custom Zoom", "⬅️", "➡️", "⬆️", "⬇️"),
    *("Animate (High motion)", "Animate (Low motion)", "❤️"),
]


def face(button: Any) -> str:
    return str(button["label"] or button["emoji"])


def custom_id(task: Task, name: str) -> str:
    return next(str(button["customId"]) for button in task["buttons"] if face(button) == name)


async def done(run: Run, task_id: str) -> Task:
    found: Task = await run.fetch_until(task_id, lambda task: task["status"] in {"SUCCESS", "FAILURE"})
    assert found["status"] == "SUCCESS", found["failReason"]
    return found


async def press(run: Run, task: Task, name: str, **more: Any) -> Any:
    """Press a button, as it is named on a fresh fetch."""
    fresh = await run.fetch(task["id"])
    body = {"taskId": task["id"], "customId": custom_id(fresh, name), **more}
    return (await run.client.post("/mj/submit/action", json=body)).json()


async def follow(run: Run, task: Task, name: str, **more: Any) -> Task:
    answer = await press(run, task, name, **more)
    assert answer["code"] == 1, answer
    return await done(run, answer["result"])


async def grid(run: Run, prompt: str = PROMPT) -> Task:
    return await done(run, await run.task_id(prompt=prompt, notifyHook=None))


async def modal(run: Run, task_id: str, **more: Any) -> Any:
    return (await run.client.post("/mj/submit/modal", json={"taskId": task_id, **more})).json()


async def shown(run: Run, task: Task) -> Image.Image:
    return Image.open(io.BytesIO((await run.client.get(task["imageUrl"])).content)).convert("RGB")


def mask(box: tuple[int, int, int, int]) -> str:
    picture, target = Image.new("L", (100, 100)), io.BytesIO()
    picture.paste(255, box)
    picture.save(target, "PNG")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


async def test_the_buttons_there_are() -> None:
    """Nine below a grid; below one picture those a real upscale has, with customIds of the known shapes."""
    async with running() as run:
        first = await grid(run)
        assert [face(button) for button in first["buttons"]] == GRID
        assert kind(first["buttons"][0]) == kind(payload("callback_13_csharp_success.json")["buttons"][0])
        single = await follow(run, first, "U2")
        assert [face(button) for button in single["buttons"]] == SINGLE
        assert all(re.match(r"MJ::[\w:]+::[0-9a-f-]{36}(::SOLO)?$", b["customId"]) for b in single["buttons"])
        enlarged = await follow(run, single, "Upscale (Subtle)")
        assert [face(button) for button in enlarged["buttons"]] == SINGLE[2:]
        wide = await follow(run, await grid(run, "x --ar 16:9"), "U1")
        assert [face(button) for button in wide["buttons"]] == [*SINGLE, "Make Square"]


@pytest.mark.parametrize("profile", ["default", "relay", "csharp"])
async def test_every_button_of_a_grid(profile: str) -> None:
    """Each makes a new task with a picture and the parent's prompt; state and hook are the follow-up's own."""
    async with running(profile=profile, speed=100) as run:
        parent = await grid(run)
        for name in GRID:
            answer = await press(run, parent, name, state=f"mine {name}", notifyHook=HOOK)
            task = await done(run, answer["result"])
            assert task["id"] != parent["id"]
            assert (task["prompt"], task["state"]) == (PROMPT, f"mine {name}")
            expected = {"U": "UPSCALE", "V": "VARIATION"}.get(name[0], "REROLL")
            assert task["action"] == expected
            assert len(task["buttons"]) == (len(SINGLE) if name[0] == "U" else 9)
        await run.hooks.until_end(len(GRID))
        if profile != "default":
            assert {body["parentId"] for body in run.hooks.bodies} == {parent["id"]}


@pytest.mark.parametrize(
    ("name", "action", "buttons"),
    [
        ("Upscale (Subtle)", "UPSCALE", 13),
        ("Upscale (Creative)", "UPSCALE", 13),
        ("Vary (Subtle)", "LOW_VARIATION", 9),
        ("Vary (Strong)", "HIGH_VARIATION", 9),
        ("Zoom Out 2x", "ZOOM", 9),
        ("Zoom Out 1.5x", "ZOOM", 9),
        ("⬅️", "PAN", 9),
        ("➡️", "PAN", 9),
        ("⬆️", "PAN", 9),
        ("⬇️", "PAN", 9),
        ("Animate (High motion)", "VIDEO", 5),
        ("Animate (Low motion)", "VIDEO", 5),
    ],
)
async def test_every_button_of_a_picture(name: str, action: str, buttons: int) -> None:
    """Each makes what it says, and its result can be built on again."""
    async with running() as run:
        single = await follow(run, await grid(run), "U3")
        task = await follow(run, single, name)
        assert (task["action"], len(task["buttons"])) == (action, buttons)
        again = await follow(run, task, "U1" if buttons != 13 else "Zoom Out 2x")
        assert again["status"] == "SUCCESS"


async def test_upscale_is_short() -> None:
    """An upscale calls back three times at most (PROTOCOL.md §7)."""
    async with running() as run:
        await press(run, await grid(run), "U1", notifyHook=HOOK)
        await run.hooks.until_end()
        assert run.hooks.told == [("SUBMITTED", "0%"), ("IN_PROGRESS", "0%"), ("SUCCESS", "100%")]


async def test_bookmark() -> None:
    """The heart makes no task: the answer carries the id of what was liked."""
    async with running() as run:
        single = await follow(run, await grid(run), "U1")
        answer = await press(run, single, "❤️", notifyHook=HOOK)
        assert (answer["code"], answer["result"]) == (1, single["id"])
        assert run.simulator.callbacks == []


async def test_videos_go_on() -> None:
    """Of four videos one is taken, and that one is extended."""
    async with running() as run:
        single = await follow(run, await grid(run), "U1")
        four = await follow(run, single, "Animate (High motion)")
        assert len(four["videoUrls"]) == 4
        one = await follow(run, four, "U2")
        assert [len(one["videoUrls"]), face(one["buttons"][0])] == [1, "Extend (High motion)"]
        assert len((await follow(run, one, "Extend (Low motion)"))["videoUrls"]) == 4
        assert len((await follow(run, four, "🔄"))["videoUrls"]) == 4


# --- customIds -----------------------------------------------------------------------------------------------


async def test_custom_ids_change() -> None:
    """Some seconds later the same buttons have other customIds of the same shapes."""
    async with running() as run:
        first = await grid(run)
        later = await run.fetch_until(
            first["id"], lambda task: task["buttons"][0]["customId"] != first["buttons"][0]["customId"]
        )
        for one, other in zip(first["buttons"], later["buttons"], strict=True):
            assert face(one) == face(other)
            assert one["customId"].rsplit("::", 2)[0] == other["customId"].rsplit("::", 2)[0]


@pytest.mark.parametrize(("profile", "code"), [("default", 1), ("java", 1), ("relay", 4), ("csharp", 1)])
async def test_outdated_custom_ids(profile: str, code: int) -> None:
    """A customId of long ago, or one made up, is good but for the relay."""
    async with running(profile=profile) as run:
        task = await grid(run)
        body = {"taskId": task["id"], "customId": "MJ::JOB::upsample::1::made-up"}
        assert (await run.client.post("/mj/submit/action", json=body)).json()["code"] == code


@pytest.mark.parametrize(
    ("custom_id", "action", "code"),
    [
        ("MJ::JOB::upsample_v6_2x_subtle::2::made-up", "UPSCALE_HD", 1),
        ("MJ::JOB::pan_left::2::made-up::SOLO", "PAN", 1),
        ("MJ::Outpaint::75::3::made-up", "ZOOM", 1),
        ("MJ::CustomZoom::made-up::2", "", 21),
        ("MJ::JOB::delete::1::made-up", "", 4),
    ],
)
async def test_csharp_judges_a_custom_id_by_its_beginning(custom_id: str, action: str, code: int) -> None:
    """Clients make customIds for pictures of a grid, which show no such button (PROTOCOL.md §13.9)."""
    async with running(profile="csharp") as run:
        body = {"taskId": (await grid(run))["id"], "customId": custom_id}
        answer = (await run.client.post("/mj/submit/action", json=body)).json()
        assert answer["code"] == code
        if code == 1:
            assert (await done(run, answer["result"]))["action"] == action


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "U1",
        "MJ::JOB::upsample::5::{hash}",
        "MJ::JOB::upsample::1::",
        "MJ::JOB::upsample::1::{hash}::SOLO",
        "MJ::JOB::delete::1::{hash}",
        "MJ::CustomZoom::{hash}",
        "MJ::JOB::upsample::1::a b",
    ],
)
async def test_shapes_that_are_no_button_here(wrong: str | None) -> None:
    """A customId whose shape none of the task's buttons has is code 4, also in the default profile."""
    async with running() as run:
        body = {"taskId": (await grid(run))["id"], "customId": wrong and wrong.replace("{hash}", "0-a")}
        answer = (await run.client.post("/mj/submit/action", json=body)).json()
        assert (answer["code"], answer["result"]) == (4, None)


# --- windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Custom Zoom", "Vary (Region)"])
@pytest.mark.parametrize("profile", PROFILES)
async def test_a_window_opens(profile: str, name: str) -> None:
    """Code 21 like the recorded one, a task that waits in MODAL and calls nobody, then goes on under its id."""
    async with running(profile=profile) as run:
        parent = await grid(run)
        ids = {"Custom Zoom": "MJ::CustomZoom::x", "Vary (Region)": "MJ::Inpaint::1::x::SOLO"}
        if profile == "java":
            change = {"taskId": parent["id"], "action": "UPSCALE", "index": 1}
            single = await done(run, (await run.client.post("/mj/submit/change", json=change)).json()["result"])
            body = {"taskId": single["id"], "customId": ids[name], "notifyHook": HOOK, "state": "mine"}
            answer = (await run.client.post("/mj/submit/action", json=body)).json()
        else:
            single = await follow(run, parent, "U1")
            answer = await press(run, single, name, notifyHook=HOOK, state="mine")
        recorded = payload("submit_06_modal_21.json")
        assert (answer["code"], answer["description"]) == (21, recorded["description"])
        assert answer["properties"]["remix"] is True
        assert answer["properties"]["finalPrompt"].startswith(PROMPT)
        waiting = await run.fetch_until(answer["result"], lambda task: task["status"] == "MODAL")
        assert waiting["status"] == "MODAL"
        assert run.hooks.bodies == []
        sent = await modal(run, answer["result"], prompt="a red boat --zoom 1.5", maskBase64=mask((0, 0, 50, 100)))
        assert (sent["code"], sent["result"]) == (1, answer["result"])
        task = await done(run, answer["result"])
        await run.hooks.until_end()
        assert (task["prompt"], task["state"]) == ("a red boat --zoom 1.5", "mine")
        assert {body["id"] for body in run.hooks.bodies} == {answer["result"]}
        assert run.hooks.told[0] == ("SUBMITTED", "0%")


async def test_a_window_without_its_answer() -> None:
    """A region wants a mask; a task that does not wait cannot be continued; a mask must be a picture."""
    async with running() as run:
        single = await follow(run, await grid(run), "U1")
        opened = (await press(run, single, "Vary (Region)"))["result"]
        assert (await modal(run, opened, prompt="x"))["code"] == 4
        assert (await modal(run, opened, prompt="x", maskBase64="no picture"))["code"] == 4
        assert (await modal(run, single["id"], prompt="x"))["code"] == 4
        assert (await modal(run, opened, maskBase64=mask((0, 0, 9, 9))))["code"] == 1
        assert (await modal(run, opened, maskBase64=mask((0, 0, 9, 9))))["code"] == 4


@pytest.mark.parametrize(("profile", "seconds", "speed"), [("default", 3600, 2000), ("csharp", 300, 200)])
async def test_a_window_nobody_answers(profile: str, seconds: int, speed: float) -> None:
    """The waiting task fails: after five minutes at the proxy, after an hour at the relay."""
    async with running(profile=profile, speed=speed) as run:
        single = await follow(run, await grid(run), "U1")
        answer = await press(run, single, "Custom Zoom")
        task = await run.fetch_until(answer["result"], lambda task: task["status"] == "FAILURE")
        assert (task["finishTime"] - task["submitTime"]) / 1000 == pytest.approx(seconds, abs=1)
        assert (await modal(run, answer["result"], prompt="x"))["code"] == 4


@pytest.mark.parametrize(("profile", "code"), [("default", 21), ("relay", 1), ("csharp", 21)])
async def test_remix(profile: str, code: int) -> None:
    """With remix a variation asks first; the relay turns that 21 into 1, so only the status tells."""
    async with running(profile=profile) as run:
        answer = await press(run, await grid(run), "V2", enableRemix=True)
        assert answer["code"] == code
        await run.fetch_until(answer["result"], lambda task: task["status"] == "MODAL")
        await modal(run, answer["result"], prompt="a green boat")
        assert (await done(run, answer["result"]))["prompt"] == "a green boat"


async def test_describe_buttons() -> None:
    """A text's button opens a window with it; "all" makes four tasks and joins their ids by commas."""
    async with running(profile="csharp") as run:
        body = {"base64": mask((0, 0, 50, 50))}
        task = await done(run, (await run.client.post("/mj/submit/describe", json=body)).json()["result"])
        assert [face(button) for button in task["buttons"]] == ["1️⃣", "2️⃣", "3️⃣", "4️⃣", "🔄", "Imagine all"]
        texts = [text.partition(" ")[2] for text in task["promptEn"].split("\n\n")]
        answer = await press(run, task, "2️⃣")
        assert (answer["code"], answer["properties"]["finalPrompt"]) == (21, texts[1])
        await modal(run, answer["result"])
        assert (await done(run, answer["result"]))["prompt"] == texts[1]
        every = await press(run, task, "Imagine all", state="mine")
        found = [await done(run, task_id) for task_id in every["result"].split(",")]
        assert [item["prompt"] for item in found] == texts
        assert [item["state"] for item in found] == [f"mine::{number}" for number in range(1, 5)]
        assert (await follow(run, task, "🔄"))["action"] == "DESCRIBE"


async def test_shorten_buttons() -> None:
    """A shortened prompt's button opens a window with it."""
    async with running() as run:
        answer = (await run.client.post("/mj/submit/shorten", json={"prompt": PROMPT})).json()
        task = await done(run, answer["result"])
        opened = await press(run, task, "3️⃣")
        assert opened["properties"]["finalPrompt"] in task["properties"]["finalPrompt"]
