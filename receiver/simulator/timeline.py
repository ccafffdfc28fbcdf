"""Simulated time: the clock, repeatable chance, and the statuses a task takes (PROTOCOL.md §6, §7, §9)."""

import asyncio
import time
from dataclasses import dataclass
from random import Random

DURATIONS = {"fast": 36.0, "turbo": 18.0, "relax": 90.0}
"""Seconds from submit to picture, by speed (PROTOCOL.md §9)."""

TERMINAL = frozenset({"SUCCESS", "FAILURE"})


class Clock:
    """Simulated time: starts at real now and runs ``speed`` times as fast, time stamps and waits alike."""

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"The simulator's speed must be greater than 0, not {speed}.")
        self.speed = speed
        self._epoch = time.time()
        self._started = time.monotonic()

    def now(self) -> float:
        """Return simulated seconds since 1970."""
        return self._epoch + (time.monotonic() - self._started) * self.speed

    async def until(self, moment: float) -> None:
        """Sleep until the simulated ``moment``."""
        # asyncio may wake slightly early, hence the loop: nothing may be visible before its time.
        while (wait := (moment - self.now()) / self.speed) > 0:  # noqa: ASYNC110 - it is time we wait for
            await asyncio.sleep(wait)


def dice(*name: object) -> Random:
    """Return a generator of its own for each name, so that no use of chance disturbs another."""
    return Random("/".join(map(str, name)))  # noqa: S311 - nothing here is secret, and runs must repeat


Pace = tuple[float, tuple[tuple[int, float], ...]]
"""Duration as a share of `DURATIONS`, and (percent, share of the way) of each progress."""

GRID: Pace = (1.0, ((0, 0.10), (15, 0.22), (31, 0.35), (46, 0.47), (62, 0.60), (78, 0.74), (93, 0.88)))
SHORT: Pace = (0.25, ((0, 0.5),))
"""Upscales and texts: one to three callbacks (PROTOCOL.md §7)."""
VIDEO: Pace = (1.5, ((0, 0.10), (25, 0.35), (50, 0.60), (75, 0.85)))


@dataclass(frozen=True, slots=True)
class Step:
    """Status that a task takes ``after`` seconds."""

    after: float
    status: str
    progress: str | None
    reason: str | None = None

    @property
    def terminal(self) -> bool:
        """True for the last status of a task."""
        return self.status in TERMINAL

    @property
    def percent(self) -> int:
        """Progress as a number, 0 where the text holds none."""
        digits = (self.progress or "").rstrip("%")
        return int(digits) if digits.isdigit() else 0


UNSEEN = Step(0.0, "", "0%")
"""View of a relay before its first poll of the upstream (PROTOCOL.md §5)."""

Timeline = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Callback with the status ``step``, to be sent ``after`` seconds."""

    after: float
    step: Step


def plan(mode: str, chance: Random, pace: Pace = GRID) -> Timeline:
    """Return the whole timeline of a task, decided at its submit so that only the seed matters."""
    length, progress = pace
    duration = DURATIONS[mode] * length * chance.uniform(0.93, 1.07)
    steps = [Step(0.0, "NOT_START", None), Step(chance.uniform(0.8, 1.2), "SUBMITTED", "0%")]
    for percent, share in progress:
        steps.append(Step(duration * (share + chance.uniform(-0.02, 0.02)), "IN_PROGRESS", f"{percent}%"))
    return (*steps, Step(duration, "SUCCESS", "100%"))


def step_at(timeline: Timeline, elapsed: float) -> Step:
    """Return the status ``elapsed`` seconds after the submit."""
    return next((step for step in reversed(timeline) if step.after <= elapsed), timeline[0])


def delayed(timeline: Timeline, seconds: float) -> Timeline:
    """Return the timeline of a task that waits in a queue first."""
    first, *rest = timeline
    return (first, *(Step(step.after + seconds, step.status, step.progress, step.reason) for step in rest))


def parked(seconds: float) -> Timeline:
    """Return the timeline of a task in MODAL that fails when no submit/modal comes in time (PROTOCOL.md §6)."""
    return (Step(0.0, "MODAL", ""), Step(seconds, "FAILURE", "", "任务超时"))


def continued(timeline: Timeline, elapsed: float) -> Timeline:
    """Return the timeline of a task that leaves MODAL ``elapsed`` seconds after its submit."""
    waiting, *rest = delayed(timeline, elapsed)
    return (Step(0.0, "MODAL", ""), Step(elapsed, waiting.status, waiting.progress), *rest)


def cancelled(timeline: Timeline, elapsed: float) -> Timeline:
    """Return the timeline up to now, with FAILURE at once (PROTOCOL.md §2, cancel)."""
    return (*(step for step in timeline if step.after <= elapsed), Step(elapsed, "FAILURE", "", "取消任务"))


def calls_for(timeline: Timeline) -> list[Call]:
    """Return one callback for each change, none while the task is not submitted upstream or waits in MODAL."""
    return [Call(step.after, step) for step in timeline if step.status not in {"NOT_START", "MODAL"}]
