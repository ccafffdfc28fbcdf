"""`destinations list`, `pause` and `resume`: what a person sees of a place that is down. Real processes and journal."""

from __future__ import annotations

import asyncio
import calendar
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from journals import completion, owe, submission
from servers import Result, receiver

from receiver.journal import Journal
from receiver.journal.sqlite import open_store

ENV = {"RECEIVER_TO": "file:./outputs"}


async def fill(folder: Path) -> int:
    """Three destinations: one works, one is down, one was taken out of the settings. Returns when the pause ends."""
    journal = Journal(await open_store(folder / ".receiver/journal.db"))
    await journal.register({"file": "file", "hook": "webhook", "function": "function"})
    now_ms = int(time.time() * 1000)
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.accepted", 1, destination="file")
    for number in range(2, 10):
        other = submission(number)
        await journal.add(other)
        await owe(journal, other, "task.succeeded", number, destination="hook")
    await finish(journal, "file", now_ms, outcome="succeeded", status="succeeded")
    await finish(journal, "hook", now_ms, outcome="rejected", status="dead", detail="gone")
    for _ in range(5):
        again = {"status": "pending", "due_ms": now_ms + 10**8, "counts": True, "detail": "connection [red]refused"}
        await finish(journal, "hook", now_ms, outcome="failed", **again)
    (hook,) = [item for item in await journal.destinations() if item.name == "hook"]
    await journal.aclose()
    assert hook.paused_until_ms is not None
    return hook.paused_until_ms


async def finish(journal: Journal, destination: str, now_ms: int, **fields: Any) -> None:
    (work,) = await journal.claim(destination, owner="me", limit=1, now_ms=now_ms)
    assert await journal.complete(completion(work, finished_ms=now_ms, **fields))


@pytest.fixture
def house(tmp_path: Path) -> tuple[Path, int]:
    return tmp_path, asyncio.run(fill(tmp_path))


def run(folder: Path, *arguments: str) -> Result:
    return receiver("destinations", *arguments, folder=folder, env=ENV)


@pytest.mark.parametrize(
    ("table", "more", "problem"),
    [
        ("hosts = 'https://hooks.test'", [], "reply posts to the URL that a submission names"),
        ("hosts = 'https://hooks.test'", ["--url", "https://other.test/x"], "is not in the option hosts"),
        ("url = 'https://hooks.test/x'", ["--url", "https://hooks.test/x"], "reply has a place of its own"),
    ],
)
def test_a_destination_without_a_url_of_its_own_is_tried_at_one(
    table: str, more: list[str], problem: str, tmp_path: Path
) -> None:
    """The URL is given, because it comes with each submission otherwise. It is checked as one of a submission is."""
    secret = "whsec_Zm9yIHRoZSB0ZXN0IG9mIHRoZSBSRUFETUU="
    text = f"[destinations.reply]\nhandler = 'webhook'\nsecret = '{secret}'\n{table}\n"
    (tmp_path / "receiver.toml").write_text(text)
    result = receiver("destinations", "test", "reply", *more, folder=tmp_path, env={})
    assert (result.code, result.out) == (1, "")
    assert problem in result.err


def test_list(house: tuple[Path, int]) -> None:
    """A line each, then why and until when a paused one waits, and what nobody will deliver."""
    folder, until_ms = house
    result = run(folder, "list")
    header, file, function, hook, *remarks = result.out.splitlines()
    assert re.split(r"\s{2,}", header)[:5] == ["DESTINATION", "HANDLER", "STATUS", "PENDING", "DEAD"]
    assert re.split(r"\s{2,}", function) == ["function", "function", "working", "0", "0"]
    assert hook.split()[:5] == ["hook", "webhook", "paused", "7", "1"]
    assert hook.endswith("s ago: connection [red]refused")
    assert file.split()[:5] == ["file", "file", "working", "0", "0"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(until_ms / 1000))
    assert remarks == [
        f"hook is paused until {when} UTC: 5 attempts in a row have failed, the last one with: connection [red]refused",
        "End the pause now with: receiver destinations resume hook",
        "hook is not in the settings: its deliveries wait until it is.",
    ]


def test_list_json(house: tuple[Path, int]) -> None:
    """Everything of each, for scripts."""
    folder, until_ms = house
    found = {item["name"]: item for item in json.loads(run(folder, "list", "--json").out)}
    assert found["hook"] == {
        "name": "hook", "status": "paused", "handler": "webhook", "failures": 5, "paused_until_ms": until_ms,
        "paused_reason": "5 attempts in a row have failed, the last one with: connection [red]refused",
        "paused_by_hand": False, "probe_due_ms": found["hook"]["probe_due_ms"],
        "last_success_ms": None, "last_error_ms": found["hook"]["last_error_ms"],
        "last_error": "connection [red]refused", "pending": 7, "dead": 1,
    }  # fmt: skip
    assert found["file"]["last_success_ms"] is not None


def test_pause(house: tuple[Path, int]) -> None:
    """It lasts as long as was asked, `resume` ends it, and a wrong length or name is a sentence."""
    folder, _ = house
    begun = time.time()
    said = run(folder, "pause", "file", "--for", "2h").out
    found = re.fullmatch(
        r"file is paused until (.+) UTC\. End the pause with: receiver destinations resume file\n", said
    )
    assert found is not None, said
    until = calendar.timegm(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))
    assert begun + 7199 <= until <= time.time() + 7200
    listed = {item["name"]: item for item in json.loads(run(folder, "list", "--json").out)}
    assert (listed["file"]["status"], listed["file"]["paused_reason"]) == ("paused", "paused by a command")
    assert run(folder, "resume", "file").out == "file goes on; 0 deliveries are owed to it.\n"
    for arguments, problem in (
        (["file", "--for", "soon"], "--for takes a length of time, for instance 30m, 2h or 30d, not 'soon'."),
        (["file", "--for", "31d"], "--for takes at most 30d, not '31d'."),
        (["nope"], "There is no destination 'nope' in this journal. See: receiver destinations list"),
    ):
        refused = run(folder, "pause", *arguments)
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith(f"Error: {problem}")


def test_resume(house: tuple[Path, int]) -> None:
    """The pause ends at once; said again it changes nothing; a name nobody knows is a sentence."""
    folder, _ = house
    assert run(folder, "resume", "hook").out == "hook goes on; 7 deliveries are owed to it.\n"
    assert run(folder, "resume", "hook").out == "hook was not paused; 7 deliveries are owed to it.\n"
    assert " working " in run(folder, "list").out.partition("hook ")[2].partition("\n")[0]
    unknown = run(folder, "resume", "nope")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "Error: There is no destination 'nope' in this journal. See: receiver destinations list\n"


def test_nothing_yet(tmp_path: Path) -> None:
    """A fresh folder has the destinations of the settings, with what is wrong with each. No journal is made."""
    fresh = run(tmp_path, "list")
    assert (fresh.code, fresh.err) == (0, "")
    assert fresh.out.splitlines()[1].split() == ["file", "file", "working", "0", "0"]
    (tmp_path / "receiver.toml").write_text('[destinations.team]\nurl = "slak:C1"\n')
    wrong = run(tmp_path, "list")
    assert wrong.code == 0
    assert "team cannot be used: " in wrong.err
    assert [file.name for file in tmp_path.iterdir()] == ["receiver.toml"]
    assert re.search(r"^team +unusable ", wrong.out, re.MULTILINE)
