"""The one source of time. Everything that waits or compares times takes a `Clock` as an argument.

Tests pass a faster one, so that minutes of provider behaviour run in a second without patching anything.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Wall-clock time in epoch seconds, `speed` times as fast as the world's from the moment it was made."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> float:
        """Epoch seconds."""
        if self.speed == 1.0:
            return time.time()
        return self._wall + (time.monotonic() - self._monotonic) * self.speed

    def now_ms(self) -> int:
        """Epoch milliseconds, as the journal and the protocol (PROTOCOL.md §5) count."""
        return int(self.now() * 1000)

    def monotonic(self) -> float:
        """Seconds that only go forward, from any start: for how long something takes, whatever the wall clock does."""
        return time.monotonic() * self.speed

    async def sleep(self, seconds: float) -> None:
        """Until `seconds` of this clock have passed."""
        await asyncio.sleep(max(seconds, 0) / self.speed)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` of this clock have passed; returns whether it was set."""
        try:
            async with asyncio.timeout(max(seconds, 0) / self.speed):
                await event.wait()
        except TimeoutError:
            return False
        return True
