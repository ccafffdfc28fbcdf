"""How a task object is read: tolerantly, because each sender has its own ways (PROTOCOL.md §5).

Missing keys, null, "" and 0 are unset; extra keys, numbers for strings, and statuses nobody has seen are accepted.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from receiver.errors import NotATask, NotJSON
from receiver.tasks.task import RANKS, Button, Task
from receiver.tasks.usual import read_usual

MAX_TASK_ID = 64
MAX_DEPTH = 64
"""Deepest nesting read; real task objects have 4 levels."""

_PERCENT = re.compile(r"(\d{1,3})%\Z")
_DIGITS = re.compile(r"\d{10,16}\Z")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """`text` with lone surrogates and NUL as U+FFFD, which every database can store."""
    if "\x00" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text  # nearly every text, at a quarter of the price
    return _FORBIDDEN.sub("�", text)


def decode_json(body: bytes) -> Any:
    """Read JSON from outside: UTF-8, an optional BOM. Strings may still hold lone surrogates: see `clean_text`.

    Raises:
        NotJSON: not UTF-8, not JSON, NaN or Infinity, an integer beyond 4,300 digits, or nested deeper than 64.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        value = _decode_slowly(body)
    # Walking the value costs as much as decoding it, and real bodies have few brackets.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _too_deep(value):
        raise NotJSON(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return value


def _decode_slowly(body: bytes) -> Any:
    """The standard library reads lone surrogates, which msgspec refuses."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise NotJSON("The body is not JSON.") from exc


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
    """A Task from a body as it came. What is accepted is UTF-8 without NUL, so that every database can store it.

    Raises:
        NotJSON: see `decode_json`.
        NotATask: see `read_task`.
    """
    return read_usual(body) or read_task(decode_json(body))


def read_task(value: Any) -> Task:
    """A Task from decoded JSON.

    Raises:
        NotATask: not an object, or `id` is missing, empty, longer than 64 characters, or neither string nor integer.
    """
    if not isinstance(value, dict):
        raise NotATask("The JSON is not an object, so it is no task.")
    problems: list[str] = []
    read = _Reader(value, problems)
    properties = value.get("properties")
    final = _Reader(properties if isinstance(properties, dict) else {}, [])
    return Task(
        id=_task_id(value.get("id")),
        status=_status(read.text("status"), problems),
        progress=_progress(value.get("progress"), problems),
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


def _task_id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise NotATask("The object has no task id.")
    if len(value) > MAX_TASK_ID:
        raise NotATask(f"The task id is longer than {MAX_TASK_ID} characters.")
    return clean_text(value)


def _status(text: str, problems: list[str]) -> str:
    status = text.strip().upper()
    if status and status not in RANKS:
        problems.append("status is none of the protocol's; it changes nothing")
    return status


def _progress(value: Any, problems: list[str]) -> int | None:
    if value is None or value == "":
        return None
    match = _PERCENT.match(value.strip()) if isinstance(value, str) else None
    number = int(match[1]) if match else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 100:
        return number
    problems.append("progress is no percentage")
    return None


class _Reader:
    """Picks typed values out of an object and notes what did not fit."""

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

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if isinstance(value, list):
            return value
        if value is not None and value != "":
            self._problems.append(f"{key} is no list")
        return []

    def urls(self, key: str) -> tuple[str, ...]:
        """Links from `["…"]` or `[{"url": "…"}]`."""
        items = (item.get("url") if isinstance(item, dict) else item for item in self._list(key))
        return tuple(clean_text(item) for item in items if isinstance(item, str) and item)

    def buttons(self) -> tuple[Button, ...]:
        return tuple(button for item in self._list("buttons") if (button := _button(item)) is not None)


def _button(item: Any) -> Button | None:
    if not isinstance(item, dict):
        return None
    read = _Reader(item, [])
    custom_id = read.text("customId")
    return Button(custom_id=custom_id, label=read.text("label"), emoji=read.text("emoji")) if custom_id else None
