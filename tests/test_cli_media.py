"""The files of a result as users of the command line meet them: real processes, and a provider that plays a case."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flows import SPEED, World
from scripted import TASK, Scripted, content_of, scripted
from servers import Result, receiver

from receiver.app.factory import open_runtime
from receiver.clock import Clock
from receiver.requests import build
from receiver.settings import Settings
from receiver.simulator import Simulator
from receiver.tasks import decode_task
from receiver.tokens import trust


def environment(provider: Scripted, **more: str) -> dict[str, str]:
    return {
        "RECEIVER_PROVIDER_URL": provider.url,
        "COMETAPI_KEY": "sk-0123456789",
        "RECEIVER_POLL_INTERVAL": "0.2",
        "RECEIVER_TO": "file:./outputs",
        **more,
    }


async def run(*arguments: str, folder: Path, env: dict[str, str]) -> Result:
    """A command to its end, while this event loop goes on being its provider."""
    return await asyncio.to_thread(receiver, *arguments, folder=folder, env=env)


def contents(folder: Path) -> set[bytes]:
    """The delivered pictures and clips."""
    return {path.read_bytes() for path in (folder / "outputs").glob("*") if path.suffix in (".png", ".mp4")}


async def test_a_link_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """SUCCESS without a link is no end yet."""
    async with scripted("link_comes_late") as provider:
        env = environment(provider)
        result = await run("submit", "a red kite", "--wait", folder=tmp_path, env=env)
    assert result.code == 0, result.err
    assert contents(tmp_path) == {content_of("media/grid.png")}


async def test_four_pictures_stand_in_for_a_grid_on_an_unlisted_host(tmp_path: Path) -> None:
    """One link that may not be fetched holds back nothing."""
    async with scripted("unlisted_host_then_listed") as provider:
        result = await run("submit", "a red kite", "--wait", folder=tmp_path, env=environment(provider))
    assert result.code == 0, result.err
    assert contents(tmp_path) == {content_of("media/grid.png")}


async def test_missing_files_are_fetched_with_the_settings_of_today(tmp_path: Path) -> None:
    """A file above the limit is given up. `media fetch` tries again by the limit of now, and delivers what comes."""
    async with scripted("link_comes_late") as provider:
        provider.case["media"][f"/mj/image/{TASK}"] = {"file": "media/grid.png"}
        env = environment(provider)
        tight = env | {"RECEIVER_MEDIA_MAX_BYTES": "10"}
        missed = await run("submit", "a red kite", "--wait", folder=tmp_path, env=tight)
        again = await run("media", "fetch", "last", folder=tmp_path, env=tight)
        fetched = await run("media", "fetch", "last", folder=tmp_path, env=env)
        done = await run("media", "fetch", "last", "--json", folder=tmp_path, env=env)
    assert missed.code == again.code == 1
    assert "larger than the limit of 10 bytes (RECEIVER_MEDIA_MAX_BYTES)" in missed.err
    assert again.out == "0 of 1 files are here.\n"
    assert "larger than the limit of 10 bytes" in again.err
    assert (fetched.code, fetched.out) == (0, "1 of 1 files are here.\n"), fetched.err
    assert contents(tmp_path) == {content_of("media/grid.png")}
    assert done.code == 0
    assert json.loads(done.out)["media_problem"] is None


async def test_a_fetch_before_there_is_a_result(tmp_path: Path) -> None:
    """The sentence has the status of the submission."""
    async with scripted("link_comes_late") as provider:
        env = environment(provider)
        assert (await run("submit", "a red kite", folder=tmp_path, env=env)).code == 0
        early = await run("media", "fetch", "last", folder=tmp_path, env=env)
    assert early.code == 1
    assert "has no result with files (accepted)" in early.err


@asynccontextmanager
async def submitted(folder: Path, provider: Scripted, kind: str, **fields: Any) -> AsyncIterator[World]:
    """A Receiver on a clock a hundred times as fast, with one task of a scripted provider."""
    settings = Settings(
        provider_url=provider.url,
        provider_key="sk-0123456789",
        data=folder / "data",
        to=f"file:{folder / 'outputs'}",
        poll_interval=15,
    )
    async with open_runtime(settings, clock=Clock(SPEED)) as receiver:
        await receiver.start_engine("serve")
        row = await receiver.submissions.prepare(build(kind, **fields))
        await receiver.submissions.send(row.id)
        yield World(simulator=Simulator(), receiver=receiver, outputs=folder / "outputs", url=row.id)


async def test_one_dead_link_of_four_holds_back_nothing(tmp_path: Path) -> None:
    """The clips that can be had are delivered after two minutes, and the delivery says what is missing."""
    async with (
        scripted("video_one_link_dead") as provider,
        submitted(tmp_path, provider, "video", image="https://example.com/a.png", prompt="waves roll in") as here,
    ):
        journal = here.receiver.journal
        while not (made := await journal.deliveries(limit=9, submission_id=here.url, status="succeeded")):
            await here.receiver.clock.sleep(1)
        row = await journal.find(here.url)
        assert row.media_problem is not None
        assert "answered 403" in row.media_problem
    assert [item.destination for item in made] == ["file"]
    assert {content_of(f"media/v{number}.mp4") for number in range(3)} <= contents(tmp_path)


async def test_links_that_only_a_callback_brings_are_taken(tmp_path: Path) -> None:
    """A fetch shows SUCCESS without links. The callback that has them ends the task."""
    async with (
        scripted("success_without_link_then_callback_with_links") as provider,
        submitted(tmp_path, provider, "video", image="https://example.com/a.png", prompt="waves") as here,
    ):
        tokens = here.receiver.tokens
        while provider.asked < 2:
            await here.receiver.clock.sleep(1)
        assert (await here.receiver.journal.find(here.url)).ended is None
        links = {"videoUrl": f"{provider.url}/v.mp4", "videoUrls": [{"url": f"{provider.url}/v.mp4"}]}
        body = json.dumps(provider.filled(provider.case["views"][-1]) | links).encode()
        view = decode_task(body)
        assert trust(tokens, here.url, view.state) == (here.url, None)
        await here.receiver.intake.received(here.url, view, body, None)
        row = await here.rest(here.url)
        assert row.ended == "task.succeeded"
        assert row.media
        assert contents(tmp_path)
