"""Options of a request of any kind, checked before any money is spent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import msgspec

from receiver.errors import InputError, MediaError
from receiver.events import is_at
from receiver.media.links import read_link
from receiver.requests import Request, check_speed
from receiver.tasks import clean_text

MAX_LABELS = 32
MAX_LABEL = 200
"""Characters of a label's name or value."""
MAX_STATE = 10_000
"""Characters of the caller's own state. It is not sent, so the provider's limit does not apply."""
MAX_AUTO = 16


_NUMBERED = re.compile(r"[UuVv]\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Values that any request takes besides its own fields, as `SubmitOptions` describes them.

    `once_digest` is the SHA-256 of the request, to tell a repeat under the name `once` from another request.
    """

    speed: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None
    to: tuple[str, ...] | None = None
    auto: tuple[str, ...] = ()
    reply_to: str | None = field(default=None, repr=False)
    once: str | None = None
    once_digest: str | None = None

    def check(self, destinations: Collection[str], reply_origins: Mapping[str, Collection[str]] | None = None) -> None:
        """Raise InputError for the first wrong value. See `Submissions` for the arguments."""
        check_speed(self.speed)
        if len(self.labels) > MAX_LABELS:
            raise InputError(f"A submission takes at most {MAX_LABELS} labels, not {len(self.labels)}.")
        for name, value in self.labels.items():
            if not name or len(name) > MAX_LABEL or len(value) > MAX_LABEL:
                raise InputError(f"The label {name[:40]!r} is empty or longer than {MAX_LABEL} characters.")
            _check_text(f"The label {name[:40]!r}", name + value, 2 * MAX_LABEL)
        _check_text("The state", self.state or "", MAX_STATE)
        if self.to is not None and not self.to:
            raise InputError(
                "A submission needs at least one destination, or none named to reach all.", page="destinations"
            )
        for name in self.to or ():
            if name not in destinations:
                known = ", ".join(sorted(destinations))
                raise InputError(f"There is no destination {name[:40]!r}. There are: {known}.", page="destinations")
        self._check_reply(reply_origins or {})
        if len(self.auto) > MAX_AUTO:
            raise InputError(f"A submission starts at most {MAX_AUTO} follow-ups by itself, not {len(self.auto)}.")
        for button in self.auto:
            check_button(button)

    def _check_reply(self, origins: Mapping[str, Collection[str]]) -> None:
        """Check `reply_to` as it will be stored, so that its beginning says where it leads."""
        if self.reply_to is None:
            if waits := origins.keys() & set(self.to or ()):
                raise InputError(
                    f"The destination {min(waits)} needs the URL reply_to of the submission.", page="webhook"
                )
            return
        try:
            link = read_link(self.reply_to)
        except MediaError as exc:
            raise InputError("reply_to is no http or https URL, or holds a user name.", page="webhook") from exc
        allowed = sorted({origin for each in origins.values() for origin in each})
        if not is_at(str(link), allowed):
            remedy = f"It may be at {', '.join(allowed)}." if allowed else "No destination has the option hosts."
            place = f"{link.scheme}://{link.authority}"
            raise InputError(f"reply_to is at {place[:200]}, which is not allowed. {remedy}", page="webhook")


def check_button(button: str) -> None:
    """Raise InputError for an impossible name of a button."""
    _check_text("The name of a button", button, MAX_LABEL)
    if not button.strip():
        raise InputError("The name of a button is empty. `receiver tasks show ID` lists the buttons.")
    if _NUMBERED.fullmatch(button.strip()) and button.strip()[1:] not in ("1", "2", "3", "4"):
        raise InputError(f"There is no button {button.strip()[:20]}: a grid has U1 to U4 and V1 to V4.")


def _check_text(what: str, text: str, longest: int) -> None:
    """Raise InputError for text that neither JSON nor a database takes, e.g. a terminal's bytes that are no UTF-8."""
    if len(text) > longest:
        raise InputError(f"{what} has {len(text)} characters; shorten it to {longest}.")
    if clean_text(text) != text:
        raise InputError(f"{what} holds a NUL or half a character, which cannot be stored. Remove it.")


class SubmitOptions(TypedDict, total=False):
    """Arguments that every request takes besides its own fields.

    Under the name `once` a request exists once, even over restarts. A repeat returns the first one's task, and the same
    name with another request raises Conflict.
    """

    labels: Mapping[str, str] | None  # your own names and values. Every event carries them
    state: str | None  # a text of your own. Every event carries it
    to: Sequence[str] | None  # names of the destinations that get the result. None: all of them
    auto: Sequence[str] | None  # buttons that Receiver presses, once, when it has succeeded, e.g. `["U1", "U3"]`
    reply_to: str | None  # a URL that gets the events too, signed, at a host that a webhook destination allows
    speed: str | None  # fast, turbo or relax. None: the provider's default
    once: str | None


def to_options(given: SubmitOptions, request: Request | None = None) -> Options:
    """Return the options for `Submissions`. A single name may stand for a list of one."""

    def names(value: Sequence[str]) -> tuple[str, ...]:
        return (value,) if isinstance(value, str) else tuple(value)

    if unknown := sorted(given.keys() - SubmitOptions.__annotations__.keys()):
        raise TypeError(f"There is no argument {unknown[0][:80]!r}.")
    labels = given.get("labels") or {}
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"The label {str(name)[:40]!r} must be text, and its name too.")
    to = given.get("to")
    options = Options(
        speed=given.get("speed"),
        labels=dict(labels),
        state=given.get("state"),
        to=None if to is None else names(to),
        auto=names(given.get("auto") or ()),
        reply_to=given.get("reply_to"),
        once=given.get("once"),
    )
    if request is None or options.once is None:
        return options
    content = msgspec.json.encode([request, options], order="deterministic")
    return replace(options, once_digest=hashlib.sha256(content).hexdigest())
