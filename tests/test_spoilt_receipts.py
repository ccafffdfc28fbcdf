"""A receipt that cannot be read, in a row of a database: its delivery runs without it, and no other waits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from journals import NOW, SQLiteStore, completion, delivery, event, fill, submission, take
from postgres import PostgresStore

from receiver.journal import Journal
from receiver.journal.selection import Order
from receiver.journal.store import Filter

SPOILT = delivery(event(submission(1)), 1).id


@pytest.fixture
async def journal(tables: SQLiteStore | PostgresStore) -> AsyncIterator[Journal]:
    """It owes two deliveries."""
    opened = await tables.open()
    await fill(opened, 2)
    yield opened
    await opened.aclose()


async def spoil(tables: SQLiteStore | PostgresStore) -> None:
    await tables.spoil(f"UPDATE deliveries SET receipt = '{{' WHERE id = '{SPOILT}'")  # noqa: S608


async def test_it_is_claimed_without_it(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """Its handler learns of no receipt: a replay may post a second time where it would have edited."""
    await spoil(tables)
    works = await take(journal)
    assert [work.delivery.submission_id for work in works] == [submission(1).id, submission(2).id]
    assert [work.receipts for work in works] == [{}, {}]
    assert await journal.complete(completion(works[0]))
    assert [attempt.outcome for attempt in await journal.attempts(SPOILT)] == ["succeeded"]


async def test_it_is_claimed_again_after_its_engine_has_gone(
    tables: SQLiteStore | PostgresStore, journal: Journal
) -> None:
    """It is freed, and retried, like the other one."""
    await take(journal)
    assert await journal.free_running("", NOW) == 2
    await spoil(tables)
    works = await take(journal, 3_600_000)
    assert [work.delivery.submission_id for work in works] == [submission(1).id, submission(2).id]
    assert [attempt.outcome for attempt in await journal.attempts(SPOILT)] == ["vanished", None]


async def test_it_is_listed_without_it(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """Whoever looks for what is wrong sees it, and all beside it."""
    await spoil(tables)
    found = await journal.deliveries(limit=9)
    assert [(item.submission_id, item.receipt) for item in found] == [(submission(n).id, None) for n in (2, 1)]
    assert await journal.delivery(SPOILT) == found[1]
    assert await journal.deliveries(limit=9, submission_id=submission(1).id) == found[1:]
    assert await journal.outstanding(submission(1).id) == found[1:]


async def test_it_is_replayed_beside_others(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """It ends as it did, and the others run."""
    works = sorted(await take(journal), key=lambda work: work.delivery.id)
    for work in works:
        await journal.complete(completion(work, outcome="rejected", status="dead"))
    await spoil(tables)
    found = [row.record async for row in journal.selected("deliveries", Filter(status="dead"))]
    assert [item.id for item in found] == [work.delivery.id for work in works]
    assert await journal.event_deliveries(event(submission(1))) == found[:1]
    orders = [
        Order(
            event_id=item.event_id,
            submission_id=item.submission_id,
            destination=item.destination,
            delivery_id=item.id,
        )
        for item in found
    ]
    assert [item.outcome for item in await journal.foresee(orders, NOW)] == ["again", "again"]
    assert [item.outcome for item in await journal.replay(orders, NOW)] == ["again", "again"]
    taken = sorted(work.delivery.submission_id for work in await take(journal))  # both are due at the same time
    assert taken == [submission(1).id, submission(2).id]


async def test_what_runs_with_it_is_freed(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """All that a dead engine left."""
    await take(journal)
    await spoil(tables)
    assert await journal.free_running("", NOW) == 2
