"""What the decisions of intake depend on besides the row and the news: the time, the pace, and who wants what."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from receiver.events import EventType, Submission

_ALWAYS: frozenset[EventType] = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
_PROGRESS: frozenset[EventType] = frozenset({"task.accepted", "task.progressed"})
_ACTIONS = {
    "imagine": "IMAGINE",
    "blend": "BLEND",
    "describe": "DESCRIBE",
    "shorten": "SHORTEN",
    "video": "VIDEO",
    "edits": "EDIT",
    "swap": "SWAP_FACE",
}
"""The action of each kind of request, for as long as the provider has not said it (PROTOCOL.md §5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What one destination wants.

    Attributes:
        progress: also what happens on the way.
        types: which events; None: every decisive one.
        actions: of tasks of these provider actions only, e.g. `UPSCALE` (PROTOCOL.md §5); empty: of all.
        labels: of submissions with all these labels only, as (name, value).

    In actions and the values of labels `*` stands for any text, `?` for any character.
    """

    destination: str
    progress: bool = False
    types: frozenset[EventType] | None = None
    actions: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()

    def wants(self, type: EventType) -> bool:
        """Whether events of this type are for the destination."""
        return type in (_ALWAYS if self.types is None else self.types) or (self.progress and type in _PROGRESS)

    def owed(self, row: Submission, type: EventType) -> bool:
        """Whether an event of this type of this submission is owed to the destination.

        A submission that names its destinations goes there whatever its action and labels are.
        """
        if not self.wants(type):
            return False
        if row.destinations is not None:
            return self.destination in row.destinations
        return (not self.labels or self._has_labels(row)) and (not self.actions or self._has_action(row, type))

    def _has_labels(self, row: Submission) -> bool:
        return all(name in row.labels and fnmatchcase(row.labels[name], pattern) for name, pattern in self.labels)

    def _has_action(self, row: Submission, type: EventType) -> bool:
        """While the provider has not said what a task does, its end is told (it may be the last word there is), and
        what happens on the way is not."""
        action = _action(row)
        if action is None:
            return type not in _PROGRESS
        return any(fnmatchcase(action, pattern) for pattern in self.actions)


def _action(row: Submission) -> str | None:
    """What the task does: the provider's word for it, or what our own request says; None where only the provider
    knows."""
    if row.task is not None and row.task.action:
        return row.task.action.upper()
    return _ACTIONS.get(row.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Intervals in milliseconds.

    Attributes:
        confirm_ms: how long a terminal callback waits for the provider's own word; 0 trusts it at once.
        poll_ms: how long we hear nothing before we ask. The relay's own view moves every 15 s (PROTOCOL.md §9).
        media_wait_ms: how long deliveries wait for the picture to be archived.
        deadline_ms: how long a task may take before it counts as lost.
        steady: give the same event to the same destination the same delivery id and time, whatever journal it is in.
    """

    confirm_ms: int = 30_000
    poll_ms: int = 15_000
    media_wait_ms: int = 120_000
    deadline_ms: int = 4_200_000
    steady: bool = False


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision may look at."""

    now_ms: int
    policy: Policy
    routes: tuple[Route, ...]

    def destinations(self, row: Submission, type: EventType) -> tuple[str, ...]:
        """Who is owed an event of this type of this submission."""
        return tuple([route.destination for route in self.routes if route.owed(row, type)])
