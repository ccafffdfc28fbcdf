"""The contract of a store, on every store: documents, pages, shared values, copies. `test_journal.py` has the rules."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from journals import FULL, ID, NOW, OWNER, STORES, Store, callback, delivery, due_file, event, submission
from ulid import ULID
from waiting import PATIENCE

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import InputError, JournalError
from receiver.events import Callback, Event, Submission, first_id
from receiver.journal.document import Document, replace
from receiver.journal.pages import FEW
from receiver.journal.store import (
    EVERYTHING,
    Filter,
    Key,
    LeftFile,
    NeededFile,
    RowKind,
    SharedValue,
    StoredRow,
    fits_submission,
    pages,
)
from receiver.journal.store import Store as Contract
from receiver.journal.transfer import copy
from receiver.journal.transitions import claim as claim_transition
from receiver.journal.transitions import fan_out


@pytest.fixture
async def opened(store: Store) -> AsyncIterator[Contract]:
    journal = await store.open()
    yield journal.store
    await journal.aclose()


def add_callback(document: Document) -> tuple[Document, int]:
    """A transition that adds a callback and counts it in the submission."""
    row = document.submission
    count = row.callbacks + 1
    return replace(
        document, submission=replace(row, callbacks=count), new_callbacks=(*document.new_callbacks, callback(count))
    ), count


def add_event(fact: Event, *owed: Delivery) -> Callable[[Document], tuple[Document, None]]:
    """A transition that adds an event and what it owes."""

    def transition(document: Document) -> tuple[Document, None]:
        name = fact.id.removeprefix(f"{document.id}.")
        after = replace(document, known=(*document.known, name), new_events=(*document.new_events, fact))
        return fan_out(after, [fact], owed), None

    return transition


def start(document: Document) -> tuple[Document, Delivery | None]:
    return claim_transition(document, "folder", OWNER, NOW)


def start_fresh(document: Document) -> tuple[Document, Delivery | None]:
    return claim_transition(document, "folder", OWNER, NOW, fresh=True)


async def ids(store: Contract, kind: RowKind, wanted: Filter, *, newest_first: bool = False) -> list[Any]:
    """The rows of a kind that fit, by their distinguishing field."""
    names = {"submissions": "id", "events": "id", "deliveries": "id", "callbacks": "received_ms", "attempts": "number"}
    name = names.get(kind, "digest")
    return [getattr(row.record, name) async for row in pages(store, kind, wanted, size=2, newest_first=newest_first)]


# Documents


async def test_what_is_created_is_loaded(opened: Contract) -> None:
    """Every field comes back; what does not exist is left out."""
    assert await opened.create(FULL) == FULL
    found = await opened.load([ID, "missing"])
    assert set(found) == {ID}
    assert found[ID].submission == FULL
    assert found[ID].version >= 1
    assert await opened.update("missing", add_callback) is None


async def test_a_name_is_given_once(opened: Contract) -> None:
    """The second submission of a name is not written, and the first is returned. An id exists once."""
    first = await opened.create(submission(1, once="name"))
    assert await opened.create(submission(2, once="name")) == first
    assert set(await opened.load([submission(1).id, submission(2).id])) == {first.id}
    with pytest.raises(JournalError):
        await opened.create(submission(1, prompt="another"))
    assert (await opened.load([first.id]))[first.id].submission == first


async def test_updates_wait_for_each_other(opened: Contract) -> None:
    """Many at once on one document: none is lost, each sees the one before, and the version rises."""
    await opened.create(FULL)
    before = (await opened.load([ID]))[ID]
    counts = await asyncio.gather(*(opened.update(ID, add_callback) for _ in range(20)))
    after = (await opened.load([ID]))[ID]
    assert sorted(count for count in counts if count is not None) == list(range(7, 27))
    assert after.submission.callbacks == 26
    assert after.version > before.version
    found = await opened.page("callbacks", Filter(submission_id=ID), limit=100)
    assert sorted(row.record.received_ms for row in found if isinstance(row.record, Callback)) == [
        NOW + number for number in range(7, 27)
    ]


async def test_an_error_is_its_own_callers(opened: Contract) -> None:
    """Of updates that run together the one that fails writes nothing, and the others stay."""
    await opened.create(FULL)

    def fails(document: Document) -> tuple[Document, None]:
        raise ValueError("guilty")

    good, bad, other = await asyncio.gather(
        opened.update(ID, add_callback), opened.update(ID, fails), opened.update(ID, add_callback),
        return_exceptions=True,
    )  # fmt: skip
    assert (good, other) in ((7, 8), (8, 7))
    assert isinstance(bad, ValueError)
    assert (await opened.load([ID]))[ID].submission.callbacks == 8


async def test_what_writes_nothing_changes_nothing(opened: Contract) -> None:
    """A transition that returns the same document leaves the version alone."""
    await opened.create(FULL)
    before = await opened.load([ID])
    assert await opened.update(ID, lambda document: (document, "seen")) == "seen"
    assert await opened.load([ID]) == before


async def test_deliveries_go_with_their_document(opened: Contract) -> None:
    """Open deliveries are loaded with their events and running attempts, closed ones only remembered."""
    row = submission(1)
    await opened.create(row)
    progress, end = event(row, "task.progressed", 40), event(row)
    await opened.update(row.id, add_event(progress, delivery(progress, 1), delivery(progress, 2, "screen")))
    await opened.update(row.id, add_event(end, delivery(end, 3)))
    assert await opened.update(row.id, start) is not None
    document = (await opened.load([row.id]))[row.id]
    assert document.known == ("task.progressed.40", "task.succeeded")
    assert document.newest == {"folder": "task.succeeded", "screen": "task.progressed.40"}
    assert {item.id: item.status for item in document.deliveries} == {
        delivery(progress, 2).id: "pending",
        delivery(end, 3).id: "running",
    }
    assert {item.id: item for item in document.events} == {progress.id: progress, end.id: end}
    assert document.attempts == (AttemptRecord(delivery_id=delivery(end, 3).id, number=1, started_ms=NOW),)
    assert (document.new_events, document.closed, document.new_attempts) == ((), (), ())


async def test_an_id_of_another_submission(opened: Contract) -> None:
    """Where ids of deliveries are unique over all submissions, the second one fails alone."""
    if not copied(opened):
        return  # a bucket keeps deliveries by submission
    first, second = submission(1), submission(2)
    await asyncio.gather(opened.create(first), opened.create(second))
    mine, other = event(first), event(second)
    await opened.update(first.id, add_event(mine, delivery(mine, 1)))
    bad, good = await asyncio.gather(
        opened.update(second.id, add_event(other, delivery(other, 1))),
        opened.update(first.id, add_callback),
        return_exceptions=True,
    )
    assert isinstance(bad, JournalError)
    assert good == 1
    assert (await opened.load([second.id]))[second.id].deliveries == ()


async def test_text_that_is_no_utf8(opened: Contract) -> None:
    """Half a character becomes U+FFFD, at once and for later readers."""
    await opened.create(submission(1, prompt="half \ud83d"))
    row = submission(1)

    def change(document: Document) -> tuple[Document, str]:
        return replace(document, submission=replace(document.submission, detail="\udc00 half")), "done"

    assert await opened.update(row.id, change) == "done"
    seen = await opened.update(row.id, lambda document: (document, document.submission))
    assert seen is not None
    assert (seen.prompt, seen.detail) == ("half \ufffd", "\ufffd half")
    assert (await opened.load([row.id]))[row.id].submission == seen


async def test_additions_come_along(opened: Contract) -> None:
    """New submissions of an update are written with it, except those whose name is taken."""
    await opened.create(submission(1, once="taken"))
    more = (submission(2, once="taken"), submission(3, once="free", parent_id=submission(1).id))
    await opened.update(submission(1).id, lambda document: (replace(document, additions=more), None))
    assert await ids(opened, "submissions", EVERYTHING) == [submission(1).id, submission(3).id]
    assert await opened.update(submission(3).id, lambda document: (document, document.version)) == 1


async def test_claims_take_what_is_due(opened: Contract) -> None:
    """The longest due first, up to the limit, nothing that runs, is due later, or goes elsewhere."""
    rows = [submission(number) for number in range(1, 6)]
    await asyncio.gather(*(opened.create(row) for row in rows))
    dues = (NOW - 1, NOW - 3, NOW + 1, NOW - 2, NOW - 4)
    for number, (row, due_ms) in enumerate(zip(rows, dues, strict=True), 1):
        place = "screen" if number == 5 else "folder"
        await opened.update(row.id, add_event(event(row), delivery(event(row), number, place, due_ms=due_ms)))
    first = await opened.claim("folder", NOW, 2, start)
    assert [item.submission_id for item in first if item] == [rows[1].id, rows[3].id]
    assert all(item.status == "running" and item.owner == OWNER for item in first if item)
    rest = await opened.claim("folder", NOW, 9, start)
    assert [item.submission_id for item in rest if item] == [rows[0].id]
    assert await opened.claim("folder", NOW, 9, start) == []
    assert await opened.claim("nowhere", NOW, 9, start) == []


async def test_a_fresh_claim_takes_what_has_not_failed(opened: Contract) -> None:
    """Places are those among the fresh ones. A submission with one that has failed and one that has not is among them,
    and what has failed is never started."""
    rows = [submission(number) for number in range(1, 9)]
    await asyncio.gather(*(opened.create(row) for row in rows))
    for number, row in enumerate(rows, 1):  # 1 to 4 have failed and are due first
        first = delivery(event(row), number, due_ms=NOW - 20 + number, failures=int(number <= 4))
        await opened.update(row.id, add_event(event(row), first))
    further = event(rows[3], "task.progressed", 50)
    await opened.update(rows[3].id, add_event(further, delivery(further, 9, due_ms=NOW)))
    taken = []
    for place in (0.5, 1.0, 0.0, 0.0, 0.0):
        (one,) = await opened.claim("folder", NOW, 1, start_fresh, fresh=place)
        assert one is not None
        taken.append(int(one.id[10:]))
    assert sorted(taken) == [5, 6, 7, 8, 9]
    assert await opened.claim("folder", NOW, 1, start_fresh, fresh=1.0) == []
    assert len(await opened.claim("folder", NOW, 9, start)) == 3


async def test_a_fresh_claim_takes_the_one_at_its_place(opened: Contract) -> None:
    """0 is the longest due, 1 the shortest."""
    rows = [submission(number) for number in range(1, 8)]
    await asyncio.gather(*(opened.create(row) for row in rows))
    for number, row in enumerate(rows, 1):
        await opened.update(row.id, add_event(event(row), delivery(event(row), number, due_ms=NOW - 20 + number)))
    taken = []
    for place in (1.0, 0.0, 0.6, 1.0):  # of 1-7, 2-6 … 7, 1, 4, 6
        (one,) = await opened.claim("folder", NOW, 1, start_fresh, fresh=place)
        assert one is not None
        taken.append(int(one.id[10:]))
    assert taken == [7, 1, 4, 6]


# Deleting


async def test_a_submission_is_removed_with_all_its_rows(opened: Contract) -> None:
    """Rows of all kinds go, files that no other needs become leftovers; a refusal deletes nothing."""
    await opened.create(FULL)
    await opened.create(submission(2, inputs=FULL.inputs))
    fact = event(FULL)
    await opened.update(ID, add_event(fact, delivery(fact, 1)))
    await opened.update(ID, start)
    await opened.update(ID, add_callback)
    assert (await opened.remove([ID], lambda document: None))["kept"] == 1
    assert set(await opened.load([ID])) == {ID}
    removed = await opened.remove([ID], lambda document: document)
    one = dict.fromkeys(("submissions", "events", "deliveries", "attempts", "callbacks", "files"), 1)
    assert removed == {**one, "kept": 0}
    assert await opened.load([ID]) == {}
    assert await opened.update(ID, add_callback) is None
    assert await ids(opened, "submissions", EVERYTHING) == [submission(2).id]
    kinds: tuple[RowKind, ...] = ("events", "deliveries", "attempts", "callbacks")
    assert [await ids(opened, kind, EVERYTHING) for kind in kinds] == [[]] * 4
    assert [row.record for row in await opened.page("leftovers", EVERYTHING, limit=9)] == [LeftFile(digest="e")]
    again = await opened.remove([ID], lambda document: document)
    assert set(again.values()) == {0}


async def test_submissions_are_removed_together(opened: Contract) -> None:
    """Each that may go goes with its rows, and a file that two of them shared is left over once."""
    for number in range(1, 6):
        await opened.create(submission(number, inputs=FULL.inputs if number < 4 else ()))
        await opened.update(submission(number).id, add_event(event(submission(number))))
    kept = submission(5).id
    wanted = [submission(number).id for number in (1, 2, 3, 5, 9)]
    removed = await opened.remove(wanted, lambda document: None if document.id == kept else document)
    assert (removed["submissions"], removed["events"], removed["kept"]) == (3, 3, 1)
    assert await ids(opened, "submissions", EVERYTHING) == [submission(4).id, kept]
    assert await ids(opened, "submissions", Filter(words=("boat",))) == [submission(4).id, kept]
    assert [row.record for row in await opened.page("leftovers", EVERYTHING, limit=9)] == [LeftFile(digest="d")]


async def test_files_alone_are_given_up(opened: Contract) -> None:
    """The submission stays, as the transition leaves it; one that is needed again says so."""
    await opened.create(FULL)

    def without(document: Document) -> Document:
        return replace(document, submission=replace(document.submission, files=()))

    removed = await opened.remove([ID], without, files_only=True)
    assert removed["files"] == 2
    assert (await opened.load([ID]))[ID].submission.media == ()
    await opened.create(submission(2, inputs=FULL.inputs))
    found = [row.record for row in await opened.page("leftovers", EVERYTHING, limit=9)]
    assert found == [LeftFile(digest="d", needed=True), LeftFile(digest="e")]
    assert await opened.forget("leftovers", [("d",), ("e",), ("f",)]) == 2
    assert await opened.page("leftovers", EVERYTHING, limit=9) == []


@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
async def test_rows_of_many_submissions_with_the_same_words(opened: Contract) -> None:
    """Pages by what requests have are the same, be there a few of them or more than are looked up at once."""
    rows = [
        submission(number, prompt=f"a paper {'BOAT' if number % 100 else 'plane'}", labels={"n": str(number % 7)})
        for number in range(FEW + 200)
    ]
    facts = [event(row) for row in rows]
    owed = [delivery(fact, number, status=("pending", "dead")[number % 2]) for number, fact in enumerate(facts)]
    async with opened.transfer(fill=True) as target:
        await target.put("submissions", [StoredRow((row.id,), Document(submission=row, version=1)) for row in rows])
        await target.put("events", [StoredRow((number,), fact) for number, fact in enumerate(facts, 1)])
        await target.put("deliveries", [StoredRow((item.id,), item) for item in owed])
    for words, labels in ((("boat",), ()), (("Plane",), ()), (("boat", "paper"), (("n", "3"),)), (("car",), ())):
        wanted = Filter(words=words, labels=labels)
        found = {row.id for row in rows if fits_submission(row, wanted)}
        assert await every(opened, "submissions", wanted) == found
        assert await every(opened, "submissions", dataclasses.replace(wanted, status="prepared")) == found
        assert await every(opened, "submissions", dataclasses.replace(wanted, status="lost")) == set()
        assert await every(opened, "events", wanted) == {fact.id for fact in facts if fact.submission_id in found}
        dead = dataclasses.replace(wanted, status="dead")
        there = {item.id for item in owed if item.submission_id in found}
        assert await every(opened, "deliveries", wanted) == there
        assert await every(opened, "deliveries", dead) == there & {item.id for item in owed if item.status == "dead"}


async def every(opened: Contract, kind: RowKind, wanted: Filter) -> set[str]:
    """Ids of the rows of all pages, which come in order and once, in both directions."""
    both = []
    for newest_first in (False, True):
        found = [row async for row in pages(opened, kind, wanted, size=150, newest_first=newest_first)]
        keys = [row.key for row in found]
        assert keys == sorted(set(keys), reverse=newest_first)
        both.append({row.record.id for row in found})  # type: ignore[union-attr]
    assert both[0] == both[1]
    return both[0]


async def test_callbacks_are_forgotten_by_their_keys(opened: Contract) -> None:
    """Only those, and each once."""
    await opened.create(FULL)
    for _ in range(3):
        await opened.update(ID, add_callback)
    keys: list[Key] = [row.key for row in await opened.page("callbacks", EVERYTHING, limit=2)]
    assert await opened.forget("callbacks", keys) == 2
    assert await opened.forget("callbacks", keys) == 0
    assert await ids(opened, "callbacks", EVERYTHING) == [NOW + 9]


# Pages

IDS_MS = int(ULID.from_str(ID).timestamp * 1000)
"""The time in the ids of tests."""
ROWS = (
    submission(1, created_ms=NOW),
    submission(2, kind="blend", labels={"a": "1", "b\"'": "x"}, prompt="ÄPFEL and pears", task_id="task-2"),
    submission(3, parent_id=submission(1).id, status="refused", send_due_ms=None, labels={"a": "2"}),
    replace(FULL, id=submission(4).id, once=None),
    submission(
        5, status="accepted", ended="task.succeeded", send_due_ms=None, task_id="task-2", labels={"a": "1", "c": ""}
    ),
    submission(6, status="accepted", ended="task.lost", send_due_ms=None, poll_due_ms=NOW + 50),
)


FOUND: tuple[tuple[Filter, list[int]], ...] = (
    (Filter(), [1, 2, 3, 4, 5, 6]),
    (Filter(ids=(submission(2).id, submission(5).id, "missing")), [2, 5]),
    (Filter(ids=()), []),
    (Filter(submission_id=submission(3).id), [3]),
    (Filter(parent_id=submission(1).id), [3]),
    (Filter(task_id="task-2"), [2, 5]),
    (Filter(part="0000005"), [5]),
    (Filter(part=submission(1).id[:20]), [1, 2, 3, 4, 5, 6]),
    (Filter(status="refused"), [3]),
    (Filter(status="prepared"), [1, 2]),
    (Filter(status="lost"), [6]),
    (Filter(status="accepted"), []),
    (Filter(kind="blend"), [2, 4]),
    (Filter(labels=(("a", "1"),)), [2, 5]),
    (Filter(labels=(("a", "1"), ("b\"'", "x"))), [2]),
    (Filter(words=("äpfel", "PEARS")), [2]),
    (Filter(words=("boat",), kind="imagine"), [1, 3, 5, 6]),
    (Filter(called_back=True), [4, 5]),
    (Filter(settled=True), [3, 5]),
    (Filter(with_files=True), [4]),
    (Filter(due_after_ms=NOW + 40), [1, 2, 6]),
    (Filter(destination="folder", type="task.failed"), [1, 2, 3, 4, 5, 6]),
)


async def test_pages_of_submissions(opened: Contract) -> None:
    """Each condition, both ways, two rows at a time; the same as the function that says it."""
    for row in ROWS:
        await opened.create(row)
    for wanted, numbers in FOUND:
        expected = [submission(number).id for number in numbers]
        assert await ids(opened, "submissions", wanted) == expected, wanted
        assert await ids(opened, "submissions", wanted, newest_first=True) == expected[::-1], wanted
        if wanted.ids is None and wanted.submission_id is None and not wanted.with_files:
            assert [row.id for row in ROWS if fits_submission(row, wanted)] == expected, wanted


async def test_submissions_are_told_by_the_time_in_their_id(opened: Contract) -> None:
    """From a moment on, and before one."""
    early, late = submission(1), submission(1, id=first_id(IDS_MS + 3_000))
    await asyncio.gather(opened.create(early), opened.create(late))
    between = IDS_MS + 2_000
    assert await ids(opened, "submissions", Filter(since_ms=between)) == [late.id]
    assert await ids(opened, "submissions", Filter(until_ms=between)) == [early.id]
    assert await ids(opened, "submissions", Filter(until_ms=between, since_ms=between)) == []


async def filled(store: Contract) -> tuple[Submission, Submission]:
    """Two submissions with three events, five deliveries, two attempts and three callbacks."""
    first, second = submission(1), submission(2)
    await store.create(first)
    await store.create(second)
    for percent, numbers in ((10, (1, 2)), (20, (3,))):
        fact = event(first, "task.progressed", percent, created_ms=NOW + percent)
        places = ("folder", "screen")
        owed = [delivery(fact, number, place) for number, place in zip(numbers, places, strict=False)]
        await store.update(first.id, add_event(fact, *owed))
    end = event(second, created_ms=NOW + 30)
    await store.update(second.id, add_event(end, delivery(end, 4), delivery(end, 5, "screen", due_ms=NOW + 500)))
    assert len(await store.claim("folder", NOW, 9, start)) == 2
    for number in (1, 2, 3):
        row = second if number == 2 else first
        item = replace(callback(number), submission_id=row.id)
        await store.update(row.id, lambda document, item=item: (replace(document, new_callbacks=(item,)), None))  # type: ignore[misc]
    return first, second


def number_of(id: str) -> int:
    return int(id[10:26])


async def test_pages_of_deliveries(opened: Contract) -> None:
    """Each condition, both ways."""
    await filled(opened)
    for wanted, numbers in (
        (Filter(), [1, 2, 3, 4, 5]),
        (Filter(ids=(delivery(event(submission(1)), 2).id,)), [2]),
        (Filter(submission_id=submission(2).id), [4, 5]),
        (Filter(destination="screen"), [2, 5]),
        (Filter(status="running"), [3, 4]),
        (Filter(status="cancelled"), [1]),
        (Filter(status="pending", destination="screen"), [2, 5]),
        (Filter(due_after_ms=NOW + 100), [5]),
        (Filter(status="cancelled", submission_id=submission(2).id), []),
        (Filter(until_ms=IDS_MS), []),
        (Filter(since_ms=IDS_MS), [1, 2, 3, 4, 5]),
    ):
        assert [number_of(id) for id in await ids(opened, "deliveries", wanted)] == numbers, wanted
        found = await ids(opened, "deliveries", wanted, newest_first=True)
        assert [number_of(id) for id in found] == numbers[::-1], wanted


async def test_pages_of_events(opened: Contract) -> None:
    """In the order in which they became known, whatever their ids say."""
    first, second = await filled(opened)
    known = [f"{first.id}.task.progressed.10", f"{first.id}.task.progressed.20", f"{second.id}.task.succeeded"]
    for wanted, places in (
        (EVERYTHING, (0, 1, 2)),
        (Filter(ids=(known[1],)), (1,)),
        (Filter(submission_id=first.id), (0, 1)),
        (Filter(type="task.succeeded"), (2,)),
        (Filter(since_ms=NOW + 20), (1, 2)),
        (Filter(until_ms=NOW + 20), (0,)),
        (Filter(type="task.progressed", until_ms=NOW + 20), (0,)),
    ):
        assert await ids(opened, "events", wanted) == [known[place] for place in places]
        assert await ids(opened, "events", wanted, newest_first=True) == [known[place] for place in places[::-1]]


async def test_pages_of_callbacks(opened: Contract) -> None:
    """In order of arrival, of all or of one submission, by time."""
    first, second = await filled(opened)
    for wanted, numbers in (
        (EVERYTHING, [1, 2, 3]),
        (Filter(submission_id=first.id), [1, 3]),
        (Filter(submission_id=second.id), [2]),
        (Filter(until_ms=NOW + 3), [1, 2]),
        (Filter(since_ms=NOW + 2), [2, 3]),
    ):
        assert await ids(opened, "callbacks", wanted) == [NOW + number for number in numbers]
        assert await ids(opened, "callbacks", wanted, newest_first=True) == [NOW + number for number in numbers[::-1]]


async def test_pages_of_attempts_and_files(opened: Contract) -> None:
    """Attempts by delivery or submission, files by submission or digest."""
    first, _ = await filled(opened)
    await opened.create(replace(FULL, id=submission(3).id, once=None))
    mine = delivery(event(first), 3).id
    for wanted in (Filter(delivery_id=mine), Filter(submission_id=first.id)):
        page = await opened.page("attempts", wanted, limit=9)
        assert [row.record for row in page] == [AttemptRecord(delivery_id=mine, number=1, started_ms=NOW)]
    assert len(await opened.page("attempts", EVERYTHING, limit=9)) == 2
    files = [NeededFile(submission_id=submission(3).id, digest=digest) for digest in ("d", "e")]
    for wanted, expected in (
        (EVERYTHING, files),
        (Filter(submission_id=submission(3).id), files),
        (Filter(digest="e"), files[1:]),
        (Filter(submission_id=first.id), []),
    ):
        assert [row.record for row in await opened.page("files", wanted, limit=9)] == expected


async def test_due_work_is_listed_by_its_time(opened: Contract) -> None:
    """Each kind by its own field; ended and refused ones have no deadline."""
    rows = [
        submission(1, send_due_ms=NOW, poll_due_ms=NOW + 5, deadline_ms=NOW - 1),
        submission(2, send_due_ms=NOW - 1, files=(due_file(NOW),), deadline_ms=NOW - 2),
        submission(3, send_due_ms=None, poll_due_ms=NOW, ended="task.failed", deadline_ms=NOW - 3),
        submission(4, send_due_ms=None, status="refused", deadline_ms=NOW - 4),
    ]
    await asyncio.gather(*(opened.create(row) for row in rows))

    async def due(kind: Any, limit: int = 9) -> list[int]:
        return [number_of(row.id) for row in await opened.due(kind, NOW, limit)]

    assert [await due(kind) for kind in ("send", "poll", "media", "deadline")] == [[2, 1], [3], [2], [2, 1]]
    assert await due("send", 1) == [2]


async def test_counts(opened: Contract) -> None:
    """Submissions by display status where asked for, deliveries by destination and status."""
    await filled(opened)
    await opened.create(submission(3, status="refused"))
    counts = await opened.counts(submissions=True)
    assert dict(counts.submissions) == {"prepared": 2, "refused": 1}
    folder, screen = counts.destinations["folder"], counts.destinations["screen"]
    assert (folder.pending, folder.running, folder.dead) == (0, 2, 0)
    assert (screen.pending, screen.running, screen.oldest_due_ms) == (2, 0, NOW)
    assert not (await opened.counts()).submissions


# Shared values


async def test_values_are_swapped(opened: Contract) -> None:
    """Only by the version that was read, which never comes again."""
    assert await opened.values("") == {}
    one = await opened.swap("a/1", b'"x"', None)
    assert one
    assert await opened.swap("a/1", b'"y"', None) is None
    two = await opened.swap("a/1", b'"y"', one)
    assert two not in (None, one)
    assert await opened.swap("a/1", b'"z"', one) is None
    assert await opened.swap("b", b"{}", None)
    assert await opened.values("a/") == {"a/1": SharedValue(key="a/1", data=b'"y"', version=two or "")}
    assert await opened.swap("a/1", None, one) is None
    assert await opened.swap("a/1", None, two) == ""
    assert await opened.swap("a/1", None, two) is None
    assert await opened.swap("a/1", b'"x"', one) is None
    assert set(await opened.values("")) == {"b"}


async def test_one_of_many_swaps_wins(opened: Contract) -> None:
    """Whether they make a value or replace it."""
    made = await asyncio.gather(*(opened.swap("key", b"%d" % number, None) for number in range(5)))
    (version,) = [item for item in made if item is not None]
    replaced = await asyncio.gather(*(opened.swap("key", b"1%d" % number, version) for number in range(5)))
    assert len([item for item in replaced if item is not None]) == 1


# Changes


async def test_subscribers_hear_of_writes(opened: Contract) -> None:
    """New, changed and claimed submissions, by their ids or without."""
    heard: list[frozenset[str] | None] = []
    seen = asyncio.Event()

    def changed(ids: frozenset[str] | None) -> None:
        heard.append(ids)
        seen.set()

    opened.subscribe(changed)
    row = submission(1)
    steps: list[Callable[[], Any]] = [
        lambda: opened.create(row),
        lambda: opened.update(row.id, add_event(event(row), delivery(event(row), 1))),
    ]
    for step in steps:
        heard.clear()
        seen.clear()
        await step()
        await asyncio.wait_for(seen.wait(), PATIENCE)
        assert heard[0] is None or row.id in heard[0]


# Copies


async def test_a_store_that_cannot_be_copied_says_so(opened: Contract) -> None:
    """A bucket, in this version: a sentence, and nothing happens."""
    if copied(opened):
        return
    with pytest.raises(InputError, match="bucket"):
        await copy(opened, opened)


def copied(store: Contract) -> bool:
    return "Bucket" not in type(store).__name__


async def test_a_copy_has_every_row(opened: Contract, tmp_path: Path) -> None:
    """On another store of the kind: the same rows, and it goes on from there."""
    if not copied(opened):
        return
    await filled(opened)
    await opened.create(replace(FULL, id=submission(3).id))
    await opened.swap("destinations", b"{}", None)
    (kind,) = [name for name, made in STORES.items() if name in type(opened).__name__.lower()] or ["sqlite"]
    (tmp_path / "copy").mkdir()
    async with STORES[kind](tmp_path / "copy") as other:
        journal = await other.open()
        target = journal.store
        try:
            tallies = await copy(opened, target)
            assert tallies["submissions"].count == 3
            assert await target.load([row.id for row in ROWS]) == await opened.load([row.id for row in ROWS])
            assert set(await target.values("")) == {"destinations"}
            assert await target.update(submission(2).id, add_callback) == 1
            with pytest.raises(InputError, match="empty"):
                await copy(opened, target)
        finally:
            await journal.aclose()


async def test_a_copy_that_breaks_off_leaves_nothing(opened: Contract) -> None:
    """All rows are there when the block ends well, else none."""
    if not copied(opened):
        return

    async def breaks_off() -> None:
        async with opened.transfer(fill=True) as rows:
            await rows.put("submissions", [StoredRow((ID,), Document(submission=FULL, version=1))])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await breaks_off()
    assert await opened.load([ID]) == {}
    assert await opened.create(FULL) == FULL
