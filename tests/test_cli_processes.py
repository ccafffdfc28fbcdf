"""`receiver engines` and `receiver migrate`, as real processes."""

from __future__ import annotations

import asyncio
import json
import platform
import re
from pathlib import Path

import pytest
from engine import StillClock, until
from servers import Command, receiver
from test_cli import on_terminal
from test_cli_listings import fill

from receiver.app.factory import open_runtime
from receiver.cli.serve import LOOK_SECONDS, check_engine
from receiver.errors import EngineStopped
from receiver.settings import Settings

ENV = {
    "COMETAPI_KEY": "sk-simulator-0001",
    "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9",
    "RECEIVER_KEYS": "0123456789abcdef" * 4,
}


def test_who_is_the_engine_of_a_file(tmp_path: Path) -> None:
    """The one there may be, while it lives; afterwards, that there is none and what to start."""
    with Command("worker", folder=tmp_path, env=ENV) as command:
        command.err.line("engine.started")
        (found,) = json.loads(receiver("engines", "--json", folder=tmp_path, env=ENV).out)
        assert (found["role"], found["host"], found["leads"]) == ("worker", platform.node(), True)
        assert found["store"] == f"folder {(tmp_path / '.receiver/media/.id').read_text().strip()}"
        lines = receiver("engines", folder=tmp_path, env=ENV).out.splitlines()
        assert lines[0].split() == ["ROLE", "HOST", "ENGINE", "VERSION", "LEADS", "LAST", "SIGN", "MEDIA", "STORE"]
        assert lines[1].split()[:3] == ["worker", platform.node(), found["owner"]]
        command.stop()
    result = receiver("engines", folder=tmp_path, env=ENV)
    assert (result.code, result.out) == (0, "")
    assert result.err == (
        "No engine runs: nothing is polled or delivered until one starts (receiver serve, or receiver worker).\n"
    )


async def test_a_terminal_gets_log_lines_for_people(tmp_path: Path) -> None:
    """Local times and plain words, not the JSON of a pipe."""
    await fill(tmp_path)
    code, _, lines = await asyncio.to_thread(on_terminal, "worker", "--once", folder=tmp_path, env=ENV)
    assert code == 0
    (line,) = [line for line in lines if "engine.started" in line]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  engine.started  role worker --once  destinations file", line)
    assert not any(line.startswith("{") for line in lines)


def test_a_file_is_migrated_like_a_database(tmp_path: Path) -> None:
    """One command for a deploy script, whatever keeps the journal."""
    result = receiver("migrate", folder=tmp_path, env=ENV)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"sqlite:{Settings().database_path} is up to date.\n"


def test_a_database_that_is_away_is_a_sentence_without_its_password(tmp_path: Path) -> None:
    """Nobody listens there: where, what to check, no traceback, and the password stays out."""
    env = ENV | {"DATABASE_URL": "postgres://receiver:s3cret-word@127.0.0.1:9/receiver"}
    for command in (["migrate"], ["engines"], ["tasks", "list"], ["worker"]):
        result = receiver(*command, folder=tmp_path, env=env)
        assert (result.code, result.out) == (1, "")
        last = result.err.splitlines()[-1]
        assert last.startswith("Error: ")
        assert "127.0.0.1" in last
        assert "s3cret" not in result.err
        assert "Traceback" not in result.err


async def test_a_worker_whose_engine_has_stopped_ends(tmp_path: Path) -> None:
    """Nobody can ask it for its health, so somebody has to start it again."""
    clock = StillClock()
    settings = Settings(
        provider_url="http://127.0.0.1:9", provider_key="sk-simulator-0001", keys=("k" * 32,), data=tmp_path / "data"
    )
    async with open_runtime(settings, clock=clock) as runtime:
        await runtime.start_engine("worker")
        staying = asyncio.create_task(check_engine(runtime, None))
        await until(lambda: LOOK_SECONDS in clock.slept)
        clock.advance(LOOK_SECONDS)
        await until(lambda: clock.slept.count(LOOK_SECONDS) == 2)
        for task in runtime.engine.loops._tasks:
            task.cancel()
        await asyncio.wait(runtime.engine.loops._tasks)
        clock.advance(LOOK_SECONDS)
        with pytest.raises(EngineStopped, match="Start it again"):
            await staying
