"""A wall clock that is set back strands nothing: what waits for a time is told how far it went.

Times in the journal are wall-clock times, because they outlive the process and the machine's uptime. How far the wall
clock strays from the one that only goes forward is how far it was set. A step forward needs nothing: what it makes due
too early runs early, and once.
"""

from __future__ import annotations

import structlog

from receiver.clock import Clock
from receiver.journal import Journal

log = structlog.get_logger("receiver.engine")

NOTICED_SECONDS = 1.0
"""Less is adjusted every day, and harms nothing until it adds up."""


class ClockSteps:
    """Notices steps back while an engine runs; what nobody saw is for `Journal.advance` at its start."""

    def __init__(self, *, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._lead, _ = self._measure()

    def restart(self) -> None:
        """Compare with now: whatever happened before is not ours to mend."""
        self._lead, _ = self._measure()

    async def check_once(self) -> int:
        """Move due times if the clock was set back. Always 0: there is nothing to look for again at once."""
        least, most = self._measure()
        back = self._lead - most
        if back >= NOTICED_SECONDS:
            moved = await self._journal.advance(self._clock.now_ms(), step_ms=int(back * 1000))
            log.warning("clock.set_back", seconds=round(back, 1), moved=moved)
        if abs(back) >= NOTICED_SECONDS:
            self._lead = least
        return 0

    def _measure(self) -> tuple[float, float]:
        """By how much the wall clock leads, at least and at most: others may run between one look and the next."""
        before = self._clock.monotonic()
        wall = self._clock.now()
        return wall - self._clock.monotonic(), wall - before
