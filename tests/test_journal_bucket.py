"""What a bucket adds to what every journal promises: crashes between any two writes, and stores that fail."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import (
    FULL,
    NOW,
    OWNER,
    BucketStore,
    SetClock,
    bucket_store,
    callback,
    completion,
    fill,
    ids,
    keep,
    owe,
    submission,
    take,
)
from obstore.store import MemoryStore
from stores import Cut, Fault, Proxy, proxied
from waiting import PATIENCE

from receiver.backoff import DOWN_AFTER, PROBE
from receiver.bucket.client import Bucket, Tag
from receiver.deliveries import Receipt
from receiver.errors import EngineRunning, InputError, JournalError, ReceiverError
from receiver.events import Event, Media, Submission, first_id
from receiver.intake import Intake, Policy, Route, transitions
from receiver.journal import Change, Journal
from receiver.journal.bucket import keys, over
from receiver.journal.membership import SharedMembership
from receiver.tasks import Button, Task

replace = msgspec.structs.replace

DESTINATIONS = ("folder", "screen")
PICTURE = Media(digest="p" * 64, type="image/png", size=9, extension=".png", url="https://cdn.test/1.png")
BUTTON = Button(custom_id="MJ::U1", label="U1")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[BucketStore]:
    """An empty folder of a bucket."""
    async with bucket_store(tmp_path) as store:
        assert isinstance(store, BucketStore)
        yield store


# A life, cut off at every write


@dataclass(frozen=True, slots=True)
class InMemory(BucketStore):
    """The same by obstore's store in memory: what a crash leaves is our order of writes, whatever the server."""

    endpoint: str = "http://127.0.0.1:9"
    bucket: str = "journals"
    folder: str = "life"
    store: MemoryStore = field(default_factory=MemoryStore)

    def bucket_client(self) -> Bucket:
        client = BucketStore.bucket_client(self)
        client._store = self.store  # type: ignore[assignment]
        return client


class Life:
    """One task from its submission to its deliveries, as engine and endpoint bring it about.

    It goes on from any state, so that another process can finish what one has begun.

    Attributes:
        called: bodies of the callbacks that were answered 2xx.
        effects: (destination, event, idempotency key) of what handlers did; a repeat counts.
    """

    def __init__(self) -> None:
        self.clock = SetClock()
        self.added: str | None = None
        self.called: list[bytes] = []
        self.sent: Counter[str] = Counter()
        self.effects: Counter[tuple[str, str, str]] = Counter()

    def intake(self, journal: Journal) -> Intake:
        routes = tuple(Route(destination=name, progress=name == "screen") for name in DESTINATIONS)
        policy = Policy(confirm_ms=30_000, poll_ms=15_000, media_wait_ms=120_000)
        return Intake(journal, policy=policy, routes=routes, clock=self.clock, changed=lambda row: None)

    async def begin(self, journal: Journal) -> None:
        """Submit, and be called back on the way. A process that is cut off here does nothing more."""
        await journal.register(dict.fromkeys(DESTINATIONS, "recording"))
        row = submission(1, once="the boat", once_digest="d", auto=("U1",), send_due_ms=NOW)
        self.added = (await journal.add(row)).id
        await self.turn(journal)
        intake = self.intake(journal)
        for number, progress in enumerate((10, 60, 100)):
            self.clock.seconds += 1
            status = "SUCCESS" if progress == 100 else "IN_PROGRESS"
            body = b'{"number":%d}' % number
            await intake.received(row.id, _task(row.id, status, progress), body, None)
            self.called.append(body)
            await self.turn(journal)

    async def turn(self, journal: Journal) -> int:
        """One turn of the engine: send, poll, archive, deliver. Returns how much it moved."""
        now_ms, intake, moved = self.clock.now_ms(), self.intake(journal), 0
        for row in await journal.due("send", now_ms, 10):
            moved += 1
            await self._send(journal, intake, row)
        for row in await journal.due("poll", now_ms, 10):
            moved += 1
            await intake.polled(row.id, _task(row.id, "SUCCESS", 100))
        for row in await journal.due("media", now_ms, 10):
            moved += 1
            await intake.tried(row.id, None, {item.place: PICTURE for item in row.files})
        for name in DESTINATIONS:
            for work in await journal.claim(name, owner=OWNER, limit=4, now_ms=now_ms):
                moved += 1
                await self._deliver(journal, name, work.event, work)
        return moved

    async def _send(self, journal: Journal, intake: Intake, row: Submission) -> None:
        def begin(row: Submission) -> Change | None:
            if row.status != "prepared":
                return None
            return Change(submission=replace(row, status="sending", sends=row.sends + 1, send_due_ms=NOW + 90_000))

        if row.status == "sending":
            await intake.take(row.id, transitions.unanswered, "the process ended")
            return
        await journal.change(row.id, begin)
        self.sent[row.id] += 1
        await intake.take(row.id, transitions.answered, (f"task-{row.id}",), "accepted")

    async def _deliver(self, journal: Journal, name: str, event: Event, work: object) -> None:
        delivery = work.delivery  # type: ignore[attr-defined]
        self.effects[name, event.type, delivery.idempotency_key] += 1
        ended = completion(delivery, finished_ms=self.clock.now_ms(), receipt=Receipt(ref=event.id))
        assert await journal.complete(ended)

    async def go_on(self, journal: Journal, owner: str) -> None:
        """Another process: free what was left, and work until nothing is due any more, for hours."""
        await journal.clamp(self.clock.now_ms())
        await journal.free_running(owner, self.clock.now_ms())
        for seconds in (60, 600, 3600, 7200, 0):
            while await self.turn(journal):
                pass
            self.clock.seconds += seconds


def _task(id: str, status: str, progress: int) -> Task:
    return Task(
        id=f"task-{id}",
        status=status,
        progress=progress,
        buttons=(BUTTON,) if status == "SUCCESS" else (),
        image_url="https://cdn.test/1.png" if status == "SUCCESS" else "",
    )


async def lives(place: BucketStore, writes: int, *, skew: float = 0.0) -> tuple[Life, Cut]:
    """A life whose process ends before that write, and goes on in another one, whose clock differs by `skew`."""
    life, bucket = Life(), Cut(place.bucket_client(), writes)
    try:
        first = Journal(await over(bucket, place="s3://first", look_seconds=0))
        await life.begin(first)
        await first.store.settle()
    except ReceiverError:
        assert bucket.ended, "only the end of the process may end it"
    bucket.left = min(bucket.left, 0)
    life.clock.seconds += 100 + skew
    second = await place.open(look_seconds=0)
    await life.go_on(second, "engine-2")
    await check(life, second)
    await second.aclose()
    return life, bucket


async def check(life: Life, journal: Journal) -> None:
    """Nothing acknowledged is lost; nothing happens twice where a key says that it is the same."""
    rows = {row.id: row for row in await journal.submissions(limit=10)}
    if life.added is not None:
        row = rows[life.added]
        kept = [item.body for item in await journal.callbacks(row.id)]
        assert [body for body in life.called if body not in kept] == []
        assert (await journal.find(row.id[-6:])).id == row.id
    assert all(count == 1 for count in life.sent.values()), "a request went out twice"
    for row in rows.values():
        assert row.status in ("accepted", "unknown"), row.status
        if row.status == "accepted":
            await _check_ended(life, journal, row)
    assert await journal.problems() == []
    later = life.clock.now_ms() + 10**9
    for kind in ("send", "poll", "media"):
        assert await journal.due(kind, later, 9) == []  # type: ignore[arg-type]
    assert [item.name for item in await journal.destinations() if item.pending] == []


async def _check_ended(life: Life, journal: Journal, row: Submission) -> None:
    assert row.ended == "task.succeeded"
    assert (await journal.find(f"task-{row.id}")).id == row.id
    assert await journal.needed_files() == [PICTURE.digest]
    if row.auto:
        assert len(await journal.children(row.id)) == 1
    for name in DESTINATIONS:
        owed = await journal.deliveries(limit=50, submission_id=row.id, destination=name)
        told = [item for item in owed if ".task.succeeded" in item.event_id]
        *outdated, last = sorted(told, key=lambda item: item.event_id)
        assert last.status == "succeeded"
        assert all(item.status == "cancelled" for item in outdated), "a further event takes the place of the first"
        keys = {key for (there, type, key) in life.effects if there == name and type == "task.succeeded"}
        assert keys & {item.id for item in owed} == {last.id}


async def test_a_process_that_ends_between_any_two_writes_loses_nothing() -> None:
    """A whole life with a follow-up of its own is cut off before its first write, its second, and so on to its end:
    what was acknowledged is there, every result reaches both destinations under one key, and no request goes out
    twice."""
    for writes in itertools.count(1):
        _, bucket = await lives(InMemory(), writes)
        if len(bucket.done) < writes - 1:
            break
    assert writes > 40


async def test_the_check_would_notice() -> None:
    """A control: where an index entry is lost, or a write that was acknowledged is not there, the same check fails."""
    place = InMemory()
    life, _ = await lives(place, 10**6)
    journal = await place.open(look_seconds=0)
    life.called.append(b"a callback that nobody kept")
    with pytest.raises(AssertionError):
        await check(life, journal)
    life.called.pop()
    await journal.add(submission(7, send_due_ms=NOW))
    bucket = place.bucket_client()
    async for page in bucket.pages("due"):
        await bucket.delete([item.key for item in page])
    with pytest.raises(AssertionError):
        await check(life, journal)
    await journal.aclose()


@pytest.mark.parametrize("skew", [-7200.0, -60.0, 7200.0])
async def test_clocks_that_differ_make_it_late_at_most(skew: float) -> None:
    """One function's clock is hours ahead of the next one's, or behind: nothing is lost, and nothing runs twice."""
    for writes in (23, 31, 42):
        life, _ = await lives(InMemory(), writes, skew=skew)
        assert sum(life.effects.values()) >= 2


# Others at the same time


async def test_two_functions_get_the_same_callback_at_once(place: BucketStore) -> None:
    """And work at the same time on what comes of it: one event, each delivery once, both callbacks kept."""
    life, journals = Life(), [await place.open(look_seconds=0) for _ in range(2)]
    await journals[0].register(dict.fromkeys(DESTINATIONS, "recording"))
    row = await journals[0].add(submission(1, status="accepted", task_id=f"task-{submission(1).id}", send_due_ms=None))
    view = _task(row.id, "SUCCESS", 100)
    calls = [life.intake(journal).received(row.id, view, b"{}", None) for journal in journals]
    assert await asyncio.gather(*calls) == [True, True]
    for _ in range(6):
        await asyncio.gather(*(life.turn(journal) for journal in journals for _ in range(2)))
    assert len(await journals[0].callbacks(row.id)) == 2
    assert [item.type for item in await journals[1].events(limit=9, submission_id=row.id)] == ["task.succeeded"]
    assert sorted(life.effects.values()) == [1, 1]
    assert {item.status for item in await journals[1].deliveries(limit=9, submission_id=row.id)} == {"succeeded"}
    for journal in journals:
        await journal.aclose()


async def test_two_processes_claim_nothing_twice(place: BucketStore) -> None:
    """Each delivery is claimed once, and never two of one submission and destination, however often both ask."""
    one, two = [await place.open(look_seconds=0) for _ in range(2)]
    await fill(one, 12)
    for number in range(1, 13):
        await owe(one, submission(number), "task.lost", number + 20, manual=True)
    claims = await asyncio.gather(*(take(journal, limit=3, owner=f"{n}") for n in range(5) for journal in (one, two)))
    taken = [work.delivery for works in claims for work in works]
    assert len({item.id for item in taken}) == len(taken)
    assert len({item.submission_id for item in taken}) == len(taken) == 12
    for journal in (one, two):
        await journal.aclose()


async def test_two_processes_change_one_submission(place: BucketStore) -> None:
    """No change is lost, though each remembers the document as it wrote it last, and each decides on what is there."""
    one, two = [await place.open() for _ in range(2)]
    await one.add(submission(1))
    row_id = submission(1).id

    def count(row: Submission) -> Change:
        return Change(submission=replace(row, callbacks=row.callbacks + 1))

    await asyncio.gather(*(journal.change(row_id, count) for _ in range(20) for journal in (one, two)))
    row = await one.get(row_id)
    assert row is not None
    assert row.callbacks == 40
    seen: list[int] = []
    await two.change(row_id, count)

    def look(row: Submission) -> None:
        seen.append(row.callbacks)

    await one.change(row_id, look)  # decides nothing, and so nothing is written that could be refused
    assert seen[-1] == 41
    for journal in (one, two):
        await journal.aclose()


async def test_a_name_is_taken_once_by_many(place: BucketStore) -> None:
    """Ten processes submit under one name: one submission, which all of them get."""
    journals = [await place.open() for _ in range(5)]
    rows = [submission(number, once="a name") for number in range(10)]
    got = await asyncio.gather(*(journals[number % 5].add(row) for number, row in enumerate(rows)))
    assert len({row.id for row in got}) == 1
    assert await journals[0].submissions(limit=20) == [got[0]]
    for journal in journals:
        await journal.aclose()


async def test_a_name_given_back_can_be_taken_again(place: BucketStore) -> None:
    """By refusal, and by erasing; whoever had it once does not keep it."""
    journal = await place.open()
    first = await journal.add(submission(1, once="a name"))
    await journal.change(first.id, lambda row: Change(submission=replace(row, once=None, status="refused")))
    second = await journal.add(submission(2, once="a name"))
    assert second.id == submission(2).id
    assert await journal.erase(second.id, force=True)
    third = await journal.add(submission(3, once="a name"))
    assert third.id == submission(3).id
    assert (await journal.add(submission(4, once="a name"))).id == third.id
    await journal.aclose()


async def test_a_frozen_process_does_not_write_over_another(place: BucketStore) -> None:
    """A function that wakes after minutes goes on with what it read then: its write is refused, and decided anew."""
    frozen, other = await place.open(), await place.open()
    await frozen.add(submission(1))
    fact = await owe(other, submission(1), "task.failed", 1)
    changed = await frozen.change(submission(1).id, lambda row: Change(submission=replace(row, detail="late")))
    assert changed is not None
    kept = await other.get(submission(1).id)
    assert kept is not None
    assert kept.detail == "late"
    assert await other.events(limit=9) == [fact]
    for journal in (frozen, other):
        await journal.aclose()


# Stores that fail


def sometimes(fault: Fault, share: float = 0.08) -> Callable[[str, str], Fault | None]:
    """The fault at some requests; now and then at a write and all that the client makes of it. Of what is read, and of
    heartbeats, which are not written again, no more than two in a row fail: the third is the last that is made."""
    chance = random.Random(7)  # noqa: S311 - which requests fail shall not change from run to run
    stubborn: Counter[str] = Counter()
    failed: Counter[str] = Counter()

    def asked(method: str, path: str) -> Fault | None:
        found = _asked(method, path)
        failed[method + path] = failed[method + path] + 1 if found else 0
        if not again(method, path) and failed[method + path] > 2:
            failed[method + path] = 0
            return None
        return found

    def _asked(method: str, path: str) -> Fault | None:
        if stubborn[method + path] > 0:
            stubborn[method + path] -= 1
            return fault
        if chance.random() >= share:
            return None
        stubborn[method + path] = 3 if again(method, path) and chance.random() < 0.2 else 0
        return fault

    def again(method: str, path: str) -> bool:
        return method == "PUT" and not any(part in path for part in ("/members/", "/leader"))

    return asked


@pytest.mark.parametrize("fault", ["busy", "error", "done", "reset", "reset done", "slow"])
async def test_a_store_that_fails_now_and_then(place: BucketStore, fault: Fault) -> None:
    """503, 500 with and without having written, connections cut off before and after: a life goes its way, each write
    is done once, and an answer that says no to our own write is known for what it is."""
    async with proxied(place.endpoint) as proxy:
        journal = await replace_endpoint(place, proxy).open(look_seconds=0)
        proxy.fault, proxy.seconds = sometimes(fault), 0.05
        life = Life()
        await life.begin(journal)
        await life.go_on(journal, OWNER)
        await check(life, journal)
        assert set(life.effects.values()) == {1}
        assert len(life.called) == 3
        assert [item.body for item in await journal.callbacks(submission(1).id)] == life.called
        await journal.aclose()


def replace_endpoint(place: BucketStore, proxy: Proxy) -> BucketStore:
    return BucketStore(proxy.url, place.bucket, place.folder)


async def test_a_store_that_is_down_says_so(place: BucketStore) -> None:
    """Nothing is acknowledged, the sentence says who did not answer, and once it is back all goes on."""
    async with proxied(place.endpoint) as proxy:
        journal = await replace_endpoint(place, proxy).open()
        await journal.add(submission(1))
        proxy.fault = lambda method, path: "busy"
        with pytest.raises(JournalError, match="is too busy") as caught:
            await journal.add(submission(2))
        assert caught.value.fault == "io"
        with pytest.raises(JournalError):
            await journal.check()
        proxy.fault = lambda method, path: None
        await journal.check()
        await journal.add(submission(2))
        assert ids(await journal.submissions(limit=9)) == [2, 1]
        await journal.aclose()


async def test_a_store_without_conditions_is_refused(place: BucketStore) -> None:
    """It is tried out before anything is written, and the sentence says what is missing and what to use."""

    class Careless(Cut):
        async def create(self, key: str, data: bytes) -> Tag:  # type: ignore[override]
            return await self.put(key, data)

        async def replace(self, key: str, data: bytes, tag: object) -> Tag:  # type: ignore[override]
            return await self.put(key, data)

    class Half(Careless):
        create = Cut.create  # type: ignore[assignment]

    for kind, missing in ((Careless, "If-None-Match and If-Match"), (Half, "honour If-Match")):
        with pytest.raises(JournalError, match=f"{missing}, so two processes that write at once"):
            await over(kind(place.bucket_client(), 10**6), place="s3://acme/journal")
    assert await place.bucket_client().get("format") is None


@pytest.mark.parametrize(
    ("format", "sentence", "fault"),
    [(b"99", r"written by a newer Receiver \(format 99", "newer"), (b"1", "earlier development version", "older")],
)
async def test_another_format_is_left_alone(place: BucketStore, format: bytes, sentence: str, fault: str) -> None:
    """As with any database."""
    await place.bucket_client().put("format", format)
    with pytest.raises(JournalError, match=sentence) as caught:
        await place.open()
    assert caught.value.fault == fault


async def test_a_journal_that_is_not_there_yet(place: BucketStore) -> None:
    """Commands that only read make none."""
    with pytest.raises(JournalError, match="There is no journal at s3://x yet"):
        await over(place.bucket_client(), place="s3://x", existing=True)
    await (await place.open()).aclose()
    await (await over(place.bucket_client(), place="s3://x", existing=True)).aclose()


async def test_a_file_of_two_that_go_at_once_is_left(place: BucketStore) -> None:
    """Each sees the other one in need of it at first; the file is to be removed all the same."""
    journal = await place.open()
    rows = [submission(number, inputs=FULL.inputs) for number in (1, 2)]
    await asyncio.gather(*(journal.add(row) for row in rows))
    await asyncio.gather(*(journal.erase(row.id, force=True) for row in rows))
    assert [(item.digest, item.needed) for item in await journal.leftovers("")] == [("d", False)]
    await journal.aclose()


async def test_a_file_is_needed_before_its_submission_is_there(place: BucketStore) -> None:
    """A process may have put the link, and be about to put the submission."""
    journal = await place.open()
    await journal.add(submission(1, inputs=FULL.inputs))
    await place.bucket_client().put(keys.path(keys.FILES, "d", submission(2).id), b"")
    await journal.erase(submission(1).id, force=True)
    assert await journal.leftovers("") == []
    await journal.add(submission(2, inputs=FULL.inputs))
    assert await journal.needed_files() == ["d"]
    await journal.aclose()


async def test_a_purge_reads_again_only_what_may_have_callbacks(place: BucketStore) -> None:
    """The second day reads none of those that the first one has emptied; a callback that comes late is found."""
    journal = await place.open()
    for number in range(1, 6):
        await journal.add(submission(number))
        await keep(journal, replace(callback(), submission_id=submission(number).id))
    later = NOW + 10**9
    found = await journal.old("callbacks", later, None)
    assert len(found) == 5
    assert (await journal.delete("callbacks", found, problem="")) == {"callbacks": 5}
    await asyncio.sleep(1.1)  # the store's times are cut to seconds
    await journal.add(submission(6))
    for day in range(2):
        client = place.bucket_client()
        fresh = Journal(await over(client, place="s3://fresh"))
        assert await fresh.old("callbacks", later, None) == []
        assert client.requests["GET"] <= (9 if day == 0 else 5)
        await fresh.aclose()
    late = replace(callback(9), submission_id=submission(2).id)
    await keep(journal, late)
    assert [key[-1] for key in await journal.old("callbacks", later, None)] == [late.submission_id]
    await journal.aclose()


async def test_what_a_bucket_cannot_do_is_said(place: BucketStore, tmp_path: Path) -> None:
    """With what to do instead."""
    journal = await place.open()
    with pytest.raises(InputError, match=r"aws s3 sync s3://journals/.* FOLDER"):
        await journal.store.back_up(tmp_path / "copy")
    with pytest.raises(InputError, match="has no unused space"):
        await journal.store.compact()
    assert await journal.store.scrub("words") is None
    await journal.aclose()


# Engines


async def test_engines_see_each_other(place: BucketStore) -> None:
    """One leads; the other takes over when that one leaves. A command that steps in is refused while one lives."""
    one, two, command = [await place.open() for _ in range(3)]
    await one.membership.join("serve", "a", store="s3://acme/media")
    await two.membership.join("worker", "b", store="s3://acme/media")
    with pytest.raises(EngineRunning, match="already is an engine of s3://journals/"):
        await command.membership.join("submit --wait", "c", store="s3://acme/media")
    with pytest.raises(JournalError, match="another media store"):
        await command.membership.join("worker", "d", store="/home/me/media")
    leads = [await one.membership.lead("a"), await two.membership.lead("b"), await one.membership.lead("a")]
    assert leads == [True, False, True]
    assert [(item.owner, item.role, item.leads) for item in await two.engines()] == [
        ("a", "serve", True),
        ("b", "worker", False),
    ]
    await one.membership.leave("a")
    assert await two.membership.lead("b")
    assert [item.owner for item in await two.engines()] == ["b"]
    await two.membership.leave("b")
    await command.membership.join("submit --wait", "c", store="x")
    for journal in (one, two, command):
        await journal.aclose()


@pytest.mark.parametrize("role", ["serve", "worker"])
async def test_an_engine_beside_a_copy_names_it(place: BucketStore, role: str) -> None:
    """A copy is the engine until it has failed because no bucket can be copied, and longer where it is killed then. A
    starter waits for its end; that it names no media store is no conflict."""
    one, two = [await place.open() for _ in range(2)]
    await one.membership.join("journal copy", "copy-1", store="")
    with pytest.raises(EngineRunning, match="`receiver journal copy` on ") as caught:
        await two.membership.join(role, "a", store="s")
    assert caught.value.holder == "journal copy"
    await one.membership.leave("copy-1")
    await two.membership.join(role, "a", store="s")
    for journal in (one, two):
        await journal.aclose()


async def test_an_expired_engine_learns_of_it(place: BucketStore) -> None:
    """An engine without a heartbeat loses what it ran, and its lead. When it wakes, its own calls say so."""
    one, two = [await place.open(look_seconds=0) for _ in range(2)]
    for journal in (one, two):
        assert isinstance(journal.membership, SharedMembership)
        journal.membership.expire_seconds = 1.5
    await one.membership.join("serve", "a", store="m")
    await two.membership.join("serve", "b", store="m")
    assert await one.membership.lead("a")
    await fill(one, 1)
    (work,) = await take(one, owner="a")
    assert await two.free_running("b", NOW, two.membership.owners) == 0
    assert await two.membership.expire("b") == []
    async with asyncio.timeout(PATIENCE):
        while await two.membership.expire("b") != ["a"]:
            assert await two.membership.heartbeat("b")
            assert not await two.membership.lead("b")
            await asyncio.sleep(0.2)
    assert await two.membership.lead("b")
    assert await two.free_running("b", NOW, two.membership.owners) == 1
    assert not await one.membership.heartbeat("a")
    assert not await one.membership.lead("a")
    assert not await one.complete(completion(work))
    for journal in (one, two):
        await journal.aclose()


# Keys


@given(st.text(max_size=40))
def test_any_text_makes_a_segment_and_comes_back(text: str) -> None:
    """Task ids and destinations are others' words: no slash, no dot, nothing a store refuses."""
    segment = keys.escaped(text)
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,240}", segment)
    clean = text.encode(errors="replace").decode()
    assert keys.unescaped(segment) == clean or (segment.startswith("=_") and len(segment) == 66)


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=6, unique=True))
def test_the_newest_is_listed_first_and_what_is_due_first(times: list[int]) -> None:
    """Keys of submissions sort against their ids, entries with their times, and both say what they were made of."""
    made = [first_id(ms) for ms in times]
    assert [keys.submission_id(key) for key in sorted(map(keys.submission, made))] == sorted(made, reverse=True)
    entries = [keys.entry(keys.ROWS, ms, id, 3, "abc") for ms, id in zip(times, made, strict=True)]
    assert [keys.read_entry(key) for key in sorted(entries)] == sorted(
        (ms, id, 3) for ms, id in zip(times, made, strict=True)
    )
    assert sorted(entries)[0] < keys.until(keys.ROWS, min(times)) <= sorted(entries)[1]


# What it costs


async def test_a_callback_is_one_put(place: BucketStore) -> None:
    """Its body, the row, an event nobody has asked for: one object, one request, and nothing else on the way."""
    async with proxied(place.endpoint) as proxy:
        journal = await replace_endpoint(place, proxy).open()
        row = await journal.add(submission(1, status="accepted", task_id=f"task-{submission(1).id}"))
        proxy.requests.clear()
        view = _task(row.id, "IN_PROGRESS", 40)
        assert await Life().intake(journal).received(row.id, replace(view, progress=None), b"{}", None)
        assert proxy.requests == {"PUT": 1}
        assert len(await journal.callbacks(row.id)) == 1
        await journal.aclose()


async def test_a_probe_reads_only_what_it_takes(place: BucketStore) -> None:
    """However many deliveries have failed and are due first: the destination's state, the last probe, and one that has
    not failed. Names of objects tell which."""
    async with proxied(place.endpoint) as proxy:
        journal = await replace_endpoint(place, proxy).open()
        await journal.register({"folder": "file"})
        await fill(journal, 100, due_ms=NOW - 1, failures=1)
        await fill(journal, 20, first=101)
        for work in await take(journal, limit=DOWN_AFTER):
            await journal.complete(completion(work, outcome="failed", status="pending", counts=True, finished_ms=NOW))
        at = int(PROBE * 1000)
        for _ in range(3):
            await journal.store.settle()
            proxy.requests.clear()
            (probe,) = await take(journal, at)
            assert proxy.requests["GET"] <= 6
            assert proxy.requests["LIST"] <= 2
            assert probe.delivery.failures == 0
            assert await take(journal, at) == []
            ended = completion(probe, outcome="failed", status="pending", counts=True, finished_ms=NOW + at)
            await journal.complete(ended)
            at += int(PROBE * 1000)
        await journal.aclose()


async def test_what_a_task_costs(place: BucketStore, capsys: pytest.CaptureFixture[str]) -> None:
    """A typical task, called back ten times and delivered to two destinations: so many requests of each class, counted
    on the way to the store. Looks at what is due come on top, by time and not by task."""
    tasks = 5
    async with proxied(place.endpoint) as proxy:
        journal = await replace_endpoint(place, proxy).open(look_seconds=60)
        engine = Typical(journal)
        await engine.run(0)  # what is looked at for the first time
        await journal.store.settle()
        proxy.requests.clear()
        for number in range(1, tasks + 1):
            await engine.run(number)
        await journal.store.settle()
        per_task = {name: count / tasks for name, count in sorted(proxy.requests.items())}
        assert [item.name for item in await journal.destinations() if item.pending] == []
        await journal.aclose()
    with capsys.disabled():
        sys.stdout.write(f"\nrequests per task (10 callbacks, 2 destinations): {per_task}\n")
    assert per_task["PUT"] <= 25
    assert per_task["GET"] <= 2
    assert per_task["DELETE"] <= 3
    assert per_task.get("LIST", 0) <= 2


class Typical:
    """Submits a task, is called back ten times, archives its picture and delivers it."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.life = Life()

    async def run(self, number: int) -> None:
        clock, journal = self.life.clock, self.journal
        policy = Policy(confirm_ms=30_000, poll_ms=15_000, media_wait_ms=120_000)
        routes = tuple(Route(destination=name) for name in DESTINATIONS)
        intake = Intake(journal, policy=policy, routes=routes, clock=clock, changed=lambda row: None)
        await journal.register(dict.fromkeys(DESTINATIONS, "recording"))
        now_ms = clock.now_ms()
        row = await journal.add(
            submission(number, created_ms=now_ms, send_due_ms=now_ms + 30_000, deadline_ms=now_ms + 4_200_000)
        )
        await journal.change(row.id, lambda row: Change(submission=replace(row, status="sending", sends=1)))
        await intake.take(row.id, transitions.answered, (f"task-{row.id}",), "accepted")
        for step in range(1, 11):
            clock.seconds += 6
            status = "SUCCESS" if step == 10 else "IN_PROGRESS"
            assert await intake.received(row.id, _task(row.id, status, step * 10), b'{"progress":%d}' % step, None)
        [due] = await journal.due("poll", clock.now_ms(), 10)
        await intake.polled(due.id, _task(row.id, "SUCCESS", 100))
        [due] = await journal.due("media", clock.now_ms(), 10)
        await intake.tried(due.id, None, {item.place: PICTURE for item in due.files})
        claims = (journal.claim(name, owner=OWNER, limit=4, now_ms=clock.now_ms()) for name in DESTINATIONS)
        works = [work for works in await asyncio.gather(*claims) for work in works]
        ends = [completion(work, finished_ms=clock.now_ms()) for work in works]
        assert await asyncio.gather(*map(journal.complete, ends)) == [True, True]
