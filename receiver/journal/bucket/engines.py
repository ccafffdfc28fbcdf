"""Engines on a bucket: each has an object that it writes again and again, and one of them leads. All ages are between
two of the store's own times (`Last-Modified`), so nobody's clock counts.

Who steps in writes first and looks then: of two that come at once, both see each other.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version

import msgspec

from receiver.errors import EngineRunning, JournalError
from receiver.journal import DEAD_SECONDS, LASTING_ROLES, LEASE_SECONDS, EngineRecord, rules
from receiver.journal.bucket import keys
from receiver.journal.bucket.document import decode_as
from receiver.journal.bucket.moments import Moment
from receiver.journal.bucket.objects import Objects, Refused, Tag

ROUND_SECONDS = 1.0
"""The store's times are cut to seconds."""
WRITE_SECONDS = 7.0
"""A sign of life that is younger is not written again: each costs a request."""
RENEWED = 0.6
"""The share of a lease after which it is renewed."""
LEADER = "leader"
CLOCK = "clock"


class _Engine(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    role: str
    host: str
    version: str
    store: str


class _Leader(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    term: int


class Engines:
    """Who lives and who leads."""

    def __init__(self, objects: Objects, place: str) -> None:
        self._objects = objects
        self.write_seconds, self.dead_seconds, self.lease_seconds = WRITE_SECONDS, DEAD_SECONDS, LEASE_SECONDS
        self._place = place
        self._mine: dict[str, tuple[Tag, Moment]] = {}
        """What we wrote of each of our owners, and when."""
        self._told: dict[str, bytes] = {}
        self._led: tuple[str, Moment] | None = None
        self._told_ms: tuple[int, Moment] | None = None
        """The store's time, and when it told us."""

    async def enter(self, role: str, owner: str, *, store: str) -> None:
        """See `Journal.become_engine`."""
        record = _Engine(owner=owner, role=role, host=platform.node(), version=version("imagine-receiver"), store=store)
        self._told[owner] = msgspec.json.encode(record)
        await self._sign(owner)
        try:
            others = [item for item in await self._living() if item.owner not in self._mine]
            self._check(role, store, others)
        except BaseException:
            await self.leave(owner)
            raise

    def _check(self, role: str, store: str, others: list[_Engine]) -> None:
        for item in others:
            if role not in LASTING_ROLES or rules.runs_alone(item.role, item.store):
                raise EngineRunning(
                    f"`receiver {item.role}` on {item.host} already is an engine of {self._place}. "
                    "Stop it first, or leave the work to it.",
                    holder=item.role,
                )
            if item.store != store:
                raise JournalError(
                    f"`receiver {item.role}` on {item.host} is an engine of {self._place} with another media store "
                    f"({item.store}, ours is {store}): neither would find the other's pictures. Set the same "
                    "RECEIVER_MEDIA for both."
                )

    async def beat(self, owner: str) -> bool:
        """See `Journal.beat`."""
        mine = self._mine.get(owner)
        if mine is None:
            return False
        tag, at = mine
        if _within(at, self.write_seconds):
            return True
        try:
            await self._sign(owner, tag)
        except Refused:
            self._mine.pop(owner, None)
            return False
        return True

    async def _sign(self, owner: str, tag: Tag | None = None) -> None:
        """Write our object, and only over our own: who took us for dead has removed it."""
        key, at = keys.engine(owner), Moment.now()
        data = self._told[owner] + b"\n" + str(time.monotonic_ns()).encode()
        try:
            written = await (self._objects.put(key, data) if tag is None else self._objects.replace(key, data, tag))
        except Refused:
            found = await self._objects.get(key)
            if found is None or found.data != data:
                raise
            written = found.tag  # it was done, and the answer was lost
        self._mine[owner] = written, at

    async def leave(self, owner: str) -> None:
        """See `Journal.resign`."""
        if self._mine.pop(owner, None) is not None:
            await self._objects.delete([keys.engine(owner)])
        if self._led is not None and self._led[0] == owner:
            self._led = None
            found = await self._objects.get(LEADER)
            if found is not None and _leader(found.data).owner == owner:
                await self._take("", _leader(found.data).term + 1, found.tag)

    async def alive(self) -> dict[str, float]:
        """Seconds since the last sign of life, by owner. Who has died is left out."""
        living, _ = await self.census()
        return living

    async def census(self) -> tuple[dict[str, float], list[str]]:
        """Seconds since the last sign of life of those who live, and who has died."""
        now_ms = await self._store_ms()
        signs: dict[str, int] = {}
        async for page in self._objects.pages("engines"):
            signs |= {keys.unescaped(keys.last(item.key)): item.modified_ms for item in page}
        now_ms = max([now_ms, *signs.values()])
        ages = {owner: (now_ms - at_ms) / 1000 for owner, at_ms in signs.items()}
        # Whoever beat may have been told so by a sign as old as that, and count from then.
        limit = self.dead_seconds + self.write_seconds + ROUND_SECONDS
        living = {owner: age for owner, age in ages.items() if age <= limit}
        return living, sorted(ages.keys() - living.keys())

    async def bury(self, dead: Sequence[str]) -> None:
        """Remove the objects of those who have died, so that they learn of it should they wake."""
        await self._objects.delete([keys.engine(owner) for owner in dead])

    async def records(self) -> list[EngineRecord]:
        """See `Journal.engines`."""
        found = await self._objects.get(LEADER)
        leader = _leader(found.data).owner if found is not None else ""
        ages = await self.alive()
        records = [
            EngineRecord(
                owner=item.owner, role=item.role, host=item.host, version=item.version, store=item.store,
                seconds=ages[item.owner], leads=item.owner == leader,
            )
            for item in await self._living(ages)
        ]  # fmt: skip
        return sorted(records, key=lambda item: (not item.leads, item.seconds))

    async def _living(self, ages: dict[str, float] | None = None) -> list[_Engine]:
        ages = await self.alive() if ages is None else ages
        places = [keys.engine(owner) for owner in ages]
        found = await asyncio.gather(*map(self._objects.get, places))
        return [
            decode_as(_Engine, item.data.partition(b"\n")[0], place)
            for place, item in zip(places, found, strict=True)
            if item is not None
        ]

    async def lead(self, owner: str) -> bool:
        """See `Journal.lead`."""
        if self._led is not None and self._led[0] == owner and _within(self._led[1], self.lease_seconds * RENEWED):
            return True
        found = await self._objects.get(LEADER)
        if found is None:
            return await self._take(owner, 1, None)
        leader = _leader(found.data)
        age = (await self._store_ms() - found.modified_ms) / 1000
        if leader.owner not in ("", owner) and age <= self.lease_seconds * (1 + RENEWED) + ROUND_SECONDS:
            self._led = None
            return False
        return await self._take(owner, leader.term + 1, found.tag)

    async def _take(self, owner: str, term: int, tag: Tag | None) -> bool:
        data, at = msgspec.json.encode(_Leader(owner=owner, term=term)), Moment.now()
        try:
            await (self._objects.create(LEADER, data) if tag is None else self._objects.replace(LEADER, data, tag))
        except Refused:
            found = await self._objects.get(LEADER)
            if found is None or found.data != data:
                self._led = None
                return False
        self._led = owner, at
        return True

    async def _store_ms(self) -> int:
        """The store's time now: what it said once, and what has passed since. Asked again after a sleep."""
        now = Moment.now()
        passed = self._told_ms[1].seconds(now) if self._told_ms is not None else None
        if self._told_ms is None or passed is None:
            await self._objects.put(CLOCK, b"")
            found = await self._objects.get(CLOCK)
            if found is None:
                raise JournalError("The bucket does not hold what was just put into it. Look who deletes there.")
            self._told_ms, passed = (found.modified_ms, Moment.now()), 0.0
        return self._told_ms[0] + int(passed * 1000)


def _within(at: Moment, seconds: float) -> bool:
    """Whether that is surely not longer ago."""
    passed = at.seconds(Moment.now())
    return passed is not None and passed < seconds


def _leader(data: bytes) -> _Leader:
    leader: _Leader = decode_as(_Leader, data, LEADER)
    return leader
