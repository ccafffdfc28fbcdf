"""The journal as a whole: is it sound, a copy of it beside a running writer, and the plans of what deletes."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from journals import ID, NOW, OWNER, completion, delivery, event, owing, submission

from receiver.errors import InputError, JournalError
from receiver.events import Input, Media, Reply, Submission
from receiver.journal.base import Change, Journal
from receiver.journal.selection import Batch
from receiver.journal.sqlite import open_journal
from receiver.journal.statements import SQL


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await open_journal(tmp_path / "receiver.db", busy_seconds=2)
    yield opened
    await opened.aclose()


async def fill(journal: Journal, count: int, prompt: str = "a paper boat") -> list[Submission]:
    """Ended submissions, each with an event and a succeeded delivery."""
    rows = [
        submission(n, prompt=prompt, ended="task.succeeded", send_due_ms=None, status="accepted") for n in range(count)
    ]

    async def one(number: int, row: Submission) -> None:
        await journal.add(row)
        fact = event(row)
        change = owing(row, (fact, delivery(fact, number)))
        await journal.change(row.id, lambda _: change)

    await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))
    works = await journal.claim("folder", owner=OWNER, limit=count, now_ms=NOW)
    await asyncio.gather(*(journal.complete(completion(work)) for work in works))
    return rows


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)


def change_to(change: Change, row: Submission) -> Change:
    return change


# --- check -------------------------------------------------------------------------------------------------------


async def test_a_sound_journal_has_no_problems(journal: Journal) -> None:
    """Neither empty nor full."""
    assert await journal.problems() == []
    await fill(journal, 20)
    assert await journal.problems() == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM events", "2 deliveries have no event"),
        ("DELETE FROM submissions", "2 events belong to no submission"),
        (
            "INSERT INTO attempts VALUES ('nobody', 1, 1, 2, 'failed', NULL, 0)",
            "1 deliveries have attempts but are gone",
        ),
        ("INSERT INTO callbacks VALUES (1, 'nobody', 1, NULL, '{}')", "1 callbacks belong to no submission"),
        ("UPDATE submissions SET told = 'nothing'", "2 submissions have their task in an event that is gone"),
        ("UPDATE submissions SET ended = 'task.lost'", "2 submissions have ended without an event"),
        ("INSERT INTO attempts SELECT id, 2, 1, NULL, NULL, NULL, 0 FROM deliveries", "2 deliveries do not run, but"),
        ("UPDATE deliveries SET status = 'running'", "2 deliveries were under way when the engine died"),
    ],
)
async def test_rows_that_contradict_each_other(journal: Journal, tmp_path: Path, statement: str, words: str) -> None:
    """Each is a sentence with an example."""
    await fill(journal, 2)
    spoil(tmp_path / "receiver.db", statement)
    assert any(words in problem for problem in await journal.problems())


async def test_what_runs_under_an_engine_is_no_problem(journal: Journal, tmp_path: Path) -> None:
    """It is its daily work."""
    await fill(journal, 2)
    spoil(tmp_path / "receiver.db", "UPDATE deliveries SET status = 'running'")
    await journal.become_engine("serve", "serve", store="")
    assert await journal.problems() == []
    other = await open_journal(tmp_path / "receiver.db")
    assert await other.problems() == []
    await other.aclose()


async def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    """A page overwritten by something else."""
    path = tmp_path / "receiver.db"
    journal = await open_journal(path)
    await fill(journal, 300)
    assert await journal.empty_log()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(size // 8192, size // 4096, 7):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    await journal.aclose()
    journal = await open_journal(path)
    try:
        problems = await journal.problems()
    except JournalError as exc:
        problems = [str(exc)]
    await journal.aclose()
    assert problems
    assert "backup" in problems[0]


# --- backup ------------------------------------------------------------------------------------------------------


async def test_a_copy_is_whole_and_for_its_owner_only(journal: Journal, tmp_path: Path) -> None:
    """It passes the check, and opens as a journal with everything in it."""
    rows = await fill(journal, 50)
    target = tmp_path / "copy.db"
    assert await journal.back_up(target) == target.stat().st_size > 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert await journal.damages(target) == []
    assert [path.name for path in tmp_path.glob(".*")] == []
    copy = await open_journal(target)
    assert {row.id for row in await copy.submissions(limit=100)} == {row.id for row in rows}
    assert await copy.problems() == []
    await copy.aclose()


async def test_a_copy_replaces_nothing(journal: Journal, tmp_path: Path) -> None:
    """Neither a file nor a folder, and it says so."""
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(InputError, match="replaces nothing"):
        await journal.back_up(target)
    assert target.read_text() == "precious"
    with pytest.raises(InputError, match="no folder"):
        await journal.back_up(tmp_path / "nowhere" / "copy.db")


async def test_a_copy_that_cannot_be_written_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    """Where the name is longer than a file system takes."""
    with pytest.raises(JournalError, match="could not be written"):
        await journal.back_up(tmp_path / ("x" * 300))
    assert {path.name.removeprefix("receiver.db") for path in tmp_path.iterdir()} <= {"", "-wal", "-shm"}


async def test_a_copy_under_load_is_one_moment(journal: Journal, tmp_path: Path) -> None:
    """Another process goes on writing: nobody waits, and the copy has each submission with its event or neither."""
    await fill(journal, 300, prompt="x" * 2000)
    writer = await open_journal(tmp_path / "receiver.db")
    longest, number, stop = 0.0, 1000, asyncio.Event()

    async def write() -> None:
        nonlocal longest, number
        while not stop.is_set():
            row = submission(number, ended="task.succeeded", send_due_ms=None)
            started = time.monotonic()
            await writer.add(row)
            change = owing(row, (event(row), delivery(event(row), number)))
            await writer.change(row.id, partial(change_to, change))
            longest = max(longest, time.monotonic() - started)
            number += 1

    writing = asyncio.create_task(write())
    sizes: list[int] = []
    while len(sizes) < 5 or number <= 1010:  # however slow the disk is, some of it is written meanwhile
        sizes.append(await journal.back_up(tmp_path / f"copy-{len(sizes)}.db"))
    stop.set()
    await writing
    await writer.aclose()
    assert longest < 2
    assert sizes == sorted(sizes)
    for index in range(len(sizes)):
        copy = await open_journal(tmp_path / f"copy-{index}.db")
        problems = await copy.problems()
        await copy.aclose()
        assert [problem for problem in problems if "ended without an event" not in problem] == []


# --- compact -----------------------------------------------------------------------------------------------------


async def test_compacting_gives_space_back(journal: Journal, tmp_path: Path) -> None:
    """After a purge the file is as small as what is left; not while an engine runs."""
    rows = await fill(journal, 400, prompt="x" * 3000)
    await journal.empty_log()
    before = (tmp_path / "receiver.db").stat().st_size
    for row in rows[20:]:
        assert await journal.erase(row.id, force=True)
    other = await open_journal(tmp_path / "receiver.db")
    await other.become_engine("serve", "serve", store="")
    assert await journal.compact() is False
    await other.resign("")
    await other.aclose()
    assert await journal.compact() is True
    assert (tmp_path / "receiver.db").stat().st_size < before / 5
    assert await journal.problems() == []


async def test_the_engine_itself_does_not_compact(journal: Journal) -> None:
    """It would stop taking callbacks meanwhile; and it stays the engine."""
    await journal.become_engine("python", "python", store="")
    assert await journal.compact() is False
    await journal.become_engine("python", "python", store="")


# --- which submission needs which file ---------------------------------------------------------------------------


async def test_files_are_noted_as_they_come(journal: Journal) -> None:
    """Inputs, masks of replies given at once and later, and results, each once; what goes leaves its files behind."""
    picture = Input(digest="a" * 64, type="image/png", size=1)
    mask = Input(digest="b" * 64, type="image/png", size=1, field="maskBase64")
    later = Input(digest="c" * 64, type="image/png", size=1, field="maskBase64")
    row = submission(1, inputs=(picture, picture), reply=Reply(body={}, mask=mask))
    await journal.add(row)
    await journal.add(submission(2, inputs=(picture,)))
    await journal.add(submission(3, reply=Reply(body={"prompt": "no mask"})))
    results = tuple(Media(digest=digit * 64, type="image/png", size=1, extension=".png", url="") for digit in "ad")

    def grow(row: Submission) -> Change:
        return Change(submission=msgspec.structs.replace(row, media=results, reply=Reply(body={}, mask=later)))

    await journal.change(row.id, grow)
    assert await journal.needed_files("", 10) == [digit * 64 for digit in "abcd"]
    assert (await journal.erase(row.id, force=True) or {})["files"] == 3
    assert [item.digest[0] for item in await journal.leftovers("")] == ["b", "c", "d"]
    assert await journal.needed_files("", 10) == ["a" * 64]
    await journal.add(submission(4, inputs=(mask,)))
    assert [(item.digest[0], item.needed) for item in await journal.leftovers("")] == [
        ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    await journal.forget_leftovers(["b" * 64, "c" * 64])
    assert [item.digest[0] for item in await journal.leftovers("b" * 64)] == ["d"]


# --- plans -------------------------------------------------------------------------------------------------------

UPKEEP = {
    "select_submission_deliveries": "deliveries_submission (submission_id=?)",
    "select_deliveries": "PRIMARY KEY (id>? AND id<?)",
    "select_events": "INTEGER PRIMARY KEY (rowid>?)",
    "event_deliveries": "deliveries_submission (submission_id=?)",
    "revive_delivery": "(id=?)",
    "settled": "(id=?)",
    "settled_before": "(id>? AND id<?)",
    "with_files_before": "PRIMARY KEY (submission_id>? AND submission_id<?)",
    "callbacks_after": "INTEGER PRIMARY KEY (rowid>?)",
    "delete_callback": "INTEGER PRIMARY KEY (rowid=?)",
    "delete_callbacks": "callbacks_submission (submission_id=?)",
    "delete_attempts": "PRIMARY KEY (delivery_id=?)",
    "delete_deliveries": "deliveries_submission (submission_id=?)",
    "delete_submission": "(id=?)",
    "drop_media": "(id=?)",
    "leave_files": "PRIMARY KEY (submission_id=?)",
    "count_files": "PRIMARY KEY (submission_id=?)",
    "delete_files": "PRIMARY KEY (submission_id=?)",
    "list_leftovers": "PRIMARY KEY (digest>?)",
    "list_children": "submissions_parent (parent_id=?)",
    "list_owed": "deliveries_submission (submission_id=?)",
}


@pytest.mark.parametrize("statement", UPKEEP)
async def test_upkeep_uses_indexes(journal: Journal, tmp_path: Path, statement: str) -> None:
    """Deleting by age and replaying read no table from end to end, so that they hold up nobody."""
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as db:
        values = dict.fromkeys(re.findall(r":(\w+)", SQL[statement]), 1)
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {SQL[statement]}", values)]
    assert not [step for step in steps if step.startswith("SCAN")], steps
    assert any(UPKEEP[statement] in step for step in steps), steps


async def test_deleting_an_events_rows_uses_their_key(journal: Journal, tmp_path: Path) -> None:
    """Event ids begin with their submission's."""
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as db:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {SQL['delete_events']}", {"id": ID})]
    assert "id>? AND id<?" in steps[0]


async def test_a_step_is_short(journal: Journal) -> None:
    """It ends after its time, wherever it is, and says where the next one goes on."""
    rows = await fill(journal, 200)
    keys = await journal.old("submissions", NOW + 10**12, "")
    assert len(keys) == 200
    started = time.monotonic()
    batch = await journal.delete("submissions", keys, problem="")
    assert time.monotonic() - started < 1
    assert batch.after in keys
    assert batch.removed["submissions"] == keys.index(batch.after or "") + 1
    assert await journal.delete("submissions", [], problem="") == Batch()
    assert rows
