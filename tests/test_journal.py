"""What every journal promises, and what a SQLite file adds to it."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sqlite3
import struct
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import ID, NOW, OWNER, TASK_ID, completion, delivery, event, owing, submission

from receiver.backoff import DELIVERY
from receiver.deliveries import AttemptRecord, Completion, Delivery, Receipt
from receiver.errors import EngineRunning, JournalError, JournalLocked, NotFound
from receiver.events import Callback, Claim, Event, Input, Media, Reply, Submission
from receiver.journal import staged
from receiver.journal.base import Change, Journal, Work
from receiver.journal.recent import Recent
from receiver.journal.rows import from_row, to_row
from receiver.journal.sqlite import open_journal
from receiver.journal.statements import SQL
from receiver.tasks import Button, Task

replace = msgspec.structs.replace


async def open_sqlite(folder: Path) -> Journal:
    return await open_journal(folder / "receiver.db", busy_seconds=2)


OPENERS: dict[str, Callable[[Path], Awaitable[Journal]]] = {"sqlite": open_sqlite}
"""Every database the suite runs on."""


@pytest.fixture(params=OPENERS)
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await OPENERS[request.param](tmp_path)
    yield opened
    await opened.aclose()


async def put(journal: Journal, change: Change) -> None:
    """Write a change whatever the row is."""
    await journal.change(change.submission.id, lambda row: change)


async def owe(
    journal: Journal, row: Submission, type: Any, *numbers: int, percent: int | None = None, **fields: Any
) -> Event:
    """Journal a fact about `row`, owed to `folder` once for each number."""
    fact = event(row, type, percent)
    await put(journal, owing(row, *((fact, delivery(fact, number, **fields)) for number in numbers)))
    return fact


async def take(
    journal: Journal, at: int = 0, *, limit: int = 10, destination: str = "folder", owner: str = OWNER
) -> list[Work]:
    return await journal.claim(destination, owner=owner, limit=limit, now_ms=NOW + at)


async def take_alone(journal: Journal, at: int = 0, *, owner: str = OWNER) -> Work | None:
    return await journal.claim_alone(["folder"], owner=owner, now_ms=NOW + at)


async def status_of(journal: Journal, number: int) -> str:
    found = await journal.delivery(f"01KKGM7NK2{number:016d}")
    assert found is not None
    return found.status


def ids(rows: list[Submission]) -> list[int]:
    return [int(row.id[10:]) for row in rows]


FULL = Submission(
    id=ID,
    kind="blend",
    created_ms=NOW,
    prompt="null",
    request={"prompt": "x", "nested": {"list": [1, None, "ü"]}},
    inputs=(Input(digest="d", type="image/png", size=3),),
    speed="fast",
    labels={"order": "7", "empty": ""},
    user_state="null",
    parent_id="parent",
    button="U2",
    auto=("U1", "reroll"),
    destinations=("disk",),
    once="a name",
    once_digest="c" * 64,
    reply=Reply(body={"prompt": "wider"}, mask=Input(digest="e", type="image/png", size=9, field="maskBase64")),
    hooked=True,
    status="accepted",
    outcome="queued",
    detail="1",
    sends=2,
    send_due_ms=NOW + 1,
    task_id=TASK_ID,
    task=Task(id=TASK_ID, status="SUCCESS", buttons=(Button(custom_id="c", label="U1"),), image_urls=("a",)),
    ended="task.failed",
    deadline_ms=NOW + 2,
    poll_due_ms=NOW + 3,
    polls=4,
    misses=5,
    claim=Claim(task=Task(id=TASK_ID, status="SUCCESS"), since_ms=NOW, asked=1),
    callbacks=6,
    media=(Media(digest="d", type="image/png", size=3, extension=".png", url="u", index=1),),
    media_problem="slow",
    media_tries=7,
    media_due_ms=NOW + 4,
    fallback_urls=("f",),
)  # fmt: skip
"""No field is what it is by default."""
NEVER_CHANGES = {
    "id", "kind", "created_ms", "prompt", "request", "inputs", "speed", "labels", "user_state", "parent_id", "hooked",
    "button", "auto", "destinations", "once_digest",
}  # fmt: skip


# Submissions


def test_the_full_row_is_full() -> None:
    """The row the next tests write has no field at its default."""
    defaults = {item.name: item.default for item in msgspec.structs.fields(Submission)}
    assert [name for name, value in defaults.items() if getattr(FULL, name) == value] == []


async def test_a_submission_comes_back_whole(journal: Journal) -> None:
    """Every field that was added is read again."""
    await journal.add(FULL)
    assert await journal.get(ID) == FULL


async def test_a_change_writes_every_field(journal: Journal) -> None:
    """All that can change after the insert does."""
    fixed = {name: getattr(FULL, name) for name in NEVER_CHANGES}
    await journal.add(Submission(**fixed, deadline_ms=NOW))
    await put(journal, Change(submission=FULL))
    assert await journal.get(ID) == FULL


async def test_half_a_character_is_stored_as_what_every_database_knows(journal: Journal) -> None:
    """Lone surrogates become U+FFFD wherever they stand, instead of failing the write."""
    row = submission(id=ID, prompt="a\ud800b", labels={"k": "\udfff"}, request={"prompt": "\ud800", "deep": ["\ud800"]})
    await journal.add(row)
    kept = await journal.get(ID)
    assert kept is not None
    assert (kept.prompt, kept.labels) == ("a\ufffdb", {"k": "\ufffd"})
    assert kept.request == {"prompt": "\ufffd", "deep": ["\ufffd"]}


async def test_an_id_is_added_once(journal: Journal) -> None:
    """A second submission with the id is an error, and the first one stays."""
    await journal.add(submission(id=ID))
    with pytest.raises(JournalError):
        await journal.add(submission(id=ID, prompt="another"))
    kept = await journal.get(ID)
    assert kept is not None
    assert kept.prompt == "a paper boat"


async def test_what_is_not_there(journal: Journal) -> None:
    """Asking for an unknown id gives nothing, and changing it decides nothing."""
    asked: list[Submission] = []

    def decide(row: Submission) -> Change:
        asked.append(row)
        return Change(submission=row)

    assert await journal.get(ID) is None
    assert await journal.change(ID, decide) is None
    assert asked == []
    assert await journal.event("x") is None
    assert await journal.delivery("x") is None
    assert await journal.attempts("x") == []
    assert await journal.callbacks(ID) == []


FIRST, SECOND = "01KKGM7NK1AAAAAAAAAAAAAAA1", "01KKGM7NK1BBBBBBBBBBBBBBB2"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (FIRST, FIRST),
        (FIRST[-6:], FIRST),
        (SECOND[-6:], SECOND),
        ("1111", SECOND),  # two submissions hold this task: the newest
        ("task-a", FIRST),
        (FIRST[:12], None),
        (FIRST[:5], None),
        (SECOND[-5:], None),
        ("nothing", None),
        ("%", None),
        ("", None),
    ],
)
async def test_finding_one_submission(journal: Journal, reference: str, found: str | None) -> None:
    """By id, by a start or end of 6 characters or more that only one has, or by task id."""
    await journal.add(submission(id=FIRST, task_id="task-a"))
    await journal.add(submission(id="01KKGM7NK1AAAAAAAAAAAAAA00", task_id="1111"))
    await journal.add(submission(id=SECOND, task_id="1111"))
    if found is None:
        with pytest.raises(NotFound):
            await journal.find(reference)
    else:
        assert (await journal.find(reference)).id == found


async def test_an_exact_match_beats_the_start_of_another(journal: Journal) -> None:
    """A task id that is also how a newer submission's id starts is no doubt."""
    await journal.add(submission(id="A", task_id="123456"))
    await journal.add(submission(id="123456-longer"))
    assert (await journal.find("123456")).id == "A"


async def test_an_ambiguous_reference_says_so(journal: Journal) -> None:
    """The sentence tells what to do."""
    await journal.add(submission(1))
    await journal.add(submission(2))
    with pytest.raises(NotFound, match="More than one submission"):
        await journal.find(submission(1).id[:12])


@pytest.mark.parametrize(
    ("status", "found"),
    [(None, [5, 4, 3, 2, 1]), ("prepared", [1]), ("accepted", [5, 4, 3]), ("refused", [2]), ("succeeded", [4]),
     ("lost", [3]), ("in_progress", [5]), ("SUCCESS", [4]), ("nonsense", [])],
)  # fmt: skip
async def test_listing_submissions(journal: Journal, status: str | None, found: list[int]) -> None:
    """The newest first; by status of the submission, of the task, or by how it ended."""
    for row in (
        submission(2, status="refused"),
        submission(1),
        submission(3, status="accepted", ended="task.lost"),
        submission(4, status="accepted", ended="task.succeeded", task=Task(id="1", status="SUCCESS")),
        submission(5, status="accepted", task=Task(id="1", status="IN_PROGRESS")),
    ):
        await journal.add(row)
    assert ids(await journal.submissions(limit=10, status=status)) == found
    assert ids(await journal.submissions(limit=2, status=status)) == found[:2]


@pytest.mark.parametrize(
    ("query", "due", "found"),
    [
        ("due_sends", "send_due_ms", [2, 1]),
        ("due_polls", "poll_due_ms", [2, 1]),
        ("due_media", "media_due_ms", [2, 1]),
        ("overdue", "deadline_ms", [2, 1]),
    ],
)
async def test_what_is_due(journal: Journal, query: str, due: str, found: list[int]) -> None:
    """The longest due first, up to the limit; what is due later, or never, is left alone."""
    never = None if due != "deadline_ms" else NOW + 10**9
    for number, at in enumerate([NOW, NOW - 5, NOW + 1, never], start=1):
        await journal.add(submission(number, **{"send_due_ms": None, due: at}))
    assert ids(await getattr(journal, query)(NOW, limit=10)) == found
    assert ids(await getattr(journal, query)(NOW, limit=1)) == found[:1]


@pytest.mark.parametrize(
    ("fields", "overdue"),
    [({}, True), ({"status": "unknown"}, True), ({"ended": "task.lost"}, False), ({"status": "refused"}, False)],
)
async def test_what_has_ended_is_not_overdue(journal: Journal, fields: dict[str, Any], overdue: bool) -> None:
    """Ends and refusals are no business of the deadline."""
    await journal.add(submission(1, deadline_ms=NOW, **fields))
    assert ids(await journal.overdue(NOW, limit=10)) == [1] * overdue


# Changes


async def test_a_change_that_fails_undoes_nothing_else(journal: Journal) -> None:
    """Its error reaches its caller; what shares the commit stands."""
    rows = [submission(number) for number in range(1, 7)]
    await asyncio.gather(*(journal.add(row) for row in rows))

    def decide(row: Submission) -> Change:
        if row.id == rows[2].id:
            raise ValueError("guilty")
        return Change(submission=replace(row, callbacks=1))

    results = await asyncio.gather(*(journal.change(row.id, decide) for row in rows), return_exceptions=True)
    assert [isinstance(result, ValueError) for result in results] == [row is rows[2] for row in rows]
    assert [row.callbacks for row in await journal.submissions(limit=10)] == [1, 1, 1, 0, 1, 1]


async def test_a_change_is_written_whole_or_not_at_all(journal: Journal) -> None:
    """The second delivery's id is taken: neither the row, nor the event, nor the first delivery is kept."""
    row, other = submission(1), submission(2)
    await journal.add(row)
    await journal.add(other)
    await owe(journal, other, "task.failed", 7)
    fact = event(row)
    broken = owing(replace(row, ended="task.succeeded"), (fact, delivery(fact, 1)), (fact, delivery(fact, 7, "screen")))
    with pytest.raises(JournalError):
        await put(journal, broken)
    assert await journal.get(row.id) == row
    assert await journal.event(fact.id) is None
    assert await journal.deliveries(limit=10, submission_id=row.id) == []


async def test_deciding_nothing_writes_nothing(journal: Journal) -> None:
    """None leaves the row, and gives it back."""
    await journal.add(FULL)
    changed = await journal.change(ID, lambda row: None)
    assert changed is not None
    assert (changed.submission, changed.events) == (FULL, ())


async def test_decisions_see_each_other(journal: Journal) -> None:
    """A hundred changes of one row at once lose none."""
    await journal.add(submission(id=ID))
    await asyncio.gather(*(journal.change(ID, _count) for _ in range(100)))
    row = await journal.get(ID)
    assert row is not None
    assert row.callbacks == 100


def _count(row: Submission) -> Change:
    return Change(submission=replace(row, callbacks=row.callbacks + 1))


def callback(number: int = 1, cause: str | None = None) -> Callback:
    return Callback(submission_id=ID, received_ms=NOW + number, cause=cause, body=b'{"number":%d}' % number)


async def test_callbacks_are_kept_as_they_came(journal: Journal) -> None:
    """In order of arrival, with the cause the decision found, or the one they came with."""
    await journal.add(submission(id=ID))
    await journal.change(ID, lambda row: None, callback(1, "no_state"))
    await journal.change(ID, lambda row: Change(submission=row, cause="other_task"), callback(2))
    await journal.change(ID, lambda row: Change(submission=row), callback(3))
    kept = await journal.callbacks(ID)
    assert kept == [callback(1, "no_state"), callback(2, "other_task"), callback(3)]


def _raises(row: Submission) -> Change:
    raise ZeroDivisionError


def _cannot_be_written(row: Submission) -> Change:
    fact = event(row)
    return owing(replace(row, callbacks=9), (fact, delivery(fact, 1)), (fact, delivery(fact, 1, "screen")))


@pytest.mark.parametrize("decide", [_raises, _cannot_be_written])
async def test_a_callback_is_kept_though_deciding_failed(journal: Journal, decide: Any) -> None:
    """The problem is returned, the callback is on disk, and nothing else of the decision is."""
    row = submission(id=ID)
    await journal.add(row)
    changed = await journal.change(ID, decide, callback())
    assert changed is not None
    assert changed.problem is not None
    assert (changed.submission, changed.events) == (row, ())
    assert await journal.get(ID) == row
    assert await journal.callbacks(ID) == [callback(cause="error")]
    assert await journal.events(limit=9) == []


async def test_no_callback_is_kept_for_nobody(journal: Journal) -> None:
    """Without a submission there is nothing to keep it with."""
    assert await journal.change(ID, lambda row: None, callback()) is None
    assert await journal.callbacks(ID) == []


# Events


async def test_the_same_fact_twice_is_one_event(journal: Journal) -> None:
    """The second one is dropped together with what it would owe; the first one stays as it was."""
    row = submission(id=ID)
    await journal.add(row)
    await owe(journal, row, "task.succeeded", 1)
    fact = event(row, created_ms=NOW + 9)
    changed = await journal.change(ID, lambda row: owing(row, (fact, delivery(fact, 2))))
    assert changed is not None
    assert changed.events == ()
    kept = await journal.event(fact.id)
    assert kept is not None
    assert kept.created_ms == NOW
    assert [int(one.id[10:]) for one in await journal.deliveries(limit=9)] == [1]


async def test_an_event_comes_back_whole(journal: Journal) -> None:
    """Every field, the task inside included."""
    await journal.add(FULL)
    fact = event(FULL, supersedes="x", reason="r", task=FULL.task, confirmed=False, labels={"a": "\x00"})
    changed = await journal.change(ID, lambda row: Change(submission=row, events=(fact,)))
    assert changed is not None
    assert changed.events == (fact,)
    assert await journal.event(fact.id) == fact
    assert await journal.events(limit=1) == [fact]


async def test_listing_events(journal: Journal) -> None:
    """The newest first, by submission and type."""
    one, other = submission(1), submission(11)
    for row in (one, other):
        await journal.add(row)
    facts = []
    for row, type in ((one, "task.accepted"), (other, "task.accepted"), (one, "task.succeeded")):
        fact = event(row, typing.cast(Any, type))
        await put(journal, Change(submission=row, events=(fact,)))
        facts.append(fact)
    assert await journal.events(limit=9) == facts[::-1]
    assert await journal.events(limit=2) == facts[:0:-1]
    assert await journal.events(limit=9, submission_id=one.id) == [facts[2], facts[0]]
    assert await journal.events(limit=9, type="task.accepted") == [facts[1], facts[0]]
    assert await journal.events(limit=9, submission_id=one.id, type="task.succeeded") == [facts[2]]
    assert await journal.events(limit=9, submission_id=one.id[:-1]) == []


# Deliveries: the last word


async def test_a_newer_event_takes_the_place_of_what_has_not_run(journal: Journal) -> None:
    """Per submission and destination; others are left alone."""
    row, other = submission(1), submission(2)
    for one in (row, other):
        await journal.add(one)
    await owe(journal, row, "task.progressed", 1, percent=15)
    await owe(journal, row, "task.accepted", 2, destination="screen")
    await owe(journal, other, "task.progressed", 3, percent=15)
    await owe(journal, row, "task.progressed", 4, percent=46)
    assert [await status_of(journal, number) for number in (1, 2, 3, 4)] == [
        "cancelled",
        "pending",
        "pending",
        "pending",
    ]
    cancelled = await journal.delivery("01KKGM7NK20000000000000001")
    assert cancelled is not None
    assert (cancelled.finished_ms, cancelled.detail) == (NOW, "a newer event took its place")


async def test_events_of_one_change_are_one_last_word(journal: Journal) -> None:
    """Accepted and progressed at once: only the second one is owed."""
    row = submission(1)
    await journal.add(row)
    first, second = event(row, "task.accepted"), event(row, "task.progressed", 46)
    await put(journal, owing(row, (first, delivery(first, 1)), (second, delivery(second, 2))))
    assert [await status_of(journal, number) for number in (1, 2)] == ["cancelled", "pending"]


async def test_a_row_written_by_another_process_is_read_anew(journal: Journal, tmp_path: Path) -> None:
    """A journal remembers the rows it wrote, but only as long as nobody else writes."""
    await journal.add(submission(1))
    await journal.change(submission(1).id, lambda row: Change(submission=replace(row, sends=1)))
    other = await OPENERS["sqlite"](tmp_path)
    await other.change(submission(1).id, lambda row: Change(submission=replace(row, detail=f"{row.sends} sent")))
    await other.aclose()
    changed = await journal.change(submission(1).id, lambda row: Change(submission=replace(row, sends=2)))
    assert changed is not None
    assert (changed.submission.detail, changed.submission.sends) == ("1 sent", 2)
    assert await journal.get(submission(1).id) == changed.submission


async def test_an_undone_row_is_not_remembered(journal: Journal) -> None:
    """What was rolled back with its batch has not happened for the next change either."""
    row = submission(1)
    await journal.add(row)
    fact = event(row)
    twice = owing(replace(row, sends=7), (fact, delivery(fact, 1)), (fact, delivery(fact, 1)))
    with pytest.raises(JournalError, match="UNIQUE"):
        await journal.change(row.id, lambda row: twice)
    changed = await journal.change(row.id, lambda row: Change(submission=replace(row, detail="x")))
    assert changed is not None
    assert changed.submission == replace(row, detail="x")


async def test_what_runs_is_not_cancelled(journal: Journal) -> None:
    """A newer event waits beside it: one running, one pending, and never both running."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    (work,) = await take(journal)
    await owe(journal, row, "task.succeeded", 2)
    assert [await status_of(journal, number) for number in (1, 2)] == ["running", "pending"]
    assert await take(journal) == []
    assert await journal.complete(completion(work))
    assert [work.delivery.id[-1] for work in await take(journal)] == ["2"]


@pytest.mark.parametrize("outcome", ["failed", "postponed", "interrupted"])
async def test_an_outdated_retry_gives_way(journal: Journal, outcome: Any) -> None:
    """What would run again is cancelled when a newer event came while it ran."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    (work,) = await take(journal)
    await owe(journal, row, "task.succeeded", 2)
    assert await journal.complete(completion(work, outcome=outcome, status="pending"))
    assert [await status_of(journal, number) for number in (1, 2)] == ["cancelled", "pending"]


async def test_a_retry_of_the_last_word_stays(journal: Journal) -> None:
    """Older deliveries, and those of other destinations, do not outdate it."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    await owe(journal, row, "task.succeeded", 2)
    await owe(journal, row, "task.lost", 3, destination="screen")
    (work,) = await take(journal)
    assert await journal.complete(completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW + 5))
    assert await status_of(journal, 2) == "pending"
    assert await take(journal, 4) == []
    assert [work.delivery.attempt for work in await take(journal, 5)] == [2]


async def test_what_a_person_asked_for_is_exempt(journal: Journal) -> None:
    """A replay cancels nothing, is cancelled by nothing, outdates nothing, and is not outdated; one at a time holds."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    await owe(journal, row, "task.progressed", 2, percent=46, manual=True)
    assert [await status_of(journal, number) for number in (1, 2)] == ["pending", "pending"]
    (work,) = await take(journal, limit=1)
    assert await take(journal) == []  # the other one waits
    assert await journal.complete(completion(work, outcome="failed", status="pending", due_ms=NOW + 50))
    assert await status_of(journal, 1) == "pending"  # the manual one, though newer, is no newer word
    (manual,) = await take(journal)
    assert manual.delivery.manual
    await owe(journal, row, "task.succeeded", 3)
    assert await journal.complete(completion(manual, outcome="failed", status="pending", due_ms=NOW + 60))
    await owe(journal, row, "task.lost", 4)
    assert [await status_of(journal, number) for number in (1, 2, 3, 4)] == [
        "cancelled",
        "pending",
        "cancelled",
        "pending",
    ]


async def test_newer_is_what_became_known_later(journal: Journal) -> None:
    """A clock that was set back gives the result a lower id than yesterday's percentages: it is the last word all the
    same, outdates what ran, and its own failure is tried again."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 5, percent=15)
    (work,) = await take(journal)
    assert await journal.complete(completion(work))
    await owe(journal, row, "task.progressed", 6, percent=46)
    (running,) = await take(journal)
    await owe(journal, row, "task.succeeded", 2)
    assert await journal.complete(completion(running, outcome="failed", status="pending", due_ms=NOW))
    assert [await status_of(journal, number) for number in (5, 6, 2)] == ["succeeded", "cancelled", "pending"]
    (result,) = await take(journal)
    assert await journal.complete(completion(result, outcome="failed", status="pending", due_ms=NOW))
    assert await status_of(journal, 2) == "pending"


async def test_two_due_of_one_submission_run_one_after_the_other(journal: Journal) -> None:
    """Should both be due in one moment, because a person asked for one, the older runs and the other one waits, with no
    attempt used up."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 5, percent=15, manual=True)
    (work,) = await take(journal)
    await owe(journal, row, "task.succeeded", 2)
    assert await journal.complete(completion(work, outcome="failed", status="pending", due_ms=NOW))
    first = await take(journal)
    assert [work.delivery.id[-1] for work in first] == ["2"]
    waiting = await journal.delivery("01KKGM7NK20000000000000005")
    assert waiting is not None
    assert (waiting.status, waiting.attempt, waiting.owner) == ("pending", 1, None)
    assert [record.number for record in await journal.attempts(waiting.id)] == [1]
    assert await journal.complete(completion(first[0]))
    assert [work.delivery.id[-1] for work in await take(journal)] == ["5"]


# Deliveries: claims


async def fill(journal: Journal, count: int, **fields: Any) -> None:
    """`count` submissions, each owing one delivery of the same number."""
    for number in range(1, count + 1):
        row = submission(number)
        await journal.add(row)
        await owe(journal, row, "task.succeeded", number, **fields)


async def test_a_claim_takes_no_more_than_its_slots(journal: Journal) -> None:
    """Each claim takes up to its limit, and what is taken is not taken again."""
    await fill(journal, 5)
    claims = [await take(journal, limit=2) for _ in range(4)]
    assert [len(works) for works in claims] == [2, 2, 1, 0]
    assert len({work.delivery.id for works in claims for work in works}) == 5


async def test_claims_at_once_share_nothing(journal: Journal) -> None:
    """Ten claims side by side take every delivery once."""
    await fill(journal, 12)
    claims = await asyncio.gather(*(take(journal, limit=2) for _ in range(10)))
    taken = [work.delivery.id for works in claims for work in works]
    assert len(taken) == len(set(taken)) == 12


async def test_the_longest_due_comes_first(journal: Journal) -> None:
    """By due time, not by age; what is due later is left."""
    for number, due in enumerate([3, 1, 2, 9], start=1):
        row = submission(number)
        await journal.add(row)
        await owe(journal, row, "task.succeeded", number, due_ms=NOW + due)
    taken = [work.delivery.id[-1] for _ in range(4) for work in await take(journal, 5, limit=1)]
    assert taken == ["2", "3", "1"]


async def test_a_claim_knows_its_destination(journal: Journal) -> None:
    """Nothing of another destination is taken."""
    await fill(journal, 1)
    assert await take(journal, destination="screen") == []
    assert len(await take(journal)) == 1


async def test_a_pause_holds_up_one_destination_for_its_time(journal: Journal) -> None:
    """Nothing is claimed until then; others go on; registering it again keeps the pause."""
    await journal.register({"folder": "file", "screen": "file"})
    await fill(journal, 1)
    await owe(journal, submission(1), "task.lost", 9, destination="screen")
    await journal.pause("folder", NOW + 100, "Retry-After")
    await journal.register({"folder": "file"})
    assert await take(journal, 99) == []
    assert len(await take(journal, destination="screen")) == 1
    assert len(await take(journal, 100)) == 1


async def test_work_brings_all_an_attempt_needs(journal: Journal) -> None:
    """The delivery as claimed, the event, the row, this submission's receipts everywhere, and the parent's here."""
    parent, child = submission(1), submission(2, parent_id=submission(1).id, labels={"a": "b"})
    for row in (parent, child):
        await journal.add(row)
    await owe(journal, parent, "task.succeeded", 1)
    await owe(journal, parent, "task.lost", 2, destination="screen")
    await owe(journal, child, "task.progressed", 3, percent=15)
    await owe(journal, child, "task.accepted", 4, destination="screen")
    for destination in ("folder", "screen"):
        for work in await take(journal, destination=destination):
            receipt = Receipt(ref=work.delivery.id[-1], url="u", data={"n": [1]})
            assert await journal.complete(completion(work, receipt=receipt))
    fact = await owe(journal, child, "task.succeeded", 5)
    (work,) = await take(journal)
    assert (work.delivery.status, work.delivery.attempt, work.delivery.owner) == ("running", 1, OWNER)
    assert (work.event, work.submission) == (fact, child)
    assert {name: receipt.ref for name, receipt in work.receipts.items()} == {"folder": "3", "screen": "4"}
    assert work.parent == Receipt(ref="1", url="u", data={"n": [1]})


async def test_the_last_receipt_counts(journal: Journal) -> None:
    """A later delivery's receipt takes the place of the earlier one's."""
    row = submission(1)
    await journal.add(row)
    for number, percent in enumerate([15, 46, 93], start=1):
        await owe(journal, row, "task.progressed", number, percent=percent)
        (work,) = await take(journal)
        assert await journal.complete(completion(work, receipt=Receipt(ref=str(percent))))
    await owe(journal, row, "task.succeeded", 9)
    (work,) = await take(journal)
    assert work.receipts == {"folder": Receipt(ref="93")}
    assert work.parent is None


async def test_what_cannot_be_read_is_dead_and_holds_up_nobody(journal: Journal) -> None:
    """A delivery whose event is not there would fail every claim of its destination, for ever."""
    row, other = submission(1), submission(2)
    for one in (row, other):
        await journal.add(one)
    await owe(journal, other, "task.succeeded", 2)
    fact = event(row)
    await put(journal, owing(row, (fact, delivery(fact, 1, event_id=fact.id))))
    await journal.change(
        row.id, lambda row: owing(row, (event(row, "task.lost"), delivery(event(row, "task.lost"), 3)))
    )
    await _lose_event(journal, f"{row.id}.task.lost")
    assert [work.delivery.id[-1] for work in await take(journal)] == ["2"]
    dead = await journal.delivery("01KKGM7NK20000000000000003")
    assert dead is not None
    assert dead.status == "dead"
    assert dead.detail is not None
    assert "lost its submission or event" in dead.detail
    assert [record.outcome for record in await journal.attempts(dead.id)] == ["rejected"]


async def _lose_event(journal: Journal, event_id: str) -> None:
    """As a purge with a fault in it would."""
    await typing.cast(Any, journal)._write(lambda db: db.execute("DELETE FROM events WHERE id = ?", (event_id,)))


# Deliveries: completions


async def test_a_completion_is_recorded(journal: Journal) -> None:
    """Delivery and attempt say how it ended; a failure counts, and the next attempt has the next number."""
    await fill(journal, 1)
    (work,) = await take(journal)
    failed = completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW + 50, detail="HTTP 500")
    assert await journal.complete(failed)
    waiting = await journal.delivery(work.delivery.id)
    assert waiting is not None
    assert (waiting.status, waiting.failures, waiting.due_ms, waiting.detail) == ("pending", 1, NOW + 50, "HTTP 500")
    assert (waiting.owner, waiting.finished_ms) == (None, None)
    (again,) = await take(journal, 50)
    assert again.delivery.attempt == 2
    assert await journal.complete(completion(again, receipt=Receipt(ref="r"), finished_ms=NOW + 60))
    done = await journal.delivery(work.delivery.id)
    assert done is not None
    assert (done.status, done.receipt, done.finished_ms, done.failures) == ("succeeded", Receipt(ref="r"), NOW + 60, 1)
    assert await journal.attempts(work.delivery.id) == [
        AttemptRecord(
            delivery_id=work.delivery.id, number=1, started_ms=NOW, finished_ms=NOW + 1, outcome="failed",
            detail="HTTP 500",
        ),
        AttemptRecord(
            delivery_id=work.delivery.id, number=2, started_ms=NOW + 50, finished_ms=NOW + 60, outcome="succeeded"
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("outcome", ["postponed", "interrupted"])
async def test_what_uses_up_no_attempt(journal: Journal, outcome: Any) -> None:
    """The handler asked to wait, or we were stopped: no failure is counted."""
    await fill(journal, 1)
    (work,) = await take(journal)
    assert await journal.complete(completion(work, outcome=outcome, status="pending", counts=False))
    waiting = await journal.delivery(work.delivery.id)
    assert waiting is not None
    assert (waiting.failures, waiting.attempt) == (0, 1)


async def test_claims_number_their_attempts(journal: Journal) -> None:
    """Two deliveries claimed at once start an attempt each, at the same time."""
    await fill(journal, 2)
    for work in await take(journal, 7):
        (record,) = await journal.attempts(work.delivery.id)
        assert (record.number, record.started_ms, record.outcome) == (1, NOW + 7, None)


@pytest.mark.parametrize("fields", [{"owner": "engine-2"}, {"attempt": 2}, {"attempt": 0}, {"delivery_id": "x"}])
async def test_the_fence_refuses(journal: Journal, fields: dict[str, Any]) -> None:
    """Another owner, or another attempt, has taken over: the late completion changes nothing."""
    await fill(journal, 1)
    (work,) = await take(journal)
    before = await journal.delivery(work.delivery.id)
    assert not await journal.complete(completion(work, **fields))
    assert await journal.delivery(work.delivery.id) == before
    assert [record.outcome for record in await journal.attempts(work.delivery.id)] == [None]


async def test_an_attempt_ends_once(journal: Journal) -> None:
    """The second completion of one attempt is refused."""
    await fill(journal, 1)
    (work,) = await take(journal)
    assert await journal.complete(completion(work))
    assert not await journal.complete(completion(work, outcome="failed", status="pending"))
    assert await status_of(journal, 1) == "succeeded"


@pytest.mark.parametrize("cleaned", ["a\ud800b", "a\x00b"])
async def test_any_words_of_a_handler_can_be_recorded(journal: Journal, cleaned: str) -> None:
    """A text no database takes must not leave a delivery running for ever."""
    await fill(journal, 1)
    (work,) = await take(journal)
    receipt = Receipt(ref="ok", data={"path": "x\udc80"})
    assert await journal.complete(completion(work, detail=cleaned, receipt=receipt))
    done = await journal.delivery(work.delivery.id)
    assert done is not None
    assert done.detail == "a\ufffdb"
    assert done.receipt == Receipt(ref="ok", data={"path": "x\ufffd"})


async def test_a_vanished_engine_costs_a_failure(journal: Journal) -> None:
    """What it left running is due at once; our own is left alone; its late completion is refused."""
    await fill(journal, 2)
    (theirs,) = await take(journal, limit=1, owner="vanished")
    (ours,) = await take(journal, limit=1)
    assert await journal.free_running(OWNER, NOW + 9) == 1
    freed = await journal.delivery(theirs.delivery.id)
    assert freed is not None
    assert (freed.status, freed.failures, freed.due_ms, freed.owner) == ("pending", 1, NOW + 9, None)
    assert await status_of(journal, int(ours.delivery.id[10:])) == "running"
    (record,) = await journal.attempts(theirs.delivery.id)
    assert (record.outcome, record.detail) == ("failed", "the process ended while the attempt ran")
    assert not await journal.complete(completion(theirs))
    assert await journal.free_running(OWNER, NOW + 9) == 0
    again = await take_alone(journal, 9)
    assert again is not None
    assert (again.delivery.id, again.delivery.attempt) == (theirs.delivery.id, 2)


async def test_a_delivery_that_ends_every_engine_is_dead_at_last(journal: Journal) -> None:
    """Each crash counts as a failure, so a poison event has an end."""
    await fill(journal, 1)
    at = 0
    await take(journal, owner="engine-0")
    for number, step in enumerate([0, *DELIVERY], start=1):
        assert await journal.free_running(f"engine-{number}", NOW + at) == 1
        if number <= len(DELIVERY):
            freed = await journal.delivery("01KKGM7NK20000000000000001")
            assert freed is not None
            assert (freed.status, freed.failures) == ("pending", number)
            assert 0.9 * step * 1000 <= freed.due_ms - (NOW + at) <= 1.1 * step * 1000  # at once, then by schedule
            at = freed.due_ms - NOW
            work = await take_alone(journal, at, owner=f"engine-{number}")
            assert work is not None
    assert await status_of(journal, 1) == "dead"
    assert await take(journal, 10**9) == []
    assert not await journal.alone_due(["folder"], NOW + 10**9)


async def test_what_an_engine_left_runs_alone(journal: Journal) -> None:
    """An ordinary claim leaves it; an end of its own, not our interruption, makes it one of many again."""
    await fill(journal, 2)
    await take(journal, owner="vanished")
    await journal.free_running(OWNER, NOW)
    assert await take(journal) == []
    assert not await journal.alone_due(["elsewhere"], NOW)
    assert await journal.alone_due(["elsewhere", "folder"], NOW)
    work = await take_alone(journal)
    assert work is not None
    assert await journal.complete(completion(work, outcome="interrupted", status="pending", due_ms=NOW))
    work = await take_alone(journal)
    assert work is not None
    assert work.delivery.alone
    assert await journal.complete(completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW))
    assert [again.delivery.id for again in await take(journal)] == [work.delivery.id]


async def test_only_the_suspect_is_charged_for_its_company(journal: Journal) -> None:
    """What ran beside a delivery that had been there at an end before pays nothing, and runs alone from then on."""
    await fill(journal, 1)
    await take(journal, owner="first")
    await journal.free_running("second", NOW)
    assert await take_alone(journal, owner="second") is not None
    await owe(journal, submission(1), "task.lost", 2, destination="screen")
    await take(journal, destination="screen", owner="second")
    assert await journal.free_running("third", NOW) == 2
    suspect, beside = [await journal.delivery(f"01KKGM7NK2{number:016d}") for number in (1, 2)]
    assert suspect is not None
    assert beside is not None
    assert (suspect.failures, suspect.due_ms > NOW) == (2, True)
    assert (beside.failures, beside.due_ms, beside.alone) == (0, NOW, True)
    (record,) = await journal.attempts(beside.id)
    assert record.outcome == "interrupted"


async def test_an_accused_delivery_is_charged_alone(journal: Journal) -> None:
    """Whoever found the loop standing still in it has said so: its company goes free at once, and it has to wait."""
    await fill(journal, 3)
    works = await take(journal, owner="vanished")
    await asyncio.to_thread(journal.accuse, works[1].delivery.id)
    assert await journal.free_running(OWNER, NOW) == 3
    found = (await journal.deliveries(limit=3))[::-1]
    assert [(item.failures, item.due_ms > NOW, item.alone) for item in found] == [
        (0, False, True),
        (1, True, True),
        (0, False, True),
    ]


async def test_an_accusation_ends_with_the_attempt(journal: Journal) -> None:
    """A loop that went on after all, and a delivery that was not running, prove nothing."""
    await fill(journal, 2)
    (work,) = await take(journal, limit=1)
    for item in await journal.deliveries(limit=2):
        journal.accuse(item.id)
    assert await journal.complete(completion(work, outcome="failed", status="pending", due_ms=NOW))
    assert {item.alone for item in await journal.deliveries(limit=2)} == {False}


async def test_one_that_runs_alone_keeps_to_the_rules(journal: Journal) -> None:
    """Not while its destination is paused, nor beside another of its submission there."""
    await journal.register({"folder": "file"})
    await fill(journal, 1)
    await take(journal, owner="vanished")
    await owe(journal, submission(1), "task.progressed", 2, percent=15, manual=True)
    await journal.free_running(OWNER, NOW)
    await journal.pause("folder", NOW + 10, "busy")
    assert await take_alone(journal, 9) is None
    (other,) = await take(journal, 10)
    assert await take_alone(journal, 10) is None
    assert await journal.complete(completion(other))
    assert await take_alone(journal, 10) is not None


async def test_a_freed_delivery_that_is_outdated_gives_way(journal: Journal) -> None:
    """The result came while the crashed engine delivered progress: only the result is owed."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    await take(journal, owner="vanished")
    await owe(journal, row, "task.succeeded", 2)
    assert await journal.free_running(OWNER, NOW) == 1
    assert [await status_of(journal, number) for number in (1, 2)] == ["cancelled", "pending"]


async def test_a_release_makes_what_waited_due(journal: Journal) -> None:
    """The untried deliveries of that submission only, and none is put off by it."""
    row, other = submission(1), submission(2)
    for one in (row, other):
        await journal.add(one)
    await owe(journal, row, "task.lost", 1, destination="early", due_ms=NOW - 5)
    await owe(journal, row, "task.accepted", 2, destination="tried")
    (work,) = await take(journal, destination="tried")
    assert await journal.complete(completion(work, outcome="failed", status="pending", due_ms=NOW + 500))
    await owe(journal, row, "task.succeeded", 3, due_ms=NOW + 500)
    await owe(journal, other, "task.succeeded", 4, due_ms=NOW + 500)
    await put(journal, Change(submission=row, release_ms=NOW + 7))
    dues = {int(one.id[10:]): one.due_ms - NOW for one in await journal.deliveries(limit=9)}
    assert dues == {1: -5, 2: 500, 3: 7, 4: 500}


async def test_listing_deliveries(journal: Journal) -> None:
    """The newest first, by submission, destination and status."""
    await fill(journal, 3)
    await owe(journal, submission(1), "task.lost", 4, destination="screen")
    await take(journal, limit=1)

    async def found(**filters: Any) -> list[int]:
        return [int(one.id[10:]) for one in await journal.deliveries(**{"limit": 9} | filters)]

    assert await found() == [4, 3, 2, 1]
    assert await found(limit=2) == [4, 3]
    assert await found(destination="screen") == [4]
    assert await found(status="running") == [1]
    assert await found(submission_id=submission(1).id) == [4, 1]
    assert await found(submission_id=submission(1).id, destination="folder") == [1]
    assert await found(submission_id=submission(1).id, status="pending") == [4]


async def test_checking_writes_nothing_that_is_seen(journal: Journal) -> None:
    """A check leaves no trace."""
    await journal.check()
    assert await journal.deliveries(limit=9) == []
    assert await journal.submissions(limit=9) == []


async def test_closing_keeps_what_was_accepted(journal: Journal) -> None:
    """Writes under way are finished; afterwards every call raises JournalError; closing twice is closing."""
    adding = [asyncio.create_task(journal.add(submission(number))) for number in range(20)]
    await asyncio.sleep(0)
    await journal.aclose()
    await asyncio.gather(*adding)
    await journal.aclose()
    for call in (journal.get(ID), journal.add(submission(99)), journal.check(), journal.submissions(limit=1)):
        with pytest.raises(JournalError, match="closed"):
            await call


# Structs and rows


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value of a field."""
    arguments = typing.get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if not arguments:
        return structs(annotation)
    return GENERIC.get(typing.get_origin(annotation), _any_of)(arguments)


def _any_of(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.one_of([values(argument) for argument in arguments])


GENERIC: dict[Any, Callable[[tuple[Any, ...]], st.SearchStrategy[Any]]] = {
    typing.Literal: st.sampled_from,
    tuple: lambda arguments: st.lists(values(arguments[0]), max_size=2).map(tuple),
    dict: lambda arguments: st.dictionaries(TEXT, values(arguments[1]), max_size=2),
}


def structs(type: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(type)
    return st.builds(type, **{item.name: values(hints[item.name]) for item in msgspec.structs.fields(type)})


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT | st.sampled_from(["null", "1", "true", "", "[]"]),
    int: st.integers(0, 2**53),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    type(None): st.none(),
    Any: st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT | st.lists(TEXT, max_size=2),
}
STRUCTS: list[Any] = [Submission, Delivery, AttemptRecord, Completion, Callback, Event]


@pytest.mark.parametrize("type", STRUCTS)
@given(st.data())
def test_structs_survive_their_rows(type: Any, data: st.DataObject) -> None:
    """What is written is read again, whatever the fields hold: texts that look like something else too."""
    made = data.draw(structs(type))
    assert from_row(type, to_row(made)) == made


# SQLite


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
    assert columns - {"number"} == set(TABLES[table].__struct_fields__) - {"number"}


async def test_writes_are_on_disk_when_they_are_answered(path: Path) -> None:
    """WAL, and an fsync at every commit."""
    journal = await open_journal(path)
    mode, level = await journal._write(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    await journal.aclose()
    assert (mode, level) == ("wal", 2)  # 2 is FULL


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


async def test_many_can_open_a_new_file_at_once(path: Path) -> None:
    """`serve` and `submit` started together find one schema, and each other's rows."""
    opened = await asyncio.gather(*(open_journal(path) for _ in range(6)))
    for number, journal in enumerate(opened):
        await journal.add(submission(number))
    assert [len(await journal.submissions(limit=9)) for journal in opened] == [6] * 6
    for journal in opened:
        await journal.aclose()


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
    "advance_media", "advance_deadlines", "get_submission", "update_submission", "due_sends",
    "due_polls", "due_media", "overdue", "last_callbacks", "called_back",
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
    first.become_engine("serve")
    first.become_engine("serve")
    with pytest.raises(EngineRunning, match=re.escape(str(path))) as caught:
        second.become_engine("submit --wait")
    assert caught.value.holder == "serve"
    first.resign()
    first.resign()
    second.become_engine("submit --wait")
    with pytest.raises(EngineRunning, match="submit --wait"):
        first.become_engine("serve")
    await second.aclose()
    first.become_engine("serve")
    await first.aclose()


HOLDER = """
import sys
from pathlib import Path
from receiver.journal.lock import EngineLock
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
        journal.become_engine("submit")
    assert caught.value.holder == "serve"
    holder.kill()
    await holder.wait()
    journal.become_engine("submit")
    await journal.aclose()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"role": null}', json.dumps({"pid": 7}), "\x00"])
async def test_a_lock_file_that_says_nothing(path: Path, text: str) -> None:
    """Its holder is another process, whatever the text is."""
    first, second = await open_journal(path), await open_journal(path)
    first.become_engine("serve")
    path.with_name(path.name + ".engine").write_text(text)
    with pytest.raises(EngineRunning) as caught:
        second.become_engine("submit")
    assert caught.value.holder == "another process"
    await first.aclose()
    await second.aclose()
