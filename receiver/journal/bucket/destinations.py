"""Destinations in a bucket: one object for all of them, and marks of what they are owed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from receiver.deliveries import DestinationRecord
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import replace
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.plumbing import Plumbing

COUNTED = 100
"""Up to how many deliveries are counted one by one; each takes a request."""


class Destinations(Plumbing):
    """The part of `BucketJournal` about destinations."""

    @operation
    async def register(self, destinations: Mapping[str, str]) -> None:
        def registered(found: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            records = {
                name: replace(found[name], handler=handler)
                if name in found
                else DestinationRecord(name=name, handler=handler)
                for name, handler in destinations.items()
            }
            return found | records

        await self._destinations.update(registered)

    @operation
    async def owed_destinations(self) -> list[str]:
        names = await self._destinations.read()
        owed = {item.destination async for item in self._marked("pending")}
        return sorted(owed & names.keys())

    @operation
    async def destinations(self) -> list[DestinationRecord]:
        found = await self._destinations.read()
        alone = [item async for item in self._marked("pending", keys.ALONE) if item.alone]
        names = sorted(found)
        pending = await asyncio.gather(*(self._count(keys.destination(name), "pending") for name in names))
        dead = await asyncio.gather(*(self._count(keys.dead(name), "dead") for name in names))
        by_name = zip(names, pending, dead, strict=True)
        return [
            replace(found[name], pending=owed + sum(item.destination == name for item in alone), dead=lost)
            for name, owed, lost in by_name
        ]

    async def _count(self, place: str, status: str) -> int:
        """How many deliveries a place's marks stand for; where there are many, one is taken for one."""
        marks = [key async for key in self._agenda.marks(place)]
        if len(marks) > COUNTED:
            return len(marks)
        ids = sorted({keys.read_mark(key)[1] for key in marks})
        documents = await asyncio.gather(*map(self._rows.get, ids))
        deliveries = [item for document in documents if document is not None for item in document.deliveries]
        mine = [
            item for item in deliveries if place in (keys.destination(item.destination), keys.dead(item.destination))
        ]
        return sum(item.status == status and not (item.alone and status == "pending") for item in mine)

    @operation
    async def pause(self, destination: str, until_ms: int, reason: str) -> None:
        def paused(found: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            record = found.get(destination)
            if record is None or (record.paused_until_ms or 0) >= until_ms:
                return found
            return {**found, destination: replace(record, paused_until_ms=until_ms, paused_reason=reason)}

        await self._destinations.update(paused)

    @operation
    async def resume(self, destination: str) -> bool:
        found = (await self._destinations.read()).get(destination)
        if found is None:
            return False
        until_ms = found.paused_until_ms
        if until_ms is not None:
            place = keys.destination(destination)
            ids = [keys.read_mark(key)[1] async for key in self._agenda.marks(place)]
            await asyncio.gather(*(self._end_wait(id, destination, until_ms) for id in ids))

        def resumed(known: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            record = replace(known[destination], failures=0, paused_until_ms=None, paused_reason=None)
            return {**known, destination: record}

        await self._destinations.update(resumed)
        return True

    async def _end_wait(self, id: str, destination: str, until_ms: int) -> None:
        await self._rows.write(id, lambda document: (changes.end_wait(document, destination, until_ms), None))
