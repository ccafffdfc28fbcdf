"""`receiver doctor`, as a real process: what is well, and what is wrong with what to do."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from pathlib import Path

import httpx
import pytest
from buckets import KEY, SECRET, shared_server
from engine import logged
from journals import completion, owe, submission, take
from postgres import new_database
from servers import Command, receiver, simulating

from receiver import Receiver
from receiver.app.doctor import Finding, examine
from receiver.app.factory import open_runtime
from receiver.app.journals import journal_of
from receiver.app.setups import differing_destinations, differing_keys, setup_of
from receiver.app.web import web_app
from receiver.settings import Settings, ensure_keys, load

ENV = {"COMETAPI_KEY": "sk-simulator-0001", "RECEIVER_KEYS": "0123456789abcdef" * 4}


def test_all_is_well(tmp_path: Path) -> None:
    """Every piece is named, and the command changes nothing."""
    with simulating(tmp_path) as url:
        env = ENV | {"RECEIVER_PROVIDER_URL": url}
        with Command("worker", folder=tmp_path, env=env) as command:
            command.err.line("engine.started")
            result = receiver("doctor", folder=tmp_path, env=env)
            command.stop()
        assert (result.code, result.err) == (0, "")
        found = {line.split()[1].rstrip(":"): line.split()[0] for line in result.out.splitlines()}
        assert found == {
            "callbacks": "note",
            "keys": "ok",
            "provider": "ok",
            "journal": "ok",
            "engines": "ok",
            "media": "ok",
            "destinations": "ok",
        }
        assert receiver("tasks", "list", "--json", folder=tmp_path, env=env).out == "[]\n"


async def test_an_engine_in_a_program_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a command that does not exist."""
    monkeypatch.chdir(tmp_path)
    async with Receiver(settings=load(ENV, tmp_path)):
        result = await asyncio.to_thread(receiver, "doctor", folder=tmp_path, env=ENV)
    assert re.search(r"^ok +engines: 1 running: a Python program on ", result.out, re.MULTILINE), result


def test_each_fault_is_told_beside_the_others(tmp_path: Path) -> None:
    """Nobody listens at the provider's address, there is no journal, a destination is wrong, the media folder is a
    file: four sentences, exit status 1, and no secret."""
    (tmp_path / "media").touch()
    env = ENV | {
        "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9",
        "RECEIVER_MEDIA": str(tmp_path / "media"),
        "RECEIVER_TO": "slack://pictures?token=xoxb-s3cret&colour=red",
    }
    result = receiver("doctor", "--json", folder=tmp_path, env=env)
    assert result.code == 1
    problems = {item["name"]: item["text"] for item in json.loads(result.out) if item["verdict"] == "problem"}
    assert set(problems) == {"provider", "journal", "media", "destinations"}
    assert "There is no journal at" in problems["journal"]
    assert all(text.endswith(".") for text in problems.values())
    assert "s3cret" not in result.out + result.err
    assert ENV["COMETAPI_KEY"] not in result.out + result.err


async def test_no_journal_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note in a fresh folder. A problem where a journal is named, or where Receiver was started before."""
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path), "COMETAPI_KEY": "sk-nobody-0001", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9"}

    async def finding(**more: str) -> Finding:
        found = {item.name: item async for item in examine(load(env | more))}
        return found["journal"]

    fresh = await finding()
    assert (fresh.verdict, "the first submission makes it" in fresh.text) == ("note", True)
    assert (await finding(RECEIVER_DATA="there")).verdict == "problem"
    assert (await finding(RECEIVER_DATABASE="sqlite:there.db")).verdict == "problem"
    ensure_keys(load(env))
    assert (await finding()).verdict == "problem"


async def test_a_journal_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere, as on the machine: where nothing goes on by itself that is worth a note."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    place = f"s3://journals/{secrets.token_hex(8)}?endpoint={shared_server().url}&region=us-east-1"
    settings = Settings(
        database=place,
        data=tmp_path,
        provider_url="http://127.0.0.1:9",
        provider_key="sk-nobody-0001",
        keys=[ENV["RECEIVER_KEYS"]],
        to=f"file:{tmp_path / 'outputs'}",
    )
    async with journal_of(settings):
        pass
    found = {item.name: item.verdict async for item in examine(settings)}
    assert found["journal"] == "ok"
    assert found["engines"] == "note"
    assert found["media"] == "ok"
    assert found["provider"] == "problem"


def test_what_keeps_others_from_starting_is_told(tmp_path: Path) -> None:
    """On a journal of several machines: a key that is too short, a media store that is not the engines', and that no
    place is named that all of them share."""
    env = ENV | {"DATABASE_URL": asyncio.run(new_database("doctor"))}
    (tmp_path / "other").mkdir()
    with simulating(tmp_path) as url:
        env["RECEIVER_PROVIDER_URL"] = url
        with Command("worker", folder=tmp_path, env=env) as command:
            command.err.line("engine.started")
            there = receiver("doctor", "--json", folder=tmp_path, env=env)
            elsewhere = receiver("doctor", "--json", folder=tmp_path / "other", env=env | {"RECEIVER_KEYS": "short"})
            command.stop()
    assert there.code == 0
    notes = [item for item in json.loads(there.out) if item["name"] == "destinations" and item["verdict"] == "note"]
    assert "outputs on its own machine" in notes[0]["text"]
    assert elsewhere.code == 1
    problems = {item["name"]: item["text"] for item in json.loads(elsewhere.out) if item["verdict"] == "problem"}
    assert set(problems) == {"keys", "media"}
    assert "has 5 bytes and needs 32" in problems["keys"]
    assert "is another than that of `receiver worker`" in problems["media"]


async def test_dead_deliveries_and_pauses_are_problems(tmp_path: Path) -> None:
    """Counted for each destination, with the last reason and the command. The public note names no destination."""
    settings = Settings(
        data=tmp_path,
        provider_url="http://127.0.0.1:9",
        provider_key="sk-nobody-0001",
        keys=[ENV["RECEIVER_KEYS"]],
        to=f"file:{tmp_path / 'outputs'}",
    )
    async with journal_of(settings) as journal:
        await journal.register({"album": "file", "slack": "slack"})
        row = submission(ended="task.succeeded", send_due_ms=None, status="accepted")
        await journal.add(row)
        await owe(journal, row, "task.succeeded", 1, destination="album")
        (work,) = await take(journal, destination="album")
        await journal.complete(completion(work, outcome="rejected", status="dead", detail="no such folder"))
        await journal.pause("slack", 9_000_000_000_000, "it answered 410")
    found = {item.name: item async for item in examine(settings)}
    assert (found["dead album"].verdict, found["destination slack"].verdict) == ("problem", "problem")
    assert "1 delivery to album is dead" in found["dead album"].text
    assert "The last reason: no such folder." in found["dead album"].text
    assert found["destination slack"].text.startswith("paused, 0 deliveries wait: it answered 410")
    async with open_runtime(settings) as runtime:
        transport = httpx.ASGITransport(web_app(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            answer = await client.get("/readyz")
    assert answer.status_code == 200
    said = answer.json()["troubles"]
    assert said == "Something needs you: deliveries are dead, a destination is paused. See: receiver doctor"


async def test_other_keys_and_destinations_than_the_last_engine_had(tmp_path: Path) -> None:
    """Named at the start and by doctor, without a secret. A further key that both know is no fault."""

    def settings(keys: list[str], to: str) -> Settings:
        given = {"data": tmp_path, "provider_url": "http://127.0.0.1:9", "provider_key": "sk-nobody-0001"}
        return Settings(**given | {"keys": keys, "to": to})

    old, new = ENV["RECEIVER_KEYS"], "fedcba9876543210" * 4
    folder = f"file:{tmp_path / 'outputs'}"
    ours = settings([old], f"{folder} https://example.com/hook#whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    async with open_runtime(ours) as runtime:
        with logged() as lines:
            await runtime.start_engine("worker")
            await runtime.stop_engine()
        assert "settings.differ" not in [line["event"] for line in lines]
        kept = await runtime.journal.store.values("setup")
        assert b"whsec_" not in kept["setup"].data
        assert old.encode() not in kept["setup"].data
    mine, other = setup_of(ours), setup_of(settings([old, new], folder))
    assert "callbacks of one are refused by the other" in (differing_keys(mine, other) or "")
    rotated = setup_of(settings([new, old], ours.to))
    assert (differing_keys(mine, rotated), differing_destinations(mine, rotated)) == (None, None)
    moved = setup_of(settings([old], f"file:{tmp_path / 'elsewhere'}"))
    said = differing_destinations(moved, mine) or ""
    assert said.endswith("(only on " + mine.host + ": https; with other options: file).")
    found = {item.text: item async for item in examine(settings([new], folder))}
    assert [item.verdict for text, item in found.items() if "signing keys here are others" in text] == ["problem"]
    assert [item.verdict for text, item in found.items() if "destinations here are others" in text] == ["note"]
