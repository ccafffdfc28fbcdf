"""What is due: marks are listed in order of time, up to now, so that nothing past and nothing later is read.

    due/rows/TIME.ID.VERSION-NONCE              a submission to be sent, polled, archived or ended
    due/alone/TIME.ID.VERSION-NONCE             one that owes something that runs alone
    due/to/DESTINATION/TIME.ID.VERSION-NONCE    a submission that owes this destination something
    dead/DESTINATION/0.ID.VERSION-NONCE         one whose delivery there is dead

A mark is made before the document that needs it, and goes after the one that does not. The document names the marks it
has. One it does not name is swept away, once the document is as new as the mark: until then somebody may be about to
write the document that names it. So a document that needs a mark always has one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from receiver.journal.bucket import keys
from receiver.journal.bucket.document import Document, replace, wanted_marks
from receiver.journal.bucket.leading import MOVE_MS
from receiver.journal.bucket.objects import Objects
from receiver.journal.bucket.rows import Rows

WINDOW = 1000
"""Marks looked at in one place, those due first."""
AHEAD_MS = 60_000
"""How far ahead marks are listed: what comes due until the next look is known then."""
ABANDONED_MS = 2 * 86_400_000
"""The age of a mark without a document from which on nobody can be about to write that any more: a signed request is
good for minutes."""
CHUNK = 16


@dataclass(slots=True)
class _Place:
    """The marks of one place, as last listed, with what we have made and removed since."""

    marks: dict[str, int] = field(default_factory=dict)
    """When it was made, by mark."""
    looked_at: float | None = None
    until_ms: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Agenda:
    """Looks.

    Args:
        look_seconds: how long a look may be believed; 0: never. What this process writes it knows at once.
    """

    def __init__(self, objects: Objects, *, look_seconds: float) -> None:
        self._objects = objects
        self.look_seconds = look_seconds
        self.rows = Rows(objects, marked=self._marked)
        self._places: dict[str, _Place] = {}

    def _marked(self, made: Sequence[str], stale: Sequence[str]) -> None:
        for key in made:
            self._place(key.rpartition("/")[0]).marks[key] = int(time.time() * 1000)
        for key in stale:
            self._place(key.rpartition("/")[0]).marks.pop(key, None)

    def _place(self, name: str) -> _Place:
        return self._places.setdefault(name, _Place())

    async def due(self, place: str, now_ms: int) -> AsyncIterator[Document]:
        """Documents with a mark there that has come, in order of the marks; read as they are asked for."""
        marks = await self._marks(place, now_ms)
        seen: set[str] = set()
        for start in range(0, len(marks), CHUNK):
            some = marks[start : start + CHUNK]
            read = await asyncio.gather(*map(self._read, some))
            for key, document in zip(some, read, strict=True):
                if self._leads(place, key, document) and document is not None and document.id not in seen:
                    seen.add(document.id)
                    yield document

    async def all_due(self, place: str, now_ms: int) -> list[Document]:
        """All of them at once. A mark that came much too early is moved; what a change left undone is done."""
        found = [document async for document in self.due(place, now_ms)]
        late = [document for document in found if _moves(document, place, now_ms)]
        await asyncio.gather(*(self.rows.write(item.id, lambda doc: (_unmarked(doc, place), None)) for item in late))
        return found

    async def places(self) -> list[str]:
        """Where deliveries are marked."""
        known = {name for name, place in self._places.items() if name.startswith(f"{keys.TO}/") and place.marks}
        listed = {f"{keys.TO}/{name}" for name in await self._objects.folders(keys.TO)}
        return sorted(known | listed)

    async def marks(self, place: str, *, after: str = "") -> AsyncIterator[str]:
        """All marks there, however late they come."""
        async for page in self._objects.pages(place, after=after):
            for item in page:
                yield item.key

    async def _marks(self, place: str, now_ms: int) -> list[str]:
        known = self._place(place)
        async with known.looking:
            stale = known.looked_at is None or time.monotonic() - known.looked_at >= self.look_seconds
            if stale or now_ms > known.until_ms:
                await self._look(place, known, now_ms)
        end = keys.until(place, now_ms)
        return sorted(key for key in known.marks if key < end)

    async def _look(self, place: str, known: _Place, now_ms: int) -> None:
        before = set(known.marks)
        began, until_ms = time.monotonic(), now_ms + (AHEAD_MS if self.look_seconds else 0)
        end = keys.until(place, until_ms)
        found: dict[str, int] = {}
        async for page in self._objects.pages(place):
            found |= {item.key: item.modified_ms for item in page if item.key < end}
            if len(found) >= WINDOW or (page and page[-1].key >= end):
                break
        gone = before - set(known.marks)  # swept while we looked
        mine = {key: made for key, made in known.marks.items() if key not in before}
        later = {key: made for key, made in known.marks.items() if key >= end}
        known.marks = {key: made for key, made in (found | later | mine).items() if key not in gone}
        known.looked_at, known.until_ms = began, until_ms

    async def _read(self, key: str) -> Document | None:
        _, id, version = keys.read_mark(key)
        document = await self.rows.recent(id, self.look_seconds)
        if self.look_seconds and document is not None and document.version < version:
            return await self.rows.get(id)  # somebody else has written it since
        return document

    def _leads(self, place: str, key: str, document: Document | None) -> bool:
        """Whether the document names the mark; one that leads nowhere is swept away."""
        _, _, version = keys.read_mark(key)
        if document is not None and document.marks.get(place) == key:
            return True
        made = self._place(place).marks.get(key, 0)
        abandoned = document is None and time.time() * 1000 - made > ABANDONED_MS
        if abandoned or (document is not None and document.version >= version):
            self._place(place).marks.pop(key, None)
            self.rows.sweep([key])
        return False


def _moves(document: Document, place: str, now_ms: int) -> bool:
    due_ms = wanted_marks(document).get(place)
    return due_ms is None or due_ms > now_ms + MOVE_MS or bool(document.additions)


def _unmarked(document: Document, place: str) -> Document:
    """So that it gets its mark anew, at its time."""
    return replace(document, marks={name: key for name, key in document.marks.items() if name != place})
