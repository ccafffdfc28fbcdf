"""Admission: how many may wait for the journal, for how long, and what overload is answered with."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doors import JSON, body, opened, path
from engine import logged
from starlette.types import Message
from waiting import PATIENCE

from receiver.errors import JournalError
from receiver.intake import Policy
from receiver.web.admission import Admission, BodyLimits, Shares
from receiver.web.problems import Problem


class Store:
    """A store that hangs until `works` is set, and then fails `failures` times."""

    def __init__(self) -> None:
        self.works = asyncio.Event()
        self.failures = 0
        self.writes = 0

    async def write(self) -> None:
        await self.works.wait()
        self.writes += 1
        if self.failures:
            self.failures -= 1
            raise JournalError("It cannot be written.")


async def wait_in(admission: Admission, store: Store, size: int = 1) -> str:
    """Wait in the admission. Return the answer."""
    try:
        await admission.run(size, store.write)
    except Problem as exc:
        return f"{exc.status} {exc.cause}"
    return "kept"


async def settled(*tasks: asyncio.Task[str]) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks)


def start(admission: Admission, store: Store, count: int, size: int = 1) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(wait_in(admission, store, size)) for _ in range(count)]


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.mark.parametrize(("bounds", "size"), [({"most": 3}, 1), ({"most_bytes": 30}, 10)])
async def test_beyond_the_bounds_is_refused_at_once(store: Store, bounds: dict[str, Any], size: int) -> None:
    """Three wait, and the fourth gets 503 with Retry-After. When they are done there is room again."""
    admission = Admission(store.write, **bounds)
    waiting = start(admission, store, 3, size)
    await asyncio.sleep(0)
    with pytest.raises(Problem) as caught:
        await admission.run(size, store.write)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "5")
    store.works.set()
    assert await settled(*waiting) == ["kept"] * 3
    assert await settled(*start(admission, store, 3, size)) == ["kept"] * 3
    assert admission.refused == 1


async def test_a_late_wait_ends_and_new_requests_are_refused(store: Store) -> None:
    """A request that waits too long gets 503. Then every new one gets it at once, until a write succeeds."""
    admission = Admission(store.write, max_wait=0.1)
    with logged() as lines:
        first = start(admission, store, 2)
        assert await settled(*first) == ["503 journal stalled"] * 2
        assert admission.shut
        assert await wait_in(admission, store) == "503 journal stalled"
        store.failures = 1
        store.works.set()
        async with asyncio.timeout(PATIENCE):
            while admission.shut:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
    assert await wait_in(admission, store) == "kept"
    assert [line["event"] for line in lines] == ["admission.shut", "admission.open"]


async def test_a_later_request_waits_on(store: Store) -> None:
    """A request that has not waited too long yet is still served while new ones are refused."""
    admission = Admission(store.write, max_wait=2)
    late = start(admission, store, 1)
    await asyncio.sleep(1.5)
    young = start(admission, store, 1)
    assert await settled(*late) == ["503 journal stalled"]
    store.works.set()
    assert await settled(*young) == ["kept"]


async def test_a_stop_is_a_503(store: Store) -> None:
    """A server that cancels its requests when it stops answers them: nothing is said to be kept."""
    admission = Admission(store.write)
    (waiting,) = start(admission, store, 1)
    await asyncio.sleep(0)
    waiting.cancel()
    assert await settled(waiting) == ["503 stopping"]


async def test_without_a_probe_nothing_is_shut(store: Store) -> None:
    """Without a probe, a late request does not refuse new ones."""
    admission = Admission(None, max_wait=0.05)
    assert await settled(*start(admission, store, 1)) == ["503 journal stalled"]
    store.works.set()
    assert await wait_in(admission, store) == "kept"


async def test_closing_ends_the_probe(store: Store) -> None:
    """Nothing is left running."""
    admission = Admission(store.write, max_wait=0.05)
    await settled(*start(admission, store, 1))
    assert admission.shut
    await admission.aclose()
    await admission.aclose()
    assert not admission.shut


def take(shares: Shares, sender: str, size: int = 1) -> int:
    """Take a share, and return the status of the refusal, or 0."""
    try:
        with shares.hold(sender, size):
            return 0
    except Problem as exc:
        return exc.status


def test_a_sender_has_its_share() -> None:
    """One takes its own, others theirs, until all is taken. What ends makes room."""
    shares = Shares(2, 3)
    with shares.hold("one"), shares.hold("one"):
        assert take(shares, "one") == 429
        with shares.hold("two"):
            assert take(shares, "two") == 503
            assert take(shares, "three") == 503
        assert take(shares, "three") == 0
    assert take(shares, "one") == 0


def test_one_larger_than_a_share_is_taken_alone() -> None:
    """A body of the greatest size is accepted, if its sender has no other under way."""
    shares = Shares(10)
    assert take(shares, "one", 15) == 0
    with shares.hold("one", 1):
        assert take(shares, "one", 15) == 429


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        (b"[" + b"[]," * 4_000, True),
        (b"[" + b"[]," * 6_000, False),
        (b'{"a":' * 10_001, False),
        (b"1," * 10_001, False),
        (b" " * 1_000_000, True),
    ],
)
@pytest.mark.parametrize("piece", [1_000, 10_000_000])
async def test_a_body_has_few_values(content: bytes, accepted: bool, piece: int) -> None:
    """Its brackets and commas are counted as it comes, and no JSON is read of one that has too many."""
    pieces = [content[at : at + piece] for at in range(0, len(content), piece)]

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    limits = BodyLimits(name="Bodies", limit=2_000_000, seconds=5)
    if accepted:
        assert await limits.read(receive) == content
        return
    with pytest.raises(Problem) as caught:
        await limits.read(receive)
    assert (caught.value.status, caught.value.detail) == (400, "Bodies have 10,000 values at most.")


# On the real endpoint


@contextlib.contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    """Another process holds the write lock."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def test_overload_while_the_journal_is_locked(tmp_path: Path) -> None:
    """With the journal locked, 20 callbacks wait, and 50 more are answered 503 at once. Health is answered. When
    the lock is released, the waiting callbacks are answered 200 and are stored."""
    async with opened(tmp_path, policy=Policy(), most=20) as door:
        row = await door.submission()
        with locked(door.file) as other:
            waiting = [asyncio.create_task(door.post(path(row), body(row))) for _ in range(20)]
            async with asyncio.timeout(PATIENCE):
                while door.admission.waiting < 20:  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.01)
            for _ in range(50):
                answer = await door.post(path(row), body(row), JSON)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert (await door.client.get(door.url + "/livez")).status_code == 200
            other.execute("ROLLBACK")
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert await door.stored() == 20


async def test_a_late_commit_stands(tmp_path: Path) -> None:
    """A callback that waited too long gets 503, although it may be stored when the journal works again. There is never
    a 2xx without a row, but perhaps a row without 2xx. Then callbacks are admitted again automatically."""
    async with opened(tmp_path, policy=Policy(), max_wait=0.3) as door:
        row = await door.submission()
        with locked(door.file) as other:
            late = await door.post(path(row), body(row))
            assert (late.status_code, late.headers["retry-after"]) == (503, "5")
            quick = await door.post(path(row), body(row))
            assert quick.status_code == 503
            other.execute("ROLLBACK")
        async with asyncio.timeout(PATIENCE):
            while door.admission.shut:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
        assert await door.stored() == 1
        assert (await door.post(path(row), body(row))).status_code == 200
        assert await door.stored() == 2
