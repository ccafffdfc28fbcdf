"""Every Python block of README and handbook runs as it stands, against the simulated provider."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flows import served
from handbooks import BLOCKS
from starlette.types import ASGIApp
from waiting import PATIENCE

from receiver.cli.servers import address, bind
from receiver.testing import Simulated, simulating

PYTHON = [item.text for item in BLOCKS if item.kind == "python"]
APPS = [block for block in PYTHON if re.search(r"^app = ", block, re.MULTILINE)]
TESTS = [block for block in PYTHON if "import pytest" in block]
SCRIPTS = [block for block in PYTHON if block not in APPS + TESTS and "NODE_CLASS_MAPPINGS" not in block]
SPEED = 200.0


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What an example sets in the environment ends with its test, or later tests would read the journal it names."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """A fast simulator, and an environment that names it; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    with simulating(speed=SPEED, side=128) as simulator:
        monkeypatch.setenv("RECEIVER_PROVIDER_URL", simulator.url)
        monkeypatch.setenv("COMETAPI_KEY", "simulator")
        monkeypatch.setenv("RECEIVER_POLL_INTERVAL", "0.1s")
        monkeypatch.setenv("RECEIVER_CONFIRM_WITHIN", "0")
        yield simulator


def written(folder: Path, block: str) -> str:
    path = folder / "example.py"
    path.write_text(block)
    return str(path)


@pytest.mark.parametrize("block", SCRIPTS)
def test_a_script_runs(tmp_path: Path, provider: Simulated, capsys: pytest.CaptureFixture[str], block: str) -> None:
    """To its end, and to a result."""
    runpy.run_path(written(tmp_path, block), run_name="__main__")
    said = capsys.readouterr().out
    assert said
    assert "failed:" not in said
    assert "not taken:" not in said


@pytest.mark.parametrize("block", TESTS)
def test_a_test_passes(tmp_path: Path, block: str) -> None:
    """As pytest runs it for somebody else, with all that it writes in the folder of the test."""
    (tmp_path / "test_example.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", "made"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"test_example.py", "made", "__pycache__"}


@pytest.mark.parametrize("block", APPS)
def test_an_application_serves(
    tmp_path: Path, provider: Simulated, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """It starts, does what its routes are for, and ends."""
    app = runpy.run_path(written(tmp_path, block))["app"]
    asyncio.run(_use(app, block, monkeypatch))


async def _use(app: ASGIApp, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/receiver" if "/receiver" in block else ""
    with bind("127.0.0.1", 0) as listener:
        base = address(listener)
        monkeypatch.setenv("RECEIVER_PUBLIC_URL", f"{base}{path}")
        async with served(app, listener), httpx.AsyncClient(base_url=base) as client:
            assert (await client.post(f"{path}/callbacks/wrong", json={"id": "1"})).status_code == 401
            if path:
                assert (await client.get(f"{path}/readyz")).json()["ready"] is True
            if "/pictures" in block:
                await _make_a_picture(client)


async def _make_a_picture(client: httpx.AsyncClient) -> None:
    made = await client.post("/pictures", params={"prompt": "a paper boat --v 6.1"})
    assert made.json()["id"]
    async with asyncio.timeout(PATIENCE):
        while not (await client.get("/pictures")).json():  # noqa: ASYNC110 - as whoever looks at the page would
            await asyncio.sleep(0.05)


def test_there_are_examples() -> None:
    """A README whose blocks are no longer found would pass everything above."""
    assert SCRIPTS
    assert APPS
    assert TESTS
