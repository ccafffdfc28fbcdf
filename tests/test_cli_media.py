"""The files of a result as users of the command line meet them: real processes, and a provider that plays a case."""

from __future__ import annotations

import asyncio
from pathlib import Path

from scripted import Scripted, content_of, scripted
from servers import Result, receiver


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
