"""The outer shape of an answer: which of the protocol's envelopes its bytes are, and what stands in it.

Known are the submit answer and the relay's error `{code, description, …}` (PROTOCOL.md §2, §4), the routing error
`{"error": {code, message, type}}`, the picture route's `{"error": "…"}`, and `{success: false, code: -1, message}`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from receiver.errors import NotJSON
from receiver.tasks import MAX_TASK_ID, clean_text, decode_json

Form = Literal["empty", "html", "unreadable", "null", "object", "other"]

MAX_LINK = 4096
"""Characters."""

_INTEGER = re.compile(r"-?[0-9]{1,9}\Z")
_LINK = re.compile(r"https?://[^\s/]", re.IGNORECASE)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer's body is, read tolerantly.

    Attributes:
        form: `object` is the only one that can hold more; `other` is a JSON array, string, number or boolean.
        value: the decoded JSON, None where there is none.
        code: the protocol's number, also from `"1"` and `1.0`.
        name: `error.code`, or a `code` that is no number, in lower case.
        type: `error.type` in lower case.
        said: the provider's own words, on one line; for people, never to decide by.
        task_ids: the ids in `result`, a comma-joined string split (§2).
        links: the links in `result`, where it holds those (§2, upload).
        properties: the object of that name, else {}.
    """

    form: Form
    value: Any = None
    code: int | None = None
    name: str = ""
    type: str = ""
    said: str = ""
    task_ids: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    properties: dict[str, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """The object itself, {} for every other form."""
        return self.value if isinstance(self.value, dict) else {}


def read_envelope(body: bytes) -> Envelope:
    """Read any bytes; never raises."""
    text = body.strip()
    if not text:
        return Envelope(form="empty")
    if text.removeprefix(b"\xef\xbb\xbf").startswith(b"<"):
        return Envelope(form="html")
    try:
        value = decode_json(text)
    except NotJSON:
        return Envelope(form="unreadable")
    if value is None:
        return Envelope(form="null")
    return _object(value) if isinstance(value, dict) else Envelope(form="other", value=value)


def _object(value: dict[str, Any]) -> Envelope:
    error = value.get("error")
    inner = error if isinstance(error, dict) else {}
    properties = value.get("properties")
    words = (value.get("description"), value.get("message"), inner.get("message"), error)
    return Envelope(
        form="object",
        value=value,
        code=_code(value.get("code")),
        name=_name(inner.get("code")) or _name(value.get("code")),
        type=_name(inner.get("type")),
        said=next((line for word in words if isinstance(word, str) and (line := one_line(word))), ""),
        task_ids=task_ids(value.get("result")),
        links=links(value.get("result")),
        properties=_clean(properties) if isinstance(properties, dict) else {},
    )


def _code(value: Any) -> int | None:
    if isinstance(value, str) and _INTEGER.match(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else integral(value)


def integral(value: Any) -> int | None:
    """The integer behind a float: relays decode numbers to float64 and encode them anew (PROTOCOL.md §1)."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None


def _name(value: Any) -> str:
    return one_line(value).lower() if isinstance(value, str) and not _INTEGER.match(value) else ""


def task_ids(result: Any) -> tuple[str, ...]:
    """Task ids from a submit's `result`: string, number, comma-joined string or list of them (PROTOCOL.md §2).

    Empty when one of them can be no task id: half of a list would hide tasks.
    """
    items = result if isinstance(result, list) else [result]
    parts = [part.strip() for item in items for part in _as_text(item).split(",")]
    found = tuple(dict.fromkeys(part for part in parts if part))
    return found if all(_is_id(part) for part in found) else ()


def links(result: Any) -> tuple[str, ...]:
    """Links from a submit's `result`: a list of them, or one alone (PROTOCOL.md §2, upload).

    Empty when one of them is no link: each stands for a picture, in their order.
    """
    items = result if isinstance(result, list) else [result]
    found = tuple(item.strip() for item in items if isinstance(item, str))
    return found if len(found) == len(items) and all(_is_link(item) for item in found) else ()


def _is_id(text: str) -> bool:
    return len(text) <= MAX_TASK_ID and text.isprintable() and not _LINK.match(text)


def _is_link(text: str) -> bool:
    return len(text) <= MAX_LINK and text.isprintable() and " " not in text and _LINK.match(text) is not None


def _as_text(item: Any) -> str:
    number = item if isinstance(item, int) and not isinstance(item, bool) else integral(item)
    if number is not None:
        return str(number) if number > 0 else ""
    return item if isinstance(item, str) else ""


def one_line(text: str) -> str:
    """`text` without control characters, line breaks and what no terminal or database should be given."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
