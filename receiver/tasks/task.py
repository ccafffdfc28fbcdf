"""The provider's task as we know it (PROTOCOL.md §5), and the event type each of its statuses stands for (§6)."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

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
