"""A journal is copied to another database: everything is there, nothing is owed twice, and a failure leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from journals import (
    FULL,
    ID,
    NOW,
    STORES,
    Store,
    callback,
    completion,
    delivery,
    event,
    keep,
    owe,
    owing,
    put,
    submission,
    take,
)
from postgres import postgres_store
from waiting import PATIENCE

from receiver.app import copying
from receiver.deliveries import Receipt
from receiver.errors import InputError, JournalError
from receiver.events import Input
from receiver.journal import Journal, Trouble
from receiver.journal.document import replace
from receiver.journal.membership import SharedMembership
from receiver.journal.store import EVERYTHING, ROW_KINDS, Filter, RowKind, Rows, StoredRow
from receiver.journal.transfer import PAGE, copy, tally

LATER = NOW + 3_600_000
DESTINATIONS = {"folder": "file", "chat": "slack", "hook": "webhook"}


@pytest.fixture(params=[("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite")], ids="-".join)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Where the journal is, and where it goes: each kind of store on each side."""
    async with AsyncExitStack() as stack:
        made = []
        for number, name in enumerate(request.param):
            folder = tmp_path / str(number)
            folder.mkdir()
            made.append(await stack.enter_async_context(STORES[name](folder)))
        yield made[0], made[1]


@pytest.fixture
async def source(pair: tuple[Store, Store]) -> AsyncIterator[Journal]:
    opened = await pair[0].open()
    yield opened
    await opened.aclose()


@pytest.fixture
async def target(pair: tuple[Store, Store]) -> AsyncIterator[Journal]:
    opened = await pair[1].open()
    yield opened
    await opened.aclose()


async def half_way(journal: Journal) -> None:
    """Leave something of everything: what is done, owed, under way, given up, paused, and left over."""
    await journal.register(DESTINATIONS)
    await journal.add(FULL)
    for number in (3, 1, 2):
        await keep(journal, callback(number, cause="no_state" if number == 2 else None))
    for number in range(2, 8):
        await journal.add(submission(number, prompt=f"boat {number} 💥 ü"))
        await owe(journal, submission(number), "task.accepted", number, destination="folder")
    done, _running, postponed, dead, waiting, _also_running = await take(journal, limit=6)
    await journal.complete(completion(done, receipt=Receipt(ref="a", data={"z": [1, None], "a": "ü"})))
    await journal.complete(completion(postponed, outcome="postponed", status="pending", due_ms=LATER))
    await journal.complete(completion(dead, outcome="rejected", status="dead", detail="no such folder"))
    await journal.complete(completion(waiting, outcome="failed", status="pending", due_ms=LATER, counts=True))
    await owe(journal, submission(5), "task.succeeded", 20)
    await owe(journal, submission(2), "task.progressed", 21, percent=10, destination="chat")
    await owe(journal, submission(2), "task.succeeded", 22, destination="chat", due_ms=LATER)
    await journal.pause("chat", LATER, "it asked for an hour")
    await journal.note(Trouble(name="provider", since_ms=NOW, text="It does not answer."))
    picture = Input(digest="f" * 64, type="image/png", size=1)
    await journal.add(submission(30, inputs=(picture,), ended="task.lost"))
    await journal.erase(submission(30).id, force=True)


async def view(journal: Journal) -> dict[str, Any]:
    """All that can be asked of it."""
    rows = await journal.submissions(limit=1000)
    deliveries = await journal.deliveries(limit=1000)
    return {
        "rows": rows,
        "callbacks": [await journal.callbacks(row.id) for row in rows],
        "events": await journal.events(limit=1000),
        "order": [row.record.id async for row in journal.selected("events", Filter())],
        "deliveries": deliveries,
        "attempts": [await journal.attempts(item.id) for item in deliveries],
        "destinations": await journal.destinations(),
        "troubles": await journal.troubles(),
        "files": await journal.needed_files(),
        "leftovers": await journal.leftovers(""),
    }


async def test_everything_is_there(source: Journal, target: Journal) -> None:
    """Each row of each kind, and every number and order; the source is as it was."""
    await half_way(source)
    before = await view(source)
    copied = await copy(source.store, target.store)
    assert {kind: item.count for kind, item in copied.items()} == {
        "submissions": 7, "callbacks": 3, "events": 9, "deliveries": 9, "attempts": 6, "files": 2, "leftovers": 1,
        "values": 2,
    }  # fmt: skip
    assert await view(source) == await view(target) == before
    assert {item.status for item in before["deliveries"]} == {"succeeded", "running", "pending", "dead", "cancelled"}


async def test_what_was_owed_is_owed_once(source: Journal, target: Journal) -> None:
    """The next engine there takes what this one would have taken, under the same keys; pauses and due times hold."""
    await half_way(source)
    await copy(source.store, target.store)
    for at in (0, LATER - NOW + 1):
        for name in DESTINATIONS:
            here = await take(source, at, destination=name, owner="next")
            there = await take(target, at, destination=name, owner="next")
            assert there == here
    left = [item.id for item in await target.deliveries(limit=100, status="running", destination="folder")]
    assert len(left) == len(set(left))


async def test_numbers_go_on(source: Journal, target: Journal) -> None:
    """What becomes known afterwards stands behind all that was copied."""
    await half_way(source)
    await copy(source.store, target.store)
    last = [row.key async for row in target.selected("events", Filter())][-1]
    fact = await owe(target, submission(6), "task.succeeded", 40)
    await keep(target, callback(9))
    later = await target.page("events", EVERYTHING, after=last, limit=10, newest_first=False)
    assert [row.record for row in later] == [fact]
    assert [item.received_ms - NOW for item in await target.callbacks(ID)] == [3, 1, 2, 9]


async def test_more_than_a_page(source: Journal, target: Journal) -> None:
    """However many there are, none is left out or taken twice; and it is told how far it is."""
    count = PAGE + 5
    rows = [submission(number) for number in range(count)]
    await asyncio.gather(*map(source.add, rows))
    facts = [event(row) for row in rows]
    changes = [owing(row, (fact, delivery(fact, n))) for n, (row, fact) in enumerate(zip(rows, facts, strict=True))]
    await asyncio.gather(*(put(source, change) for change in changes))
    told: list[tuple[RowKind, int]] = []
    copied = await copy(source.store, target.store, lambda kind, number: told.append((kind, number)))
    assert copied["submissions"].count == copied["events"].count == copied["deliveries"].count == count
    assert [number for kind, number in told if kind == "submissions"] == [PAGE, count]
    assert len(await target.deliveries(limit=2 * count)) == count


@pytest.mark.parametrize("kind", ["submission", "leftover"])
async def test_a_target_that_holds_something_is_refused(source: Journal, target: Journal, kind: str) -> None:
    """And nothing is written there."""
    await half_way(source)
    await target.add(submission(99, inputs=(Input(digest="9" * 64, type="image/png", size=1),), ended="task.lost"))
    if kind == "leftover":
        await target.erase(submission(99).id, force=True)
    before = await view(target)
    with pytest.raises(InputError, match="holds something already"):
        await copy(source.store, target.store)
    assert await view(target) == before


async def test_what_a_start_leaves_behind_is_replaced(source: Journal, target: Journal) -> None:
    """A server that was started once has registered its destinations; that is nothing yet."""
    await half_way(source)
    await target.register({"old": "file"})
    await target.note(Trouble(name="callbacks", since_ms=NOW, text="None come."))
    await copy(source.store, target.store)
    assert [item.name for item in await target.destinations()] == sorted(DESTINATIONS)
    assert [item.name for item in await target.troubles()] == ["provider"]


async def test_an_interrupted_copy_leaves_nothing(source: Journal, target: Journal) -> None:
    """It can be started again as if it had never begun."""
    await half_way(source)

    def fail(kind: RowKind, count: int) -> None:
        if kind == "attempts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await copy(source.store, target.store, fail)
    assert await target.submissions(limit=10) == []
    assert await target.destinations() == []
    await copy(source.store, target.store)
    assert await view(target) == await view(source)


class Worse:
    """A store that does not keep what it is given, in one way or another."""

    def __init__(self, store: Any, way: str) -> None:
        self._store = store
        self._way = way

    @asynccontextmanager
    async def transfer(self, *, fill: bool) -> AsyncIterator[Rows]:
        async with self._store.transfer(fill=fill) as rows:
            self._rows = rows
            yield self

    async def page(self, kind: RowKind, after: Any, limit: int) -> list[StoredRow]:
        found: list[StoredRow] = await self._rows.page(kind, after, limit)
        return found

    async def put(self, kind: RowKind, rows: Sequence[StoredRow]) -> None:
        if self._way == "loses" and kind == "deliveries":
            rows = rows[1:]
        if self._way == "changes" and kind == "submissions":
            rows = [StoredRow(row.key, _spoilt(row.record)) for row in rows]
        await self._rows.put(kind, rows)


def _spoilt(record: Any) -> Any:
    row = getattr(record, "submission", None)
    if row is None or row.id != submission(3).id:
        return record
    return replace(record, submission=replace(row, prompt="other"))


@pytest.mark.parametrize(("way", "words"), [("loses", "8 deliveries in place of 9"), ("changes", "or not the same")])
async def test_a_copy_that_differs_is_not_kept(source: Journal, target: Journal, way: str, words: str) -> None:
    """By count, or by digest."""
    await half_way(source)
    with pytest.raises(JournalError, match=words):
        await copy(source.store, Worse(target.store, way))
    assert await target.submissions(limit=10) == []


async def test_nobody_writes_meanwhile(pair: tuple[Store, Store], source: Journal) -> None:
    """What another process is told to keep, it keeps after the copy, or not at all; it can be read all the time."""
    other = await pair[0].open()
    async with source.store.transfer(fill=False) as rows:
        writing = asyncio.create_task(other.add(submission(1)))
        assert (await tally(rows, "submissions")).count == 0
        await other.submissions(limit=1)
        assert not writing.done()
        assert [(await tally(rows, kind)).count for kind in ROW_KINDS] == [0] * len(ROW_KINDS)
    await writing
    assert len(await source.submissions(limit=10)) == 1
    await other.aclose()


class Elsewhere:
    """A journal on a server, and how it answers heartbeats.

    Attributes:
        answers: to the next heartbeats; the last one repeats.
        left: True once its membership was ended.
    """

    def __init__(self, *answers: bool | JournalError) -> None:
        self.answers = list(answers)
        self.left = False
        self.membership = self

    async def join(self, role: str, owner: str, *, store: str) -> None: ...

    async def leave(self, owner: str) -> None:
        self.left = True

    async def heartbeat(self, owner: str) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, JournalError):
            raise answer
        return answer


async def test_heartbeats_go_on_after_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that was away for a moment does not let the copy expire, so that no engine begins beside it."""
    monkeypatch.setattr(copying, "HEARTBEAT_SECONDS", 0.01)
    away = JournalError("The journal does not answer in time.", fault="unreachable")
    journal = Elsewhere(away, away, True, True)
    async with asyncio.timeout(PATIENCE), copying._exclusive(journal, "there"):  # type: ignore[arg-type]
        while len(journal.answers) > 1:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.01)
    assert journal.left


async def test_a_copy_that_has_expired_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may have begun on that journal: what it does from now on would be missing in the copy."""
    monkeypatch.setattr(copying, "HEARTBEAT_SECONDS", 0.01)
    journal = Elsewhere(True, False)
    with pytest.raises(JournalError, match="Broken off: there had no heartbeat"):
        async with asyncio.timeout(PATIENCE), copying._exclusive(journal, "there"):  # type: ignore[arg-type]
            await asyncio.Event().wait()
    assert journal.left


async def test_a_copy_shows_a_heartbeat_before_it_is_kept(source: Journal, target: Journal) -> None:
    """Heartbeats may have failed for long, and the next one is not due before the end."""
    await half_way(source)
    async with copying._exclusive(Elsewhere(False), "there") as confirm:  # type: ignore[arg-type]
        with pytest.raises(JournalError, match="Broken off: there had no heartbeat"):
            await copy(source.store, target.store, confirm=confirm)
    assert await target.submissions(limit=10) == []


async def test_a_copy_beside_which_an_engine_began_is_not_kept(tmp_path: Path) -> None:
    """Its heartbeats failed for so long that the engine found it expired."""
    async with postgres_store(tmp_path) as store:
        journal = await store.open()
        async with copying._exclusive(journal, "there") as confirm:
            await confirm()
            (copy_owner,) = await journal.membership.owners()
            seconds = iter(range(0, 100, 7))
            engine = SharedMembership(journal.store, monotonic=lambda: next(seconds) / 2)
            while not (gone := await engine.expire("a")):
                pass
            assert gone == [copy_owner]
            with pytest.raises(JournalError, match="Broken off: there had no heartbeat"):
                await confirm()
        await journal.aclose()


async def test_what_fails_in_time_is_no_lack_of_life() -> None:
    """What a copy fails by is told as it is."""
    with pytest.raises(TimeoutError, match="the disk"):
        async with copying._exclusive(Elsewhere(True), "there"):  # type: ignore[arg-type]
            raise TimeoutError("the disk")


async def test_a_copy_is_whole_though_the_journal_cannot_be_left() -> None:
    """It is out of reach when all has been done: others learn from our silence that we are gone."""

    class Unreachable(Elsewhere):
        async def leave(self, owner: str) -> None:
            self.left = True
            raise JournalError("The journal does not answer in time.", fault="unreachable")

    journal = Unreachable(True)
    async with copying._exclusive(journal, "there"):  # type: ignore[arg-type]
        pass
    assert journal.left
