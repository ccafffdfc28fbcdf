"""A SQLite journal as a file: damage, a copy beside a running writer, compacting, and the plans of what deletes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from journals import delivery, event, finished, owing, submission

from receiver.errors import InputError, JournalError
from receiver.events import Submission
from receiver.journal import Change, Journal
from receiver.journal.sqlite import maintenance, open_store


async def open_journal(path: Path, **options: Any) -> Journal:
    return Journal(await open_store(path, **options))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await open_journal(tmp_path / "receiver.db", busy_seconds=2)
    yield opened
    await opened.aclose()


def change_to(change: Change, row: Submission) -> Change:
    return change


async def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    """A page overwritten by something else."""
    path = tmp_path / "receiver.db"
    journal = await open_journal(path)
    await finished(journal, 300)
    maintenance.empty_log(path)
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
    rows = await finished(journal, 50)
    target = tmp_path / "copy.db"
    assert await journal.store.back_up(target) == target.stat().st_size > 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
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
        await journal.store.back_up(target)
    assert target.read_text() == "precious"
    with pytest.raises(InputError, match="no folder"):
        await journal.store.back_up(tmp_path / "nowhere" / "copy.db")


async def test_a_copy_that_cannot_be_written_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    """Where the name is longer than a file system takes."""
    with pytest.raises(JournalError, match="could not be written"):
        await journal.store.back_up(tmp_path / ("x" * 300))
    assert {path.name.removeprefix("receiver.db") for path in tmp_path.iterdir()} <= {"", "-wal", "-shm"}


async def test_a_copy_under_load_is_one_moment(journal: Journal, tmp_path: Path) -> None:
    """Another process goes on writing: nobody waits, and the copy has each submission with its event or neither."""
    await finished(journal, 300, prompt="x" * 2000)
    writer = await open_journal(tmp_path / "receiver.db")
    number, stop = 1000, asyncio.Event()

    async def write() -> None:
        nonlocal number
        while not stop.is_set():
            row = submission(number, ended="task.succeeded", send_due_ms=None)
            await writer.add(row)
            change = owing(row, (event(row), delivery(event(row), number)))
            await writer.change(row.id, partial(change_to, change))
            number += 1

    writing = asyncio.create_task(write())
    sizes: list[int] = []
    while len(sizes) < 5 or number <= 1010:  # however slow the disk is, some of it is written meanwhile
        sizes.append(await journal.store.back_up(tmp_path / f"copy-{len(sizes)}.db"))
    stop.set()
    await writing
    await writer.aclose()
    assert sizes == sorted(sizes)
    for index in range(len(sizes)):
        copy = await open_journal(tmp_path / f"copy-{index}.db")
        problems = await copy.problems()
        await copy.aclose()
        assert [problem for problem in problems if "ended without an event" not in problem] == []


# --- compact -----------------------------------------------------------------------------------------------------


async def test_compacting_gives_space_back(journal: Journal, tmp_path: Path) -> None:
    """After a purge the file is as small as what is left; not while an engine runs."""
    rows = await finished(journal, 400, prompt="x" * 8000)
    maintenance.empty_log(tmp_path / "receiver.db")
    before = (tmp_path / "receiver.db").stat().st_size
    for row in rows[20:]:
        assert await journal.erase(row.id, force=True)
    other = await open_journal(tmp_path / "receiver.db")
    await other.membership.join("serve", "serve", store="")
    assert await journal.store.compact() is None
    await other.membership.leave("")
    await other.aclose()
    sizes = await journal.store.compact()
    assert sizes is not None
    assert sizes[1] == (tmp_path / "receiver.db").stat().st_size < before / 5
    assert sizes[0] >= before
    assert await journal.problems() == []


async def test_the_engine_itself_does_not_compact(journal: Journal) -> None:
    """It would stop taking callbacks meanwhile; and it stays the engine."""
    await journal.membership.join("python", "python", store="")
    assert await journal.store.compact() is None
    await journal.membership.join("python", "python", store="")
