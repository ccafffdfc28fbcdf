"""Engines on PostgreSQL: who lives, who leads, and what becomes of what a dead one ran. Time is the database's, and a
test moves it by moving what was written at it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import postgres
import pytest
from journals import NOW, completion, fill, owe, status_of, submission, take
from postgres import PostgresStore
from receiver.journal.postgres.engines import TRUCE_SECONDS

from receiver.errors import EngineRunning, JournalError
from receiver.journal import DEAD_SECONDS, LEASE_SECONDS
from receiver.journal.postgres import Journal


@pytest.fixture
async def store() -> PostgresStore:
    return PostgresStore(await postgres.empty_database())


@pytest.fixture
async def journal(store: PostgresStore) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.aclose()


async def pass_time(store: PostgresStore, seconds: float) -> None:
    """As far as engines and leases can tell."""
    await store.execute("UPDATE receiver.engines SET beat = beat - $1 * interval '1 second'", seconds)
    await store.execute("UPDATE receiver.leases SET expires = expires - $1 * interval '1 second'", seconds)


async def test_any_number_of_engines_may_last(journal: Journal) -> None:
    """`serve` and `worker` run side by side; each is listed with its machine and version, the leader first."""
    await journal.become_engine("serve", "a", store="bucket")
    await journal.become_engine("worker", "b", store="bucket")
    assert await journal.lead("b")
    found = await journal.engines()
    assert [(one.owner, one.role, one.store, one.leads) for one in found] == [
        ("b", "worker", "bucket", True),
        ("a", "serve", "bucket", False),
    ]
    assert all(one.host and one.version and one.seconds < 5 for one in found)


async def test_who_only_steps_in_finds_the_others(store: PostgresStore, journal: Journal) -> None:
    """`submit --wait` runs no engine where one lives; a dead one is none."""
    await journal.become_engine("worker", "a", store="s")
    with pytest.raises(EngineRunning, match="`receiver worker` on ") as caught:
        await journal.become_engine("submit --wait", "b", store="s")
    assert caught.value.holder == "worker"
    await pass_time(store, DEAD_SECONDS + 1)
    await journal.become_engine("submit --wait", "b", store="s")
    assert [one.owner for one in await journal.engines()] == ["b"]


@pytest.mark.parametrize("role", ["serve", "worker"])
async def test_whoever_starts_beside_a_compaction_is_told_of_it(journal: Journal, role: str) -> None:
    """It waits for its end, as beside any other that runs alone; that it names no place for pictures is no quarrel."""
    await journal.become_engine("journal compact", "compact-1", store="")
    with pytest.raises(EngineRunning, match="`receiver journal compact` on ") as caught:
        await journal.become_engine(role, "a", store="s")
    assert caught.value.holder == "journal compact"
    await journal.resign("compact-1")
    await journal.become_engine(role, "a", store="s")


async def test_two_that_step_in_at_once_are_one(store: PostgresStore) -> None:
    """Whoever comes second, be it by a millisecond, is refused."""
    journals = [await store.open() for _ in range(4)]
    entered = await asyncio.gather(
        *(one.become_engine("submit --wait", f"e{n}", store="s") for n, one in enumerate(journals)),
        return_exceptions=True,
    )
    assert sum(result is None for result in entered) == 1
    for one in journals:
        await one.aclose()


async def test_engines_share_one_store_of_pictures(journal: Journal) -> None:
    """Another one's pictures would not be found: refused, naming both places and the setting."""
    await journal.become_engine("serve", "a", store="web-1:/data/media")
    with pytest.raises(JournalError, match="RECEIVER_MEDIA") as caught:
        await journal.become_engine("worker", "b", store="web-2:/data/media")
    assert "web-1:/data/media" in str(caught.value)
    assert "web-2:/data/media" in str(caught.value)
    await journal.resign("a")
    await journal.become_engine("worker", "b", store="web-2:/data/media")


async def test_a_beat_keeps_alive_whoever_was_not_buried(store: PostgresStore, journal: Journal) -> None:
    """However late it comes, for a database that was away makes all silent at once; who was buried learns it."""
    await journal.become_engine("worker", "a", store="s")
    for _ in range(3):
        await pass_time(store, DEAD_SECONDS + 1)
        assert await journal.engines() == []
        assert await journal.beat("a")
        assert [one.owner for one in await journal.engines()] == ["a"]
    await pass_time(store, DEAD_SECONDS + 1)
    await journal.free_running("another", NOW)
    assert not await journal.beat("a")
    assert not await journal.beat("nobody")


async def test_one_leads_until_it_is_late(store: PostgresStore, journal: Journal) -> None:
    """Who leads goes on; others begin when the lease is over, or was given back."""
    await journal.become_engine("serve", "a", store="s")
    await journal.become_engine("worker", "b", store="s")
    assert await journal.lead("a")
    assert not await journal.lead("b")
    await pass_time(store, LEASE_SECONDS - 1)
    assert await journal.lead("a")
    await pass_time(store, LEASE_SECONDS - 1)
    assert not await journal.lead("b")
    await pass_time(store, 2)
    assert await journal.lead("b")
    assert not await journal.lead("a")
    await journal.resign("b")
    await journal.resign("b")
    assert await journal.lead("a")


async def test_a_clock_that_is_set_back_leaves_no_dead_leader(store: PostgresStore, journal: Journal) -> None:
    """The database's, by an hour, and the leader died: another one leads at once, and nobody counts the dead one among
    the living until the old time comes round."""
    await journal.become_engine("worker", "a", store="s")
    assert await journal.lead("a")
    await pass_time(store, -3600)
    await journal.become_engine("worker", "b", store="s")
    assert await journal.lead("b")
    assert [(one.owner, one.leads) for one in await journal.engines()] == [("b", True)]


async def test_a_clock_that_is_set_back_a_little_makes_no_second_leader(store: PostgresStore, journal: Journal) -> None:
    """It is adjusted all the time."""
    await journal.become_engine("worker", "a", store="s")
    await journal.become_engine("worker", "b", store="s")
    assert await journal.lead("a")
    await pass_time(store, -1)
    assert not await journal.lead("b")
    assert await journal.lead("a")


async def test_many_that_would_lead_are_one(store: PostgresStore) -> None:
    """All ask in the same moment; one is told yes."""
    journals = [await store.open() for _ in range(5)]
    for _ in range(5):
        answers = await asyncio.gather(*(one.lead(f"e{n}") for n, one in enumerate(journals)))
        assert sum(answers) == 1
        await pass_time(store, LEASE_SECONDS + 1)
    for one in journals:
        await one.aclose()


async def test_what_the_dead_ran_is_freed_and_what_the_living_run_is_not(
    store: PostgresStore, journal: Journal
) -> None:
    """Freed once, whoever does it; the dead one's late completion is refused, and its next beat."""
    await journal.become_engine("worker", "dead", store="s")
    await fill(journal, 3)
    (theirs,) = await take(journal, limit=1, owner="dead")
    await pass_time(store, DEAD_SECONDS + 1)
    await journal.become_engine("worker", "alive", store="s")
    (ours,) = await take(journal, limit=1, owner="alive")
    other = await store.open()
    freed = await asyncio.gather(journal.free_running("alive", NOW), other.free_running("third", NOW))
    assert sorted(freed) == [0, 1]
    assert await status_of(journal, int(theirs.delivery.id[10:])) == "pending"
    assert await status_of(journal, int(ours.delivery.id[10:])) == "running"
    assert not await journal.complete(completion(theirs))
    assert not await journal.beat("dead")
    assert await journal.complete(completion(ours))
    await other.aclose()


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_database_clock_that_is_set_frees_nothing_of_the_living(
    store: PostgresStore, journal: Journal, hours: int
) -> None:
    """As after a failover: all seem dead at once. Nobody is buried before each of them, which may be just about to,
    has had its turn to give a sign of life; whoever gave none is."""
    for owner in ("leader", "alive", "dead"):
        await journal.become_engine("worker", owner, store="s")
    await fill(journal, 2)
    (ours,) = await take(journal, limit=1, owner="alive")
    (theirs,) = await take(journal, limit=1, owner="dead")
    await pass_time(store, hours * 3600)
    assert await journal.free_running("leader", NOW) == 0
    assert await journal.beat("leader")
    assert await journal.free_running("leader", NOW) == 0
    assert await journal.beat("alive")
    await store.execute("UPDATE receiver.leases SET expires = expires - $1 * interval '1 second'", TRUCE_SECONDS)
    assert await journal.free_running("leader", NOW) == 1
    assert await journal.complete(completion(ours))
    assert not await journal.complete(completion(theirs))
    assert not await journal.beat("dead")


async def test_a_truce_is_over_when_the_clock_is_set_back(store: PostgresStore, journal: Journal) -> None:
    """The dead are not left alone until the old time comes round."""
    await journal.become_engine("worker", "a", store="s")
    await journal.become_engine("worker", "dead", store="s")
    await fill(journal, 1)
    await take(journal, owner="dead")
    await pass_time(store, 3600)
    assert await journal.beat("a")
    await store.execute("UPDATE receiver.leases SET expires = expires + interval '1 hour'")
    assert await journal.free_running("a", NOW) == 1


async def test_what_is_abandoned_is_told_of_after_the_clock_was_set_back(
    store: PostgresStore, journal: Journal
) -> None:
    """A sign of life from the time to come is nobody's who would free it."""
    await journal.become_engine("worker", "dead", store="s")
    await fill(journal, 1)
    await take(journal, owner="dead")
    assert await journal.problems() == []
    await pass_time(store, -3600)
    assert ["1 deliveries were under way" in problem for problem in await journal.problems()] == [True]


async def test_what_an_engine_left_by_resigning_is_freed(journal: Journal) -> None:
    """It had said goodbye, so nobody waits for its time to be over."""
    await journal.become_engine("worker", "a", store="s")
    await fill(journal, 1)
    await take(journal, owner="a")
    assert await journal.free_running("b", NOW) == 0
    await journal.resign("a")
    assert await journal.free_running("b", NOW) == 1


async def test_a_claim_that_was_broken_off_is_given_back_at_the_end(store: PostgresStore, journal: Journal) -> None:
    """An engine that stops in the middle of a claim leaves nothing running, and nobody is charged."""
    await journal.become_engine("worker", "a", store="s")
    await fill(journal, 2)
    other = await asyncpg.connect(store.url)
    for broken_off in range(20):
        claiming = asyncio.create_task(take(journal, owner="a", limit=1))
        for _ in range(broken_off * 3):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        await journal.resign("a")
        left = await other.fetch("SELECT id, attempt, status FROM receiver.deliveries ORDER BY id")
        if not claiming.cancelled():
            break  # it was quicker
        assert [(row["attempt"], row["status"]) for row in left] == [(0, "pending")] * 2
        assert await other.fetchval("SELECT count(*) FROM receiver.attempts") == 0
    await other.close()


# Two processes


CLAIMER = """
import asyncio, json, sys
from receiver.deliveries import Completion
from receiver.journal.postgres import open_store as open_postgres

async def main(url, owner, now_ms):
    journal = Journal(await open_postgres(url))
    print("ready", flush=True)
    sys.stdin.readline()
    async def lane():
        while works := await journal.claim("folder", owner=owner, limit=7, now_ms=now_ms):
            for work in works:
                print(json.dumps(["begin", work.delivery.submission_id, work.delivery.id]), flush=True)
            for work in works:
                print(json.dumps(["end", work.delivery.submission_id, work.delivery.id]), flush=True)
                assert await journal.complete(Completion(
                    delivery_id=work.delivery.id, attempt=work.delivery.attempt, owner=owner, outcome="succeeded",
                    status="succeeded", finished_ms=now_ms, due_ms=now_ms, counts=False))
    await asyncio.gather(lane(), lane(), lane())
    await journal.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_two_processes_share_the_work_and_nothing_twice(store: PostgresStore, journal: Journal) -> None:
    """Each delivery is attempted once, those that run one after the other included, and both processes take part."""
    await fill(journal, 150)
    for number in range(1, 51):
        await owe(journal, submission(number), "task.progressed", number + 1000, percent=46, manual=True)
    pipe = asyncio.subprocess.PIPE
    claimers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLAIMER, store.url, f"claimer-{n}", str(NOW), stdin=pipe, stdout=pipe
        )
        for n in range(2)
    ]
    lines: list[tuple[int, list[str]]] = []

    async def read(number: int, output: asyncio.StreamReader) -> None:
        async for line in output:
            lines.append((number, json.loads(line)))

    for claimer in claimers:
        assert claimer.stdout is not None
        assert await claimer.stdout.readline() == b"ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write(b"go\n")
    await asyncio.gather(*(read(n, claimer.stdout) for n, claimer in enumerate(claimers) if claimer.stdout))
    assert [await claimer.wait() for claimer in claimers] == [0, 0]
    begun = Counter(delivery for _, (what, _, delivery) in lines if what == "begin")
    assert len(begun) == 200
    assert set(begun.values()) == {1}
    assert {number for number, _ in lines} == {0, 1}
    left = await journal.deliveries(limit=999)
    assert {one.status for one in left} == {"succeeded"}
    attempts = await journal._read(
        lambda db: db.fetchval("SELECT count(*) FROM receiver.attempts WHERE outcome = 'succeeded' AND number = 1")
    )
    assert attempts == 200
