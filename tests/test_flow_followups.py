"""The second step: from a grid to an upscale, to a zoom that asks, to a video, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from flows import World, world
from waiting import PATIENCE

from receiver.errors import Conflict, InputError, NotFound, Refused
from receiver.events import Submission
from receiver.requests import Request, build
from receiver.submissions import Options

PROFILES = ["default", "relay", "csharp"]


async def grid(here: World) -> Submission:
    return await here.rest((await here.submit()).id)


async def press(here: World, parent: Submission, button: str, **reply: str) -> Submission:
    row = await here.receiver.submissions.follow_up(parent, button, **reply)
    try:
        await here.receiver.submissions.send(row.id)
    except Refused as exc:
        if not exc.retry:
            raise  # what may be sent again, the engine sends again
    return await here.rest(row.id)


async def until(here: World, submission_id: str, met: Callable[[Submission], bool]) -> Submission:
    while not met(row := await here.receiver.journal.find(submission_id)):
        await here.receiver.clock.sleep(1)
    return row


@pytest.mark.parametrize("profile", PROFILES)
async def test_the_documented_workflow_under_every_profile(profile: str, tmp_path: Path) -> None:
    """Prompt → grid → U2 → Custom Zoom, which asks for input → video; the family lies in the folder and the journal."""
    async with world(tmp_path, profile=profile) as here, asyncio.timeout(PATIENCE):
        parent = await grid(here)
        upscaled = await press(here, parent, "U2")
        asking = await here.receiver.submissions.follow_up(upscaled, "Custom Zoom")
        await here.receiver.submissions.send(asking.id)
        asking = await until(here, asking.id, lambda row: row.awaits_input)
        await here.receiver.submissions.reply(asking, prompt="a paper boat --zoom 1.8")
        await here.receiver.submissions.send_reply(asking.id)
        zoomed = await here.rest(asking.id)
        film = await press(here, upscaled, "animate low")
        family = await here.receiver.journal.family(zoomed.id)

        assert [row.ended for row in (upscaled, zoomed, film)] == ["task.succeeded"] * 3
        assert zoomed.task_id == asking.task_id, "the same task goes on"
        assert [row.id for row in family] == [parent.id, upscaled.id, zoomed.id, film.id]
        types = [event.type for event in await here.events(zoomed)]
        assert types.count("task.input_required") == 1
        assert types[-1] == "task.succeeded"
        assert {item.type for item in film.media} == {"video/mp4"}
        records = [msgspec.json.decode(path.read_bytes()) for path in here.outputs.glob("*.json")]
        assert sorted(str(record["lineage"]["button"]) for record in records) == [
            "Custom Zoom", "None", "U2", "animate low",
        ]  # fmt: skip
        assert len(list(here.outputs.glob("*.mp4"))) == len(film.media)


async def test_a_relay_without_buttons_is_told_by_change(tmp_path: Path) -> None:
    """Where no fetch ever shows a button, it is asked for a while, and then `submit/change` upscales."""
    async with world(tmp_path, profile="java") as here, asyncio.timeout(PATIENCE):
        upscaled = await press(here, await grid(here), "U2")
        assert upscaled.ended == "task.succeeded"
        assert here.simulator.endpoints.count("change") == 1
        assert "action" not in here.simulator.endpoints


async def test_pressing_twice_costs_once(tmp_path: Path) -> None:
    """The same button of the same task, however it is spelt, gives the first one's result; `again` presses anew."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        parent = await grid(here)
        first = await press(here, parent, "U2")
        second = await here.receiver.submissions.follow_up(parent, " u2")
        third = await here.receiver.submissions.follow_up(parent, "U2", again=True)
        assert second.id == first.id
        assert second.ended == "task.succeeded"
        assert third.id != first.id
        assert here.simulator.endpoints.count("action") == 1


async def test_a_reply_given_with_the_button_needs_nobody(tmp_path: Path) -> None:
    """The prompt goes out as soon as the task asks, and no destination is told that it asked."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        upscaled = await press(here, await grid(here), "U1")
        zoomed = await press(here, upscaled, "Custom Zoom", prompt="wider --zoom 1.5")
        assert zoomed.ended == "task.succeeded"
        assert "task.input_required" not in [event.type for event in await here.events(zoomed)]
        assert zoomed.reply is not None
        assert zoomed.reply.status == "sent"
        assert here.simulator.endpoints.count("modal") == 1


async def test_follow_ups_start_by_themselves_once(tmp_path: Path) -> None:
    """`auto` presses each named button when the task has succeeded, written with that event."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"), Options(auto=("U1", "U3")))
        await here.receiver.submissions.send(row.id)
        await here.rest(row.id)
        family = await here.receiver.journal.family(row.id)
        ended = [await here.rest(child.id) for child in family]
        assert [child.button for child in ended] == [None, "U1", "U3"]
        assert [child.ended for child in ended] == ["task.succeeded"] * 3
        assert here.simulator.endpoints.count("action") == 2


@pytest.mark.parametrize(
    ("button", "problem"), [("U9", "There is no button"), ("zoom", "No button"), ("", "empty"), ("U", "More than one")]
)
async def test_a_wrong_button_costs_nothing(button: str, problem: str, tmp_path: Path) -> None:
    """It is refused with the buttons there are, before anything is journalled or sent."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        parent = await grid(here)
        with pytest.raises(InputError, match=problem):
            await here.receiver.submissions.follow_up(parent, button)
        assert len(await here.receiver.journal.submissions(limit=10)) == 1
        assert "action" not in here.simulator.endpoints


async def test_what_has_not_succeeded_has_no_follow_up(tmp_path: Path) -> None:
    """A failed task, and one that does not ask for input, are told so in a sentence."""
    async with world(tmp_path, faults={"failure"}) as here, asyncio.timeout(PATIENCE):
        failed = await grid(here)
        with pytest.raises(InputError, match="has not succeeded"):
            await here.receiver.submissions.follow_up(failed, "U1")
        with pytest.raises(InputError, match="does not ask for input"):
            await here.receiver.submissions.reply(failed, prompt="more")


async def test_a_task_of_somebody_else_is_delivered_like_our_own(tmp_path: Path) -> None:
    """Adopted by its id, followed to its end, and followed up; a second time it is the same submission."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        foreign = await here.receiver.provider.submit("imagine", {"prompt": "a cat on a roof"}, speed=None)
        row = await here.receiver.submissions.adopt(foreign.task_id, Options(labels={"from": "n8n"}))
        again = await here.receiver.submissions.adopt(foreign.task_id, Options(labels={"from": "n8n"}))
        row = await here.rest(row.id)
        assert again.id == row.id
        assert row.ended == "task.succeeded"
        assert row.prompt == "a cat on a roof"
        assert len(here.pictures()) == 1
        assert (await press(here, row, "V1")).ended == "task.succeeded"
        with pytest.raises(NotFound, match="does not know"):
            await here.receiver.submissions.adopt("1234567890123456")


async def test_a_name_belongs_to_one_request(tmp_path: Path) -> None:
    """The same request under a name is the same submission; another one is a conflict."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        prepare = here.receiver.submissions.prepare
        one = await prepare(build("imagine", prompt="a boat"), Options(once="n", once_digest="a" * 64))
        two = await prepare(build("imagine", prompt="a boat"), Options(once="n", once_digest="a" * 64))
        assert one.id == two.id
        with pytest.raises(Conflict, match=one.id):
            await prepare(build("imagine", prompt="a cat"), Options(once="n", once_digest="b" * 64))


async def test_results_go_to_the_named_destinations_only(tmp_path: Path) -> None:
    """`to` names some of the destinations; a name there is not is refused."""
    to = f"file:{tmp_path}/outputs file:{tmp_path}/other"
    async with world(tmp_path, to=to) as here, asyncio.timeout(PATIENCE):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"), Options(to=("file-2",)))
        await here.receiver.submissions.send(row.id)
        await here.rest(row.id)
        assert here.pictures() == []
        assert len(list((tmp_path / "other").glob("*.png"))) == 1
        with pytest.raises(InputError, match="There is no destination 'nowhere'"):
            await here.receiver.submissions.prepare(build("imagine", prompt="a boat"), Options(to=("nowhere",)))


Make = Callable[[World, Path], Awaitable[Request]]


async def picture(here: World) -> str:
    await grid(here)
    return str(here.pictures()[0])


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("describe", ".txt"),
        ("shorten", ".txt"),
        ("blend", ".png"),
        ("video", ".mp4"),
        ("edits", ".png"),
        ("swap", ".png"),
    ],
)
async def test_every_kind_of_request_ends_in_a_file(kind: str, suffix: str, tmp_path: Path) -> None:
    """Texts, pictures and videos are all results, in the folder and in the event."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        source = await picture(here)
        asked = {
            "describe": lambda: build("describe", source=source),
            "shorten": lambda: build("shorten", prompt="a very long prompt about a paper boat --v 6.1"),
            "blend": lambda: build("blend", pictures=[source, source]),
            "video": lambda: build("video", image=source, prompt="it sails", motion="low"),
            "edits": lambda: build("edits", prompt="make it night", image=source),
            "swap": lambda: build("swap", source=source, target=source),
        }[kind]()
        row = await here.receiver.submissions.prepare(asked)
        await here.receiver.submissions.send(row.id)
        row = await here.rest(row.id)
        assert row.ended == "task.succeeded", row.detail
        made = [path for path in here.outputs.iterdir() if row.id in path.name]
        assert suffix in {path.suffix for path in made}
        if suffix == ".txt":
            assert row.task is not None
            assert len(row.task.texts) >= 2


async def test_describe_all_is_one_submission_per_task(tmp_path: Path) -> None:
    """One answer names several tasks, each followed and delivered on its own."""
    async with world(tmp_path, profile="csharp") as here, asyncio.timeout(PATIENCE):
        source = await picture(here)
        row = await here.receiver.submissions.prepare(build("describe", source=source))
        await here.receiver.submissions.send(row.id)
        described = await here.rest(row.id)
        first = await press(here, described, "Imagine all")
        family = [child for child in await here.receiver.journal.family(described.id) if child.button]
        ended = [await here.rest(child.id) for child in family]
        assert first.id in {child.id for child in ended}
        assert len({child.task_id for child in ended}) == 4
        assert [child.ended for child in ended] == ["task.succeeded"] * 4
        assert len(here.pictures()) == 5


async def test_pictures_are_uploaded_and_their_links_come_back(tmp_path: Path) -> None:
    """An upload makes no task and leaves no submission."""
    async with world(tmp_path) as here, asyncio.timeout(PATIENCE):
        source = await picture(here)
        urls = await here.receiver.submissions.upload(build("upload", pictures=[source, source]))
        assert len(urls) == 2
        assert all(url.startswith("http") for url in urls)
        assert len(await here.receiver.journal.submissions(limit=10)) == 1
