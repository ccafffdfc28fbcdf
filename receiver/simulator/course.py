"""The course of a task: its status, so many simulated seconds after the submit (PROTOCOL.md §6, §7)."""

from dataclasses import dataclass
from random import Random

DURATIONS = {"fast": 36.0, "turbo": 18.0, "relax": 90.0}
"""Seconds from submit to picture, by speed (PROTOCOL.md §9)."""

_PROGRESS = ((0, 0.10), (15, 0.22), (31, 0.35), (46, 0.47), (62, 0.60), (78, 0.74), (93, 0.88))
"""Percentages of an imagine (PROTOCOL.md §7, count and pace) and where on the way they come."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long one kind of work takes, as a share of `DURATIONS`, and what it tells on the way."""

    share: float
    progress: tuple[tuple[int, float], ...]


GRID = Pace(1.0, _PROGRESS)
SHORT = Pace(0.25, ((0, 0.5),))
"""Upscales and texts: one to three callbacks (PROTOCOL.md §7)."""
VIDEO = Pace(1.5, ((0, 0.10), (25, 0.35), (50, 0.60), (75, 0.85)))

TERMINAL = frozenset({"SUCCESS", "FAILURE"})


@dataclass(frozen=True, slots=True)
class Step:
    """A status the task takes ``after`` seconds."""

    after: float
    status: str
    progress: str | None
    reason: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the task stays like this for ever."""
        return self.status in TERMINAL

    @property
    def percent(self) -> int:
        """Progress as a number; 0 where the text holds none."""
        digits = (self.progress or "").rstrip("%")
        return int(digits) if digits.isdigit() else 0


UNSEEN = Step(0.0, "", "0%")
"""What a relay knows of a task before its first poll of the upstream (PROTOCOL.md §5)."""

Course = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A callback to be made ``after`` seconds, telling of ``step``."""

    after: float
    step: Step


def plan(mode: str, chance: Random, pace: Pace = GRID) -> Course:
    """The whole course of a task, decided at its submit so that the seed alone rules it."""
    duration = DURATIONS[mode] * pace.share * chance.uniform(0.93, 1.07)
    steps = [Step(0.0, "NOT_START", None), Step(chance.uniform(0.8, 1.2), "SUBMITTED", "0%")]
    for percent, share in pace.progress:
        steps.append(Step(duration * (share + chance.uniform(-0.02, 0.02)), "IN_PROGRESS", f"{percent}%"))
    return (*steps, Step(duration, "SUCCESS", "100%"))


def step_at(course: Course, elapsed: float) -> Step:
    """The status ``elapsed`` seconds after the submit."""
    return next((step for step in reversed(course) if step.after <= elapsed), course[0])


def delayed(course: Course, seconds: float) -> Course:
    """The same course, starting later: the task waits in a queue first."""
    first, *rest = course
    return (first, *(Step(step.after + seconds, step.status, step.progress, step.reason) for step in rest))


def failing(course: Course, reason: str) -> Course:
    """Submitted, then nothing, then FAILURE: what a lost websocket looks like (PROTOCOL.md §8)."""
    early = tuple(step for step in course if step.status in {"NOT_START", "SUBMITTED"})
    return (*early, Step(course[-1].after, "FAILURE", "", reason))


def parked(patience: float) -> Course:
    """Waiting in MODAL for a submit/modal, and failed when none came in time (PROTOCOL.md §6)."""
    return (Step(0.0, "MODAL", ""), Step(patience, "FAILURE", "", "任务超时"))


def continued(course: Course, elapsed: float) -> Course:
    """The course of a task that left MODAL so many seconds after its submit."""
    waiting, *rest = delayed(course, elapsed)
    return (Step(0.0, "MODAL", ""), Step(elapsed, waiting.status, waiting.progress), *rest)


def cancelled(course: Course, elapsed: float) -> Course:
    """The course up to now, and FAILURE at once (PROTOCOL.md §2, cancel)."""
    past = tuple(step for step in course if step.after <= elapsed)
    return (*past, Step(elapsed, "FAILURE", "", "取消任务"))


def calls_for(course: Course) -> list[Call]:
    """One callback for each change, none while the task has not been submitted upstream or waits in MODAL."""
    return [Call(step.after, step) for step in course if step.status not in {"NOT_START", "MODAL"}]
