"""What a bucket adds to what every journal promises: crashes between any two writes, and stores that fail."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from buckets import shared_server
from journals import (
    NOW,
    OWNER,
    BucketStore,
    SetClock,
    bucket_store,
    completion,
    fill,
    ids,
    owe,
    submission,
    take,
)
from stores import Cut, Fault, Proxy, proxied

from receiver.deliveries import Receipt
from receiver.errors import JournalError, ReceiverError
from receiver.events import Event, Media, Submission
from receiver.intake import Intake, Policy, Route
from receiver.journal.base import Change, Journal
from receiver.journal.bucket import BucketJournal, over
from receiver.journal.selection import Order
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


class Life:
    """One task from its submission to its deliveries, as engine and endpoint bring it about.

    It goes on from wherever it stands, so that another process can finish what one has begun.

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
        """Submit, and be called back on the way. Whoever is cut off here is not heard of again."""
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
        for row in await journal.due_sends(now_ms, 10):
            moved += 1
            await self._send(journal, intake, row)
        for row in await journal.due_polls(now_ms, 10):
            moved += 1
            await intake.polled(row.id, _task(row.id, "SUCCESS", 100))
        for row in await journal.due_media(now_ms, 10):
            moved += 1
            await intake.archived(row.id, (PICTURE,))
        while work := await journal.claim_alone(DESTINATIONS, owner=OWNER, now_ms=now_ms):
            moved += 1
            await self._deliver(journal, work.delivery.destination, work.event, work)
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
            await intake.unanswered(row.id, "the process ended")
            return
        await journal.change(row.id, begin)
        self.sent[row.id] += 1
        await intake.answered(row.id, (f"task-{row.id}",), "accepted")

    async def _deliver(self, journal: Journal, name: str, event: Event, work: object) -> None:
        delivery = work.delivery  # type: ignore[attr-defined]
        self.effects[name, event.type, delivery.idempotency_key] += 1
        ended = completion(delivery, finished_ms=self.clock.now_ms(), receipt=Receipt(ref=event.id))
        assert await journal.complete(ended)

    async def go_on(self, journal: Journal, owner: str) -> None:
        """Another process: free what was left, and work until nothing is due any more, for hours."""
        await journal.advance(self.clock.now_ms())
        await journal.free_running(owner, self.clock.now_ms())
        for _ in range(12):
            while await self.turn(journal):
                pass
            self.clock.seconds += 60


def _task(id: str, status: str, progress: int) -> Task:
    return Task(
        id=f"task-{id}",
        status=status,
        progress=progress,
        buttons=(BUTTON,) if status == "SUCCESS" else (),
        image_url="https://cdn.test/1.png" if status == "SUCCESS" else "",
    )


async def lives(place: BucketStore, writes: int) -> tuple[Life, Cut]:
    """A life whose process ends before that write, and goes on in another one."""
    life, objects = Life(), Cut(place.objects(), writes)
    try:
        first = await over(objects, place="s3://first", look_seconds=0)
        await life.begin(first)
        await first.settle()
    except ReceiverError:
        assert objects.dead, "only the end of the process may end it"
    objects.left = min(objects.left, 0)
    life.clock.seconds += 100
    second = await place.open(look_seconds=0)
    await life.go_on(second, "engine-2")
    await check(life, second)
    await second.aclose()
    return life, objects


async def check(life: Life, journal: BucketJournal) -> None:
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
    assert [await journal.due_sends(later, 9), await journal.due_polls(later, 9), await journal.due_media(later, 9)] == [
        [], [], [],
    ]  # fmt: skip
    assert await journal.owed_destinations() == []


async def _check_ended(life: Life, journal: BucketJournal, row: Submission) -> None:
    assert row.ended == "task.succeeded"
    assert (await journal.find(f"task-{row.id}")).id == row.id
    assert await journal.needed_files("", 9) == [PICTURE.digest]
    if row.auto:
        assert len(await journal.children(row.id)) == 1
    for name in DESTINATIONS:
        owed = await journal.deliveries(limit=50, submission_id=row.id, destination=name)
        told = [item for item in owed if item.event_id.endswith("task.succeeded")]
        assert [item.status for item in told] == ["succeeded"]
        keys = {key for (there, type, key) in life.effects if there == name and type == "task.succeeded"}
        assert told[0].id in keys
        assert len([key for key in keys if key in {item.id for item in owed}]) == 1


async def test_a_process_that_ends_between_any_two_writes_loses_nothing(tmp_path: Path) -> None:
    """A whole life with a follow-up of its own is cut off before its first write, its second, and so on to its end:
    what was acknowledged is there, every result reaches both destinations under one key, and no request goes out
    twice."""
    whole = 0
    for writes in range(1, 200):
        async with bucket_store(tmp_path) as store:
            assert isinstance(store, BucketStore)
            _, objects = await lives(store, writes)
        if writes > len(objects.done) + 1:
            break
        whole = writes
    assert 40 < whole < 199


async def test_the_check_would_notice(place: BucketStore) -> None:
    """A control: where a mark is lost, or a write that was acknowledged is not there, the same check fails."""
    life, _ = await lives(place, 10**6)
    journal = await place.open(look_seconds=0)
    life.called.append(b"a callback that nobody kept")
    with pytest.raises(AssertionError):
        await check(life, journal)
    life.called.pop()
    await journal.add(submission(7, send_due_ms=NOW))
    objects = place.objects()
    async for page in objects.pages("due"):
        await objects.delete([item.key for item in page])
    with pytest.raises(AssertionError):
        await check(life, journal)
    await journal.aclose()
