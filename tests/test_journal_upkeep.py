"""Upkeep of every journal, whatever it stands on: is it sound, which files it needs, and how it deletes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from journals import NOW, OWNER, SQLiteStore, Store, callback, fill, finished, keep, submission, take
from postgres import PostgresStore

from receiver.events import ExpectedFile, Input, Media, Reply, Submission
from receiver.journal import Change, Journal
from receiver.journal.store import Key

DAY_MS = 86_400_000


async def test_a_sound_journal_has_no_problems(journal: Journal) -> None:
    """Neither empty nor full."""
    assert await journal.problems() == []
    await finished(journal, 20)
    assert await journal.problems() == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM events", "2 deliveries have no event"),
        ("DELETE FROM submissions", "2 events belong to no submission"),
        (
            "INSERT INTO attempts (delivery_id, number, started_ms, manual) VALUES ('nobody', 1, 1, false)",
            "1 deliveries have attempts but do not exist",
        ),
        (
            "INSERT INTO callbacks (submission_id, received_ms, body) VALUES ('nobody', 1, '{}')",
            "1 callbacks belong to no submission",
        ),
        ("UPDATE submissions SET ended = 'task.lost'", "2 submissions have ended without an event"),
        (
            "INSERT INTO attempts (delivery_id, number, started_ms, manual) SELECT id, 2, 1, false FROM deliveries",
            "2 deliveries do not run, but",
        ),
        ("UPDATE deliveries SET status = 'running'", "2 deliveries were under way when their engine ended"),
    ],
)
async def test_rows_that_contradict_each_other(tables: SQLiteStore | PostgresStore, statement: str, words: str) -> None:
    """Each is a sentence with an example."""
    journal = await tables.open()
    await finished(journal, 2)
    await tables.spoil(statement)
    assert any(words in problem for problem in await journal.problems())
    await journal.aclose()


async def test_what_runs_under_an_engine_is_no_problem(journal: Journal, store: Store) -> None:
    """It is its daily work."""
    await journal.membership.join("serve", OWNER, store="m")
    await fill(journal, 2)
    assert len(await take(journal)) == 2
    assert await journal.problems() == []
    other = await store.open()
    assert await other.problems() == []
    await other.aclose()


async def test_files_are_noted_as_they_come(tables: SQLiteStore | PostgresStore) -> None:
    """Inputs, masks of replies given at once and later, and results, each once; what goes leaves its files behind."""
    journal = await tables.open()
    picture = Input(digest="a" * 64, type="image/png", size=1)
    mask = Input(digest="b" * 64, type="image/png", size=1, field="maskBase64")
    later = Input(digest="c" * 64, type="image/png", size=1, field="maskBase64")
    row = submission(1, inputs=(picture, picture), reply=Reply(body={}, mask=mask))
    await journal.add(row)
    await journal.add(submission(2, inputs=(picture,)))
    await journal.add(submission(3, reply=Reply(body={"prompt": "no mask"})))
    results = tuple(
        ExpectedFile(place=digit, media=Media(digest=digit * 64, type="image/png", size=1, extension=".png", url=""))
        for digit in "ad"
    )

    def grow(row: Submission) -> Change:
        return Change(submission=msgspec.structs.replace(row, files=results, reply=Reply(body={}, mask=later)))

    await journal.change(row.id, grow)
    assert await journal.needed_files() == [digit * 64 for digit in "abcd"]
    assert (await journal.erase(row.id, force=True) or {})["files"] == 3
    assert [item.digest[0] for item in await journal.leftovers("")] == ["b", "c", "d"]
    assert await journal.needed_files() == ["a" * 64]
    await journal.add(submission(4, inputs=(mask,)))
    assert [(item.digest[0], item.needed) for item in await journal.leftovers("")] == [
        ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    await journal.forget_leftovers(["b" * 64, "c" * 64])
    assert [item.digest[0] for item in await journal.leftovers("b" * 64)] == ["d"]
    await journal.aclose()


@pytest.mark.parametrize("ahead", [200, 450])
async def test_callbacks_of_a_clock_that_went_ahead_hold_up_no_others(journal: Journal, ahead: int) -> None:
    """Pages of them came before the clock was set: what came afterwards goes in its time, and they go in theirs."""
    await journal.add(submission(1))
    numbers = [365 * DAY_MS + number for number in range(ahead)], range(ahead, 500)
    for some in numbers:
        await asyncio.gather(*(keep(journal, callback(number)) for number in some))
    assert len(await old_callbacks(journal, NOW)) == 0
    assert len(await old_callbacks(journal, NOW + DAY_MS)) == 500 - ahead
    assert len(await old_callbacks(journal, NOW + 366 * DAY_MS)) == 500


async def old_callbacks(journal: Journal, before_ms: int) -> list[Key]:
    """All pages of them."""
    keys: list[Key] = []
    while page := await journal.old("callbacks", before_ms, keys[-1] if keys else None):
        keys += page
    return keys


async def test_a_page_is_deleted_in_one_step(journal: Journal) -> None:
    """Its submissions go together, and so do a page of none."""
    rows = await finished(journal, 200)
    keys = await journal.old("submissions", NOW + 10**12, None)
    assert len(keys) == 200
    assert (await journal.delete("submissions", keys, problem=""))["submissions"] == 200
    assert not any((await journal.delete("submissions", [], problem="")).values())
    assert await journal.submissions(limit=1) == []
    assert rows
