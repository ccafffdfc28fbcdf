"""What can go wrong at the provider, by name, alone or together (PROTOCOL.md §4, §7, §8).

A fault is a value with up to three hooks, each a small pure function:

- ``answer`` decides the submit's answer, and by calling ``submission.accept()`` whether a task is made;
- ``course`` rewrites the course of a task that was made;
- ``calls`` rewrites the list of callbacks of that task.

Hooks of one kind run in the order of `_ALL`, whatever order the user wrote. For submit answers that order is
the precedence, and the first that answers wins: unauthorized > validation > banned_word > ambiguous_created >
ambiguous_lost > queue_full > queued. Courses and callbacks are rewritten by every fault that is on.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from receiver.simulator import answers
from receiver.simulator.answers import Answer
from receiver.simulator.chance import dice
from receiver.simulator.course import Call, Course, delayed, failing
from receiver.simulator.prompts import scene_words

LATE = 20.0
"""Simulated seconds that a late callback is late."""

REFUSED_BY_FULL_QUEUE = 2


class Submission(Protocol):
    """A readable submit, before it is answered."""

    @property
    def number(self) -> int:
        """1 for the first submit this simulator received."""

    @property
    def prompt(self) -> str:
        """As sent."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the profile's answers carry."""

    def accept(self) -> str:
        """Make the task and return its id."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, as up to three hooks."""

    name: str
    description: str
    answer: Callable[[Submission], Answer | None] | None = None
    course: Callable[[Course, Random], Course] | None = None
    calls: Callable[[list[Call], Random], list[Call]] | None = None


def _unauthorized(submission: Submission) -> Answer:
    return answers.unauthorized()


def _validation(submission: Submission) -> Answer:
    return answers.validation()


def _banned_word(submission: Submission) -> Answer:
    words = re.findall(r"\w+", scene_words(submission.prompt)) or [submission.prompt]
    return answers.banned_word(submission.prompt, max(words, key=len))


def _ambiguous_created(submission: Submission) -> Answer:
    submission.accept()
    return answers.relay_error(answers.AMBIGUOUS, "do_request_failed")


def _ambiguous_lost(submission: Submission) -> Answer:
    return answers.relay_error(answers.AMBIGUOUS, "do_request_failed")


def _queue_full(submission: Submission) -> Answer | None:
    full = submission.number <= REFUSED_BY_FULL_QUEUE
    return answers.queue_full(submission.properties) if full else None


def _queued(submission: Submission) -> Answer:
    waiting = dice("queue", submission.number).randint(1, 5)
    return answers.queued(submission.accept(), waiting, submission.properties)


def _start_later(course: Course, chance: Random) -> Course:
    return delayed(course, chance.uniform(3.0, 8.0))


def _fail(course: Course, chance: Random) -> Course:
    return failing(course, "任务超时")


def _drop_end(calls: list[Call], chance: Random) -> list[Call]:
    return [call for call in calls if not call.step.terminal]


def _twice(calls: list[Call], chance: Random) -> list[Call]:
    return [repeated for call in calls for repeated in (call, replace(call, after=call.after + 0.2))]


def _overtaken(calls: list[Call], chance: Random) -> list[Call]:
    """Hold back half of the earlier callbacks until after the last; nothing is told before it happened."""
    if not calls:
        return []
    end = max([call.after for call in calls if call.step.terminal] or [calls[-1].after])
    earlier = [call for call in calls if not call.step.terminal and call.after < end]
    held = {id(call) for call in chance.sample(earlier, (len(earlier) + 1) // 2)}
    return [replace(call, after=end + chance.uniform(0.5, 6.0)) if id(call) in held else call for call in calls]


def _later(calls: list[Call], chance: Random) -> list[Call]:
    return [replace(call, after=call.after + LATE) for call in calls]


def _none(calls: list[Call], chance: Random) -> list[Call]:
    return []


_ALL = (
    Fault("unauthorized", "Every submit is answered 401, as if the key were wrong.", answer=_unauthorized),
    Fault("validation", "Every submit is answered with code 4, bad parameters.", answer=_validation),
    Fault("banned_word", "Every submit is answered with code 24 and the word.", answer=_banned_word),
    Fault(
        "ambiguous_created",
        "Every submit is answered 400 with code 5 although the task was made and runs.",
        answer=_ambiguous_created,
    ),
    Fault(
        "ambiguous_lost",
        "Every submit is answered 400 with code 5 and no task was made.",
        answer=_ambiguous_lost,
    ),
    Fault(
        "queue_full",
        "The first two submits are answered with code 23, the queue is full.",
        answer=_queue_full,
    ),
    Fault(
        "queued",
        "Every submit is answered with code 22 and its task starts some seconds later.",
        answer=_queued,
        course=_start_later,
    ),
    Fault("failure", "Every task ends in FAILURE by a time-out.", course=_fail),
    Fault("dropped", "The callback that tells of the end is never sent.", calls=_drop_end),
    Fault("duplicated", "Every callback is sent twice.", calls=_twice),
    Fault("reordered", "The end is called back before some of the progress.", calls=_overtaken),
    Fault("late", "Every callback is sent 20 seconds late.", calls=_later),
    Fault("hook_stripped", "The relay drops the notifyHook: no callback is ever sent.", calls=_none),
)

FAULTS: dict[str, str] = {fault.name: fault.description for fault in _ALL}
"""Name and one sentence of each fault."""


class Faults:
    """The faults that are on, as one."""

    def __init__(self, names: Iterable[str]) -> None:
        wanted = set(names)
        if unknown := sorted(wanted - FAULTS.keys()):
            raise ValueError(f"Unknown simulator fault {', '.join(unknown)}; there are {', '.join(FAULTS)}.")
        self._active = [fault for fault in _ALL if fault.name in wanted]

    def answer(self, submission: Submission) -> Answer | None:
        """The first answer any fault gives, or none: then all is well."""
        for fault in self._active:
            if fault.answer and (answer := fault.answer(submission)):
                return answer
        return None

    def course(self, course: Course, chance: str) -> Course:
        """The course as the faults leave it; each fault has dice of its own, so none disturbs another."""
        for fault in self._active:
            if fault.course:
                course = fault.course(course, dice(chance, fault.name))
        return course

    def calls(self, calls: list[Call], chance: str) -> list[Call]:
        """The callbacks as the faults leave them, in the order they are sent."""
        for fault in self._active:
            if fault.calls:
                calls = fault.calls(calls, dice(chance, fault.name))
        return sorted(calls, key=lambda call: call.after)
