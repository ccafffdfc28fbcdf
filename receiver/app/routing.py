"""What a destination's table says about which events go there, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from receiver.errors import SettingsError
from receiver.events import EVENT_TYPES, EventType
from receiver.intake import Route
from receiver.settings import Destination
from receiver.settings.load import nearest

ACTIONS = (
    "ACTION", "BLEND", "CUSTOM_ZOOM", "DESCRIBE", "EDIT", "HIGH_VARIATION", "IMAGINE", "INPAINT", "LOW_VARIATION",
    "MODAL", "PAN", "REROLL", "RETEXTURE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "UPSCALE",
    "UPSCALE_HD", "VARIATION", "VIDEO", "ZOOM",
)  # fmt: skip
"""Those of the three proxies (PROTOCOL.md §5). A provider may have others: a pattern with `*` is not looked up."""


def route_of(item: Destination) -> Route:
    """The route of a destination.

    Raises:
        SettingsError: it names an event type or an action there is not; a line for each.
    """
    actions = [action.upper() for action in item.actions]
    problems = [
        *_unknown(item, "events", "event type", item.events, EVENT_TYPES),
        *_unknown(item, "actions", "provider action", (one for one in actions if "*" not in one), ACTIONS),
    ]
    if problems:
        raise SettingsError("\n".join(problems))
    return Route(
        destination=item.name,
        progress=item.progress,
        types=cast("frozenset[EventType]", frozenset(item.events)) if item.events else None,
        actions=frozenset(actions),
        labels=tuple(item.labels.items()),
    )


def _unknown(item: Destination, option: str, what: str, given: Iterable[str], known: tuple[str, ...]) -> list[str]:
    return [
        f"Destination {item.name}: the option {option} is wrong: there is no {what} {name[:40]!r}. "
        + (f"Did you mean {guess}?" if (guess := nearest(name, known)) else f"There are: {', '.join(known)}.")
        for name in given
        if name not in known
    ]
