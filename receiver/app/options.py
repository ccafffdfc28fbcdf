"""How Python users say what goes along with a request, whatever its kind."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec

from receiver.errors import InputError
from receiver.requests import Request
from receiver.submissions import Options


class How(TypedDict, total=False):
    """What every request takes beside its own fields.

    Attributes:
        labels: your own names and values; every event carries them.
        state: a text of your own; every event carries it.
        to: names of the destinations that get the result; None: all of them.
        auto: buttons to press by itself, once, when the task has succeeded, e.g. `["U1", "U3"]`.
        speed: fast, turbo or relax; None for the provider's default.
        once: a name under which the request exists once: repeated, it gives the first one's task, also after a
            restart. The same name with another request raises Conflict.
    """

    labels: Mapping[str, str] | None
    state: str | None
    to: Sequence[str] | None
    auto: Sequence[str] | None
    speed: str | None
    once: str | None


def to_options(how: How, request: Request | None = None) -> Options:
    """The options as submissions take them.

    Raises:
        InputError: a label is no text.
        TypeError: there is no such option.
    """
    if unknown := sorted(how.keys() - How.__annotations__.keys()):
        raise TypeError(f"There is no argument {unknown[0]!r}.")
    labels = how.get("labels") or {}
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"The label {str(name)[:40]!r} must be text, and its name too.")
    to = how.get("to")
    options = Options(
        speed=how.get("speed"),
        labels=dict(labels),
        state=how.get("state"),
        to=None if to is None else _names(to),
        auto=_names(how.get("auto") or ()),
        once=how.get("once"),
    )
    if request is None or options.once is None:
        return options
    content = msgspec.json.encode([request, options], order="deterministic")
    return dataclasses.replace(options, once_digest=hashlib.sha256(content).hexdigest())


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """A single name is a sequence of its letters, too; nobody means that."""
    return (given,) if isinstance(given, str) else tuple(given)
