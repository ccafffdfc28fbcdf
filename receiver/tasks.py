"""The provider's task object (PROTOCOL.md §5), read tolerantly, and how two views of one task merge (§6).

Readers accept missing keys, null, "" and 0 as unset, extra keys, numbers for strings, and statuses nobody has seen.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec

from receiver.errors import NotATask, NotJSON

MAX_TASK_ID = 64
TERMINAL = frozenset({"SUCCESS", "FAILURE", "CANCEL"})
RANKS: dict[str, int] = {
    "NOT_START": 0,
    "MODAL": 1,
    "SUBMITTED": 2,
    "IN_PROGRESS": 3,
    "SUCCESS": 4,
    "FAILURE": 4,
    "CANCEL": 4,
}
"""Order in which statuses merge. What is not here changes nothing."""

_PERCENT = re.compile(r"(\d{1,3})%\Z")
_DIGITS = re.compile(r"\d{10,16}\Z")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
MAX_DEPTH = 64
"""Deepest nesting read; real task objects have 4 levels."""


_TEXT_ACTIONS = frozenset({"DESCRIBE", "SHORTEN"})
_NUMBER = re.compile("^(?:[0-9]\ufe0f?\u20e3|[0-9]+[.)])\\s*")
"""How the provider numbers texts: a keycap emoji, or `1.`."""


class Button(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A follow-up the provider offers (PROTOCOL.md §5 `buttons`). `custom_id` is not stable over time."""

    custom_id: str
    label: str = ""
    emoji: str = ""

    @property
    def text(self) -> str:
        """What a person calls it."""
        return self.label or self.emoji


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as read from a callback, a fetch or a list.

    Attributes:
        id: 1–64 characters, opaque.
        status: upper case; "" when the relay has not looked yet (§5).
        progress: 0–100, None when absent or no number ("Waiting to start").
        submit_ms, start_ms, finish_ms: epoch milliseconds, None when unset.
        image_url: the result, or a preview while IN_PROGRESS; may be an mp4 for videos.
        state: as the provider echoes it; "" until the relay's first poll.
        problems: what was read around, one phrase each.
    """

    id: str
    status: str = ""
    progress: int | None = None
    action: str = ""
    prompt: str = ""
    prompt_en: str = ""
    final_prompt: str = ""
    description: str = ""
    state: str = ""
    submit_ms: int | None = None
    start_ms: int | None = None
    finish_ms: int | None = None
    image_url: str = ""
    image_urls: tuple[str, ...] = ()
    video_url: str = ""
    video_urls: tuple[str, ...] = ()
    fail_reason: str = ""
    buttons: tuple[Button, ...] = ()
    seed: str = ""
    problems: tuple[str, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether no further status follows (§6)."""
        return self.status in TERMINAL

    @property
    def rank(self) -> tuple[int, int]:
        """What merging compares: (order of the status, percent)."""
        return RANKS.get(self.status, -1), self.progress or 0

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts that a describe or shorten found, without their numbers (PROTOCOL.md §2)."""
        if self.action not in _TEXT_ACTIONS:
            return ()
        lines = (_NUMBER.sub("", line).strip() for line in (self.final_prompt or self.prompt).splitlines())
        return tuple(line for line in lines if line)

    @property
    def result_urls(self) -> tuple[str, ...]:
        """Links to the files of a finished result: videos if there are any, else the picture. Where the result is
        text, the picture is the one we gave."""
        if self.action in _TEXT_ACTIONS:
            return ()
        videos = self.video_urls or ((self.video_url,) if self.video_url else ())
        return videos or ((self.image_url,) if self.image_url else self.image_urls)


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


def merge(old: Task | None, new: Task) -> Task:
    """The later of two views of one task.

    Monotone by (rank, progress): a duplicate, a late callback or a relay that lags changes nothing. A SUCCESS beats a
    FAILURE or CANCEL of the same rank, because those may be false (PROTOCOL.md §8). An equal view may still fill in
    what was unset (buttons and links come late).
    """
    if old is None:
        return new
    if new.status not in RANKS:
        return old
    if new.rank > old.rank and not (old.terminal and new.terminal):
        return _fill(new, old)
    if new.status == "SUCCESS" and old.status in ("FAILURE", "CANCEL"):
        return _fill(new, msgspec.structs.replace(old, fail_reason=""))
    if new.status == old.status and new.rank >= old.rank:
        return _fill(new, old)
    return old


_LASTING: tuple[str, ...] = (
    "action", "prompt", "prompt_en", "final_prompt", "description", "state", "submit_ms", "start_ms", "finish_ms",
    "image_url", "image_urls", "video_url", "video_urls", "fail_reason", "buttons", "seed",
)  # fmt: skip


def _fill(new: Task, old: Task) -> Task:
    """`new` with what it leaves unset taken from `old`; but a preview is no result: an end keeps its own links only."""
    kept = {name: getattr(old, name) for name in _LASTING if not getattr(new, name) and getattr(old, name)}
    if new.terminal and new.status != old.status:
        for name in ("image_url", "image_urls", "video_url", "video_urls"):
            kept.pop(name, None)
    return msgspec.structs.replace(new, **kept) if kept else new


EventType = Literal[
    "task.accepted",
    "task.progressed",
    "task.input_required",
    "task.succeeded",
    "task.failed",
    "task.lost",
]


def event_type(task: Task) -> EventType | None:
    """The event type a task's status stands for; None for "" and unknown statuses."""
    return _EVENT_TYPES.get(task.status)


_EVENT_TYPES: dict[str, EventType] = {
    "NOT_START": "task.accepted",
    "SUBMITTED": "task.accepted",
    "MODAL": "task.input_required",
    "IN_PROGRESS": "task.progressed",
    "SUCCESS": "task.succeeded",
    "FAILURE": "task.failed",
    "CANCEL": "task.failed",
}
