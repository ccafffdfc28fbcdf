"""A handler of one's own, as a stranger ships it: a package with an entry point, built and installed like any other."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from servers import receiver, simulating

from receiver.handlers.base import HandlerBase
from receiver.handlers.registry import contract_problem
from receiver.testing import check_handler

PLUGIN = Path(__file__).parent / "plugin"
TOML = """
[destinations.diary]
handler = "lines"
path = "diary.txt"
progress = true
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed; it is built from a copy, so that nothing is left here."""
    folder = tmp_path_factory.mktemp("plugin")
    source, place = folder / "source", folder / "site"
    source.mkdir()
    for path in PLUGIN.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    options = ["--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", place, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": str(place)}


def test_it_is_listed_with_ours(tmp_path: Path, installed: dict[str, str]) -> None:
    """With its options; `receiver handlers --json` names every handler there is."""
    listed = json.loads(receiver("handlers", "--json", folder=tmp_path, env=installed).out)
    by_name = {handler["name"]: handler for handler in listed}
    assert by_name.keys() >= {"file", "webhook", "command", "lines"}
    assert by_name["lines"] == {
        "name": "lines",
        "summary": "A line for each event, in a file.",
        "schemes": [],
        "options": [{"name": "path", "type": "path", "default": None, "help": ""}],
        "guarantee": "at least once",
        "problem": None,
    }


def test_it_is_delivered_to_like_ours(tmp_path: Path, installed: dict[str, str]) -> None:
    """By a sample, and by a real submission: the sample is in no journal."""
    (tmp_path / "receiver.toml").write_text(TOML)
    tried = receiver("destinations", "test", "diary", folder=tmp_path, env=installed)
    assert tried.out.startswith("diary took the sample.\nref  diary.txt\n"), tried.err
    assert not (tmp_path / ".receiver").exists()
    with simulating(tmp_path) as url:
        env = {**installed, "RECEIVER_PROVIDER_URL": url, "COMETAPI_KEY": "k", "RECEIVER_POLL_INTERVAL": "0.1"}
        env["RECEIVER_MEDIA_HOSTS"] = url
        result = receiver("submit", "a paper boat --v 6.1", "--wait", folder=tmp_path, env=env)
    assert result.code == 0, result.err
    first, *_, last = (tmp_path / "diary.txt").read_text().splitlines()
    assert first.startswith("task.succeeded: SAMPLE, sent by receiver destinations test")
    assert last == "task.succeeded: a paper boat --v 6.1"


def test_what_is_wrong_with_its_options_is_told_like_ours(tmp_path: Path, installed: dict[str, str]) -> None:
    """Naming destination, option and remedy."""
    (tmp_path / "receiver.toml").write_text('[destinations.diary]\nhandler = "lines"\nfile = "x"\nurl = "lines:x"\n')
    result = receiver("destinations", "test", "diary", folder=tmp_path, env=installed)
    assert result.code == 1
    assert 'its url cannot be used: a lines destination has no URL; write handler = "lines"' in result.err


async def test_it_keeps_the_contract(tmp_path: Path, installed: dict[str, str]) -> None:
    """As its author would check it."""
    lines = runpy.run_path(f"{installed['PYTHONPATH']}/receiver_lines.py")["Lines"]
    diary = tmp_path / "diary.txt"
    diary.touch()

    async def effects() -> list[str]:
        return diary.read_text().splitlines()

    await check_handler(lines, {"path": diary}, effects=effects)


def test_what_the_base_gives_is_all_a_handler_needs() -> None:
    """Beside a name and `deliver`, which each has of its own."""

    class Mine(HandlerBase):
        name = "mine"

    assert contract_problem(Mine, "mine") is None
