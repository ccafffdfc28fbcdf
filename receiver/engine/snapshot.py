"""Snapshot: numbers of the journal for `/metrics`, which the leader reads from time to time."""

from __future__ import annotations

from receiver import metrics
from receiver.clock import Clock
from receiver.journal import Journal
from receiver.journal.store import DestinationCount

SNAPSHOT_SECONDS = 15.0
BUCKET_SECONDS = 300.0
"""Interval in a bucket, where a snapshot costs requests."""


class Snapshot:
    """The step that sets the gauges of the journal.

    Args:
        journal, clock: its collaborators.
        bucket: True if the journal is in a bucket. Then submissions are not counted.
    """

    def __init__(self, *, journal: Journal, clock: Clock, bucket: bool) -> None:
        self._journal = journal
        self._clock = clock
        self._bucket = bucket
        self._taken: float | None = None

    async def take_once(self) -> int:
        """Take a snapshot if the last one is old."""
        now, interval = self._clock.monotonic(), BUCKET_SECONDS if self._bucket else SNAPSHOT_SECONDS
        if self._taken is not None and now - self._taken < interval:
            return 0
        counts = await self._journal.counts(submissions=not self._bucket)
        records = await self._journal.destinations(counts)
        engines = await self._journal.engines()
        self._taken, now_ms = now, self._clock.now_ms()
        found = {**{item.name: DestinationCount() for item in records}, **counts.destinations}
        metrics.TASKS.replace({(status,): number for status, number in counts.submissions.items()})
        metrics.DELIVERIES.replace(
            {
                (name, status): number
                for name, item in found.items()
                for status, number in (("pending", item.pending), ("running", item.running), ("dead", item.dead))
            }
        )
        metrics.OLDEST.replace(
            {(name,): max(now_ms - (item.oldest_due_ms or now_ms), 0) / 1000 for name, item in found.items()}
        )
        metrics.PAUSED.replace({(item.name,): item.paused(now_ms) for item in records})
        metrics.ENGINES.replace({(): len(engines)})
        return 0

    def refresh(self, *, leads: bool) -> None:
        """Set the age of the snapshot. Forget it where another process leads."""
        if not leads:
            self._taken = None
        if self._taken is not None:
            metrics.AGE.replace({(): self._clock.monotonic() - self._taken})
            return
        for gauge in metrics.SNAPSHOT:
            gauge.replace({})
