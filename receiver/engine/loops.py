"""The engine's loops: each repeats one step, and sleeps only when the step found nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from receiver.clock import Clock
from receiver.errors import EngineStopped, ReceiverError

log = structlog.get_logger("receiver.engine")

TICK = 1.0
"""Seconds between looks at the journal when nothing wakes us: other processes write it too, and due times come."""

STALLED = 900.0
"""Seconds after which a step that has not ended counts as hanging; the slowest asks the provider ten times in a row."""

Step = Callable[[], Awaitable[int]]


class NotNow(Exception):
    """Raised by a step that is not to run now. It is neither a failure nor the end of one."""


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
        """Whether `stop` has something to stop."""
        return bool(self._tasks)

    @property
    def running(self) -> bool:
        """Whether the loops are going."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def check(self) -> None:
        """Raises EngineStopped where the loops were started and do not turn any more."""
        if self.started and not self.running:
            raise EngineStopped("The engine has stopped. Receiver's log says why; start it again.")
        late = self._clock.now() - STALLED
        if stuck := sorted(name for name, since in self._began.items() if since < late):
            raise EngineStopped(f"The engine hangs in: {', '.join(stuck)}. Start Receiver again.")

    def start(self) -> None:
        """Start the loops. Without effect while they go."""
        if self._tasks:
            return
        self._tasks = [
            asyncio.create_task(self._loop(name, step), name=f"engine {name}") for name, step in self._steps.items()
        ]

    def wake(self, *names: str) -> None:
        """There may be work for these steps: look now. The others look at their next tick."""
        for name in names:
            self._wakes[name].set()

    async def once(self, name: str) -> int:
        """One step, for those who have no loops: what it did; 0 where it failed, which is logged as a loop's is."""
        return await self._step(name, self._steps[name]) or 0

    async def stop(self) -> None:
        """End the loops. A step under way is cancelled; what it had not committed is found again by due time."""
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
                await self._clock.sleep(TICK)  # whatever wakes us: a step that fails may ask the provider each time
            elif not done:
                await self._clock.wait(wake, TICK)

    async def _step(self, name: str, step: Step) -> int | None:
        """What the step did; None: it failed."""
        try:
            done = await step()
        except NotNow:
            return 0
        except asyncio.CancelledError:
            if _stopped():
                raise
            self._unexpected(name)  # something it waited for was cancelled, not the loop
            return None
        except Exception as exc:
            if _stopped():
                raise asyncio.CancelledError from exc  # our cancellation, told in words of the step's own
            self._failed(name, exc)
            return None
        if name in self._failing:
            self._failing.discard(name)
            log.info("engine.step_recovered", step=name)
        return done

    def _failed(self, name: str, exc: Exception) -> None:
        if not isinstance(exc, ReceiverError):
            self._unexpected(name)
            return
        if name not in self._failing:
            log.error("engine.step_failed", step=name, problem=str(exc))
        self._failing.add(name)

    def _unexpected(self, name: str) -> None:
        if name not in self._failing:
            log.exception("engine.step_failed", step=name)
        self._failing.add(name)


def _stopped() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
