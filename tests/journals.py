"""Rows built by hand, every store a journal can stand on, and a clock that stands still until it is told the time."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from buckets import KEY, SECRET, shared_server
from msgspec.structs import replace
from postgres import postgres_store

from receiver.bucket import read_url
from receiver.bucket.client import Bucket
from receiver.clock import Clock
from receiver.deliveries import Completion, Delivery
from receiver.events import Callback, Claim, Event, EventType, ExpectedFile, Input, Media, Reply, Submission, event_id
from receiver.journal import Change, Journal, Work
from receiver.journal.bucket import client_of, keys, over
from receiver.journal.bucket.stored import decode, encode
from receiver.journal.sqlite import open_store
from receiver.settings.options import Secret
from receiver.tasks import Button, Task

NOW = 1_773_314_942_177
"""Epoch milliseconds; where tests start."""
ID = "01KKGM7NK10000000000000001"
TASK_ID = "1773314942177684"
OWNER = "engine-1"
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
    reply_to="https://n8n.example.com/webhook-waiting/17?signature=s",
    destinations=("disk",),
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
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
    risen_ms=NOW + 4,
    polls=4,
    misses=5,
    claim=Claim(task=Task(id=TASK_ID, status="SUCCESS"), since_ms=NOW, asked=1),
    unconfirmed=True,
    callbacks=6,
    callback_bytes=7,
    late_callbacks=8,
    asked_ms=NOW,
    unlinked_ms=NOW,
    files=(
        ExpectedFile(
            place="image_urls.0",
            links=("u",),
            media=Media(digest="d", type="image/png", size=3, extension=".png", url="u", index=1),
        ),
        ExpectedFile(place="image_urls.1", links=("f", "g"), tries=7, due_ms=NOW + 4, problem="slow"),
    ),
    late_ms=NOW + 5,
    further=1,
)  # fmt: skip
"""No field is what it is by default."""


class SetClock(Clock):
    """Shows the time it was set to."""

    def __init__(self, seconds: float = NOW / 1000) -> None:
        super().__init__()
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds


def submission(number: int = 1, **fields: Any) -> Submission:
    """A submission fresh from `prepare`, changed as told."""
    default: dict[str, Any] = {
        "id": f"01KKGM7NK1{number:016d}",
        "kind": "imagine",
        "created_ms": NOW,
        "prompt": "a paper boat",
        "request": {"prompt": "a paper boat"},
        "hooked": True,
        "send_due_ms": NOW + 30_000,
        "deadline_ms": NOW + 900_000,
    }
    return Submission(**default | fields)


def due_file(ms: int | None) -> ExpectedFile:
    """A file that is downloaded at that time."""
    return ExpectedFile(place="image_url", links=("u",), due_ms=ms)


def event(row: Submission, type: EventType = "task.succeeded", percent: int | None = None, **fields: Any) -> Event:
    """A fact about `row`."""
    default: dict[str, Any] = {
        "id": event_id(row.id, type, percent),
        "type": type,
        "submission_id": row.id,
        "created_ms": NOW,
        "source": "poll",
        "task_id": row.task_id,
        "status": row.task_status,
        "progress": percent,
        "prompt": row.prompt,
        "kind": row.kind,
        "labels": row.labels,
        "state": row.user_state,
        "parent_id": row.parent_id,
        "confirmed": True,
        "task": Task(id=TASK_ID, status="SUCCESS", image_url="https://cdn.example.test/1.png"),
    }
    return Event(**default | fields)


def delivery(fact: Event, number: int, destination: str = "folder", **fields: Any) -> Delivery:
    """`fact` owed to `destination`. Ids sort by `number`."""
    default: dict[str, Any] = {
        "id": f"01KKGM7NK2{number:016d}",
        "event_id": fact.id,
        "submission_id": fact.submission_id,
        "destination": destination,
        "created_ms": NOW,
        "due_ms": NOW,
    }
    return Delivery(**default | fields)


def owing(row: Submission, *owed: tuple[Event, Delivery]) -> Change:
    """A change that leaves the row as it is and adds these facts with what each owes."""
    facts = tuple({fact.id: fact for fact, _ in owed}.values())
    return Change(submission=row, events=facts, deliveries=tuple(one for _, one in owed))


def completion(work: Work | Delivery, **fields: Any) -> Completion:
    """How the attempt at `work` ended: well, unless told otherwise."""
    claimed = work.delivery if isinstance(work, Work) else work
    default: dict[str, Any] = {
        "delivery_id": claimed.id,
        "submission_id": claimed.submission_id,
        "destination": claimed.destination,
        "attempt": claimed.attempt,
        "owner": claimed.owner or OWNER,
        "outcome": "succeeded",
        "status": "succeeded",
        "finished_ms": NOW + 1,
        "due_ms": NOW + 1,
        "counts": False,
    }
    return Completion(**default | fields)


def callback(number: int = 1, cause: str | None = None) -> Callback:
    return Callback(submission_id=ID, received_ms=NOW + number, cause=cause, body=b'{"number":%d}' % number)


async def keep(journal: Journal, item: Callback) -> None:
    """Write a callback that changes nothing, with its cause."""
    await journal.change(item.submission_id, lambda row: Change(submission=row, cause=item.cause), item)


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


async def status_of(journal: Journal, number: int) -> str:
    found = await journal.delivery(f"01KKGM7NK2{number:016d}")
    assert found is not None
    return found.status


def ids(rows: list[Submission]) -> list[int]:
    return [int(row.id[10:]) for row in rows]


async def fill(journal: Journal, count: int, *, first: int = 1, **fields: Any) -> None:
    """`count` submissions from number `first` on, each owing one delivery of the same number."""
    made = [submission(number) for number in range(first, first + count)]
    await asyncio.gather(*(journal.add(row) for row in made))
    await asyncio.gather(*(owe(journal, row, "task.succeeded", int(row.id[10:]), **fields) for row in made))


async def finished(journal: Journal, count: int, prompt: str = "a paper boat") -> list[Submission]:
    """Ended submissions, each with an event and a succeeded delivery."""
    rows = [
        submission(n, prompt=prompt, ended="task.succeeded", send_due_ms=None, status="accepted") for n in range(count)
    ]

    async def one(number: int, row: Submission) -> None:
        await journal.add(row)
        fact = event(row)
        change = owing(row, (fact, delivery(fact, number)))
        await journal.change(row.id, lambda _: change)

    await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))
    works = await journal.claim("folder", owner=OWNER, limit=count, now_ms=NOW)
    await asyncio.gather(*(journal.complete(completion(work)) for work in works))
    return rows


# Stores


class Store(Protocol):
    """Where a journal lies, empty at first. Each `open` gives another journal on it, as another process would have."""

    async def open(self) -> Journal: ...

    async def lose_event(self, event_id: str) -> None:
        """Take an event away from its deliveries, as a purge with a fault in it would. No journal is told of it."""


@dataclass(frozen=True, slots=True)
class SQLiteStore:
    path: Path

    async def open(self) -> Journal:
        return Journal(await open_store(self.path, busy_seconds=2))

    async def lose_event(self, event_id: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute("DELETE FROM events WHERE id = ?", (event_id,))

    async def spoil(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(statement)


@asynccontextmanager
async def sqlite_store(folder: Path) -> AsyncIterator[Store]:
    yield SQLiteStore(folder / "receiver.db")


@dataclass(frozen=True, slots=True)
class BucketStore:
    """A folder of a bucket."""

    endpoint: str
    bucket: str
    folder: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.folder}?endpoint={self.endpoint}&region=us-east-1"

    def bucket_client(self) -> Bucket:
        options, folder = read_url(self.url)
        secrets_ = {"access_key": Secret(KEY), "secret_key": Secret(SECRET)}
        return client_of(replace(options, **secrets_), folder)

    async def open(self, *, look_seconds: float = 5.0) -> Journal:
        place = f"s3://{self.bucket}/{self.folder}"
        return Journal(await over(self.bucket_client(), place=place, look_seconds=look_seconds))

    async def lose_event(self, event_id: str) -> None:
        bucket, key = self.bucket_client(), keys.submission(event_id.partition(".")[0])
        found = await bucket.get(key)
        assert found is not None
        stored = decode(found.data, key)
        events = tuple(item for item in stored.events if item.event.id != event_id)
        await bucket.put(key, encode(msgspec.structs.replace(stored, events=events))[0])


@asynccontextmanager
async def bucket_store(folder: Path) -> AsyncIterator[Store]:
    """On one server for all tests of the process, a folder for each."""
    yield BucketStore(shared_server().url, "journals", secrets.token_hex(8))


STORES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    "sqlite": sqlite_store,
    "postgres": postgres_store,
    "bucket": bucket_store,
}
"""By name: what makes an empty store, and removes it in the end. The folder is for those who need one. The suite for
every journal (`test_journal.py`) runs on each of them."""
