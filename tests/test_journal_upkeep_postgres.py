"""Upkeep of a journal on PostgreSQL: several processes at once, what the server does by itself, and plans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from journals import ID, NOW, callback, completion, fill, finished, submission, take
from postgres import PostgresStore, postgres_store
from postgres_server import Server

from receiver.errors import InputError, JournalError
from receiver.events import Input, Submission, first_id
from receiver.journal import Change, Work, beating
from receiver.journal.postgres import PostgresJournal, open_postgres
from receiver.journal.postgres.connections import WIPE_SECONDS
from receiver.journal.postgres.faults import is_lost, sentence
from receiver.journal.postgres.statements import SQL
from receiver.journal.selection import Order, Selection

LATER = NOW + 10**12


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PostgresStore]:
    async with postgres_store(tmp_path) as made:
        yield made


@pytest.fixture
async def journal(store: PostgresStore) -> AsyncIterator[PostgresJournal]:
    opened = await store.open()
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(store: PostgresStore) -> AsyncIterator[PostgresJournal]:
    """Another process's."""
    opened = await store.open()
    yield opened
    await opened.aclose()


async def orders_of(journal: PostgresJournal) -> list[Order]:
    found = await journal.select_deliveries(Selection(), after="", limit=1000)
    return [
        Order(event_id=item.event_id, submission_id=item.submission_id, destination=item.destination,
              delivery_id=item.id) for item in found
    ]  # fmt: skip


async def vacuums(journal: PostgresJournal) -> list[int]:
    """How often each table was cleaned up because somebody asked for it."""
    statement = (
        "SELECT vacuum_count FROM pg_stat_user_tables WHERE schemaname = 'receiver' AND relname = ANY ($1) ORDER BY 1"
    )
    tables = ["submissions", "callbacks", "events", "deliveries", "attempts"]
    return [row[0] for row in await journal._read(lambda db: db.fetch(statement, tables))]


# --- several at once ---------------------------------------------------------------------------------------------


async def test_what_is_replayed_meanwhile_is_not_deleted(journal: PostgresJournal, other: PostgresJournal) -> None:
    """Of a purge and a replay in the same moment one comes first: what is owed is whole, what is gone is all gone."""
    for _ in range(5):
        await finished(journal, 40)
        orders = await orders_of(journal)
        keys = await journal.old("submissions", LATER, "")
        _, replayed = await asyncio.gather(
            journal.delete("submissions", keys, problem=""),
            asyncio.wait_for(asyncio.gather(*(other.replay(orders[at::4], LATER) for at in range(4))), 30),
        )
        owed = {item.submission_id for item in await journal.deliveries(limit=100, status="pending")}
        told = {item.order.submission_id for part in replayed for item in part if item.outcome == "again"}
        assert owed == told == {row.id for row in await journal.submissions(limit=100)}
        assert await journal.problems() == []
        for row in await journal.submissions(limit=100):
            await journal.erase(row.id, force=True)


async def test_a_replay_beside_claims_gives_each_one_attempt(journal: PostgresJournal, other: PostgresJournal) -> None:
    """What an engine takes in that moment runs; nothing is taken out of its hands, and nothing is owed twice."""
    await finished(journal, 60)
    orders = await orders_of(journal)
    replayed, *claimed = await asyncio.gather(
        journal.replay(orders, NOW), *(take(other, limit=20, owner=f"engine-{number}") for number in range(6))
    )
    claimed.append(await take(other, limit=99))
    taken = [work.delivery.id for works in claimed for work in works]
    assert sorted(taken) == sorted(item.delivery_id or "" for item in replayed)
    assert {item.outcome for item in await journal.replay(orders, NOW)} == {"running"}


async def test_two_who_delete_leave_no_file_to_each_other(journal: PostgresJournal, other: PostgresJournal) -> None:
    """The last two that need a file go at the same moment: it is left over, for somebody to remove."""
    for number in range(1, 11):
        picture = Input(digest=f"{number:064}", type="image/png", size=1)
        for row in (submission(number, inputs=(picture,)), submission(100 + number, inputs=(picture,))):
            await journal.add(row)
        await asyncio.gather(
            journal.erase(submission(number).id, force=True), other.erase(submission(100 + number).id, force=True)
        )
    assert len(await journal.leftovers("")) == 10
    assert await journal.needed_files() == []


async def test_a_replay_is_heard_by_other_processes(journal: PostgresJournal, other: PostgresJournal) -> None:
    """Also one of a command that ends at once."""
    await finished(journal, 1)
    heard = asyncio.Event()
    other.listen(heard.set)
    await asyncio.wait_for(heard.wait(), 10)  # as soon as it listens: something may have been said before
    heard.clear()
    await journal.replay(await orders_of(journal), NOW)
    await asyncio.wait_for(heard.wait(), 10)


async def test_word_goes_round_without_prepared_statements(store: PostgresStore, other: PostgresJournal) -> None:
    """Also of what is due at once in a process that does without them, as it may behind any pooler."""
    teller = await open_postgres(store.url, statements=False)
    heard = asyncio.Event()
    other.listen(heard.set)
    await asyncio.wait_for(heard.wait(), 10)  # as soon as it listens: something may have been said before
    heard.clear()
    await teller.add(submission(1, send_due_ms=1))
    await asyncio.wait_for(heard.wait(), 10)
    await teller.aclose()


async def test_connections_that_the_server_ends_lose_no_word(journal: PostgresJournal, store: PostgresStore) -> None:
    """However often it does, and in whatever moment: each error is the journal's own, so whoever waits tries again,
    and nothing that was to be completed stays as if it ran."""
    await fill(journal, 300)
    works = await take(journal, limit=300)
    stop = asyncio.Event()

    async def end_them() -> None:
        statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'receiver'"
        while not stop.is_set():
            await store.execute(statement)
            await asyncio.sleep(0.01)

    async def complete(work: Work) -> None:
        while True:
            with suppress(JournalError):
                assert await journal.complete(completion(work))
                return
            await asyncio.sleep(0.05)

    ending = asyncio.create_task(end_them())
    await asyncio.gather(*(complete(work) for work in works[:200]))
    stop.set()
    await ending
    await asyncio.gather(*(complete(work) for work in works[200:]))
    assert await journal.deliveries(limit=1, status="running") == []


def test_what_the_driver_loses_track_of_is_a_lost_connection() -> None:
    """asyncpg raises it for a connection that the server ends in the moment in which it is to be used; it is no
    InterfaceError, and was once taken for a fault of ours."""
    lost = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert is_lost(lost)
    assert sentence(lost, "db/receiver").fault == "unreachable"


def test_a_servers_disk_that_fails_is_no_fault_of_what_is_written() -> None:
    """Whoever waits goes on waiting, and the provider is told to come again."""
    told = sentence(asyncpg.PostgresIOError("could not write block 7: Input/output error"), "db/receiver")
    assert told.fault == "io"
    assert "could not write block 7" in str(told)
    assert "Look at the server's disk and its log." in str(told)


# --- the database as a whole -------------------------------------------------------------------------------------


async def test_a_backup_is_pg_dumps(journal: PostgresJournal, tmp_path: Path) -> None:
    """The sentence names the tool and where the journal is, without a password."""
    with pytest.raises(InputError, match=r"pg_dump --format=custom --schema=receiver .* pg_restore") as raised:
        await journal.back_up(tmp_path / "copy")
    assert "postgresql://" not in str(raised.value)
    assert not (tmp_path / "copy").exists()


async def test_compacting_gives_space_back(journal: PostgresJournal, other: PostgresJournal) -> None:
    """Not while an engine runs; afterwards the tables are as small as what is left."""
    rows = await finished(journal, 300, prompt="".join(chr(0x4E00 + n % 9000) for n in range(3000)))
    for row in rows[10:]:
        assert await journal.erase(row.id, force=True)
    await other.become_engine("serve", "serve", store="here")
    assert await journal.compact() is None
    await other.resign("serve")
    sizes = await journal.compact()
    assert sizes is not None
    assert sizes[1] < sizes[0] / 3
    assert len(await journal.submissions(limit=100)) == 10
    assert await journal.engines() == []


@asynccontextmanager
async def compacting(
    journal: PostgresJournal, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncio.Task[Any]]:
    """It has to wait for a table, and its signs of life are frequent."""
    monkeypatch.setattr(beating, "BEAT_SECONDS", 0.01)
    db = await asyncpg.connect(store.url)
    async with asyncio.timeout(20), db.transaction():
        await db.execute("LOCK TABLE receiver.leftovers")
        task = asyncio.create_task(journal.compact())
        while not await journal.engines():  # noqa: ASYNC110 - the journal has no event of its own
            await asyncio.sleep(0.01)
        yield task
    await db.close()


async def test_compacting_shows_signs_of_life(
    journal: PostgresJournal, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, no engine begins meanwhile."""
    async with compacting(journal, store, monkeypatch) as task:
        await store.execute("UPDATE receiver.engines SET beat = beat - interval '1 hour'")
        while not await journal.engines():  # noqa: ASYNC110 - the journal has no event of its own
            await asyncio.sleep(0.01)
    assert await task is not None
    assert await journal.engines() == []


async def test_compacting_that_was_taken_for_dead_is_broken_off(
    journal: PostgresJournal, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may have begun, and would wait for the tables."""
    async with compacting(journal, store, monkeypatch) as task:
        await store.execute("DELETE FROM receiver.engines")
        with pytest.raises(JournalError, match="Broken off"):
            await task


async def test_what_is_erased_is_cleaned_up_at_once(journal: PostgresJournal, store: PostgresStore) -> None:
    """The server has looked after its dead rows; where the prompt may still stand is told, for it cannot be known."""
    rows = await finished(journal, 20)
    before = await vacuums(journal)
    assert await journal.erase(rows[0].id, force=True)
    told = await journal.scrub("a paper boat")
    assert told is not None
    assert all(words in told for words in ("write-ahead log", "replicas", "backups", "receiver journal compact"))
    assert await journal.scrub("") is None
    assert await vacuums(journal) == [count + 2 for count in before]


async def test_a_server_that_forgets_is_told_of() -> None:
    """With `fsync = off` a crash of its machine takes back what was acknowledged."""
    with Server(fsync="off") as server:
        opened = await open_postgres(server.url())
        [problem] = await opened.problems()
        await opened.aclose()
    assert "fsync = off" in problem


# --- marks of transactions ---------------------------------------------------------------------------------------


async def marks(journal: PostgresJournal, which: str = "true") -> int:
    """How many there are of a kind."""
    counted = f"SELECT count(*) FROM receiver.commits WHERE {which}"  # noqa: S608
    return int(await journal._read(lambda db: db.fetchval(counted)))


async def test_marks_of_short_processes_do_not_pile_up(store: PostgresStore, journal: PostgresJournal) -> None:
    """Each command leaves its last ones. The first write of any process wipes off those that are old, and so does one
    each hour after it."""
    for hour in range(3):
        for _ in range(3):
            command = await store.open()
            await command.register({"folder": "file"})
            await command.aclose()
        await store.execute("UPDATE receiver.commits SET made = made - interval '2 hours'")
        journal._connections._wipe_at -= WIPE_SECONDS * bool(hour)
        await journal.check()
        assert await marks(journal, "made < now() - interval '1 hour'") == 0
        assert await marks(journal) == 1


async def test_contention_leaves_no_marks(journal: PostgresJournal, other: PostgresJournal) -> None:
    """A batch that was written in vain, because another process was there first, forgets no mark that it was to wipe
    off."""

    def heard(row: Submission) -> Change:
        return Change(submission=msgspec.structs.replace(row, callbacks=row.callbacks + 1))

    await journal.add(submission(1))
    for _ in range(100):
        await journal.change(ID, heard)
        await other.change(ID, heard)
    assert await marks(journal) <= 4


# --- plans -------------------------------------------------------------------------------------------------------

SOME: dict[str, Any] = {
    "ids": ["a", "b"], "id": "a", "submission_id": "a", "event_id": "a", "destination": None, "status": None,
    "type": None, "since_ms": None, "until_ms": None, "after": "", "until": "~", "before": first_id(NOW), "limit": 200,
    "now_ms": NOW, "numbers": [1, 2], "problem": "gone", "digests": ["a"], "submission_ids": ["a"], "event_ids": ["a"],
    "destinations": ["a"], "name": "a", "a": "", "b": "",
}  # fmt: skip
"""Values of the statements' parameters."""
NUMBERED = {"select_events", "select_submission_events", "callbacks_after"}
"""Where a page begins after a number."""
PLANS = {
    "select_deliveries": "deliveries_pkey",
    "select_submission_deliveries": "deliveries_submission",
    "select_events": "events_pkey",
    "select_submission_events": "events_id",
    "event_deliveries": "deliveries_submission",
    "events_there": "events_id",
    "newest_deliveries": "deliveries_submission",
    "deliveries_of": "deliveries_pkey",
    "lock_deliveries": "deliveries_pkey",
    "revive_deliveries": "deliveries_pkey",
    "settled": "submissions_pkey",
    "settled_before": "submissions_pkey",
    "with_files_before": "files_pkey",
    "callbacks_after": "callbacks_pkey",
    "newest_callback": "callbacks_pkey",
    "delete_numbered_callbacks": "callbacks_pkey",
    "delete_callbacks": "callbacks_submission",
    "delete_attempts": "attempts_pkey",
    "delete_deliveries": "deliveries_submission",
    "delete_events": "events_id",
    "delete_submissions": "submissions_pkey",
    "drop_media": "submissions_pkey",
    "leave_files": "files_digest",
    "delete_files": "files_pkey",
    "list_leftovers": "leftovers_pkey",
    "forget_leftovers": "leftovers_pkey",
    "needed_files": "files_digest",
    "list_children": "submissions_parent",
    "list_owed": "deliveries_submission",
    "page_files": "files_pkey",
    "page_submissions": "submissions_pkey",
}
"""The index that each of the statements goes by."""


async def test_upkeep_uses_indexes(journal: PostgresJournal, store: PostgresStore) -> None:
    """Deleting by age and replaying read no table from end to end, however many rows there are."""
    await finished(journal, 300)
    await asyncio.gather(*(journal.change(ID, lambda row: None, callback(number)) for number in range(300)))
    await store.execute("ANALYZE")
    plans = {statement: await plan_of(journal, statement) for statement in PLANS}
    bad = {name: plan for name, plan in plans.items() if "Seq Scan" in plan or PLANS[name] not in plan}
    assert not bad, "\n".join(f"{name}: {plan}" for name, plan in bad.items())


async def plan_of(journal: PostgresJournal, name: str) -> str:
    values = SOME | ({"after": 0} if name in NUMBERED else {})
    text = f"EXPLAIN {SQL[name].text}"
    return "\n".join(row[0] for row in await journal._read(lambda db: db.fetch(text, *SQL[name].bind(values))))
