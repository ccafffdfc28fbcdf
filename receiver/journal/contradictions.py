"""Rows that say what cannot be, in whatever database: what to look for, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_NAMED = 3
"""Examples named in a sentence."""

CONTRADICTIONS: Mapping[str, tuple[str, str]] = {
    "deliveries_without_event": ("deliveries", "have no event, so nothing can be delivered"),
    "deliveries_without_submission": ("deliveries", "belong to no submission"),
    "events_without_submission": ("events", "belong to no submission"),
    "callbacks_without_submission": ("callbacks", "belong to no submission"),
    "attempts_without_delivery": ("deliveries", "have attempts but are gone themselves"),
    "tasks_without_event": ("submissions", "have their task in an event that is gone"),
    "ends_without_event": ("submissions", "have ended without an event that says so, so their results reach nobody"),
    "unfinished_attempts": ("deliveries", "do not run, but have an attempt without an end"),
}
"""By the name of the statement that finds the ids: what they are ids of, and what is wrong with these. A database that
cannot have one of them has no such statement."""


def sentences(found: Mapping[str, Sequence[str]]) -> list[str]:
    """One for each kind of which ids were found."""
    return [_sentence(*CONTRADICTIONS[name], ids) for name, ids in found.items() if ids]


def _sentence(noun: str, text: str, ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_NAMED:,} more" if len(ids) > MAX_NAMED else ""
    return f"{len(ids):,} {noun} {text}: {', '.join(ids[:MAX_NAMED])}{more}. Please report this."
