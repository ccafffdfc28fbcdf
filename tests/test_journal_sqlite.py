"""What a SQLite file adds to the promises of every journal."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from journals import FULL, ID, NOW, callback, delivery, event, fill, ids, owe, submission
from receiver.journal.sqlite.recent import Recent
from receiver.journal.sqlite.statements import SQL

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import EngineRunning, JournalError, JournalLocked, NotFound
from receiver.events import Callback, Submission
from receiver.journal.rows import to_row
from receiver.journal.sqlite import health, open_journal, operations, staged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receiver.db"


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that has the file open."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.1)) as db:
        yield db


TABLES: dict[str, Any] = {
    "submissions": Submission,
    "callbacks": Callback,
    "deliveries": Delivery,
    "attempts": AttemptRecord,
}


@pytest.mark.parametrize("table", TABLES)
async def test_every_field_has_a_column(path: Path, table: str) -> None:
    """A table holds its struct, and nothing but (a number may say the order)."""
    await (await open_journal(path)).aclose()
    with connection(path) as db:
        columns = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    assert columns - {"number", "told"} == set(TABLES[table].__struct_fields__) - {"number"}


async def test_writes_are_on_disk_when_they_are_answered(path: Path) -> None:
    """WAL, and an fsync at every commit."""
    journal = await open_journal(path)
    mode, level = await journal._write(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    await journal.aclose()
    assert (mode, level) == ("wal", 2)  # 2 is FULL


async def test_a_row_that_cannot_be_read_is_a_sentence(path: Path) -> None:
    """Somebody's hand, or a disk: whichever way it is looked at, the file and a remedy, and no traceback."""
    journal = await open_journal(path)
    row = submission(1)
    await journal.add(row)
    fact = await owe(journal, row, "task.succeeded", 1)
    with connection(path) as db:
        db.execute("UPDATE submissions SET labels = '['")
        db.execute("UPDATE events SET body = '{}'")
    asked = (
        journal.get(row.id),
        journal.find(row.id),
        journal.submissions(limit=1),
        journal.event(fact.id),
        journal.events(limit=1),
    )
    for question in asked:
        with pytest.raises(JournalError, match=r"holds a row that cannot be read: .*\. Restore a backup\.") as told:
            await question
        assert str(path) in str(told.value)
    await journal.aclose()


def commits(path: Path) -> int:
    """How many transactions the write-ahead log holds: its frames that end one say how large the database is then
    (https://sqlite.org/fileformat2.html, 4.1)."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page_size, salts = struct.unpack(">I", log[8:12])[0], log[16:24]
    frames = [log[at : at + 24] for at in range(32, len(log), 24 + page_size)]
    return sum(1 for frame in frames if frame[8:16] == salts and struct.unpack(">I", frame[4:8])[0])


async def test_writes_at_once_share_their_commits(path: Path) -> None:
    """One after the other, each write costs a commit; side by side, many share one."""
    journal = await open_journal(path)
    before = commits(path)
    for number in range(10):
        await journal.add(submission(number))
    alone = commits(path) - before
    await asyncio.gather(*(journal.add(submission(number)) for number in range(10, 210)))
    shared = commits(path) - before - alone
    assert alone == 10
    assert 1 <= shared <= 20
    await journal.aclose()


async def test_opening_again_changes_nothing(path: Path) -> None:
    """Migrations run once, and what was written is there."""
    first = await open_journal(path)
    await first.add(FULL)
    await first.aclose()
    with connection(path) as db:
        schema = db.execute("SELECT sql FROM sqlite_schema").fetchall()
        version = db.execute("PRAGMA user_version").fetchone()
    again = await open_journal(path)
    assert await again.get(ID) == FULL
    await again.aclose()
    with connection(path) as db:
        assert db.execute("SELECT sql FROM sqlite_schema").fetchall() == schema
        assert db.execute("PRAGMA user_version").fetchone() == version


async def test_folders_are_made(tmp_path: Path) -> None:
    """The file's folder need not be there."""
    journal = await open_journal(tmp_path / "a" / "b" / "receiver.db")
    await journal.check()
    await journal.aclose()


def newer(path: Path) -> None:
    with connection(path) as db:
        db.execute("PRAGMA user_version = 9999")


def damaged(path: Path) -> None:
    path.write_bytes(b"this is no database at all, whatever its name says" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where the folder should be")


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (newer, "written by a newer Receiver \\(schema 9999"),
        (damaged, "not a database. Restore it from a backup"),
        (a_folder, "unable to open database file. Name a place"),
        (below_a_file, "RECEIVER_DATABASE"),
    ],
)
async def test_a_file_that_cannot_be_used(tmp_path: Path, breaks: Callable[[Path], None], words: str) -> None:
    """One sentence with the path and the remedy."""
    folder = tmp_path / "data"
    folder.mkdir()
    breaks(folder / "receiver.db")
    with pytest.raises(JournalError, match=words) as caught:
        await open_journal(folder / "receiver.db")
    assert str(folder) in str(caught.value)


async def test_a_locked_file_is_waited_for_and_then_reported(path: Path) -> None:
    """Beyond the busy time every waiter hears who to look for; nothing was kept; afterwards it works."""
    journal = await open_journal(path, busy_seconds=0.2)
    with connection(path) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(journal.add(submission(n)) for n in range(3)), return_exceptions=True)
        assert all(isinstance(result, JournalLocked) for result in results)
        assert "locked by another process for 0.2 s" in str(results[0])
        assert await journal.submissions(limit=9) == []  # reading goes on
        other.execute("ROLLBACK")
    await journal.add(submission(7))
    assert ids(await journal.submissions(limit=9)) == [7]
    await journal.aclose()


async def test_a_locked_new_file_is_reported(path: Path) -> None:
    """Opening needs the write lock only to make the tables."""
    with connection(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalLocked, match="locked by another process"):
            await open_journal(path, busy_seconds=0.1)


async def test_a_short_lock_is_waited_out(path: Path) -> None:
    """Another command's single transaction disturbs nobody."""
    journal = await open_journal(path, busy_seconds=5)
    with connection(path) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = asyncio.create_task(journal.add(submission(1)))
        done, _ = await asyncio.wait([adding], timeout=0.05)
        assert not done
        other.execute("COMMIT")
    await adding
    await journal.aclose()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow beyond what the write-ahead log holds now."""
    size = path.with_name(path.name + "-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_noticed_and_survived(path: Path) -> None:
    """A check fails like a write does, every waiter of a failed commit hears of it, and recovery needs no restart."""
    journal = await open_journal(path)
    await journal.add(submission(1))
    with full_disk(path):
        with pytest.raises(JournalError):
            await journal.check()
        results = await asyncio.gather(*(journal.add(submission(n)) for n in (2, 3)), return_exceptions=True)
        assert all(isinstance(result, JournalError) for result in results)
        assert ids(await journal.submissions(limit=9)) == [1]
    await journal.check()
    await journal.add(submission(4))
    assert ids(await journal.submissions(limit=9)) == [4, 1]
    await journal.aclose()


HOT = (
    "alone_due", "claim_one", "run_alone", "get_destination", "destination_of", "any_running", "pause_destination",
    "destination_succeeded", "destination_failed", "advance_deliveries", "advance_sends", "advance_polls",
    "advance_media", "advance_deadlines", "get_submission", "find_by_task", "update_submission",
    "due_sends", "due_polls", "due_media", "overdue", "last_callbacks", "called_back",
    "get_event", "cancel_older", "release_deliveries", "any_due", "claim", "unclaim", "complete", "cancel_if_outdated",
    "finish_attempt", "list_receipts", "get_delivery", "list_attempts", "list_submission_events",
    "list_submission_deliveries",
)  # fmt: skip


NO_TABLES = ("SCAN CONSTANT ROW", "SCAN json_each VIRTUAL TABLE INDEX 1:")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An empty journal, and one with many rows that SQLite has counted."""
    folder = tmp_path_factory.mktemp("many")
    paths = folder / "empty.db", folder / "full.db"
    for path in paths:
        asyncio.run(_made(path))
    with connection(paths[1]) as db:
        db.execute("BEGIN")
        for number in range(3_000):
            row = submission(number, status="accepted", poll_due_ms=NOW + number, media_due_ms=NOW + number)
            db.execute(SQL["insert_submission"], to_row(row))
            fact = event(row)
            db.execute(SQL["insert_event"], (fact.id, row.id, fact.type, NOW, msgspec.json.encode(fact)))
            staged.insert_deliveries(db, Recent(), [delivery(fact, number, destination=f"place-{number % 3}")])
            db.execute(SQL["insert_callback"], staged.callback_row(callback(number), None))
        for number, status in enumerate(("succeeded", "dead", "running"), 1):
            db.execute("UPDATE deliveries SET status = ? WHERE substr(id, -2) % 4 = ?", (status, number))
        db.execute("COMMIT")
        db.execute("ANALYZE")
    return paths


async def _made(path: Path) -> None:
    await (await open_journal(path)).aclose()


def plan(db: sqlite3.Connection, statement: str) -> list[str]:
    named = dict.fromkeys(re.findall(r":(\w+)", SQL[statement]), 1)
    values = named or (1,) * SQL[statement].count("?")
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {SQL[statement]}", values)]


@pytest.mark.parametrize("statement", HOT)
def test_hot_statements_use_an_index(many: tuple[Path, Path], statement: str) -> None:
    """Empty or full, no table is read from end to end."""
    for path in many:
        with connection(path) as db:
            steps = plan(db, statement)
        assert steps
        assert not [step for step in steps if step.startswith("SCAN") and step not in NO_TABLES], steps


async def test_finding_what_is_whole_is_hot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission is looked up by its id, or its task's, with every request: that reads no others."""
    journal = await open_journal(path)
    await journal.add(submission(1, task_id="task-1"))
    select, asked = journal._select, []

    async def noting(type: type[Any], name: str, **values: Any) -> list[Any]:
        asked.append(name)
        return await select(type, name, **values)

    monkeypatch.setattr(journal, "_select", noting)
    for reference in (submission(1).id, "task-1"):
        await journal.find(reference)
    with pytest.raises(NotFound):
        await journal.find("somebody else's", whole=True)
    await journal.aclose()
    assert asked
    assert set(asked) <= set(HOT)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("claim", "deliveries_due (destination=? AND due_ms<?)"),
        ("any_due", "deliveries_due (destination=? AND due_ms<?)"),
        ("alone_due", "deliveries_alone (due_ms<?)"),
        ("any_running", "deliveries_running (destination=?)"),
        ("end_wait", "deliveries_due (destination=? AND due_ms<?)"),
        ("list_destinations", "deliveries_due (destination=?)"),
        ("list_destinations", "deliveries_dead (destination=?)"),
        ("advance_deliveries", "deliveries_due (destination=? AND due_ms>?)"),
        ("advance_sends", "submissions_send (send_due_ms>?)"),
        ("advance_polls", "submissions_poll (poll_due_ms>?)"),
        ("advance_media", "submissions_media (media_due_ms>?)"),
        ("advance_deadlines", "submissions_deadline (deadline_ms>?)"),
        ("due_sends", "submissions_send (send_due_ms<?)"),
        ("due_polls", "submissions_poll (poll_due_ms<?)"),
        ("due_media", "submissions_media (media_due_ms<?)"),
        ("overdue", "submissions_deadline (deadline_ms<?)"),
        ("called_back", "submissions_called_back (created_ms<?)"),
        ("last_callbacks", "callbacks_submission (submission_id=?)"),
        ("cancel_older", "deliveries_submission (submission_id=? AND destination=?)"),
        ("list_receipts", "deliveries_submission (submission_id=?)"),
        ("get_submission", "sqlite_autoindex_submissions_1 (id=?)"),
    ],
)
def test_hot_statements_use_their_index(many: tuple[Path, Path], statement: str, index: str) -> None:
    """The one that was made for them, however many rows there are."""
    for path in many:
        with connection(path) as db:
            assert any(step.endswith(index) for step in plan(db, statement)), plan(db, statement)


def test_what_a_crash_left_is_found_by_its_own_index(many: tuple[Path, Path]) -> None:
    """The start of an engine looks at running rows only."""
    for path in many:
        with connection(path) as db:
            assert "deliveries_running" in plan(db, "list_running")[0]


def test_every_statement_is_good_sql(many: tuple[Path, Path]) -> None:
    """Each one compiles, so that none waits for its day to fail."""
    with connection(many[0]) as db:
        for statement in SQL:
            plan(db, statement)


# The engine's lock


async def test_one_engine_per_file(path: Path) -> None:
    """The second one is refused with the first one's role; a second call of the first is no second engine."""
    first, second = await open_journal(path), await open_journal(path)
    await first.become_engine("serve", "serve", store="")
    await first.become_engine("serve", "serve", store="")
    with pytest.raises(EngineRunning, match=re.escape(str(path))) as caught:
        await second.become_engine("submit --wait", "submit --wait", store="")
    assert caught.value.holder == "serve"
    await first.resign("")
    await first.resign("")
    await second.become_engine("submit --wait", "submit --wait", store="")
    with pytest.raises(EngineRunning, match="submit --wait"):
        await first.become_engine("serve", "serve", store="")
    await second.aclose()
    await first.become_engine("serve", "serve", store="")
    await first.aclose()


HOLDER = """
import sys
from pathlib import Path
from receiver.journal.sqlite.lock import EngineLock
EngineLock(Path(sys.argv[1])).acquire("serve")
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_dead_engine_holds_nothing(path: Path) -> None:
    """Another process is refused while the first lives, and gets the lock as soon as it was killed."""
    journal = await open_journal(path)
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", HOLDER, str(path))
    holder = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    with pytest.raises(EngineRunning, match=f"`receiver serve`, process {holder.pid} ") as caught:
        await journal.become_engine("submit", "submit", store="")
    assert caught.value.holder == "serve"
    holder.kill()
    await holder.wait()
    await journal.become_engine("submit", "submit", store="")
    await journal.aclose()


async def test_an_engine_on_another_machine_is_told_by_its_name(path: Path) -> None:
    """On a disk that several machines see, where the lock holds between them."""
    first, second = await open_journal(path), await open_journal(path)
    await first.become_engine("serve", "owner", store="")
    path.with_name(path.name + ".engine").write_text(json.dumps({"role": "worker", "pid": 7, "host": "elsewhere"}))
    with pytest.raises(EngineRunning, match="`receiver worker`, process 7 on elsewhere already is the engine of"):
        await second.become_engine("serve", "owner", store="")
    await first.aclose()
    await second.aclose()


async def test_who_the_engine_of_a_file_is(path: Path) -> None:
    """Whoever asks gets what it said of itself; there is none before it has entered and after it has left."""
    first, second = await open_journal(path), await open_journal(path)
    assert await second.engines() == []
    await first.become_engine("serve", "an owner", store="a store")
    for journal in (first, second):
        (found,) = await journal.engines()
        assert (found.role, found.owner, found.store, found.leads) == ("serve", "an owner", "a store", True)
    assert (await second.beat("an owner"), await second.lead("an owner")) == (True, True)
    await first.resign("an owner")
    assert await second.engines() == []
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"role": null}', json.dumps({"pid": 7}), "\x00"])
async def test_a_lock_file_that_says_nothing(path: Path, text: str) -> None:
    """Its holder is another process, whatever the text is."""
    first, second = await open_journal(path), await open_journal(path)
    await first.become_engine("serve", "serve", store="")
    path.with_name(path.name + ".engine").write_text(text)
    with pytest.raises(EngineRunning) as caught:
        await second.become_engine("submit", "submit", store="")
    assert caught.value.holder == "another process"
    await first.aclose()
    await second.aclose()


# Many due rows

MANY = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 500000)
INSERT INTO deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, manual, alone)
SELECT
    printf('01KKGM7NK3%016d', n), 'e', printf('01KKGM7NK1%016d', n), 'folder', :now_ms, :now_ms, 'pending', 0, 0, 0, 0
FROM numbers
"""
CLAIM = {"owner": "me", "limit": 4, "now_ms": NOW + 5, "destinations": '["folder", "screen"]'}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A journal with half a million due deliveries of one destination, and one of another."""
    path = tmp_path_factory.mktemp("crowded") / "journal.db"
    asyncio.run(_made_crowded(path))
    with connection(path) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = OFF")
        db.execute(MANY, {"now_ms": NOW})
        yield db


async def _made_crowded(path: Path) -> None:
    opened = await open_journal(path)
    await opened.register({"folder": "file", "screen": "file"})
    await fill(opened, 1, destination="screen")
    await opened.aclose()


def instructions(db: sqlite3.Connection, work: Callable[[], object]) -> int:
    """How many hundreds of SQLite's instructions something takes; time would depend on who else is here."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    db.execute("BEGIN")
    db.set_progress_handler(tick, 100)
    try:
        work()
    finally:
        db.set_progress_handler(None, 0)
        db.execute("ROLLBACK")
    return count


@pytest.mark.parametrize(
    ("until_ms", "failures", "claimed"), [(NOW + 9, 0, 0), (NOW + 9, 9, 0), (NOW, 9, 1), (None, 0, 4)]
)
def test_a_claim_costs_the_same_with_half_a_million_waiting(
    crowded: sqlite3.Connection, until_ms: int | None, failures: int, claimed: int
) -> None:
    """Paused, probing or at work: neither its own claims nor its neighbour's look at the rows that wait."""
    crowded.execute(
        "UPDATE destinations SET paused_until_ms = ?, failures = ? WHERE name = 'folder'", (until_ms, failures)
    )
    mine = {**CLAIM, "destination": "folder"}

    def own() -> None:
        assert operations.any_due(crowded, mine) == (claimed > 0)
        limited = {**mine, "limit": health.room(crowded, mine)}
        assert len(crowded.execute(SQL["claim"], limited).fetchall()) == claimed

    def rest() -> None:
        operations.any_due(crowded, {**CLAIM, "destination": "screen"})
        assert len(operations.claim(crowded, Recent(), {**CLAIM, "destination": "screen"})) == 1
        assert operations.claim_alone(crowded, Recent(), CLAIM) is None

    assert instructions(crowded, own) <= 20
    assert instructions(crowded, rest) <= 20
