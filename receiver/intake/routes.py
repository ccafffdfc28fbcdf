"""Routes of events to destinations, and the policy of intake."""

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
"""The action of each kind of request, until the provider has given one (PROTOCOL.md §5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Events that one destination gets.

    Attributes:
        progress: True adds `task.accepted` and `task.progressed`.
        types: event types. None: every decisive one.
        actions: only tasks with these provider actions, e.g. `UPSCALE` (PROTOCOL.md §5). Empty: all.
        labels: only submissions with all these labels, as (name, value).

    In actions and the values of labels `*` stands for any text, `?` for any character.
    """

    destination: str
    progress: bool = False
    types: frozenset[EventType] | None = None
    actions: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()

    def wants(self, type: EventType) -> bool:
        """Return True if events of this type are for the destination."""
        return type in (_ALWAYS if self.types is None else self.types) or (self.progress and type in _PROGRESS)

    def matches(self, row: Submission, type: EventType) -> bool:
        """Return True if an event of this type of this submission goes to the destination.

        A submission that names its destinations goes there whatever its action and labels are. Until the task's action
        is known, its end goes to the destination, because it may be the last event, and progress does not.
        """
        if not self.wants(type):
            return False
        if row.destinations is not None:
            return self.destination in row.destinations
        for name, pattern in self.labels:
            if name not in row.labels or not fnmatchcase(row.labels[name], pattern):
                return False
        if not self.actions:
            return True
        action = row.task.action.upper() if row.task is not None and row.task.action else _ACTIONS.get(row.kind)
        if action is None:
            return type not in _PROGRESS
        return any(fnmatchcase(action, pattern) for pattern in self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Intervals in milliseconds.

    Attributes:
        confirm_ms: time for the provider to confirm a terminal callback. 0 accepts it at once.
        poll_ms: silence after which a task is polled. The relay's own view moves every 15 s (PROTOCOL.md §9).
        media_wait_ms: longest wait of deliveries for the picture.
        deadline_ms: time after which a task counts as lost.
        steady: give the same event to the same destination the same delivery id and time, whatever journal it is in.
    """

    confirm_ms: int = 30_000
    poll_ms: int = 15_000
    media_wait_ms: int = 120_000
    deadline_ms: int = 4_200_000
    steady: bool = False


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Input of a transition besides the row and the fact: the time, the policy, the routes."""

    now_ms: int
    policy: Policy
    routes: tuple[Route, ...]

    def destinations(self, row: Submission, type: EventType) -> tuple[str, ...]:
        """Return the destinations of an event of this type of this submission."""
        return tuple([route.destination for route in self.routes if route.matches(row, type)])
