"""What all parts of a bucket's journal stand on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

from receiver.deliveries import Delivery, DestinationRecord
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.journal import Trouble
from receiver.journal.bucket import keys
from receiver.journal.bucket.agenda import Agenda
from receiver.journal.bucket.cells import Cell
from receiver.journal.bucket.engines import Engines
from receiver.journal.bucket.naming import add, add_named
from receiver.journal.bucket.objects import Objects
from receiver.journal.bucket.queries import Queries


class Plumbing:
    """What is open, and how much is under way.

    Args:
        place: what to call the journal, for instance `s3://acme/receiver`.
        look_seconds: how long what was listed as due may be believed.
    """

    def __init__(self, objects: Objects, *, place: str, look_seconds: float) -> None:
        self.place = place
        self._objects = objects
        self._agenda = Agenda(objects, look_seconds=look_seconds)
        self._rows = self._agenda.rows
        self._rows.add = self._add_further
        self._queries = Queries(objects, self._rows)
        self._engines = Engines(objects, place)
        self._destinations: Cell[dict[str, DestinationRecord]] = Cell(
            objects, "destinations", dict[str, DestinationRecord], {}
        )
        self._troubles: Cell[dict[str, Trouble]] = Cell(objects, "troubles", dict[str, Trouble], {})
        self._purged: Cell[int] = Cell(objects, "purged", int, 0)
        self._claiming: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._searched: dict[str, float] = {}
        self._thorough_at = 0.0
        self._closed = False
        self._under_way_count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each class were made so far."""
        return self._objects.requests

    def _begin(self) -> None:
        if self._closed:
            raise JournalError(f"The journal {self.place} is closed.", fault="closed")
        self._under_way_count += 1
        self._idle.clear()

    def _end(self) -> None:
        self._under_way_count -= 1
        if not self._under_way_count:
            self._idle.set()

    async def _add_further(self, submission: Submission) -> Submission:
        """A submission that comes of a change; one that is there already was written by whoever began with it."""
        if submission.once is not None:
            return await add_named(self._objects, self._rows, submission)
        await add(self._rows, submission)
        return submission

    async def aclose(self) -> None:
        self._closed = True
        await self._idle.wait()
        await self._rows.tidy()

    async def settle(self) -> None:
        await self._rows.tidy()

    async def _marked(self, status: str, *folders: str) -> AsyncIterator[Delivery]:
        """Deliveries of a status that has marks, each once."""
        seen: set[str] = set()
        for folder in folders or ((keys.DEAD,) if status == "dead" else (keys.TO, keys.ALONE)):
            async for document in self._queries.all_of(folder):
                if document.id not in seen:
                    seen.add(document.id)
                    for item in document.deliveries:
                        if item.status == status:
                            yield item
