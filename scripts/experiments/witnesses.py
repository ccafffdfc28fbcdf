"""Destinations that record the events they get, and a statement of the journal that is replaced for a while."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from receiver.app.functions import Function
from receiver.deliveries import Receipt
from receiver.events import ALERT_TYPES, EVENT_TYPES, Event
from receiver.journal import Journal
from receiver.journal.sqlite.documents import SQL
from receiver.tasks import Task

Does = Callable[[Event], Awaitable[None]]


class Witness:
    """A destination for all events of tasks, progress too.

    Args:
        does: awaited with each event before it counts as seen; what it raises, the destination raises.

    Attributes:
        seen: events that were taken, by submission, in order.
        calls: attempts begun.
        finished: attempts that ended, in whatever way.
        overlaps: attempts begun while another of the same submission ran here.
        longest: seconds of the longest attempt.
    """

    def __init__(self, name: str, does: Does | None = None, *, concurrency: int = 16, timeout: float = 30.0) -> None:
        self.name = name
        self.does = does
        self.seen: defaultdict[str, list[Event]] = defaultdict(list)
        self.calls = self.finished = self.overlaps = 0
        self.longest = 0.0
        self._running: Counter[str] = Counter()
        self._concurrency = concurrency
        self._timeout = timeout

    def function(self) -> Function:
        """Return the destination as `@receiver.on` registers it."""
        return Function(
            call=self._take,
            destination=self.name,
            types=frozenset(EVENT_TYPES) - frozenset(ALERT_TYPES),
            concurrency=self._concurrency,
            timeout=self._timeout,
        )

    @property
    def count(self) -> int:
        """Number of events taken."""
        return sum(map(len, self.seen.values()))

    @property
    def repeated(self) -> int:
        """Number of events taken more than once."""
        return self.count - len({event.id for events in self.seen.values() for event in events})

    @property
    def falling(self) -> int:
        """Number of events taken after a later one."""
        return sum(
            rank(later) < rank(earlier)
            for events in self.seen.values()
            for earlier, later in itertools.pairwise(events)
        )

    @property
    def ended(self) -> int:
        """Number of submissions whose last event here is their result."""
        return sum(events[-1].type == "task.succeeded" for events in self.seen.values())

    async def _take(self, event: Event) -> Receipt:
        begun = time.monotonic()
        self.calls += 1
        self.overlaps += self._running[event.submission_id] > 0
        self._running[event.submission_id] += 1
        try:
            if self.does is not None:
                await self.does(event)
            self.seen[event.submission_id].append(event)
        finally:
            self._running[event.submission_id] -= 1
            self.finished += 1
            self.longest = max(self.longest, time.monotonic() - begun)
        return Receipt(ref=event.id)


def rank(event: Event) -> tuple[int, int]:
    """Return what may not fall at a destination: the status, then the percentage."""
    return EVENT_TYPES.index(event.type), event.progress or 0


def view(task_id: str, percent: int | None = None) -> Task:
    """Return the task at some percentage; None: succeeded, without a picture to download.

    A submission of `stage.accepted` ends with it, because the results of its kind are texts.
    """
    if percent is None:
        return Task(id=task_id, status="SUCCESS", progress=100)
    return Task(id=task_id, status="IN_PROGRESS", progress=percent)


async def quiet(journal: Journal, *destinations: str, seconds: float) -> bool:
    """Wait until nothing is owed to these destinations. Return False after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        owed = [
            await journal.deliveries(limit=1, destination=name, status=status)
            for name in destinations
            for status in ("pending", "running")
        ]
        if not any(owed):
            return True
        await asyncio.sleep(0.02)
    return False


@contextmanager
def restated(name: str, old: str, new: str) -> Iterator[None]:
    """Replace a part of one of the SQLite store's statements while the block runs."""
    original = SQL[name]
    assert old in original, f"{name} has changed"
    SQL[name] = original.replace(old, new)
    try:
        yield
    finally:
        SQL[name] = original
