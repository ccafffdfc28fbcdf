"""Reading of a task object (PROTOCOL.md §5). It is tolerant, because each sender has its own ways.

Missing keys, null, "" and 0 are unset. Extra keys, numbers for strings and unknown statuses are accepted.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from receiver.errors import NotATask, NotJSON
from receiver.tasks.task import RANKS, Button, Task

MAX_TASK_ID = 64
MAX_DEPTH = 64
"""Deepest nesting read; real task objects have 4 levels."""

_PERCENT = re.compile(r"(\d{1,3})%\Z")
_DIGITS = re.compile(r"\d{10,16}\Z")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Return `text` with lone surrogates and NUL as U+FFFD, so that every database can store it."""
    if "\x00" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text  # nearly every text, at a quarter of the cost
    return _FORBIDDEN.sub("�", text)


def decode_json(body: bytes) -> Any:
    """Read JSON from outside: UTF-8, an optional BOM. Strings may still hold lone surrogates (see `clean_text`).

    Raises:
        NotJSON: not UTF-8, not JSON, NaN or Infinity, an integer beyond 4,300 digits, or nested deeper than 64.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        try:  # the standard library reads lone surrogates, which msgspec refuses
            value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise NotJSON("The body is not JSON.") from exc
    # Walking the value costs as much as decoding it, and real bodies have few brackets.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _too_deep(value):
        raise NotJSON(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def decode_task(body: bytes) -> Task:
    """Read a task from a body, as `read_task` and `decode_json`. Every database can store its texts."""
    return read_common(body) or read_task(decode_json(body))


def read_task(value: Any) -> Task:
    """Read a task from decoded JSON. Raise NotATask without an object and a usable `id`."""
    if not isinstance(value, dict):
        raise NotATask("The JSON is not an object, so it is no task.")
    id = value.get("id")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not id.strip():
        raise NotATask("The object has no task id.")
    if len(id) > MAX_TASK_ID:
        raise NotATask(f"The task id is longer than {MAX_TASK_ID} characters.")
    problems: list[str] = []
    read = _Reader(value, problems)
    properties = value.get("properties")
    final = _Reader(properties if isinstance(properties, dict) else {}, [])
    status = read.text("status").strip().upper()
    if status and status not in RANKS:
        problems.append("status is none of the protocol's; it changes nothing")
    return Task(
        id=clean_text(id),
        status=status,
        progress=read.percent("progress"),
        action=read.text("action"),
        prompt=read.text("prompt"),
        prompt_en=read.text("promptEn"),
        final_prompt=final.text("finalPrompt"),
        description=read.text("description"),
        state=read.text("state"),
        submit_ms=read.time("submitTime"),
        start_ms=read.time("startTime"),
        finish_ms=read.time("finishTime"),
        image_url=read.text("imageUrl"),
        image_urls=read.urls("imageUrls") or read.urls("image_urls"),
        video_url=read.text("videoUrl"),
        video_urls=read.urls("videoUrls"),
        fail_reason=read.text("failReason"),
        buttons=read.buttons(),
        seed=read.text("seed"),
        problems=tuple(problems),
    )


class _Reader:
    """Reader of typed values of an object. It notes values that do not fit."""

    def __init__(self, value: dict[str, Any], problems: list[str]) -> None:
        self._value = value
        self._problems = problems

    def text(self, key: str) -> str:
        value = self._value.get(key)
        if isinstance(value, str):
            return clean_text(value)
        if value is None:
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        self._problems.append(f"{key} is neither text nor number")
        return ""

    def time(self, key: str) -> int | None:
        value = self._value.get(key)
        if value in (None, "", 0, "0"):
            return None
        if isinstance(value, str) and _DIGITS.match(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
            return value
        self._problems.append(f"{key} is no time in milliseconds")
        return None

    def percent(self, key: str) -> int | None:
        value = self._value.get(key)
        if value is None or value == "":
            return None
        match = _PERCENT.match(value.strip()) if isinstance(value, str) else None
        number = int(match[1]) if match else value
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 100:
            return number
        self._problems.append(f"{key} is no percentage")
        return None

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if isinstance(value, list):
            return value
        if value is not None and value != "":
            self._problems.append(f"{key} is no list")
        return []

    def urls(self, key: str) -> tuple[str, ...]:
        """Return the links of `["…"]` or `[{"url": "…"}]`."""
        items = (item.get("url") if isinstance(item, dict) else item for item in self._list(key))
        return tuple(clean_text(item) for item in items if isinstance(item, str) and item)

    def buttons(self) -> tuple[Button, ...]:
        found = []
        for item in self._list("buttons"):
            read = _Reader(item if isinstance(item, dict) else {}, [])
            if custom_id := read.text("customId"):
                found.append(Button(custom_id=custom_id, label=read.text("label"), emoji=read.text("emoji")))
        return tuple(found)


# --- the common shape ----------------------------------------------------------------------------------------------


class _Link(msgspec.Struct, gc=False):
    url: str | None = None


class _Properties(msgspec.Struct, gc=False, rename="camel"):
    final_prompt: str | None = None


class _Common(msgspec.Struct, rename="camel"):
    id: str
    status: str | None = None
    progress: str | None = None
    action: str | None = None
    prompt: str | None = None
    prompt_en: str | None = None
    description: str | None = None
    state: str | None = None
    submit_time: int | None = None
    start_time: int | None = None
    finish_time: int | None = None
    image_url: str | None = None
    image_urls: list[_Link] | None = None
    snake_image_urls: None = msgspec.field(default=None, name="image_urls")
    video_url: str | None = None
    video_urls: list[_Link] | None = None
    fail_reason: str | None = None
    buttons: tuple[Button, ...] | None = None
    properties: _Properties | None = None
    seed: str | None = None


_decode = msgspec.json.Decoder(_Common).decode
_PERCENTS = {f"{number}%": number for number in range(101)} | {"": None, None: None}
_STATUSES = {status: status for status in RANKS} | {"": "", None: ""}
_LATEST = 2**53
_DIGIT = re.compile(rb"[0-9]")
_MANY_DIGITS = 4300
"""Digits of the longest integer that Python reads. A longer one covers one of every 4,300 bytes."""


def read_common(body: bytes) -> Task | None:
    """Decode a task of the most common shape at once, in a third of the time `read_task` takes.

    Return None for any deviation, so that `read_task` decides and both give the same task for the same body. Unread
    keys only have to be JSON, at any depth.
    """
    if (b"\\" in body and b"\\u0000" in body) or _DIGIT.search(body[_MANY_DIGITS::_MANY_DIGITS]):
        return None
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check text that it skips
        return _common_task(_decode(body))
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError):
        return None


def _common_task(seen: _Common) -> Task:
    """Convert. Raises LookupError for another status or progress, ValueError for an unusual id or time."""
    if not 0 < len(seen.id.strip()) <= len(seen.id) <= MAX_TASK_ID:
        raise ValueError(seen.id)
    return Task(
        id=seen.id,
        status=_STATUSES[seen.status],
        progress=_PERCENTS[seen.progress],
        action=seen.action or "",
        prompt=seen.prompt or "",
        prompt_en=seen.prompt_en or "",
        final_prompt=(seen.properties.final_prompt or "") if seen.properties else "",
        description=seen.description or "",
        state=seen.state or "",
        submit_ms=_time(seen.submit_time),
        start_ms=_time(seen.start_time),
        finish_ms=_time(seen.finish_time),
        image_url=seen.image_url or "",
        image_urls=_links(seen.image_urls),
        video_url=seen.video_url or "",
        video_urls=_links(seen.video_urls),
        fail_reason=seen.fail_reason or "",
        buttons=tuple(button for button in seen.buttons or () if button.custom_id),
        seed=seen.seed or "",
    )


def _time(value: int | None) -> int | None:
    if not value:
        return None
    if not 0 < value < _LATEST:
        raise ValueError(value)
    return value


def _links(links: list[_Link] | None) -> tuple[str, ...]:
    return tuple(link.url for link in links if link.url) if links else ()
