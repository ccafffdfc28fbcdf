"""A clock that starts at real now and runs ``speed`` times as fast."""

import asyncio
import time


class Clock:
    """Simulated time: every wait is divided by ``speed`` and every time stamp agrees with the waits."""

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"The simulator's speed must be greater than 0, not {speed}.")
        self.speed = speed
        self._epoch = time.time()
        self._started = time.monotonic()

    def now(self) -> float:
        """Simulated seconds since 1970."""
        return self._epoch + (time.monotonic() - self._started) * self.speed

    async def until(self, moment: float) -> None:
        """Sleep until the simulated ``moment``; at once if it has passed."""
        # asyncio may wake a hair early, hence the loop: nothing may ever be seen before its time.
        while (wait := (moment - self.now()) / self.speed) > 0:  # noqa: ASYNC110 - it is time we wait for
            await asyncio.sleep(wait)
