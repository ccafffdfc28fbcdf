"""What every journal promises of changes that come at once: the same as of changes that come one after the other."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from journals import NOW, OWNER, TASK_ID, Store, callback, delivery, event, submission

from receiver.events import Callback, Submission
from receiver.journal import Change, Journal
from receiver.journal.sqlite import open_store
from receiver.journal.store import Filter
from receiver.tasks import Task

replace = msgspec.structs.replace
PLACES = ("folder", "shop")
PROMPT = 'the {}th "boat" \\ 船 🚤\n'


def change_to(row: Submission, number: int, percent: int, *, detail: str | None, places: tuple[str, ...]) -> Change:
    """A fact that may be known, owed to `places`, and a row with one callback more."""
    task = Task(id=TASK_ID, status="IN_PROGRESS", progress=percent, prompt=PROMPT.format(row.callbacks + 1))
    fact = event(row, "task.progressed", percent, task=task)
    owed = tuple(delivery(fact, 10 * number + index, place) for index, place in enumerate(places))
    heard = replace(row, task=task, callbacks=row.callbacks + 1, detail=detail or row.detail)
    return Change(submission=heard, events=(fact,), deliveries=owed)


def changes(seed: int, rows: list[Submission], *, repeats: bool) -> list[tuple[Submission, Callable[..., Change]]]:
    """Many for few rows; with `repeats` some say what others have said, and change more of the row."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [
        (
            chance.choice(rows),
            partial(
                change_to,
                number=number,
                percent=chance.choice(range(0, 100, 4)) if repeats else number,
                detail=chance.choice([None, None, None, f"said {number}"]) if repeats else None,
                places=chance.choice([PLACES, PLACES[:1], PLACES[1:], ()]),
            ),
        )
        for number in range(1, 121)
    ]


def heard(row: Submission) -> Callback:
    return replace(callback(1), submission_id=row.id)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_many_at_once(journal: Journal, seed: int, repeats: bool) -> None:
    """Each is counted, each fact is one event and owed once, and the last word alone waits."""
    rows = [submission(number) for number in range(1, 7)]
    for row in rows:
        await journal.add(row)
    asked = changes(seed, rows, repeats=repeats)
    done = await asyncio.gather(*(journal.change(row.id, decide, heard(row)) for row, decide in asked))
    new = [fact.id for changed in done if changed is not None for fact in changed.events]
    assert len(new) == len(set(new))
    for row in rows:
        mine = sum(1 for other, _ in asked if other is row)
        found = await journal.get(row.id)
        assert found is not None
        assert found.callbacks == mine == len(await journal.callbacks(row.id))
        assert found.task is None or found.task.prompt == PROMPT.format(mine)
        facts = await journal.events(limit=1000, submission_id=row.id)
        assert {fact.id for fact in facts} == {fact for fact in new if fact.startswith(row.id)}
        await _only_the_last_word_waits(journal, row, [fact.id for fact in facts])


async def _only_the_last_word_waits(journal: Journal, row: Submission, facts: list[str]) -> None:
    """`facts`: the newest first."""
    owed = await journal.deliveries(limit=1000, submission_id=row.id)
    assert set(Counter((item.event_id, item.destination) for item in owed).values()) <= {1}
    for place in PLACES:
        there = [item for item in owed if item.destination == place]
        newest = min(there, key=lambda item: facts.index(item.event_id), default=None)
        assert [item.status for item in there if item is not newest] == ["cancelled"] * (len(there) - 1 if there else 0)
        assert newest is None or newest.status == "pending"


async def test_another_process_reads_what_was_written(store: Store, journal: Journal) -> None:
    """The rows as the changes left them, whatever they were written with."""
    rows = [submission(number, status="accepted") for number in range(1, 4)]
    for row in rows:
        await journal.add(row)
    done = await asyncio.gather(*(journal.change(row.id, decide) for row, decide in changes(9, rows, repeats=False)))
    last = {changed.submission.id: changed.submission for changed in done if changed is not None}
    other = await store.open()
    assert [await other.get(row.id) for row in rows] == [last[row.id] for row in rows]
    listed = await other.submissions(Filter(status="in_progress"), limit=9)
    assert [row.id for row in listed] == [row.id for row in rows[::-1]]
    await other.aclose()


async def test_a_claim_beside_changes_sees_what_came_before_it(journal: Journal) -> None:
    """Whatever shares a commit with it."""
    row = submission(1)
    await journal.add(row)
    first, claimed, second = await asyncio.gather(
        journal.change(row.id, partial(change_to, number=1, percent=10, detail=None, places=PLACES)),
        journal.claim("folder", owner=OWNER, limit=5, now_ms=NOW),
        journal.change(row.id, partial(change_to, number=2, percent=20, detail=None, places=PLACES)),
    )
    assert first is not None
    assert second is not None
    claimed += await journal.claim("folder", owner=OWNER, limit=5, now_ms=NOW)
    statuses = sorted(item.status for item in await journal.deliveries(limit=9, destination="folder"))
    assert len(claimed) == 1
    assert statuses in (["pending", "running"], ["cancelled", "running"])


async def test_one_that_fails_is_alone_in_failing(journal: Journal) -> None:
    """Its neighbours of the same commit are written, and its callback is kept."""
    await _one_fails(journal, _raise)


async def test_a_row_that_sqlite_refuses_is_alone_in_failing(tmp_path: Path) -> None:
    """A NULL where there must be a value, found as the batch is written."""
    journal = Journal(await open_store(tmp_path / "receiver.db"))
    await _one_fails(journal, lambda row: Change(submission=replace(row, status=None)))
    await journal.aclose()


def _raise(row: Submission) -> Change:
    raise ValueError(row.id)


async def _one_fails(journal: Journal, spoil: Callable[[Submission], Change]) -> None:
    rows = [submission(number) for number in range(1, 6)]
    for row in rows:
        await journal.add(row)
    decides: list[Callable[[Submission], Change]] = [
        partial(change_to, number=number, percent=10, detail=None, places=PLACES) for number in range(1, 5)
    ]
    done = await asyncio.gather(
        *(journal.change(row.id, decide, heard(row)) for row, decide in zip(rows, [*decides, spoil], strict=True))
    )
    assert [changed is not None and changed.problem is None for changed in done] == [True] * 4 + [False]
    for row in rows:
        assert len(await journal.callbacks(row.id)) == 1
    assert len(await journal.events(limit=9)) == 4
