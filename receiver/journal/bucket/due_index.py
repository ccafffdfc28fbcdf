"""The due index: empty objects whose keys are listed in order of time, up to now, so that nothing else is read.

    due/rows/TIME.ID.VERSION-NONCE              a submission to be sent, polled, archived or ended
    due/to/DESTINATION/TIME.ID.VERSION-NONCE    a submission with an open delivery to this destination
    dead/DESTINATION/0.ID.VERSION-NONCE         a submission with a dead delivery there

An entry is made before the submission that needs it, and deleted after the one that does not. The submission names its
entries. An entry it does not name is deleted once the submission is as new as the entry: until then its writer may be
about to write the submission that names it. So a submission that needs an entry always has one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from receiver.journal.bucket import keys
from receiver.journal.bucket.documents import Documents
from receiver.journal.bucket.objects import Objects
from receiver.journal.bucket.stored import MOVE_MS, StoredSubmission, replace

WINDOW = 1000
"""Entries looked at in one place, those due first."""
AHEAD_MS = 60_000
"""How far ahead entries are listed, so that what comes due before the next look is known."""
ABANDONED_MS = 2 * 86_400_000
"""Age of an entry without a submission from which on no process can be about to write that: a signed request is valid
for minutes."""
CHUNK = 16


@dataclass(slots=True)
class _Place:
    """Entries of one place as last listed, with those that this process has made and deleted since."""

    entries: dict[str, int] = field(default_factory=dict)
    """When it was made, by key."""
    looked_at: float | None = None
    until_ms: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class DueIndex:
    """Finds what is due.

    Args:
        objects: the bucket.
        look_seconds: for how long a list is used again; 0: never. Changes of this process are known at once.
        written: see `Documents`.

    Attributes:
        documents: the submissions that entries lead to.
    """

    def __init__(self, objects: Objects, *, look_seconds: float, written: Callable[[str], None]) -> None:
        self._objects = objects
        self.look_seconds = look_seconds
        self.documents = Documents(objects, indexed=self._indexed, written=written)
        self._places: dict[str, _Place] = {}

    def _indexed(self, made: Sequence[str], stale: Sequence[str]) -> None:
        for key in made:
            self._place(key.rpartition("/")[0]).entries[key] = int(time.time() * 1000)
        for key in stale:
            self._place(key.rpartition("/")[0]).entries.pop(key, None)

    def _place(self, name: str) -> _Place:
        return self._places.setdefault(name, _Place())

    async def due(self, place: str, now_ms: int) -> AsyncIterator[StoredSubmission]:
        """Yield submissions with an entry that has come, in order of the entries, read as they are asked for."""
        entries = await self._due_entries(place, now_ms)
        seen: set[str] = set()
        for start in range(0, len(entries), CHUNK):
            some = entries[start : start + CHUNK]
            read = await asyncio.gather(*map(self._read, some))
            for key, found in zip(some, read, strict=True):
                if self._leads(place, key, found) and found is not None and found.id not in seen:
                    seen.add(found.id)
                    yield found

    async def all_due(self, place: str, now_ms: int) -> list[StoredSubmission]:
        """Return all of them. An entry that came much too early is moved, and what a change left undone is done."""
        found = [item async for item in self.due(place, now_ms)]
        late = [item for item in found if _moves(item, place, now_ms)]

        def unnamed(item: StoredSubmission) -> tuple[StoredSubmission, None]:
            return replace(item, entries={name: key for name, key in item.entries.items() if name != place}), None

        await asyncio.gather(*(self.documents.write(item.id, unnamed) for item in late))
        return found

    async def places(self) -> list[str]:
        """Return the places of destinations with open deliveries."""
        known = {name for name, place in self._places.items() if name.startswith(f"{keys.TO}/") and place.entries}
        listed = {f"{keys.TO}/{name}" for name in await self._objects.folders(keys.TO)}
        return sorted(known | listed)

    async def entries(self, place: str, *, after: str = "") -> AsyncIterator[str]:
        """Yield all entries of a place, however late they come."""
        async for page in self._objects.pages(place, after=after):
            for item in page:
                yield item.key

    async def _due_entries(self, place: str, now_ms: int) -> list[str]:
        known = self._place(place)
        async with known.looking:
            stale = known.looked_at is None or time.monotonic() - known.looked_at >= self.look_seconds
            if stale or now_ms > known.until_ms:
                await self._look(place, known, now_ms)
        end = keys.until(place, now_ms)
        return sorted(key for key in known.entries if key < end)

    async def _look(self, place: str, known: _Place, now_ms: int) -> None:
        before = set(known.entries)
        began, until_ms = time.monotonic(), now_ms + (AHEAD_MS if self.look_seconds else 0)
        end = keys.until(place, until_ms)
        found: dict[str, int] = {}
        async for page in self._objects.pages(place):
            found |= {item.key: item.modified_ms for item in page if item.key < end}
            if len(found) >= WINDOW or (page and page[-1].key >= end):
                break
        gone = before - set(known.entries)  # deleted while we looked
        mine = {key: made for key, made in known.entries.items() if key not in before}
        later = {key: made for key, made in known.entries.items() if key >= end}
        known.entries = {key: made for key, made in (found | later | mine).items() if key not in gone}
        known.looked_at, known.until_ms = began, until_ms

    async def _read(self, key: str) -> StoredSubmission | None:
        _, id, version = keys.read_entry(key)
        found = await self.documents.get(id, self.look_seconds)
        if self.look_seconds and found is not None and found.version < version:
            return await self.documents.get(id)  # another process has written it since
        return found

    def _leads(self, place: str, key: str, found: StoredSubmission | None) -> bool:
        """Return True if the submission names the entry. One that leads nowhere is deleted."""
        _, _, version = keys.read_entry(key)
        if found is not None and found.entries.get(place) == key:
            return True
        made = self._place(place).entries.get(key, 0)
        abandoned = found is None and time.time() * 1000 - made > ABANDONED_MS
        if abandoned or (found is not None and found.version >= version):
            self._place(place).entries.pop(key, None)
            self.documents.sweep([key])
        return False


def _moves(item: StoredSubmission, place: str, now_ms: int) -> bool:
    due_ms = item.due_ms().get(place)
    return due_ms is None or due_ms > now_ms + MOVE_MS or bool(item.additions)
