"""How long ago something was, in a process that may have been put to sleep since.

The clock that only goes forward is the one to count with, but in a function's sandbox it may stand still while nobody
asks. The wall clock does not, but anybody may set it. Where both say the same, they are right.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

APART_SECONDS = 2.0
"""What the two may differ by after a while: the wall clock is adjusted all the time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time by both clocks, in seconds."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.monotonic(), time.time())

    def seconds(self, now: Moment) -> float | None:
        """How long ago it was; None where the clocks do not agree, so that nobody knows."""
        passed = now.monotonic - self.monotonic
        return passed if abs(now.wall - self.wall - passed) <= APART_SECONDS else None
