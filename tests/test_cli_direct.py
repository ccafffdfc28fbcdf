"""`receiver submit` where no journal is kept: real processes, and a function that gets the results."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from functions import Deployed, deployed
from servers import Result, receiver
from waiting import PATIENCE


async def run(function: Deployed, folder: Path, *arguments: str, **other: str) -> Result:
    """A command on another machine, which shares the key and the addresses with the function."""
    env = {
        "RECEIVER_DATABASE": "none",
        "RECEIVER_KEYS": "k" * 32,
        "RECEIVER_PROVIDER_URL": function.settings.provider_url,
        "RECEIVER_PUBLIC_URL": function.settings.public_url or "",
        "RECEIVER_POLL_INTERVAL": "0.2",
        "COMETAPI_KEY": "simulator",
        **other,
    }
    return await asyncio.to_thread(receiver, *arguments, folder=folder, env={k: v for k, v in env.items() if v})


async def test_submit_prints_the_id_and_the_function_delivers(tmp_path: Path) -> None:
    """Names and labels arrive, and nothing lies on the submitter's disk."""
    laptop = tmp_path / "laptop"
    laptop.mkdir()
    second = {"url": f"file:{tmp_path / 'second'}"}
    async with deployed(tmp_path, database="none", destinations={"second": second}) as function:
        result = await run(function, laptop, "submit", "a boat", "--to", "second", "--label", "order=17", "--json")
        assert (result.code, result.err) == (0, "")
        row = json.loads(result.out)
        assert row["status"] == "accepted"
        async with asyncio.timeout(PATIENCE):
            while ".json" not in function.pictures("second"):  # noqa: ASYNC110 - the function's folder
                await asyncio.sleep(0.05)
    [page] = (tmp_path / "second").glob("*.json")
    assert row["submission"] in page.name
    assert json.loads(page.read_text())["labels"] == {"order": "17"}
    assert (function.pictures(), list(laptop.iterdir())) == ([], [])


async def test_wait_asks_until_the_task_ends(tmp_path: Path) -> None:
    """It shows the links, and says whose business the rest is."""
    async with deployed(tmp_path, database="none") as function:
        result = await run(function, tmp_path, "submit", "a boat", "--wait")
        assert result.code == 0, result
        assert result.last_line.startswith(function.settings.provider_url)
        assert "the endpoint" in result.err
        await function.until(1)
    async with deployed(tmp_path, database="none", faults=["failure"]) as function:
        result = await run(function, tmp_path, "submit", "a boat", "--wait", "--json")
        assert (result.code, json.loads(result.out)["status"]) == (3, "failed")


async def test_what_needs_a_journal_says_so(tmp_path: Path) -> None:
    """One sentence, and nothing was sent."""
    async with deployed(tmp_path, database="none") as function:
        for arguments, other, text in (
            (("tasks", "list"), {}, "needs a journal"),
            (("submit", "a boat", "--auto", "U1"), {}, "nothing remembers"),
            (("submit", "a boat", "--label", "note=" + "x" * 200), {}, "174 characters"),
            (("submit", "a boat"), {"RECEIVER_PUBLIC_URL": ""}, "RECEIVER_PUBLIC_URL is not set"),
            (("submit", "a boat"), {"RECEIVER_KEYS": ""}, "RECEIVER_KEYS is not set"),
        ):
            result = await run(function, tmp_path, *arguments, **other)
            assert (result.code, result.out) == (1, "")
            assert text in result.err
            assert result.err.count("\n") == 1
