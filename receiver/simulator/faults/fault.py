"""What a fault is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

from receiver.simulator.answers import Answer
from receiver.simulator.course import Call, Course

Asked = Literal["fetch", "list"]
Body = dict[str, Any]


class Submission(Protocol):
    """A readable submit, before it is answered."""

    @property
    def number(self) -> int:
        """1 for the first submit this simulator received."""

    @property
    def prompt(self) -> str:
        """As sent; for a follow-up the prompt of the task it builds on."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the profile's answers carry."""

    def accept(self) -> object:
        """Make the task and return its id; for some requests, several ids or something else."""

    def existing(self) -> Answer | None:
        """Code 21 with an old task that did the same; None where nothing can have been done before."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: What users write.
        description: One sentence.
        answer: Decides a submit's answer, and by calling ``accept()`` whether a task is made.
        answered: Rewrites the answer to a submit.
        course: Rewrites the course of a task that was made.
        seen: Rewrites the course that fetch and list go by, and only they.
        calls: Rewrites the list of callbacks of a task.
        told: Rewrites the body of a callback.
        shown: Rewrites a task in fetch and list.
        asked: Answers a fetch or list, given how many there were before.
        hides: Where no task is known.
        gone: Whether a picture is gone, given how many were asked for before.
        doubles: Another task carries this one's state and hook.
    """

    name: str
    description: str
    answer: Callable[[Submission], Answer | None] | None = None
    answered: Callable[[Answer], Answer] | None = None
    course: Callable[[Course, Random], Course] | None = None
    seen: Callable[[Course, Random], Course] | None = None
    calls: Callable[[list[Call], Random], list[Call]] | None = None
    told: Callable[[Body], Body] | None = None
    shown: Callable[[Body], Body] | None = None
    asked: Callable[[int], Answer | None] | None = None
    hides: frozenset[Asked] = frozenset()
    gone: Callable[[int], bool] | None = None
    doubles: bool = False
