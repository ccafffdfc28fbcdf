"""Every submit endpoint: what it takes, what it refuses, and what comes of it."""

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image
from simulators import HOOK, PROMPT, Run, kind, payload, running

from receiver.simulator import PROFILES
from receiver.simulator.submits import ENDPOINTS


def data_uri(color: str = "red", kind: str = "PNG", size: tuple[int, int] = (60, 40)) -> str:
    target = io.BytesIO()
    Image.new("RGB", size, color).save(target, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(target.getvalue()).decode()}"


PATHS = {path.rsplit("/", 1)[-1]: path for path in ENDPOINTS}
RED, BLUE = data_uri("red"), data_uri("blue", "JPEG")


async def post(run: Run, name: str, **body: Any) -> Any:
    answer = await run.client.post(f"/mj{PATHS[name]}", json=body)
    return answer.json()


async def finished(run: Run, name: str, **body: Any) -> Any:
    """The task in the end, as fetch shows it."""
    answer = await post(run, name, **body)
    assert answer["code"] == 1, answer
    return await run.fetch_until(answer["result"], lambda task: task["status"] in {"SUCCESS", "FAILURE"})


async def picture(run: Run, link: str) -> Image.Image:
    return Image.open(io.BytesIO((await run.client.get(link)).content))


async def test_every_endpoint_under_every_prefix() -> None:
    """No speed prefix hides an endpoint, and each notes what it was sent."""
    async with running(speed=1) as run:
        for prefix in ("/mj", "/mj-fast/mj", "/mj-turbo/mj", "/mj-relax/mj"):
            for name, path in PATHS.items():
                answer = await run.client.post(f"{prefix}{path}", json={"state": prefix})
                assert answer.status_code in {200, 400}
                assert answer.json()["code"] in {3, 4}
                assert run.simulator.endpoints[-1] == name
                assert run.simulator.submits[-1] == {"state": prefix}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", PATHS)
async def test_unreadable_bodies(name: str, profile: str) -> None:
    """Every endpoint answers what is no JSON, and a wrong type, without a crash."""
    async with running(profile=profile) as run:
        for content in (b"{", b"[]", b'{"state": {}}', b'{"taskId": [], "base64Array": 7}'):
            answer = await run.client.post(f"/mj{PATHS[name]}", content=content)
            assert answer.status_code in {200, 400}
            assert answer.json().get("result") is None


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("imagine", {"prompt": "x", "base64Array": ["data:image/png;base64,AAAA"]}),
        ("blend", {"base64Array": [RED]}),
        ("blend", {"base64Array": [RED] * 6}),
        ("blend", {"base64Array": [RED, "no picture"]}),
        ("blend", {"base64Array": [RED, BLUE], "dimensions": "ROUND"}),
        ("describe", {}),
        ("describe", {"base64": "data:image/png;base64,!!!"}),
        ("shorten", {"prompt": " "}),
        ("change", {"taskId": "1", "action": "DANCE", "index": 1}),
        ("change", {"taskId": "1", "action": "UPSCALE"}),
        ("change", {"action": "UPSCALE", "index": 1}),
        ("simple-change", {"content": "U2"}),
        ("simple-change", {"content": "1 U5"}),
        ("video", {"image": RED}),
        ("video", {"motion": "wild", "image": RED}),
        ("video", {"motion": "low"}),
        ("video", {"motion": "low", "image": RED, "batchSize": 3}),
        ("video", {"motion": "low", "image": RED, "videoType": "vid_2"}),
        ("video", {"motion": "low", "image": RED, "index": 4}),
        ("video", {"motion": "low", "image": RED, "action": "extend"}),
        ("video", {"motion": "low", "image": RED, "endImage": "no picture"}),
        ("edits", {"prompt": "x"}),
        ("edits", {"image": RED}),
        ("edits", {"prompt": "x", "image": RED, "maskBase64": "no picture"}),
        ("swap", {"sourceBase64": RED}),
        ("upload-discord-images", {}),
        ("upload-discord-images", {"base64Array": ["no picture"]}),
    ],
)
async def test_validation(name: str, body: dict[str, Any]) -> None:
    """What is missing or wrong is code 4, like the recorded refusal, and makes no task."""
    async with running() as run:
        answer = await post(run, name, notifyHook=HOOK, **body)
        assert kind(answer) == kind(payload("submit_07_validation_4.json"))
        assert answer["code"] == 4
        assert run.simulator.callbacks == []


@pytest.mark.parametrize(
    ("profile", "http", "code"), [("default", 400, 4), ("relay", 400, 4), ("java", 200, 3), ("csharp", 404, 3)]
)
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("action", {"taskId": "404", "customId": "MJ::JOB::upsample::1::x"}),
        ("modal", {"taskId": "404"}),
        ("change", {"taskId": "404", "action": "UPSCALE", "index": 1}),
        ("video", {"taskId": 404, "prompt": "it sails", "motion": "low", "action": "extend", "index": 0}),
    ],
)
async def test_unknown_parents(profile: str, http: int, code: int, name: str, body: dict[str, Any]) -> None:
    """A task nobody knows is code 4 at the relay and code 3 at the proxies."""
    if (profile, name) == ("csharp", "change"):
        return  # it has no such path
    async with running(profile=profile) as run:
        answer = await run.client.post(f"/mj{PATHS[name]}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (http, code)


@pytest.mark.parametrize(
    ("profile", "http", "words"),
    [
        ("default", 400, "task_status_not_success "),
        ("relay", 400, "task_status_not_success "),
        ("csharp", 200, "关联任务状态错误"),
    ],
)
async def test_parents_that_are_not_ready(profile: str, http: int, words: str) -> None:
    """A task that still runs cannot be built on."""
    async with running(profile=profile, speed=1) as run:
        body = {"taskId": await run.task_id(), "customId": "MJ::JOB::upsample::1::x"}
        answer = await run.client.post("/mj/submit/action", json=body)
        assert (answer.status_code, answer.json()["code"], answer.json()["description"]) == (http, 4, words)


async def test_relay_is_not_ready_until_its_next_poll() -> None:
    """The picture has been called back, and the relay still refuses to build on the task. (Its poll comes soon after:
    slowly, so that a busy machine is there before it.)"""
    async with running(profile="relay", speed=5) as run:
        task_id = await run.task_id()
        await run.hooks.until_end()
        body = {"taskId": task_id, "action": "UPSCALE", "index": 1}
        early = await run.client.post("/mj/submit/change", json=body)
        await run.fetch_until(task_id, lambda task: task["status"] == "SUCCESS")
        late = await run.client.post("/mj/submit/change", json=body)
        assert (early.status_code, early.json()["description"]) == (400, "task_status_not_success ")
        assert late.json()["code"] == 1


# --- what they make ------------------------------------------------------------------------------------------


async def test_blend() -> None:
    """Two pictures become a grid of four that differ, in the proportions asked for."""
    async with running() as run:
        task = await finished(run, "blend", base64Array=[RED, BLUE], dimensions="LANDSCAPE")
        assert (task["action"], len(task["buttons"])) == ("BLEND", 9)
        grid = await picture(run, task["imageUrl"])
        assert grid.width / grid.height == pytest.approx(1.5, abs=0.01)
        tiles = {grid.getpixel((x, y)) for x in (100, grid.width - 100) for y in (100, grid.height - 100)}
        assert len(tiles) == 4


@pytest.mark.parametrize("profile", PROFILES)
async def test_describe(profile: str) -> None:
    """Four texts come in promptEn and finalPrompt, of Java in prompt, too; the picture is the one sent."""
    async with running(profile=profile) as run:
        answer = await post(run, "describe", base64=RED, notifyHook=HOOK, state="mine")
        await run.hooks.until_end()
        body = run.hooks.bodies[-1]
        assert (body["action"], body["status"], body["state"]) == ("DESCRIBE", "SUCCESS", "mine")
        assert body["promptEn"] == body["properties"]["finalPrompt"]
        assert body["prompt"] == (body["promptEn"] if profile == "java" else "")
        assert [text[:1] for text in body["promptEn"].split("\n\n")] == ["1", "2", "3", "4"]
        assert body["description"] == f"/describe {answer['result']}.png"
        assert run.hooks.bodies[0]["prompt"] == ""
        shown = await picture(run, body["imageUrl"])
        red, green, blue = shown.convert("RGB").getpixel((5, 5))
        assert red - max(green, blue) > 150
        task = await run.fetch_until(answer["result"], lambda task: task["status"] == "SUCCESS")
        assert (task["prompt"], task["promptEn"]) == (body["prompt"], body["promptEn"])


async def test_java_describe_like_the_recorded() -> None:
    """A Java describe has the keys and types of the recorded one."""
    async with running(profile="java") as run:
        await post(run, "describe", base64=RED, notifyHook=HOOK, state="mine")
        await run.hooks.until_end()
        found, recorded = run.hooks.bodies[-1], payload("callback_07_java_describe_success.json")
        assert list(found) == list(recorded)
        assert kind({**found, "properties": 0}) == kind({**recorded, "properties": 0})
        assert kind(recorded["properties"]).items() <= kind(found["properties"]).items()


async def test_describe_of_our_own_link() -> None:
    """A link to a picture made here is known again: its words come back."""
    async with running() as run:
        await run.submit(prompt="a lighthouse in the storm")
        await run.hooks.until_end()
        task = await finished(run, "describe", link=run.hooks.bodies[-1]["imageUrl"])
        assert task["promptEn"].count("a lighthouse in the storm") == 4


@pytest.mark.parametrize("profile", PROFILES)
async def test_shorten(profile: str) -> None:
    """Ever shorter prompts below headings and a marked prompt, in finalPrompt and, of proxies, the description."""
    async with running(profile=profile) as run:
        task = await finished(run, "shorten", prompt=PROMPT, notifyHook=HOOK)
        await run.hooks.until_end()
        said = task["properties"]["finalPrompt"]
        assert run.hooks.bodies[-1]["description"] == said
        assert (task["description"] == said) == (profile in ("java", "csharp"))
        assert (task["prompt"], task["promptEn"]) == (PROMPT, PROMPT)
        heading, marked, second, *texts = re.split(r"\n+", said)
        assert (heading, second, len(texts)) == ("## Important tokens", "## Shortened prompts", 3)
        assert "**" in marked
        assert len(texts[0]) > len(texts[2])
        assert (task["action"], task["imageUrl"] or "") == ("SHORTEN", "")


async def test_details_of_a_shorten() -> None:
    """Its last button shows a bar for each word."""
    async with running() as run:
        parent = await finished(run, "shorten", prompt=PROMPT)
        *numbers, details = parent["buttons"]
        assert ([button["emoji"][:1] for button in numbers], details["label"]) == (["1", "2", "3"], "Show Details")
        task = await finished(run, "action", taskId=parent["id"], customId=details["customId"])
        assert "██ 1.00" in task["properties"]["finalPrompt"]


@pytest.mark.parametrize(("profile", "code"), [("default", 1), ("relay", 4), ("java", 1), ("csharp", 4)])
async def test_a_video_without_a_prompt(profile: str, code: int) -> None:
    """The C# proxy refuses it, and takes a low motion where none is sent (PROTOCOL.md §13.3)."""
    async with running(profile=profile) as run:
        answer = await post(run, "video", image=RED, motion="low")
        assert answer["code"] == code
        still = await post(run, "video", image=RED, prompt="it sails")
        assert still["code"] == (1 if code == 4 else 4)


@pytest.mark.parametrize(("profile", "code"), [("default", 1), ("relay", 1), ("java", 4), ("csharp", 1)])
async def test_links_among_pictures(profile: str, code: int) -> None:
    """The C# proxy takes links in base64Array of imagine and blend, the Java one does not (PROTOCOL.md §13.6)."""
    async with running(profile=profile) as run:
        mixed = [RED, "https://elsewhere.test/a.png"]
        assert (await post(run, "blend", base64Array=mixed))["code"] == code
        assert (await post(run, "imagine", prompt=PROMPT, base64Array=mixed))["code"] == code
        assert (await post(run, "upload-discord-images", base64Array=mixed))["code"] == 4


@pytest.mark.parametrize(
    ("profile", "lists"),
    [("default", {"list", "queue"}), ("relay", set()), ("java", {"list", "queue"}), ("csharp", {"list"})],
)
async def test_lists_of_all_tasks(profile: str, lists: set[str]) -> None:
    """The newest first, where the server has such a list (PROTOCOL.md §13.8). The queue holds what has not started."""
    async with running(profile=profile) as run:
        done = await finished(run, "imagine", prompt=PROMPT)
        waiting = (await post(run, "imagine", prompt=PROMPT))["result"]
        for name in ("list", "queue"):
            answer = await run.client.get(f"/mj/task/{name}")
            assert answer.status_code == (200 if name in lists else 404)
            if name in lists:
                found = [task["id"] for task in answer.json()]
                assert found == [waiting, done["id"]] if name == "list" else set(found) <= {waiting}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"image": RED, "prompt": "it sails"}, 4),
        ({"prompt": "p", "image": "https://elsewhere.test/a.png", "batchSize": 1, "videoType": "vid_1.1_i2v_720"}, 1),
        ({"image": RED, "endImage": BLUE, "loop": True, "batchSize": 2}, 2),
    ],
)
async def test_video(body: dict[str, Any], count: int) -> None:
    """So many MP4 files, the first also as videoUrl, and a still as the picture."""
    async with running() as run:
        task = await finished(run, "video", motion="high", **body)
        assert task["action"] == "VIDEO"
        assert task["videoUrl"] == task["videoUrls"][0]["url"]
        films = [(await run.client.get(video["url"])) for video in task["videoUrls"]]
        assert len(films) == count
        for film in films:
            assert film.headers["content-type"] == "video/mp4"
            assert film.content[4:12] == b"ftypisom"
        assert (await picture(run, task["imageUrl"])).format == "PNG"
        labels = [button["label"] for button in task["buttons"]]
        assert labels[0] == ("U1" if count > 1 else "Extend (High motion)")


@pytest.mark.parametrize("profile", ["relay", "csharp", "java"])
async def test_video_in_place_of_a_picture(profile: str) -> None:
    """Of a video, everybody but the default profile gives the first MP4 as imageUrl."""
    async with running(profile=profile) as run:
        task = await finished(run, "video", prompt="it sails", motion="low", image=RED, notifyHook=HOOK)
        film = await run.client.get(task["imageUrl"])
        assert (film.headers["content-type"], film.content[4:8]) == ("video/mp4", b"ftyp")
        await run.hooks.until_end()
        assert run.hooks.bodies[-1]["imageUrl"].endswith("/0.mp4")


async def test_csharp_video_fields() -> None:
    """The C# task tells kind, length and a small picture of each video."""
    async with running(profile="csharp") as run:
        task = await finished(run, "video", prompt="p", motion="low", image=RED, videoType="vid_1.1_i2v_720")
        assert (task["videoType"], task["isHdVideo"], task["contentType"]) == ("vid_1.1_i2v_720", True, "video/mp4")
        assert task["frameCount"] > 0
        assert (await picture(run, task["videoUrls"][3]["thumbnail"])).width <= 640
        assert task["imageUrls"] is None


async def test_video_by_flags() -> None:
    """--video or --motion and a picture's address in an imagine prompt make a video; either alone does not."""
    async with running() as run:
        both = await finished(run, "imagine", prompt="https://x.test/a.png it sails --motion high")
        assert (both["action"], len(both["videoUrls"])) == ("VIDEO", 4)
        assert (await finished(run, "imagine", prompt="it sails --video 1"))["action"] == "IMAGINE"
        assert (await finished(run, "imagine", prompt="https://x.test/a.png it sails"))["action"] == "IMAGINE"


@pytest.mark.parametrize("extended", ["IMAGINE", "VIDEO"])
async def test_video_from_a_task(extended: str) -> None:
    """A video may start from a task: one of its pictures, or one of its videos to go on."""
    async with running() as run:
        name, body = ("imagine", {"prompt": PROMPT}) if extended == "IMAGINE" else ("video", {"motion": "low"})
        parent = await finished(run, name, **({"image": RED} if extended == "VIDEO" else {}), **body)
        task = await finished(run, "video", motion="low", action="extend", taskId=parent["id"], index=3)
        assert len(task["videoUrls"]) == 4
        answer = await post(run, "video", motion="low", taskId=parent["id"], index=9)
        assert answer["code"] == 4


@pytest.mark.parametrize(("name", "action"), [("edits", "EDIT"), ("edit", "EDIT"), ("retexture", "RETEXTURE")])
async def test_edits(name: str, action: str) -> None:
    """Four new pictures; with a mask new only where it is white."""
    async with running(side=1024) as run:
        mask = Image.new("L", (60, 40))
        mask.paste(255, (30, 0, 60, 40))
        target = io.BytesIO()
        mask.save(target, "PNG")
        sent = base64.b64encode(target.getvalue()).decode()
        task = await finished(run, name, prompt="a forest at noon", image=RED, maskBase64=sent)
        assert (task["action"], len(task["buttons"])) == (action, 9)
        grid = (await picture(run, task["imageUrl"])).convert("RGB")
        kept, new = grid.getpixel((100, 250)), grid.getpixel((400, 250))
        assert min(kept[0] - kept[1], new[1]) > 60
        assert (await finished(run, name, prompt="a forest", image=RED))["status"] == "SUCCESS"


async def test_swap() -> None:
    """One picture: the target with the other in its middle."""
    async with running() as run:
        task = await finished(run, "swap", sourceBase64=RED, targetBase64=data_uri("blue"))
        shown = (await picture(run, task["imageUrl"])).convert("RGB")
        assert shown.getpixel((10, 10))[2] > 200
        assert shown.getpixel((shown.width // 2, int(shown.height * 0.4)))[0] > 200
        assert (await post(run, "swap", sourceUrl="https://a.test/x.png", targetUrl="https://a.test/y.png"))[
            "code"
        ] == 1


async def test_upload() -> None:
    """The result is a list of links to the pictures as they were sent; they can be described."""
    async with running() as run:
        answer = await post(run, "upload-discord-images", base64Array=[RED, BLUE])
        assert [len(answer["result"]), answer["code"]] == [2, 1]
        fetched = [await run.client.get(link) for link in answer["result"]]
        assert fetched[0].content == base64.b64decode(RED.partition(",")[2])
        assert [item.headers["content-type"] for item in fetched] == ["image/png", "image/jpeg"]
        task = await finished(run, "describe", link=answer["result"][0])
        assert (await picture(run, task["imageUrl"])).size


async def test_bare_base64_and_broken_pictures() -> None:
    """base64 without the data prefix will do; what only begins like a picture is drawn as nothing."""
    async with running() as run:
        bare = RED.partition(",")[2]
        assert (await finished(run, "describe", base64=bare))["status"] == "SUCCESS"
        broken = base64.b64encode(base64.b64decode(bare)[:40]).decode()
        task = await finished(run, "describe", base64=broken)
        assert (await picture(run, task["imageUrl"])).format == "PNG"


# --- tasks ---------------------------------------------------------------------------------------------------


async def test_image_seed() -> None:
    """The seed is a text, the one in the picture; not before the picture is there."""
    async with running() as run:
        task_id = await run.task_id()
        early = await run.client.get(f"/mj/task/{task_id}/image-seed")
        assert (early.status_code, early.json()["code"]) == (400, 4)
        await run.fetch_until(task_id, lambda task: task["status"] == "SUCCESS")
        answer = (await run.client.get(f"/mj/task/{task_id}/image-seed")).json()
        assert (answer["code"], answer["result"].isdigit()) == (1, True)
        unknown = await run.client.get("/mj/task/404/image-seed")
        assert (unknown.status_code, unknown.json()["code"]) == (404, 4)


async def test_cancel() -> None:
    """A cancelled task fails at once, says so once, and never gets a picture; a finished one stays as it is."""
    async with running(speed=20) as run:
        task_id = await run.task_id()
        await run.hooks.until(lambda hooks: ("IN_PROGRESS", "15%") in hooks.told)
        answer = await run.client.post(f"/mj/task/{task_id}/cancel")
        assert (answer.status_code, answer.content) == (200, b"")
        await run.hooks.until_end()
        assert run.hooks.bodies[-1]["failReason"] == "取消任务"
        assert run.hooks.told.count(("IN_PROGRESS", "15%")) == 1
        assert (await run.fetch(task_id))["status"] == "FAILURE"
        await run.client.post(f"/mj/task/{task_id}/cancel")
        assert (await run.client.post("/mj/task/404/cancel")).status_code == 400


async def test_keys_are_asked_for_everywhere() -> None:
    """Seed and cancel want the key as well."""
    async with running(key="k") as run:
        assert (await run.client.get("/mj/task/1/image-seed")).status_code == 401
        assert (await run.client.post("/mj/task/1/cancel")).status_code == 401


@pytest.mark.parametrize("profile", ["default", "java"])
@pytest.mark.parametrize(
    ("name", "body", "action"),
    [
        ("change", {"action": "UPSCALE", "index": 2}, "UPSCALE"),
        ("change", {"action": "VARIATION", "index": 1}, "VARIATION"),
        ("change", {"action": "REROLL"}, "REROLL"),
        ("simple-change", "U2", "UPSCALE"),
        ("simple-change", "v4", "VARIATION"),
        ("simple-change", "R", "REROLL"),
    ],
)
async def test_change(profile: str, name: str, body: Any, action: str) -> None:
    """The old way to press a button, in words."""
    async with running(profile=profile) as run:
        parent = await finished(run, "imagine", prompt=PROMPT)
        sent = {"content": f"{parent['id']} {body}"} if isinstance(body, str) else {"taskId": parent["id"], **body}
        task = await finished(run, name, **sent)
        assert (task["action"], task["prompt"]) == (action, PROMPT)


async def test_csharp_has_no_change() -> None:
    """It was taken out of the C# proxy (PROTOCOL.md §13.8)."""
    async with running(profile="csharp") as run:
        parent = await finished(run, "imagine", prompt=PROMPT)
        for name, sent in (("change", {"action": "UPSCALE", "index": 1}), ("simple-change", {"content": "1 U1"})):
            answer = await run.client.post(f"/mj{PATHS[name]}", json={"taskId": parent["id"], **sent})
            assert answer.status_code == 404


async def test_relay_and_change() -> None:
    """The relay wants an index even for REROLL, and does not read simple-change's content."""
    async with running(profile="relay") as run:
        parent = await finished(run, "imagine", prompt=PROMPT)
        reroll = {"taskId": parent["id"], "action": "REROLL"}
        assert (await post(run, "change", **reroll))["code"] == 4
        assert (await post(run, "change", **reroll, index=1))["code"] == 1
        assert (await post(run, "simple-change", content=f"{parent['id']} U2"))["code"] == 4
