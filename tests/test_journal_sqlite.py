"""What a SQLite file adds to the promises of every journal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import resource
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from journals import FULL, ID, NOW, callback, delivery, due_file, event, fill, ids, owe, submission

from receiver.errors import EngineRunning, JournalError, JournalLocked
from receiver.events import EVENT_TYPES
from receiver.journal import Journal
from receiver.journal.document import Document, replace
from receiver.journal.pages import due_query, page_query, requests_query
from receiver.journal.sqlite import SQLiteStore, documents, open_store
from receiver.journal.sqlite.documents import DIALECT, SQL
from receiver.journal.store import Filter, RowKind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receiver.db"


async def open_journal(path: Path, **options: Any) -> Journal:
    return Journal(await open_store(path, **options))


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that has the file open."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.1)) as db:
        yield db


async def test_writes_are_on_disk_when_they_are_answered(path: Path) -> None:
    """WAL, and an fsync at every commit."""
    store = await open_store(path)
    mode, level = await store._write(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    await store.aclose()
    assert (mode, level) == ("wal", 2)  # 2 is FULL


async def test_a_row_that_cannot_be_read_is_a_sentence(path: Path) -> None:
    """Somebody's hand, or a disk: whichever way it is looked at, the file and a remedy, and no traceback."""
    journal = await open_journal(path)
    row = submission(1)
    await journal.add(row)
    fact = await owe(journal, row, "task.succeeded", 1)
    with connection(path) as db:
        db.execute("UPDATE submissions SET body = '['")
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


def older(path: Path) -> None:
    with connection(path) as db:
        db.execute("CREATE TABLE submissions (id TEXT PRIMARY KEY, told TEXT)")
        db.execute("PRAGMA user_version = 1")


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
        (older, "earlier development version.* RECEIVER_DATABASE"),
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
        assert "locked by another process" in str(results[0])
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
            row = submission(number, status="accepted", poll_due_ms=NOW + number, files=(due_file(NOW + number),))
            documents.insert_document(db, Document(submission=row, version=1))
            fact = event(row, EVENT_TYPES[number % len(EVENT_TYPES)])
            db.execute(SQL["insert_event"], documents.event_row(fact))
            item = delivery(fact, number, destination=f"place-{number % 3}")
            db.execute(SQL["write_delivery"], documents.delivery_row(item))
            db.execute(SQL["insert_callback"], documents.callback_row(replace(callback(number), submission_id=row.id)))
        for number, status in enumerate(("succeeded", "dead", "running"), 1):
            db.execute("UPDATE deliveries SET status = ? WHERE substr(id, -2) % 4 = ?", (status, number))
        db.execute("COMMIT")
        db.execute("ANALYZE")
    return paths


async def _made(path: Path) -> None:
    await (await open_journal(path)).aclose()


def plan(db: sqlite3.Connection, query: str) -> list[str]:
    named = dict.fromkeys(re.findall(r":(\w+)", query), 1)
    numbers = [int(number) for number in re.findall(r"\?(\d+)", query)]
    values = named or (1,) * max(len(re.findall(r"\?(?!\d)", query)), *numbers, 0)
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]


def listed(kind: RowKind, newest_first: bool = False, **conditions: Any) -> str:
    after, few = ("", "") if kind in ("attempts", "files") else ("",), conditions.pop("few", None)
    return page_query(DIALECT, kind, Filter(**conditions), after, 10, newest_first=newest_first, few=few)[0]


HOT = {
    "update_submission": (SQL["update_submission"], "sqlite_autoindex_submissions_1 (id=?)"),
    "update_progress": (SQL["update_progress"], "sqlite_autoindex_submissions_1 (id=?)"),
    "update_working": (SQL["update_working"], "sqlite_autoindex_submissions_1 (id=?)"),
    "load": (SQL["load"], "sqlite_autoindex_submissions_1 (id=?)"),
    "open deliveries": (SQL["load"], "deliveries_submission (submission_id=?)"),
    "their events": (SQL["load"], "events_id (id=?)"),
    "their attempts": (SQL["load"], "PRIMARY KEY (delivery_id=? AND number=?)"),
    "claimable": (SQL["claimable"], "deliveries_due (destination=? AND due_ms<?)"),
    "fresh": (SQL["fresh"], "deliveries_due (destination=? AND due_ms<?)"),
    "due_sends": (due_query(DIALECT, "send"), "submissions_send (send_due_ms<?)"),
    "due_polls": (due_query(DIALECT, "poll"), "submissions_poll (poll_due_ms<?)"),
    "due_media": (due_query(DIALECT, "media"), "submissions_media (media_due_ms<?)"),
    "overdue": (due_query(DIALECT, "deadline"), "submissions_deadline (deadline_due_ms<?)"),
    "by id": (listed("submissions", submission_id="x"), "sqlite_autoindex_submissions_1 (id=?"),
    "by task": (listed("submissions", True, task_id="x"), "submissions_task (task_id=?"),
    "children": (listed("submissions", parent_id="x"), "submissions_parent (parent_id=?"),
    "called back": (listed("submissions", True, called_back=True, until_ms=NOW), "submissions_called_back (id<?"),
    "due after": (listed("submissions", due_after_ms=NOW), "submissions_send (send_due_ms>?)"),
    "settled": (listed("submissions", settled=True, until_ms=NOW), "sqlite_autoindex_submissions_1 (id>? AND id<?)"),
    "with files": (
        listed("submissions", with_files=True, until_ms=NOW),
        "PRIMARY KEY (submission_id>? AND submission_id<?)",
    ),
    "callbacks": (listed("callbacks", submission_id="x"), "callbacks_submission (submission_id=?"),
    "old callbacks": (listed("callbacks", until_ms=NOW), "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    "event": (listed("events", ids=("x",)), "events_id (id=?"),
    "events there": (listed("events", submission_id="x"), "events_id (id>? AND id<?)"),
    "events by time": (listed("events", since_ms=NOW), "INTEGER PRIMARY KEY (rowid>?)"),
    "delivery": (listed("deliveries", ids=("x",)), "PRIMARY KEY (id=?"),
    "deliveries": (listed("deliveries", submission_id="x"), "deliveries_submission (submission_id=?)"),
    "running there": (
        listed("deliveries", destination="x", status="running"),
        "deliveries_running",
    ),
    "pending": (
        listed("deliveries", destination="x", status="pending"),
        "deliveries_due (destination=? AND due_ms>?)",
    ),
    "dead": (listed("deliveries", destination="x", status="dead"), "deliveries_dead (id>?)"),
    "dead ones": (listed("deliveries", True, status="dead"), "deliveries_dead (id<?)"),
    "cancelled": (listed("deliveries", True, status="cancelled"), "deliveries_cancelled (id<?)"),
    "at a destination": (
        listed("deliveries", True, destination="x"),
        "deliveries_destination (destination=? AND id<?)",
    ),
    "done there": (
        listed("deliveries", True, destination="x", status="succeeded"),
        "deliveries_destination (destination=? AND id<?)",
    ),
    "by status": (listed("submissions", True, status="lost"), "submissions_display (display=? AND id<?)"),
    "by status since": (
        listed("submissions", True, status="lost", since_ms=NOW, requests=True),
        "submissions_display (display=? AND id>? AND id<?)",
    ),
    "by type": (listed("events", True, type="task.lost"), "events_type (type=? AND number<?)"),
    "by words": (listed("submissions", True, words=("x", "y")), "PRIMARY KEY (id=?)"),
    "few": (listed("submissions", True, few=["x"]), "sqlite_autoindex_submissions_1 (id=?)"),
    "events of few": (listed("events", True, few=["x"]), "events_id (id>? AND id<?)"),
    "deliveries of few": (listed("deliveries", True, few=["x"]), "deliveries_submission (submission_id=?)"),
    "attempts": (listed("attempts", delivery_id="x"), "PRIMARY KEY (delivery_id=?"),
    "files": (listed("files", submission_id="x"), "PRIMARY KEY (submission_id=?"),
    "leftovers": (listed("leftovers"), "PRIMARY KEY (digest>?)"),
    "leave_files": (SQL["leave_files"], "PRIMARY KEY (submission_id=?)"),
    "remove_files": (SQL["remove_files"], "PRIMARY KEY (submission_id=?)"),
    "remove_attempts": (SQL["remove_attempts"], "PRIMARY KEY (delivery_id=?)"),
    "remove_deliveries": (SQL["remove_deliveries"], "deliveries_submission (submission_id=?)"),
    "remove_events": (SQL["remove_events"], "events_id (id>? AND id<?)"),
    "remove_callbacks": (SQL["remove_callbacks"], "callbacks_submission (submission_id=?)"),
    "remove_requests": (SQL["remove_requests"], "PRIMARY KEY (id=?)"),
    "remove_submissions": (SQL["remove_submissions"], "(id=?)"),
    "forget_callbacks": (SQL["forget_callbacks"], "INTEGER PRIMARY KEY (rowid=?)"),
    "forget_leftovers": (SQL["forget_leftovers"], "PRIMARY KEY (digest=?)"),
}
"""Queries that serve a request or a loop: name → text, and the index it needs."""
BOUNDED = (
    "SCAN json_each", "SCAN needing", "SCAN callbacks", "SCAN (subquery",
    "SCAN deliveries USING INDEX deliveries_running",
)  # fmt: skip
"""Lists of parameters, rows that were searched, the first callbacks up to one that is not old, and what runs."""


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_use_their_index(many: tuple[Path, Path], name: str) -> None:
    """The one that was made for them, however many rows there are, and no table is read from end to end."""
    query, index = HOT[name]
    for path in many:
        with connection(path) as db:
            steps = plan(db, query)
        assert any(index in step for step in steps), steps
        assert not [step for step in steps if step.startswith("SCAN") and not step.startswith(BOUNDED)], steps


def test_conditions_on_requests_read_nothing_else(many: tuple[Path, Path]) -> None:
    """Their own rows are small. A kind has an index, and what a page needs is read in its order."""
    words, kind = Filter(words=("x", "y"), labels=(("a", "b"),)), Filter(kind="blend", words=("x",))
    with connection(many[0]) as db:
        for wanted, steps in (
            (words, ["SEARCH requests USING PRIMARY KEY (id<?)"]),
            (kind, ["SEARCH requests USING INDEX requests_kind (kind=? AND id<?)"]),
        ):
            query = requests_query(DIALECT, "submissions", wanted, ("x",), 9, newest_first=True)
            assert query is not None
            assert query.whole
            assert plan(db, query.text) == steps


def test_counts_read_indexes_only(many: tuple[Path, Path]) -> None:
    """No row is looked at, and the deliveries that are done are not counted."""
    for path in many:
        with connection(path) as db:
            for name, used in {
                "count_submissions": ["submissions_display"],
                "count_deliveries": ["deliveries_due", "deliveries_running", "deliveries_dead"],
            }.items():
                steps = [step for step in plan(db, SQL[name]) if step.startswith("SCAN")]
                assert [step.rpartition(" ")[2] for step in steps] == used, steps
                assert all("COVERING" in step or "running" in step for step in steps), steps


def test_every_statement_is_good_sql(many: tuple[Path, Path]) -> None:
    """Each one compiles, so that none waits for its day to fail."""
    with connection(many[0]) as db:
        for query in SQL.values():
            plan(db, query)


# The engine's lock


async def test_one_engine_per_file(path: Path) -> None:
    """The second one is refused with the first one's role; a second call of the first is no second engine."""
    first, second = await open_journal(path), await open_journal(path)
    await first.membership.join("serve", "serve", store="")
    await first.membership.join("serve", "serve", store="")
    with pytest.raises(EngineRunning, match=re.escape(str(path))) as caught:
        await second.membership.join("submit --wait", "submit --wait", store="")
    assert caught.value.holder == "serve"
    await first.membership.leave("")
    await first.membership.leave("")
    await second.membership.join("submit --wait", "submit --wait", store="")
    with pytest.raises(EngineRunning, match="submit --wait"):
        await first.membership.join("serve", "serve", store="")
    await second.aclose()
    await first.membership.join("serve", "serve", store="")
    await first.aclose()


def lose_lock(path: Path) -> Path:
    path.with_name(path.name + ".engine").unlink()
    return path


def symlink(path: Path) -> Path:
    other = path.with_name("symlink.db")
    other.symlink_to(path)
    return other


def hard_link(path: Path) -> Path:
    other = path.parent / "elsewhere" / "hard.db"
    other.parent.mkdir()
    other.hardlink_to(path)
    return other


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="this system has no such locks")
@pytest.mark.parametrize("reached", [lose_lock, symlink, hard_link])
async def test_a_second_engine_that_finds_no_lock_file(path: Path, reached: Callable[[Path], Path]) -> None:
    """The journal's own file is locked too, whatever its name and whoever removed the lock file. Neither a refusal nor
    an end takes SQLite's own locks away: both go on writing."""
    first = await open_journal(path)
    await first.membership.join("serve", "serve", store="")
    command = [sys.executable, "-c", HOLDER, str(reached(path))]
    holder = await asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True)
    assert b"EngineRunning: `receiver another process` already is the engine of" in holder.stderr
    second = await open_journal(path)
    with pytest.raises(EngineRunning):
        await second.membership.join("serve", "serve", store="")
    await second.aclose()
    await first.add(submission(1))
    await first.membership.leave("")
    third = await open_journal(path)
    await third.membership.join("worker", "worker", store="")
    await third.aclose()
    await first.aclose()


HOLDER = """
import asyncio
import sys
from pathlib import Path
from receiver.journal.membership import SingleMembership
held = SingleMembership(Path(sys.argv[1]))
asyncio.run(held.join("serve", "serve", store=""))
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
        await journal.membership.join("submit", "submit", store="")
    assert caught.value.holder == "serve"
    holder.kill()
    await holder.wait()
    await journal.membership.join("submit", "submit", store="")
    await journal.aclose()


async def test_an_engine_on_another_machine_is_told_by_its_name(path: Path) -> None:
    """On a disk that several machines see, where the lock holds between them."""
    first, second = await open_journal(path), await open_journal(path)
    await first.membership.join("serve", "owner", store="")
    path.with_name(path.name + ".engine").write_text(json.dumps({"role": "worker", "pid": 7, "host": "elsewhere"}))
    with pytest.raises(EngineRunning, match="`receiver worker`, process 7 on elsewhere already is the engine of"):
        await second.membership.join("serve", "owner", store="")
    await first.aclose()
    await second.aclose()


async def test_who_the_engine_of_a_file_is(path: Path) -> None:
    """Whoever asks gets what it said of itself; there is none before it has entered and after it has left."""
    first, second = await open_journal(path), await open_journal(path)
    assert await second.engines() == []
    await first.membership.join("serve", "an owner", store="a store")
    for journal in (first, second):
        (found,) = await journal.engines()
        assert (found.role, found.owner, found.store, found.leads) == ("serve", "an owner", "a store", True)
    assert (await second.membership.heartbeat("an owner"), await second.membership.lead("an owner")) == (True, True)
    await first.membership.leave("an owner")
    assert await second.engines() == []
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"role": null}', json.dumps({"pid": 7}), "\x00"])
async def test_a_lock_file_that_says_nothing(path: Path, text: str) -> None:
    """Its holder is another process, whatever the text is."""
    first, second = await open_journal(path), await open_journal(path)
    await first.membership.join("serve", "serve", store="")
    path.with_name(path.name + ".engine").write_text(text)
    with pytest.raises(EngineRunning) as caught:
        await second.membership.join("submit", "submit", store="")
    assert caught.value.holder == "another process"
    await first.aclose()
    await second.aclose()


# Many due rows

MANY = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)
INSERT INTO deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, manual)
SELECT
    printf('01KKGM7NK3%016d', n), 'e', printf('01KKGM7NK1%016d', n), 'folder', :now_ms, :now_ms, 'pending', 0, 0, 0
FROM numbers
"""


async def test_a_claim_costs_the_same_with_twenty_thousand_waiting(path: Path) -> None:
    """Neither its own claims nor its neighbour's look at the rows that wait. Counted in hundreds of SQLite's
    instructions, of which a look at the rows takes hundreds more; time would depend on the machine."""
    store = await open_store(path)
    assert isinstance(store, SQLiteStore)
    journal = Journal(store)
    await fill(journal, 4)
    await owe(journal, submission(4), "task.failed", 9, destination="screen")
    with connection(path) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(MANY, {"now_ms": NOW + 1})
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    await store._write(lambda db: db.set_progress_handler(tick, 100))
    for destination, claimed in (("folder", 4), ("screen", 1)):
        count = 0
        works = await journal.claim(destination, owner="me", limit=4, now_ms=NOW + 5)
        assert len(works) == claimed
        assert count <= 30
    await journal.aclose()


async def test_a_folder_given_by_mistake_keeps_its_mode(tmp_path: Path) -> None:
    """`sqlite:/` as root would lock everybody else out of the machine."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    with pytest.raises(JournalError):
        await open_store(folder)
    assert folder.stat().st_mode & 0o777 == 0o755


def another_database(path: Path) -> None:
    with connection(path) as db:
        db.execute("CREATE TABLE notes (text)")
        db.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize("made", [damaged, another_database])
async def test_a_file_given_by_mistake_stays_as_it_is(tmp_path: Path, made: Callable[[Path], None]) -> None:
    """`sqlite:/etc/passwd` as root would lock everybody else out of the machine, too."""
    path = tmp_path / "file"
    made(path)
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(JournalError):
        await open_store(path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_bytes() == before


async def test_only_its_owner_reads_a_journal(path: Path) -> None:
    """A copy that others could read is theirs no more, and neither is its log."""
    await (await open_journal(path)).aclose()
    path.chmod(0o644)
    journal = await open_journal(path)
    await journal.add(submission(1))
    files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    await journal.aclose()
