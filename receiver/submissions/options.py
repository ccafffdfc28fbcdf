"""How a request is submitted, whatever its kind, checked before any money is spent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from receiver.errors import InputError
from receiver.requests import check_speed
from receiver.tasks import clean_text

MAX_LABELS = 32
MAX_LABEL = 200
"""Characters of a label's name or value."""
MAX_STATE = 10_000
"""Characters of the caller's own state; it stays with us, so the provider's limit is not ours."""
MAX_AUTO = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller may say beside the request itself.

    Attributes:
        speed: fast, turbo, relax, or None for the provider's default.
        labels: the caller's own names and values; every event carries them.
        state: the caller's own state; every event carries it.
        to: names of the destinations that get the results; None: all of them.
        auto: buttons to follow up by ourselves, once, when the task has succeeded.
        once: a name under which the submission exists once; the same request under it gives the first one's.
        once_digest: SHA-256 of the request, to tell a repeat from another request.
    """

    speed: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None
    to: tuple[str, ...] | None = None
    auto: tuple[str, ...] = ()
    once: str | None = None
    once_digest: str | None = None

    def check(self, destinations: Collection[str]) -> None:
        """Raises InputError for the first value that cannot be taken. `destinations`: the names there are."""
        check_speed(self.speed)
        _check_labels(self.labels)
        _check_text("The state", self.state or "", MAX_STATE)
        _check_destinations(self.to, destinations)
        if len(self.auto) > MAX_AUTO:
            raise InputError(f"A submission starts at most {MAX_AUTO} follow-ups by itself, not {len(self.auto)}.")
        for button in self.auto:
            check_button(button)


def check_button(button: str) -> None:
    """Raises InputError for what can be no button's name."""
    _check_text("The name of a button", button, MAX_LABEL)
    if not button.strip():
        raise InputError("The name of a button is empty. `receiver tasks show ID` lists those there are.")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InputError(f"A submission takes at most {MAX_LABELS} labels, not {len(labels)}.")
    for name, value in labels.items():
        if not name or len(name) > MAX_LABEL or len(value) > MAX_LABEL:
            raise InputError(f"The label {name[:40]!r} is empty or longer than {MAX_LABEL} characters.")
        _check_text(f"The label {name[:40]!r}", name + value, 2 * MAX_LABEL)


def _check_text(what: str, text: str, longest: int) -> None:
    """What no JSON and no database takes; a terminal hands it over when bytes are no UTF-8."""
    if len(text) > longest:
        raise InputError(f"{what} has {len(text)} characters; shorten it to {longest}.")
    if clean_text(text) != text:
        raise InputError(f"{what} holds a NUL or half a character, which cannot be stored; remove it.")


def _check_destinations(to: tuple[str, ...] | None, known: Collection[str]) -> None:
    if to is not None and not to:
        raise InputError("A submission needs at least one destination, or none named to reach all.")
    for name in to or ():
        if name not in known:
            raise InputError(f"There is no destination {name[:40]!r}. There are: {', '.join(sorted(known))}.")
