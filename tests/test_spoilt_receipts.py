"""A receipt that cannot be read, in a row of a database: it ends its own delivery, and holds up no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from journals import NOW, SQLiteStore, delivery, event, fill, submission, take, take_alone
from postgres import PostgresStore

from receiver.journal.base import Journal

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


async def test_it_is_dead_when_it_is_claimed(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """Nothing but its row is needed to end it; it failed every claim of its destination."""
    await spoil(tables)
    assert [work.delivery.submission_id for work in await take(journal)] == [submission(2).id]
    assert [attempt.outcome for attempt in await journal.attempts(SPOILT)] == ["rejected"]


async def test_it_is_dead_when_it_is_claimed_alone(tables: SQLiteStore | PostgresStore, journal: Journal) -> None:
    """The next one that runs alone has its turn."""
    await take(journal)
    assert await journal.free_running("", NOW) == 2
    await spoil(tables)
    works = [await take_alone(journal, 3_600_000) for _ in range(3)]
    assert [work.delivery.submission_id for work in works if work is not None] == [submission(2).id]
    assert [attempt.outcome for attempt in await journal.attempts(SPOILT)] == ["vanished", "rejected"]
