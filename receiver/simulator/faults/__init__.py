"""What can go wrong at the provider, by name, alone or together (PROTOCOL.md §4–§9).

A fault is a value with small pure hooks (`fault.Fault`). Hooks of one kind run in the order of `_ALL`, whatever
order the user wrote. For submit answers that order is the precedence, and the first that answers wins: refusals,
then unclear answers, then those that pass with time. Everything else is rewritten by every fault that is on.
"""

from collections.abc import Iterable

from receiver.simulator.answers import Answer
from receiver.simulator.chance import dice
from receiver.simulator.course import Call, Course
from receiver.simulator.faults import running, submitting, telling
from receiver.simulator.faults.fault import Asked, Body, Submission

__all__ = ["FAULTS", "Faults"]

_ALL = (*submitting.FAULTS, *running.FAULTS, *telling.FAULTS)

FAULTS: dict[str, str] = {fault.name: fault.description for fault in _ALL}
"""Name and one sentence of each fault."""


class Faults:
    """The faults that are on, as one."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        wanted = set(names)
        if unknown := sorted(wanted - FAULTS.keys()):
            raise ValueError(f"Unknown simulator fault {', '.join(unknown)}; there are {', '.join(FAULTS)}.")
        self._active = [fault for fault in _ALL if fault.name in wanted]

    @property
    def doubles(self) -> bool:
        """Whether another task shall carry each task's state and hook."""
        return any(fault.doubles for fault in self._active)

    def answer(self, submission: Submission) -> Answer | None:
        """The first answer any fault gives, or none: then all is well."""
        for fault in self._active:
            if fault.answer and (answer := fault.answer(submission)):
                return answer
        return None

    def answered(self, answer: Answer) -> Answer:
        """A submit's answer as the faults leave it."""
        for fault in self._active:
            answer = fault.answered(answer) if fault.answered else answer
        return answer

    def course(self, course: Course, chance: str) -> Course:
        """The course as the faults leave it; each fault has dice of its own, so none disturbs another."""
        for fault in self._active:
            course = fault.course(course, dice(chance, fault.name)) if fault.course else course
        return course

    def seen(self, course: Course, chance: str) -> Course:
        """The course that fetch and list go by."""
        for fault in self._active:
            course = fault.seen(course, dice(chance, fault.name)) if fault.seen else course
        return course

    def calls(self, calls: list[Call], chance: str) -> list[Call]:
        """The callbacks as the faults leave them, in the order they are sent."""
        for fault in self._active:
            calls = fault.calls(calls, dice(chance, fault.name)) if fault.calls else calls
        return sorted(calls, key=lambda call: call.after)

    def told(self, body: Body) -> Body:
        """A callback's body as the faults leave it."""
        for fault in self._active:
            body = fault.told(body) if fault.told else body
        return body

    def shown(self, body: Body) -> Body:
        """A task in fetch or list as the faults leave it."""
        for fault in self._active:
            body = fault.shown(body) if fault.shown else body
        return body

    def asked(self, before: int) -> Answer | None:
        """What a fetch or list is answered instead of the truth, given how many there were before."""
        found = (fault.asked(before) for fault in self._active if fault.asked)
        return next((answer for answer in found if answer), None)

    def hides(self, where: Asked) -> bool:
        """Whether a fetch or list knows no task."""
        return any(where in fault.hides for fault in self._active)

    def gone(self, before: int) -> bool:
        """Whether a picture is gone, given how many were asked for before."""
        return any(fault.gone(before) for fault in self._active if fault.gone)
