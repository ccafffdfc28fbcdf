"""Upkeep of a journal on PostgreSQL: several processes at once, what the server does by itself, and plans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from journals import NOW, completion, fill, finished, submission, take
from postgres import PostgresStore, asked, open_journal, postgres_store
from postgres_server import Server
from waiting import PATIENCE

from receiver.errors import InputError, JournalError
from receiver.events import Input
from receiver.journal import Journal, Work
from receiver.journal.postgres.connections import is_lost, sentence
from receiver.journal.selection import Order

LATER = NOW + 10**12


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PostgresStore]:
    async with postgres_store(tmp_path) as made:
        yield made


@pytest.fixture
async def journal(store: PostgresStore) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(store: PostgresStore) -> AsyncIterator[Journal]:
    """Another process's."""
    opened = await store.open()
    yield opened
    await opened.aclose()


async def orders_of(journal: Journal) -> list[Order]:
    found = await journal.deliveries(limit=1000)
    return [
        Order(event_id=item.event_id, submission_id=item.submission_id, destination=item.destination,
              delivery_id=item.id) for item in found
    ]  # fmt: skip


async def vacuums(journal: Journal) -> list[int]:
    """Count the times that each table was cleaned up on request."""
    statement = (
        "SELECT array_agg(vacuum_count ORDER BY 1) FROM pg_stat_user_tables "
        "WHERE schemaname = 'receiver' AND relname = ANY ($1)"
    )
    tables = ["submissions", "callbacks", "events", "deliveries", "attempts"]
    found = await asked(journal, statement, tables)
    assert isinstance(found, list)
    return found


# --- several at once ---------------------------------------------------------------------------------------------


async def test_what_is_replayed_meanwhile_is_not_deleted(journal: Journal, other: Journal) -> None:
    """Of a purge and a replay in the same moment one comes first: what is owed is whole, what is gone is all gone."""
    for _ in range(5):
        await finished(journal, 40)
        orders = await orders_of(journal)
        keys = await journal.old("submissions", LATER, None)
        _, replayed = await asyncio.gather(
            journal.delete("submissions", keys, problem=""),
            asyncio.wait_for(asyncio.gather(*(other.replay(orders[at::4], LATER) for at in range(4))), PATIENCE),
        )
        owed = {item.submission_id for item in await journal.deliveries(limit=100, status="pending")}
        told = {item.order.submission_id for part in replayed for item in part if item.outcome == "again"}
        assert owed == told == {row.id for row in await journal.submissions(limit=100)}
        assert await journal.problems() == []
        for row in await journal.submissions(limit=100):
            await journal.erase(row.id, force=True)


async def test_a_replay_beside_claims_gives_each_one_attempt(journal: Journal, other: Journal) -> None:
    """What an engine takes in that moment runs; nothing is taken out of its hands, and nothing is owed twice."""
    await finished(journal, 60)
    orders = await orders_of(journal)
    replayed, claimed = await asyncio.gather(
        journal.replay(orders, NOW),
        asyncio.gather(*(take(other, limit=20, owner=f"engine-{number}") for number in range(6))),
    )
    claimed.append(await take(other, limit=99))
    taken = [work.delivery.id for works in claimed for work in works]
    assert sorted(taken) == sorted(item.delivery_id or "" for item in replayed)
    assert {item.outcome for item in await journal.replay(orders, NOW)} == {"running"}


async def test_two_who_delete_leave_no_file_to_each_other(journal: Journal, other: Journal) -> None:
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


async def test_connections_that_the_server_ends_lose_no_word(journal: Journal, store: PostgresStore) -> None:
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


async def test_a_backup_is_pg_dumps(journal: Journal, tmp_path: Path) -> None:
    """The sentence names the tool and where the journal is, without a password."""
    with pytest.raises(InputError, match=r"pg_dump --format=custom --schema=receiver .* pg_restore") as raised:
        await journal.store.back_up(tmp_path / "copy")
    assert "postgresql://" not in str(raised.value)
    assert not (tmp_path / "copy").exists()


async def test_compacting_gives_space_back(journal: Journal, other: Journal) -> None:
    """Afterwards the tables are as small as what is left."""
    rows = await finished(journal, 300, prompt="".join(chr(0x4E00 + n % 9000) for n in range(3000)))
    for row in rows[10:]:
        assert await journal.erase(row.id, force=True)
    sizes = await journal.store.compact()
    assert sizes is not None
    assert sizes[1] < sizes[0] / 3
    assert len(await journal.submissions(limit=100)) == 10


async def test_compacting_beside_an_engine_is_refused(journal: Journal, other: Journal) -> None:
    """It would keep the engine from reading. Without one it works, and leaves no engine behind."""
    await other.membership.join("worker", "engine", store="a store")
    assert await journal.store.compact() is None
    await other.membership.leave("engine")
    assert await journal.store.compact() is not None
    assert await other.membership.owners() == frozenset()


async def test_what_is_erased_is_cleaned_up_at_once(journal: Journal, store: PostgresStore) -> None:
    """The server has looked after its dead rows; where the prompt may still stand is told, for it cannot be known."""
    rows = await finished(journal, 20)
    before = await vacuums(journal)
    assert await journal.erase(rows[0].id, force=True)
    told = await journal.store.scrub("a paper boat")
    assert told is not None
    assert all(words in told for words in ("write-ahead log", "replicas", "backups", "receiver journal compact"))
    assert await journal.store.scrub("") is None
    assert await vacuums(journal) == [count + 2 for count in before]


async def test_a_server_that_forgets_is_told_of() -> None:
    """With `fsync = off` a crash of its machine takes back what was acknowledged."""
    with Server(fsync="off") as server:
        opened = await open_journal(server.url())
        [problem] = await opened.problems()
        await opened.aclose()
    assert "fsync = off" in problem
