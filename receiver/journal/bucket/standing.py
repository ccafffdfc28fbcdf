"""Which engines live, which one leads, and what those that died left running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection

from receiver.deliveries import Completion, Delivery
from receiver.journal import EngineRecord, rules
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import decode, encode, replace
from receiver.journal.bucket.objects import Refused
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.plumbing import Plumbing

THOROUGH_SECONDS = 60.0
"""How often what runs is looked through although nobody has died: who took note of a death may have died over it."""
LATE_MS = 3_600_000
"""By how much the clock that claimed may have been ahead of ours."""


class Standing(Plumbing):
    """The part of `BucketJournal` about engines."""

    def set_pace(self, *, beat: float, dead: float, lease: float) -> None:
        """Seconds between signs of life, until an engine is taken for dead, and for which one leads."""
        engines = self._engines
        engines.write_seconds, engines.dead_seconds, engines.lease_seconds = beat, dead, lease

    @operation
    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        await self._engines.enter(role, owner, store=store)

    @operation
    async def beat(self, owner: str) -> bool:
        return await self._engines.beat(owner)

    @operation
    async def lead(self, owner: str) -> bool:
        return await self._engines.lead(owner)

    async def resign(self, owner: str) -> None:
        if not self._closed:
            await self._engines.leave(owner)

    @operation
    async def engines(self) -> list[EngineRecord]:
        return await self._engines.records()

    def listen(self, woken: Callable[[], None]) -> None:
        """A bucket tells nobody: others' work is seen at the next look."""

    @operation
    async def free_running(self, owner: str, now_ms: int) -> int:
        looked_at = self._searched.get(owner)
        if looked_at is not None and time.monotonic() - looked_at < self._engines.dead_seconds / 2:
            return 0
        living, dead = await self._engines.census()
        thorough = looked_at is None or time.monotonic() - self._thorough_at >= THOROUGH_SECONDS
        self._searched = {owner: time.monotonic()}
        if not dead and not thorough:
            return 0
        await self._engines.bury(dead)
        found = [item async for item in self._under_way(now_ms) if _lost(item, owner, living)]
        documents = await asyncio.gather(*map(self._rows.get, sorted({item.submission_id for item in found})))
        left = [  # what we remembered may be too old for this
            item
            for document in documents
            if document is not None
            for item in document.deliveries
            if _lost(item, owner, living)
        ]
        ends = zip(left, rules.charge(left, now_ms), strict=True)
        freed = await asyncio.gather(*(self._free(item.submission_id, end) for item, end in ends))
        self._thorough_at = time.monotonic()
        return sum(freed)

    async def _under_way(self, now_ms: int) -> AsyncIterator[Delivery]:
        """Deliveries that run. Each was due when it was claimed, and keeps its mark."""
        seen: set[str] = set()
        for place in (keys.ALONE, *await self._agenda.places()):
            for document in await self._agenda.all_due(place, now_ms + LATE_MS):
                for item in document.deliveries:
                    if item.status == "running" and item.id not in seen:
                        seen.add(item.id)
                        yield item

    async def _free(self, submission_id: str, end: Completion) -> bool:
        return bool(await self._rows.write(submission_id, lambda document: changes.free(document, end)))

    def accuse(self, delivery_id: str) -> None:
        id = self._rows.whose(delivery_id)
        if id is None:
            return
        key = keys.submission(id)
        while (found := self._objects.get_now(key)) is not None:
            document = decode(found.data, key)
            accused = changes.accuse(document, delivery_id)
            if accused is document:
                return
            accused = replace(accused, version=document.version + 1, nonce=f"accused-{document.nonce}")
            try:
                self._objects.replace_now(key, encode(accused)[0], found.tag)
            except Refused:
                continue
            return


def _lost(item: Delivery, owner: str, living: Collection[str]) -> bool:
    return item.status == "running" and item.owner != owner and item.owner not in living
