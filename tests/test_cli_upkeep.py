"""`purge`, `erase` and `journal`: what an operator does to the journal. Real processes."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from servers import receiver, serving_receiver
from test_cli_listings import LONG, NASTY, Library, fill

from receiver.clock import Clock
from receiver.events import new_id
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

KEY = {"COMETAPI_KEY": "sk-0123456789", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9"}


@pytest.fixture
async def library(tmp_path: Path) -> Library:
    """With everything delivered, so that nothing is owed of what has ended."""
    library = await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / ".receiver/journal.db", isolation_level=None)) as db:
        db.execute("UPDATE deliveries SET status = 'dead' WHERE status = 'running'")
        db.execute("UPDATE attempts SET outcome = 'rejected', finished_ms = started_ms WHERE outcome IS NULL")
        db.execute(
            "UPDATE submissions SET poll_due_ms = NULL, media_due_ms = NULL, "
            "settled = ended IS NOT NULL, body = json_remove(body, '$.poll_due_ms', '$.media_due_ms')"
        )
    return library


def database(library: Library) -> Path:
    return library.folder / ".receiver/journal.db"


async def test_purge_by_age(library: Library) -> None:
    """A look first, then what is that old goes; what is under way stays, and a second time there is nothing."""
    nothing = library.run("purge")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "Nothing is that old and settled.\n")
    dry = library.run("purge", "--older-than", "0.001s", "--dry-run")
    assert dry.out == "Would be deleted: 2 submissions.\n"
    assert len(library.json("tasks", "list")) == 3
    done = library.run("purge", "--older-than", "0.001s")
    assert done.code == 0
    assert done.out.startswith("Deleted: 2 submissions, 4 events, ")
    assert [row["id"] for row in library.json("tasks", "list")] == [library.prepared]
    assert library.json("purge", "--older-than", "0.001s") == {"dry_run": False}


@pytest.mark.parametrize("age", ["soon", "0", "-1d"])
async def test_an_age_that_is_none(library: Library, age: str) -> None:
    """It is said what one looks like, and nothing is deleted."""
    result = library.run("purge", f"--older-than={age}")
    assert result.code == 1
    assert "--older-than takes a length of time, for instance 30m, 2h or 30d" in result.err
    assert len(library.json("tasks", "list")) == 3


async def test_erase_one(library: Library) -> None:
    """It says what went and what it cannot reach; the prompt stands in none of the journal's files."""
    done = library.run("erase", library.failed[-10:])
    assert done.code == 0
    assert done.out.startswith(f"Erased submission {library.failed}: 1 submission, 2 events, ")
    assert "what destinations have got, backups and logs, and the provider's copy of task 1773314942177685" in done.err
    for path in database(library).parent.glob("journal.db*"):
        assert NASTY.encode() not in path.read_bytes()
        assert "任务超时".encode() not in path.read_bytes()
    assert library.run("tasks", "show", library.failed).code == 1
    assert LONG.strip() in library.run("tasks", "show", library.succeeded).out
    assert library.run("journal", "check").code == 0


async def test_erase_refuses_what_is_under_way(library: Library) -> None:
    """The sentence says what to do; --force does it all the same."""
    refused = library.run("erase", library.prepared)
    assert refused.code == 1
    assert f"receiver cancel {library.prepared}" in refused.err
    forced = library.run("erase", library.prepared, "--force", "--json")
    assert json.loads(forced.out)["removed"]["submissions"] == 1
    assert library.run("erase", "nothing").code == 1


async def test_check_and_what_it_finds(library: Library) -> None:
    """Sound: exit status 0 and nothing on standard output; else a sentence for each finding and exit status 1."""
    sound = library.run("journal", "check")
    assert (sound.code, sound.out) == (0, "")
    assert sound.err.endswith("journal.db is sound.\n")
    with closing(sqlite3.connect(database(library), isolation_level=None)) as db:
        db.execute("DELETE FROM events")
        db.execute("INSERT INTO files VALUES (?, ?)", (library.succeeded, "a" * 64))
    found = library.run("journal", "check")
    assert found.code == 1
    assert "have no event, so nothing can be delivered" in found.out
    assert f"1 archived files are missing in {library.folder}/.receiver/media: {'a' * 64}" in found.out
    as_json = library.run("journal", "check", "--json")
    assert as_json.code == 1
    assert "\n".join(json.loads(as_json.out)) + "\n" == found.out


async def test_usage_by_age(library: Library) -> None:
    """Each place by the times of its files. What else is in a destination's folder does not count."""
    outputs, media = library.folder / "outputs", library.folder / ".receiver/media/ab"
    for folder in (outputs, media):
        folder.mkdir(parents=True)
    now = time.time()
    for days, size in ((0, 1), (3, 20), (20, 300), (200, 4000)):
        for path in (outputs / f"2026-11-25_a-boat_{new_id(days)}.png", media / f"{days}.png"):
            path.write_bytes(bytes(size))
            os.utime(path, (now - days * 86_400 + 3600,) * 2)
    (outputs / "mine.png").write_bytes(bytes(5000))
    found = {item["name"]: item for item in library.json("usage")}
    ages = {"today": 1, "week": 20, "month": 300, "older": 4000, "all": 4321}
    assert found["media"] == {"name": "media", "place": str(media.parent), **ages}
    assert found["file"] == {"name": "file", "place": str(outputs), **ages}
    assert found["submissions"]["all"] == 3
    assert found["journal"]["all"] >= database(library).stat().st_size
    shown = [line.split() for line in library.run("usage").out.splitlines()]
    assert ["file", "1", "B", "20", "B", "300", "B", "4.0", "kB", "4.3", "kB", str(outputs)] in shown


async def test_compact(library: Library) -> None:
    """Not beside an engine, which is named; without one the file shrinks to what is in it."""
    with serving_receiver(library.folder, KEY):
        refused = library.run("journal", "compact")
    assert refused.code == 1
    assert "An engine runs. Stop it first" in refused.err
    done = library.run("journal", "compact")
    assert done.code == 0
    assert " bytes before, " in done.out


@pytest.mark.parametrize("command", [["purge"], ["erase", "x"], ["journal", "check"], ["backup", "copy"]])
def test_without_a_journal(tmp_path: Path, command: list[str]) -> None:
    """None is made."""
    result = receiver(*command, folder=tmp_path, env={})
    assert result.code == 1
    assert result.err.startswith("Error: There is no journal at .receiver/journal.db yet.")
    assert list(tmp_path.iterdir()) == []


async def test_an_engine_purges_by_itself(library: Library) -> None:
    """The settings' ages go into the engine's own step."""
    with closing(sqlite3.connect(database(library), isolation_level=None)) as db:
        db.execute(
            "INSERT INTO callbacks (submission_id, received_ms, cause, body) VALUES (?, ?, NULL, '{}')",
            (library.succeeded, Clock().now_ms() - 8 * 86_400_000),
        )
    shown = {row.split()[0]: row for row in library.run("settings").out.splitlines() if row.strip()}
    assert "7d" in shown["keep_callbacks"]
    journal = Journal(await open_store(database(library)))
    assert len(await journal.callbacks(library.succeeded)) == 1
    await journal.aclose()
    assert library.json("purge") == {"dry_run": False, "callbacks": 1}
