"""The journal on PostgreSQL through a transaction pooler, a real PgBouncer: each transaction may run on another
connection of the server, and nothing may be left on one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from urllib.parse import urlsplit

import msgspec
import poolers
import postgres
import pytest
from journals import ID, NOW, callback, completion, fill, owe, submission, take
from poolers import pooler
from postgres import asked, open_journal, store_of
from proxies import proxy
from waiting import PATIENCE

from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal import Change, Journal
from receiver.journal.postgres import connections
from receiver.journal.selection import Order

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def pooled() -> Iterator[str]:
    """URL of an empty database behind a pooler with three connections to the server."""
    with pooler(asyncio.run(postgres.new_database("pooled"))) as url:
        yield url


async def behind(url: str) -> Journal:
    return await open_journal(url, listen=False, statements=False)


async def test_everything_works_behind_a_pooler(pooled: str) -> None:
    """Two processes with ten connections between them share the three: tables, changes, claims, completions, engines,
    replay."""
    one, two = await behind(pooled), await behind(pooled)
    for journal in (one, two):
        await journal.membership.join("worker", f"engine-{journal is one}", store="s")
    await one.register({"folder": "file"})
    await fill(one, 100)
    await asyncio.gather(*(journal.change(ID, _count, callback(n)) for n in range(50) for journal in (one, two)))
    row = await two.get(ID)
    assert row is not None
    assert row.callbacks == len(await one.callbacks(ID)) == 100

    async def work(journal: Journal) -> int:
        done = 0
        while works := await take(journal, limit=9, owner=f"engine-{journal is one}"):
            done += sum(await asyncio.gather(*(journal.complete(completion(work)) for work in works)))
        return done

    assert sum(await asyncio.gather(work(one), work(two), work(one), work(two))) == 100
    assert (await one.membership.lead("engine-True"), await two.membership.lead("engine-False")) == (True, False)
    assert await two.membership.heartbeat("engine-False")
    fact = await owe(one, submission(1), "task.lost", 500)
    (work_again,) = await take(two)
    assert await two.complete(completion(work_again))
    order = Order(event_id=fact.id, submission_id=fact.submission_id, destination="folder")
    assert [found.outcome for found in await one.replay([order], NOW)] == ["again"]
    await one.aclose()
    await two.aclose()


def _count(row: Submission) -> Change:
    return Change(submission=msgspec.structs.replace(row, callbacks=row.callbacks + 1))


async def test_poison_fails_alone_behind_a_pooler(pooled: str) -> None:
    """A batch that fails is taken apart there as well."""
    journal = await behind(pooled)
    rows = [submission(5000 + number, deadline_ms=2**63 if number == 3 else NOW) for number in range(9)]
    results = await asyncio.gather(*(journal.add(row) for row in rows), return_exceptions=True)
    assert [isinstance(result, JournalError) for result in results] == [number == 3 for number in range(9)]
    await journal.aclose()


@pytest.mark.parametrize("pooling", [False, True])
async def test_whoever_is_cut_off_in_a_transaction_holds_its_rows_not_for_long(
    pooling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole between a process and PostgreSQL, or the pooler before it: others go on with its rows soon."""
    for settings in (connections.LOCAL, connections.SETTINGS):
        assert settings["idle_in_transaction_session_timeout"] == "10s"
        monkeypatch.setitem(settings, "idle_in_transaction_session_timeout", "1s")
    url = await postgres.new_database("cutoff")
    with pooler(url) if pooling else nullcontext(url) as reached:
        parts = urlsplit(reached)
        assert parts.port is not None
        async with proxy(parts.port) as wire:
            other = await open_journal(reached, listen=False, statements=not pooling)
            await other.add(submission(1))
            through = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{wire.port}").geturl()
            cut = await open_journal(through, listen=False, statements=not pooling)
            locked = asyncio.Event()

            def decide(row: Submission) -> Change:
                if not locked.is_set():
                    wire.hold()
                locked.set()
                return Change(submission=row, additions=(submission(2),))

            hanging = asyncio.create_task(cut.change(submission(1).id, decide))
            await locked.wait()
            assert await asyncio.wait_for(other.change(submission(1).id, _count), PATIENCE)
            wire.release()
            assert await hanging
            await asyncio.gather(cut.aclose(), other.aclose())


async def test_a_pooler_in_session_mode_hears_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no settings at the start of a connection: each transaction is given them. LISTEN works."""
    config = poolers.CONFIG.replace("pool_mode = transaction", "pool_mode = session").replace("size = 3", "size = 20")
    monkeypatch.setattr(poolers, "CONFIG", config)
    with pooler(await postgres.new_database("session")) as url:
        one, two = await open_journal(url, statements=False), await open_journal(url, statements=False)
        for name, value in connections.PLANS.items():
            assert await asked(one, "SELECT current_setting($1)", name) == value
        heard = asyncio.Event()
        one.subscribe(lambda ids: heard.set())
        await store_of(one)._notifier.listening.wait()
        heard.clear()
        await two.add(submission(1, send_due_ms=1))
        await asyncio.wait_for(heard.wait(), PATIENCE)
        await two.aclose()
        await one.aclose()


async def test_a_pooler_is_told_from_a_server(pooled: str) -> None:
    """In transaction mode, without the settings for one, the start is refused, and the settings are named."""
    with pytest.raises(JournalError, match="RECEIVER_DATABASE_STATEMENTS=false"):
        await open_journal(pooled)
