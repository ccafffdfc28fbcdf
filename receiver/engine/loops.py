"""The engine's loops: each repeats one step, and sleeps only when the step found nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from receiver.clock import Clock
from receiver.errors import EngineStopped, ReceiverError

log = structlog.get_logger("receiver.engine")

TICK = 1.0
"""Seconds between looks at the journal without a wake-up: other processes write it too, and due times pass."""

STALLED = 900.0
"""Seconds after which a step counts as hanging. The slowest one makes ten requests to the provider in a row."""

Step = Callable[[], Awaitable[int]]


class NotNow(Exception):
    """Raised by a step that must not run now. It neither begins nor ends a failure."""


class Loops:
    """Runs steps side by side until stopped. A step that fails is logged and tried again after a tick."""

    def __init__(self, steps: dict[str, Step], *, clock: Clock) -> None:
        self._steps = steps
        self._clock = clock
        self._wakes = {name: asyncio.Event() for name in steps}
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._began: dict[str, float] = {}

    @property
    def started(self) -> bool:
        """True from `start` until `stop`."""
        return bool(self._tasks)

    @property
    def running(self) -> bool:
        """True while all loops run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def check(self) -> None:
        """Raise EngineStopped if the loops were started and have ended, or if a step hangs."""
        if self.started and not self.running:
            raise EngineStopped("The engine has stopped. Receiver's log says why. Start it again.")
        late = self._clock.now() - STALLED
        if stuck := sorted(name for name, since in self._began.items() if since < late):
            raise EngineStopped(f"The engine hangs in: {', '.join(stuck)}. Start Receiver again.")

    def start(self) -> None:
        """Start the loops. Without effect while they run."""
        if self._tasks:
            return
        self._tasks = [
            asyncio.create_task(self._loop(name, step), name=f"engine {name}") for name, step in self._steps.items()
        ]

    def wake(self, *names: str) -> None:
        """Make these steps run now, because they may have work. The others run at their next tick."""
        for name in names:
            self._wakes[name].set()

    async def once(self, name: str) -> int:
        """Run one step without a loop and return its count. A failure is logged as a loop's is, and counts 0."""
        return await self._step(name, self._steps[name]) or 0

    async def stop(self) -> None:
        """End the loops. A running step is cancelled. Its uncommitted work is still due."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._began.clear()

    async def _loop(self, name: str, step: Step) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            self._began[name] = self._clock.now()
            done = await self._step(name, step)
            del self._began[name]
            if done is None:
                await self._clock.sleep(TICK)  # even if woken: a failing step may make a request each time
            elif not done:
                await self._clock.wait(wake, TICK)

    async def _step(self, name: str, step: Step) -> int | None:
        """Run a step and return its count. None: it failed, which is logged once until it works again."""
        current = asyncio.current_task()
        try:
            done = await step()
        except NotNow:
            return 0
        except (asyncio.CancelledError, Exception) as exc:
            if current is not None and current.cancelling():
                if isinstance(exc, asyncio.CancelledError):
                    raise
                raise asyncio.CancelledError from exc  # our cancellation, which the step turned into an error
            if name not in self._failing:
                traceback = None if isinstance(exc, ReceiverError) else exc
                log.error("engine.step_failed", step=name, problem=str(exc), exc_info=traceback)
            self._failing.add(name)
            return None
        if name in self._failing:
            self._failing.discard(name)
            log.info("engine.step_recovered", step=name)
        return done
