"""What the decisions of intake depend on besides the row and the news: the time, the pace, and who wants what."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from receiver.events import EventType, Submission

_ALWAYS: frozenset[EventType] = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
_PROGRESS: frozenset[EventType] = frozenset({"task.accepted", "task.progressed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What one destination wants: every decisive event, and with `progress` what happens on the way too; or just the
    `types` it names."""

    destination: str
    progress: bool = False
    types: frozenset[EventType] | None = None

    def wants(self, type: EventType) -> bool:
        """Whether an event of this type is owed to the destination."""
        if self.types is not None:
            return type in self.types
        return type in _ALWAYS or (self.progress and type in _PROGRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Intervals in milliseconds.

    Attributes:
        confirm_ms: how long a terminal callback waits for the provider's own word; 0 trusts it at once.
        poll_ms: how long we hear nothing before we ask. The relay's own view moves every 15 s (PROTOCOL.md §9).
        media_wait_ms: how long deliveries wait for the picture to be archived.
        deadline_ms: how long a task may take before it counts as lost.
    """

    confirm_ms: int = 30_000
    poll_ms: int = 15_000
    media_wait_ms: int = 120_000
    deadline_ms: int = 4_200_000


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision may look at."""

    now_ms: int
    policy: Policy
    routes: tuple[Route, ...]

    def destinations(self, row: Submission, type: EventType) -> tuple[str, ...]:
        """Who is owed an event of this type of this submission."""
        named = row.destinations
        return tuple(
            route.destination
            for route in self.routes
            if route.wants(type) and (named is None or route.destination in named)
        )
