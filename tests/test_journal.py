"""What every journal promises, whatever it stands on."""

from __future__ import annotations

import asyncio
import typing
from typing import Any

import msgspec
import pytest
from journals import (
    FULL,
    ID,
    NOW,
    OWNER,
    Store,
    callback,
    completion,
    delivery,
    due_file,
    event,
    fill,
    ids,
    owe,
    owing,
    put,
    status_of,
    submission,
    take,
)

from receiver.backoff import DELIVERY
from receiver.deliveries import AttemptRecord, Receipt
from receiver.errors import JournalError, NotFound
from receiver.events import DisplayStatus, ExpectedFile, Media, Submission
from receiver.journal import Change, Journal
from receiver.journal.journal import MANY
from receiver.journal.selection import Order
from receiver.journal.store import Counts, DestinationCount, DueKind, Filter
from receiver.journal.store import Store as Contract
from receiver.journal.transitions import FREED_AFTER, FREED_TOGETHER
from receiver.tasks import Task

replace = msgspec.structs.replace


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


async def test_finding_one_submission(journal: Journal) -> None:
    """By id, by a start or end of 6 characters or more that only one has, or by task id."""
    await journal.add(submission(id=FIRST, task_id="task-a"))
    await journal.add(submission(id="01KKGM7NK1AAAAAAAAAAAAAA00", task_id="1111"))
    await journal.add(submission(id=SECOND, task_id="1111"))
    for reference, found in (
        (FIRST, FIRST),
        (FIRST[-6:], FIRST),
        (SECOND[-6:], SECOND),
        (SECOND[-6:].lower(), SECOND),
        ("last", SECOND),
        ("1111", SECOND),  # two submissions hold this task: the newest
        ("task-a", FIRST),
    ):
        assert (await journal.find(reference)).id == found, reference
    for reference in (FIRST[:12], FIRST[:5], SECOND[-5:], "nothing", "%", ""):
        with pytest.raises(NotFound):
            await journal.find(reference)


async def test_finding_by_what_is_whole(journal: Journal) -> None:
    """Where whoever asks means no part of an id, its start and its end are nobody's."""
    await journal.add(submission(id=FIRST, task_id="task-a"))
    assert (await journal.find(FIRST, whole=True)).id == FIRST
    assert (await journal.find("task-a", whole=True)).id == FIRST
    for part in (FIRST[:12], FIRST[-6:], "task", "last", ""):
        with pytest.raises(NotFound):
            await journal.find(part, whole=True)


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


async def test_listing_submissions(journal: Journal) -> None:
    """The newest first, by the status that people see."""
    for row in (
        submission(2, status="refused"),
        submission(1),
        submission(3, status="accepted", ended="task.lost"),
        submission(4, status="accepted", ended="task.succeeded", task=Task(id="1", status="SUCCESS")),
        submission(5, status="accepted", task=Task(id="1", status="IN_PROGRESS")),
        submission(6, status="accepted", task=Task(id="1", status="SUBMITTED")),
    ):
        await journal.add(row)
    expected: dict[DisplayStatus | None, list[int]] = {
        None: [6, 5, 4, 3, 2, 1], "prepared": [1], "accepted": [6], "refused": [2], "succeeded": [4], "lost": [3],
        "in_progress": [5], "unknown": [],
    }  # fmt: skip
    for status, found in expected.items():
        wanted = Filter(status=status)
        assert ids(await journal.submissions(wanted, limit=10)) == found, status
        assert ids(await journal.submissions(wanted, limit=2)) == found[:2], status
        for number, one in enumerate(found, 1):
            assert ids(await journal.submissions(wanted, limit=9, after=submission(one).id)) == found[number:], status


async def test_rows_of_submissions_by_what_was_asked(journal: Journal) -> None:
    """Lists of submissions, events and deliveries know the same conditions on the request."""
    for number, row in enumerate(
        (
            submission(1, labels={"album": "sea", "a,b": '"'}, prompt="A paper BOAT"),
            submission(2, labels={"album": "sea"}, kind="blend", prompt=""),
            submission(3, labels={"album": "land"}, prompt="a paper house"),
        ),
        1,
    ):
        await journal.add(row)
        await owe(journal, row, "task.succeeded", number)
    for wanted, numbers in (
        (Filter(labels=(("album", "sea"),)), [2, 1]),
        (Filter(labels=(("album", "sea"), ("a,b", '"'))), [1]),
        (Filter(labels=(("album", "se"),)), []),
        (Filter(words=("boat", "Paper")), [1]),
        (Filter(words=("paper",)), [3, 1]),
        (Filter(kind="blend"), [2]),
        (Filter(kind="blend", words=("paper",)), []),
        (Filter(words=("paper",), until_ms=NOW - 10**9), []),
    ):
        assert ids(await journal.submissions(wanted, limit=9)) == numbers
        found = [item.submission_id for item in await journal.events(wanted, limit=9)]
        assert found == [submission(number).id for number in numbers]
        owed = [item.submission_id for item in await journal.deliveries(wanted, limit=9)]
        assert owed == found
        if len(found) == 2:
            rest = await journal.events(wanted, limit=9, after=f"{found[0]}.task.succeeded")
            assert [item.submission_id for item in rest] == found[1:]
            first = (await journal.deliveries(wanted, limit=1))[0].id
            assert [item.submission_id for item in await journal.deliveries(wanted, limit=9, after=first)] == found[1:]


async def test_naming_an_event_or_a_delivery(journal: Journal) -> None:
    """By id, by a part of it, or as the last one."""
    row = submission(id=FIRST)
    await journal.add(row)
    await owe(journal, row, "task.succeeded", 1)
    (fact,) = await journal.events(limit=9)
    (owed,) = await journal.deliveries(limit=9)
    for reference in (fact.id, "last", f"{FIRST[-6:]}.task.succeeded", f"{FIRST[-8:].lower()}.task.succeeded"):
        assert await journal.find_event(reference) == fact
    for reference in (owed.id, "last", owed.id[-6:], owed.id[-6:].lower(), owed.id[:20]):
        assert await journal.find_delivery(reference) == owed
    for reference in ("", "nothing", owed.id[-5:], f"{FIRST}.task.lost", "nothing.task.lost"):
        with pytest.raises(NotFound):
            await journal.find_event(reference)
    for reference in ("", "nothing", owed.id[-5:], FIRST):
        with pytest.raises(NotFound, match="receiver deliveries list"):
            await journal.find_delivery(reference)


@pytest.mark.parametrize(
    ("kind", "due", "found"),
    [
        ("send", "send_due_ms", [2, 1]),
        ("poll", "poll_due_ms", [2, 1]),
        ("media", "files", [2, 1]),
        ("deadline", "deadline_ms", [2, 1]),
    ],
)
async def test_what_is_due(journal: Journal, kind: DueKind, due: str, found: list[int]) -> None:
    """The longest due first, up to the limit; what is due later, or never, is left alone."""
    never = None if due != "deadline_ms" else NOW + 10**9
    for number, at in enumerate([NOW, NOW - 5, NOW + 1, never], start=1):
        value: Any = (due_file(at),) if due == "files" else at
        await journal.add(submission(number, **{"send_due_ms": None, due: value}))
    assert ids(await journal.due(kind, NOW, limit=10)) == found
    assert ids(await journal.due(kind, NOW, limit=1)) == found[:1]


async def test_what_has_ended_is_not_overdue(journal: Journal) -> None:
    """Ends and refusals are no business of the deadline."""
    fields: tuple[dict[str, Any], ...] = ({}, {"status": "unknown"}, {"ended": "task.lost"}, {"status": "refused"})
    for number, other in enumerate(fields, 1):
        await journal.add(submission(number, deadline_ms=NOW, **other))
    assert sorted(ids(await journal.due("deadline", NOW, limit=10))) == [1, 2]


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
    row = submission(1)
    await journal.add(row)
    fact = event(row)
    broken = owing(replace(row, ended="task.succeeded"), (fact, delivery(fact, 1)), (fact, delivery(fact, 1, "screen")))
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


async def test_callbacks_are_kept_as_they_came(journal: Journal) -> None:
    """In order of arrival, with the cause that the rule found. One that the rule refuses is not kept."""
    await journal.add(submission(id=ID))
    await journal.change(ID, lambda row: Change(submission=row, cause="no_state"), callback(1))
    await journal.change(ID, lambda row: Change(submission=row, cause="other_task"), callback(2))
    await journal.change(ID, lambda row: Change(submission=row), callback(3))
    refused = await journal.change(ID, lambda row: None, callback(4))
    assert refused is not None
    assert refused.refused
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


async def test_a_row_written_by_another_process_is_read_anew(store: Store, journal: Journal) -> None:
    """A journal remembers the rows it wrote, but only as long as nobody else writes."""
    await journal.add(submission(1))
    await journal.change(submission(1).id, lambda row: Change(submission=replace(row, sends=1)))
    other = await store.open()
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
    with pytest.raises(JournalError, match=r"(?i)unique"):
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


async def test_a_replay_knows_how_attempts_ended_meanwhile(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replay, and its attempt, come between the look and the change: each attempt keeps its number."""
    await fill(journal, 1)
    (work,) = await take(journal)
    await journal.complete(completion(work, outcome="rejected", status="dead"))
    item = work.delivery
    order = Order(event_id=item.event_id, submission_id=item.submission_id, destination="folder", delivery_id=item.id)
    update = journal.store.update

    async def later(id: str, transition: Any) -> Any:
        monkeypatch.setattr(journal.store, "update", update)
        await journal.replay([order], NOW)
        (again,) = await take(journal)
        await journal.complete(completion(again))
        return await update(id, transition)

    monkeypatch.setattr(journal.store, "update", later)
    (done,) = await journal.replay([order], NOW)
    assert (done.outcome, done.was) == ("again", "succeeded")
    (last,) = await take(journal)
    assert last.delivery.attempt == 3
    attempts = await journal.attempts(item.id)
    assert sorted((one.number, one.outcome) for one in attempts) == [(1, "rejected"), (2, "succeeded"), (3, None)]


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


async def test_the_end_of_a_pause_changes_only_what_waited_for_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long pause leaves many deliveries, and nearly all are due as they are. Each change would cost a write."""
    await journal.register({"folder": "file"})
    await fill(journal, 3)
    (work,) = await take(journal, limit=1)
    await journal.complete(completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW + 50))
    await journal.pause("folder", NOW + 100, "503")
    update, changed = journal.store.update, list[str]()

    async def noted(id: str, transition: Any) -> Any:
        changed.append(id)
        return await update(id, transition)

    monkeypatch.setattr(journal.store, "update", noted)
    assert await journal.resume("folder")
    assert changed == [work.delivery.submission_id]
    assert len(await take(journal, 1)) == 3


async def test_work_brings_all_an_attempt_needs(journal: Journal) -> None:
    """The delivery as claimed, the event, how its files stand now, this submission's receipts everywhere, and the
    parent's here."""
    media = Media(digest="d", type="image/png", size=3, extension=".png", url="u")
    missing = ExpectedFile(place="image_urls.1", links=("v",), due_ms=NOW + 7, problem="It is slow.")
    files = (ExpectedFile(place="image_urls.0", links=("u",), media=media), missing)
    parent, child = submission(1), submission(2, parent_id=submission(1).id, files=files)
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
    assert work.event == fact
    assert (work.submission.media, work.submission.media_due_ms) == ((media,), NOW + 7)
    assert work.submission.media_problem == "1 of 2 files is missing. It is slow."
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


async def test_what_cannot_be_read_is_dead_and_holds_up_nobody(store: Store, journal: Journal) -> None:
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
    await store.lose_event(f"{row.id}.task.lost")
    assert [work.delivery.id[-1] for work in await take(journal)] == ["2"]
    dead = await journal.delivery("01KKGM7NK20000000000000003")
    assert dead is not None
    assert dead.status == "dead"
    assert dead.detail is not None
    assert "lost its submission or event" in dead.detail
    assert [record.outcome for record in await journal.attempts(dead.id)] == ["rejected"]


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


async def test_the_fence_refuses(journal: Journal) -> None:
    """Another owner, or another attempt, has taken over: the late completion changes nothing."""
    await fill(journal, 1)
    (work,) = await take(journal)
    before = await journal.delivery(work.delivery.id)
    other: tuple[dict[str, Any], ...] = ({"owner": "engine-2"}, {"attempt": 2}, {"attempt": 0}, {"delivery_id": "x"})
    for fields in other:
        assert not await journal.complete(completion(work, **fields)), fields
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
    """What it left running is due soon; our own is left alone; its late completion is refused."""
    await fill(journal, 2)
    (theirs,) = await take(journal, limit=1, owner="vanished")
    (ours,) = await take(journal, limit=1)
    assert await journal.free_running(OWNER, NOW + 9) == 1
    freed = await journal.delivery(theirs.delivery.id)
    assert freed is not None
    assert (freed.status, freed.failures, freed.due_ms, freed.owner) == ("pending", 1, NOW + 2009, None)
    assert await status_of(journal, int(ours.delivery.id[10:])) == "running"
    (record,) = await journal.attempts(theirs.delivery.id)
    assert (record.outcome, record.detail) == ("vanished", "the process ended while the attempt ran")
    assert not await journal.complete(completion(theirs))
    assert await journal.free_running(OWNER, NOW + 9) == 0
    (again,) = await take(journal, 2009)
    assert (again.delivery.id, again.delivery.attempt) == (theirs.delivery.id, 2)


async def test_engines_that_are_alive_keep_what_they_run(journal: Journal) -> None:
    """Only deliveries of engines that are gone are freed."""
    await fill(journal, 2)
    await take(journal, limit=1, owner="alive")
    await take(journal, limit=1, owner="gone")

    async def owners() -> set[str]:
        return {"alive"}

    assert await journal.free_running(OWNER, NOW, owners) == 1
    assert sorted([await status_of(journal, number) for number in (1, 2)]) == ["pending", "running"]


async def test_a_delivery_that_ends_every_engine_is_dead_at_last(journal: Journal) -> None:
    """Each crash counts as a failure and is retried with backoff, so a poison event has an end."""
    await fill(journal, 1)
    at = 0
    await take(journal, owner="engine-0")
    for number, step in enumerate([FREED_AFTER, FREED_TOGETHER, *DELIVERY[1:]], start=1):
        assert await journal.free_running(f"engine-{number}", NOW + at) == 1
        if number <= len(DELIVERY):
            freed = await journal.delivery("01KKGM7NK20000000000000001")
            assert freed is not None
            assert (freed.status, freed.failures) == ("pending", number)
            assert 0.9 * step * 1000 <= freed.due_ms - (NOW + at) <= 1.1 * step * 1000
            at = freed.due_ms - NOW
            assert len(await take(journal, at, owner=f"engine-{number}")) == 1
    assert await status_of(journal, 1) == "dead"
    assert await take(journal, 10**9) == []


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


async def test_opening_again_changes_nothing(store: Store) -> None:
    """What was written is there, whoever opens it next."""
    first = await store.open()
    await first.add(FULL)
    await first.aclose()
    again = await store.open()
    assert await again.get(ID) == FULL
    await again.aclose()


async def test_many_can_open_a_new_store_at_once(store: Store) -> None:
    """`serve` and `submit` started together find one schema, and each other's rows."""
    opened = await asyncio.gather(*(store.open() for _ in range(6)))
    for number, journal in enumerate(opened):
        await journal.add(submission(number))
    assert [len(await journal.submissions(limit=9)) for journal in opened] == [6] * 6
    for journal in opened:
        await journal.aclose()


class Counting(Contract):
    """A store on which counting takes a while, and that knows how often it has counted."""

    def __init__(self, pending: int) -> None:
        self.pending, self.counted = pending, 0

    async def counts(self, *, submissions: bool = False) -> Counts:
        self.counted += 1
        await asyncio.sleep(0.2)
        return Counts(destinations={"folder": DestinationCount(pending=self.pending)})


@pytest.mark.parametrize(("pending", "times"), [(20, 3), (MANY + 1, 1)])
async def test_many_deliveries_are_not_counted_at_each_look(pending: int, times: int) -> None:
    """Where counting takes long, pages and probes share the numbers for a while. Who needs them exact counts anew."""
    store = Counting(pending)
    journal = Journal(store)  # type: ignore[abstract]
    for _ in range(3):
        assert (await journal.counts()).destinations["folder"].pending == pending
    assert store.counted == times
    store.pending += 1
    assert (await journal.counts(exact=True)).destinations["folder"].pending == pending + 1
