"""What a signed `state` carries where no journal keeps it: the submission's id, its destinations and its labels.

    01J…                                goes everywhere, without labels: what every `state` is otherwise
    01J….album.team                     to these two
    01J…..order.17                      everywhere, with the label order = 17
    01J….album..order.17.client.Pyle    both

It is plain text: whoever sees the `state` (the relay, the upstream, anybody shown a task) can read it, and only the
signature keeps it from being changed. What is neither letter, digit, `-` nor `_` is written `~` and two hex digits for
each of its bytes in UTF-8, so that all of it is made of the characters that survive (PROTOCOL.md §7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from receiver.errors import InputError

LONGEST = 200
"""Characters of a tag. Signed it has 51 more, and the upstream refuses a `state` above 255 (PROTOCOL.md §2)."""
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}\Z")
_ESCAPE = re.compile(r"~([0-9a-f]{2})")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """What is read from a `state`.

    Attributes:
        destinations: names; None: all there are where it is read.
    """

    submission_id: str
    destinations: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def write_tag(tag: Tag) -> str:
    """The tag as text.

    Raises:
        InputError: it has more than `LONGEST` characters.
    """
    labels = [part for pair in tag.labels.items() for part in pair]
    parts = [tag.submission_id, *(tag.destinations or ()), *(["", *labels] if labels else ())]
    text = ".".join(_escape(part) for part in parts)
    if len(text) > LONGEST:
        raise InputError(
            f"Without a journal the names of destinations and the labels travel in `state`, and have {LONGEST - 26} "
            f"characters there; these take {len(text) - 26} (one for each separator, three for each byte that is no "
            "letter, digit, - or _). Shorten them, or keep a journal in a bucket."
        )
    return text


def read_tag(text: str) -> Tag:
    """The tag in a text that was signed. Raises ValueError for a text that is none."""
    submission_id, *rest = (_unescape(part) for part in text.split("."))
    if not _ID.match(submission_id):
        raise ValueError("it does not begin with a submission's id")
    end = rest.index("") if "" in rest else len(rest)
    names, pairs = rest[:end], rest[end + 1 :]
    if len(pairs) % 2:
        raise ValueError("a label has no value")
    labels = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return Tag(submission_id=submission_id, destinations=tuple(names) or None, labels=labels)


def _escape(text: str) -> str:
    return "".join(char if char in _PLAIN else "".join(f"~{byte:02x}" for byte in char.encode()) for char in text)


def _unescape(text: str) -> str:
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return raw.encode("latin-1").decode()
