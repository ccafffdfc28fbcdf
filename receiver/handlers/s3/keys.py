"""Key templates: where in the bucket a file goes. Safe by construction: of what others say, only words in `[a-z0-9-]`
ever reach a key, and the template itself is checked at the start."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ulid import ULID

from receiver.events import Event
from receiver.handlers.result_files import joined, plain_words, slug

FIELDS = ("date", "year", "month", "day", "slug", "id", "kind", "tile", "ext")
NEEDED = ("id", "tile", "ext")
"""Without these, two files could have one key."""
MAX_TEMPLATE = 400
"""Characters; filled in, a key stays below the 1024 bytes that S3 allows."""
_FIELD = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9/_.=!~-]*\Z")
"""What every store, browser and shell takes as it is."""
_LABEL = re.compile(r"label\.[A-Za-z0-9_.-]{1,64}\Z")
_TIMES = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
_NONE = "none"


def check_template(template: str) -> str:
    """The template, if every key made of it is safe and belongs to one file only.

    Raises:
        ValueError: it is not, and why.
    """
    for name in _FIELD.findall(template):
        if name not in FIELDS and not _LABEL.match(name):
            raise ValueError(f"{{{name[:40]}}} is no field of it; there are: {_listed(FIELDS)} and {{label.NAME}}")
    if not _LITERAL.match(_FIELD.sub("", template)):
        raise ValueError("beside fields it may hold letters, digits and / _ . = ! ~ - only")
    if missing := [name for name in NEEDED if f"{{{name}}}" not in template]:
        raise ValueError(f"{_listed(missing)} must be in it, or two files would have one key")
    if len(template) > MAX_TEMPLATE:
        raise ValueError(f"it is longer than {MAX_TEMPLATE} characters")
    for tile in ("", "-u1"):
        if any(part in ("", ".", "..") for part in _sample(template, tile).split("/")):
            raise ValueError("a part of it between slashes would be empty, '.' or '..'; it also begins without a slash")
    return template


def fill(template: str, event: Event, *, mark: str, ext: str) -> str:
    """The key of one file of an event.

    Args:
        template: checked by `check_template`.
        event: whose file it is. Its submission id, if it is none of ours, gives a ValueError.
        mark: what tells the file from others of its result, `u1` or `2`; "" for an only one.
        ext: without the dot.
    """
    return _FIELD.sub(lambda match: _value(match[1], event, mark, ext), template)


def _value(name: str, event: Event, mark: str, ext: str) -> str:
    if name.startswith("label."):
        return _plain(event.labels.get(name.removeprefix("label."), ""))
    submission = ULID.from_str(event.submission_id)
    if name in _TIMES:
        return submission.datetime.strftime(_TIMES[name])  # of the id, which no retry changes
    kind = _plain(event.kind)
    values = {
        "slug": slug(event.prompt, event.button or "") or kind,
        "id": str(submission),
        "kind": kind,
        "tile": f"-{mark}" if mark else "",
        "ext": ext,
    }
    return values[name]


def _plain(text: str) -> str:
    return joined(plain_words(text)) or _NONE


def _sample(template: str, tile: str) -> str:
    return _FIELD.sub(lambda match: tile if match[1] == "tile" else "x", template)


def _listed(names: Iterable[str]) -> str:
    return " ".join(f"{{{name}}}" for name in names)
