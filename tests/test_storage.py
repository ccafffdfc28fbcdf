"""The journal when its disk or its files fail it: no 2xx without a row, a reason, a way back without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from doors import Door, body, opened, path
from engine import logged
from flows import world
from journals import submission
from waiting import PATIENCE

from receiver.disk import BALLAST_BYTES, LOOK_SECONDS, Ballast
from receiver.errors import JournalError
from receiver.intake import Policy
from receiver.journal import Journal
from receiver.journal.sqlite import SQLiteStore, open_store
from receiver.journal.sqlite.files import translated


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path, policy=Policy(confirm_ms=0), ballast=True) as found:
        yield found


async def write(door: Door, statement: str) -> None:
    """Run a statement on the connection that writes."""
    store = door.journal.store
    assert isinstance(store, SQLiteStore)
    await store._write(lambda db: db.execute(statement))


async def pages(door: Door, most: int | None) -> None:
    """Let the file have no more pages than it has, as on a full disk (SQLITE_FULL); None: as many as it likes."""
    limit = 2**32 - 2 if most is None else most
    await write(door, f"PRAGMA max_page_count = {limit}")


async def fill(door: Door) -> int:
    """Send callbacks until the disk is full. Returns how many were answered 200."""
    row = await door.submission()
    await pages(door, 1)  # as few as there are
    taken = 0
    while (await door.post(path(row), body(row, padding="x" * 20_000))).status_code == 200:
        taken += 1
    return taken


async def test_a_full_disk(door: Door) -> None:
    """503 and no row; the ballast is given up, so that what is owed can be recorded although nothing new is taken; with
    room again it goes on by itself, and the ballast lies there again."""
    row = await door.submission()
    ballast = Path(f"{door.file}.ballast")
    assert ballast.stat().st_size > 0
    taken = await fill(door)
    assert await door.stored() == taken
    assert not ballast.exists()
    with pytest.raises(JournalError, match="disk is full, or nearly") as caught:
        await door.journal.store.check(space=True)
    assert caught.value.fault == "full"
    with pytest.raises(JournalError, match="takes nothing new"):
        await door.journal.add(submission(5))
    await pages(door, None)
    assert await door.journal.change(row.id, lambda current: None) is not None  # what is owed goes on meanwhile
    async with asyncio.timeout(PATIENCE):
        while (await door.post(path(row), body(row))).status_code != 200:  # noqa: ASYNC110 - room makes no event
            await asyncio.sleep(LOOK_SECONDS / 10)
    assert await door.stored() == taken + 1
    assert ballast.exists()
    await door.journal.store.check(space=True)


async def test_the_ballast_takes_blocks(tmp_path: Path) -> None:
    """It is no hole: its blocks are on the disk, to be given back."""
    ballast = Ballast(tmp_path / "journal.db.ballast")
    with logged() as lines:
        ballast.make()
        found = (tmp_path / "journal.db.ballast").stat()
        assert found.st_blocks * 512 >= found.st_size == BALLAST_BYTES
        ballast.make()
        ballast.give_up()
        ballast.give_up()
        ballast.make()  # too early for another look
        assert ballast.given_up
        assert not (tmp_path / "journal.db.ballast").exists()
        await asyncio.sleep(LOOK_SECONDS)
        ballast.make()
        assert not ballast.given_up
    assert [line["event"] for line in lines] == ["ballast.given_up", "ballast.made"]
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db.ballast"]


async def test_a_ballast_that_cannot_be_made_refuses_nothing(tmp_path: Path) -> None:
    """Where there is no room for it from the start, the journal works without."""
    ballast = Ballast(tmp_path / "missing" / "journal.db.ballast")
    ballast.make()
    assert not ballast.given_up


def remove(file: Path) -> None:
    file.rename(file.with_name("moved"))


def replace(file: Path) -> None:
    remove(file)
    file.write_bytes(file.with_name("moved").read_bytes())


def remove_log(file: Path) -> None:
    remove(file.with_name(file.name + "-wal"))


@pytest.mark.parametrize("breaks", [remove, replace, remove_log])
async def test_files_taken_away(door: Door, breaks: Callable[[Path], None]) -> None:
    """A journal removed or replaced beneath us takes no callback; put back where it was, it goes on."""
    row = await door.submission()
    await asyncio.to_thread(breaks, door.file)
    response = await door.post(path(row), body(row))
    assert response.status_code == 503
    assert str(door.file.parent) not in response.text
    with pytest.raises(JournalError, match="removed or replaced since") as caught:
        await door.journal.check()
    assert caught.value.fault == "replaced"
    name = door.file.name + ("-wal" if breaks is remove_log else "")
    os.replace(door.file.with_name("moved"), door.file.with_name(name))
    assert (await door.post(path(row), body(row))).status_code == 200


@pytest.mark.parametrize("size", [0, 20, 28, 32, -1])
async def test_a_log_that_is_cut(door: Door, size: int) -> None:
    """Nothing is acknowledged from then on, because the next start would find nothing behind the cut."""
    row = await door.submission()
    assert (await door.post(path(row), body(row))).status_code == 200
    log = door.file.with_name(door.file.name + "-wal")
    os.truncate(log, size if size >= 0 else log.stat().st_size - 1)
    assert [(await door.post(path(row), body(row, progress=f"{n}%"))).status_code for n in (51, 52, 53)] == [503] * 3
    with pytest.raises(JournalError, match="was cut by another program") as caught:
        await door.journal.check()
    assert caught.value.fault == "cut"


async def test_a_log_that_begins_anew_is_not_cut(door: Door) -> None:
    """A checkpoint of another process empties it, and that loses nothing."""
    row = await door.submission()
    for number in range(4):
        with contextlib.closing(sqlite3.connect(door.file)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)" if number else "PRAGMA wal_checkpoint(RESTART)")
        assert (await door.post(path(row), body(row, progress=f"{50 + number}%"))).status_code == 200


async def test_a_data_folder_that_is_gone(tmp_path: Path) -> None:
    """`/readyz` says so in a sentence, no new folder is made in its place, and with the old one it goes on."""
    data = tmp_path / "data"
    async with world(tmp_path) as running, httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
        assert (await client.get("/readyz")).status_code == 200
        data.rename(tmp_path / "away")
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["disk"] == (
            "The journal's folder is gone, or cannot be used. Put it back, or start Receiver again."
        )
        assert answer.json()["media"] == "The media store cannot be used. Receiver's log says why."
        assert "removed or replaced" in answer.json()["journal"]
        assert not data.exists()
        (tmp_path / "away").rename(data)
        assert (await client.get("/readyz")).status_code == 200


async def test_a_file_that_is_damaged_while_we_run(tmp_path: Path) -> None:
    """A callback that meets damage gets 503, and from then on the check says so, whatever else still works."""
    async with opened(tmp_path, policy=Policy()) as door:
        row = await door.submission()
        await write(door, "PRAGMA cache_size = 0")
        await asyncio.to_thread(_damage, door.file)
        answers = [(await door.post(path(row), body(row))).status_code for _ in range(3)]
        assert 503 in answers
        assert answers.count(200) == 0
        with pytest.raises(JournalError, match="Restore it from a backup") as caught:
            await door.journal.check()
        assert caught.value.fault == "damaged"


def _damage(file: Path) -> None:
    """Everything but the first page becomes nonsense, and the log is written back before that."""
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA user_version")
    with file.open("r+b") as raw:
        size = raw.seek(0, os.SEEK_END)
        raw.seek(4096)
        raw.write(b"\xa5" * (size - 4096))


@pytest.mark.parametrize(
    ("code", "fault", "words"),
    [
        (sqlite3.SQLITE_BUSY, "locked", "Look for a program"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "locked", "Look for a program"),
        (sqlite3.SQLITE_FULL, "full", "Free some space"),
        (sqlite3.SQLITE_IOERR_FSYNC, "io", "Look at the disk"),
        (sqlite3.SQLITE_IOERR_WRITE, "io", "Look at the disk"),
        (sqlite3.SQLITE_CORRUPT, "damaged", "Restore it from a backup"),
        (sqlite3.SQLITE_NOTADB, "damaged", "Restore it from a backup"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "readonly", "Make it writable"),
        (sqlite3.SQLITE_CANTOPEN, "unopened", "Name a place"),
        (sqlite3.SQLITE_CONSTRAINT, "", "cannot be used"),
    ],
)
def test_every_fault_has_a_sentence(code: int, fault: str, words: str) -> None:
    """SQLite's code, its extended ones included, decides what is said; never its words, which change."""
    error: Any = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    with pytest.raises(JournalError) as caught, translated(Path("/data/journal.db")):
        raise error
    told = caught.value
    assert told.fault == fault
    assert words in str(told)
    assert "/data/journal.db" in str(told)


@pytest.mark.parametrize(
    ("error", "fault"),
    [(sqlite3.ProgrammingError("the journal is closed"), "closed"), (sqlite3.InterfaceError("bad parameter"), "")],
)
def test_faults_of_our_own(error: sqlite3.Error, fault: str) -> None:
    """Python's own errors have no code."""
    with pytest.raises(JournalError) as caught, translated(Path("/data/journal.db")):
        raise error
    assert caught.value.fault == fault


async def test_no_ballast_for_those_who_only_read(tmp_path: Path) -> None:
    """A command that lists leaves no file behind."""
    journal = Journal(await open_store(tmp_path / "journal.db"))
    await journal.store.check(space=True)
    await journal.aclose()
    assert not (tmp_path / "journal.db.ballast").exists()
