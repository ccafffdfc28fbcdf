"""The source of time. All code that waits or compares times takes a `Clock` as an argument.

Tests pass a faster one, so that minutes of provider behaviour run in a second without patching anything.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Wall-clock time in epoch seconds, `speed` times as fast as real time from the construction on."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> float:
        """Return epoch seconds."""
        if self.speed == 1.0:
            return time.time()
        return self._wall + (time.monotonic() - self._monotonic) * self.speed

    def now_ms(self) -> int:
        """Return epoch milliseconds, the unit of the journal and of the protocol (PROTOCOL.md §5)."""
        return int(self.now() * 1000)

    def monotonic(self) -> float:
        """Return seconds from any start that never go back, to measure durations."""
        return time.monotonic() * self.speed

    async def sleep(self, seconds: float) -> None:
        """Sleep until `seconds` of this clock have passed."""
        await asyncio.sleep(max(seconds, 0) / self.speed)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` of this clock have passed. Return True if it was set."""
        try:
            async with asyncio.timeout(max(seconds, 0) / self.speed):
                await event.wait()
        except TimeoutError:
            return False
        return True
