"""The provider's task (PROTOCOL.md §5), the event type of each status, and the merge of two views (§6)."""

from __future__ import annotations

import re
from operator import attrgetter
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
"""Order in which statuses merge. Other statuses change nothing."""

_TEXT_ACTIONS = frozenset({"DESCRIBE", "SHORTEN"})
_NUMBER = re.compile("^(?:[0-9]\ufe0f?\u20e3|[0-9]+[.)])\\s*")
"""The provider's numbering of texts: a keycap emoji, or `1.`."""


class Button(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A follow-up the provider offers (PROTOCOL.md §5 `buttons`). `custom_id` is not stable over time."""

    custom_id: str
    label: str = ""
    emoji: str = ""

    @property
    def text(self) -> str:
        """Its name for people."""
        return self.label or self.emoji


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as read from a callback, a fetch or a list. Times are epoch milliseconds, None when unset."""

    id: str  # 1–64 characters, opaque
    status: str = ""  # upper case, "" before the relay's first look (§5)
    progress: int | None = None  # 0–100, None when absent or no number ("Waiting to start")
    action: str = ""
    prompt: str = ""
    prompt_en: str = ""
    final_prompt: str = ""
    description: str = ""
    state: str = ""  # as the provider echoes it, "" until the relay's first poll
    submit_ms: int | None = None
    start_ms: int | None = None
    finish_ms: int | None = None
    image_url: str = ""  # the result, or a preview while IN_PROGRESS. May be an mp4 for videos
    image_urls: tuple[str, ...] = ()
    video_url: str = ""
    video_urls: tuple[str, ...] = ()
    fail_reason: str = ""
    buttons: tuple[Button, ...] = ()
    seed: str = ""
    problems: tuple[str, ...] = ()  # parts that could not be read, one phrase each

    @property
    def terminal(self) -> bool:
        """True if no further status follows (§6)."""
        return self.status in TERMINAL

    @property
    def rank(self) -> tuple[int, int]:
        """Order of merging: (order of the status, percent)."""
        return RANKS.get(self.status, -1), self.progress or 0

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts found by a describe or shorten, without their numbers (PROTOCOL.md §2)."""
        if self.action not in _TEXT_ACTIONS:
            return ()
        lines = (_NUMBER.sub("", line).strip() for line in (self.final_prompt or self.prompt).splitlines())
        return tuple(line for line in lines if line)

    @property
    def result_urls(self) -> tuple[str, ...]:
        """Links to the files of a finished result: its videos, else its picture.

        A result of text has none, because its picture is the one that was sent.
        """
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
    """Return the event type of a task's status, None for "" and unknown statuses."""
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

# --- merging ------------------------------------------------------------------------------------------------------

_LASTING: tuple[str, ...] = (
    "action", "prompt", "prompt_en", "final_prompt", "description", "state", "submit_ms", "start_ms", "finish_ms",
    "image_url", "image_urls", "video_url", "video_urls", "fail_reason", "buttons", "seed",
)  # fmt: skip
_lasting = attrgetter(*_LASTING)
_LINKS = ("image_url", "image_urls", "video_url", "video_urls")


def merge(old: Task | None, new: Task) -> Task:
    """Return the later of two views of one task.

    Views are ordered by (rank, progress). A duplicate, a late callback or a relay that lags changes nothing. A SUCCESS
    beats a FAILURE or CANCEL of the same rank, because both may be false (PROTOCOL.md §8). An equal view may still
    fill in unset values, because buttons and links come late.
    """
    if old is None:
        return new
    if new.status not in RANKS:
        return old
    if new.status == "SUCCESS" and old.status in ("FAILURE", "CANCEL"):
        return _fill(new, msgspec.structs.replace(old, fail_reason=""))
    rank, before = new.rank, old.rank
    later = rank > before and not (old.terminal and new.terminal)
    same = new.status == old.status and rank >= before
    return _fill(new, old) if later or same else old


def _fill(new: Task, old: Task) -> Task:
    """Return `new` with its unset values from `old`. A preview is no result, so an end keeps only its own links."""
    ends = new.terminal and new.status != old.status
    kept = {
        name: before
        for name, value, before in zip(_LASTING, _lasting(new), _lasting(old), strict=True)
        if before and not value and not (ends and name in _LINKS)
    }
    return msgspec.structs.replace(new, **kept) if kept else new


# --- grids --------------------------------------------------------------------------------------------------------

_UPSAMPLE = re.compile(r"::upsample::([1-4])::", re.IGNORECASE)
_U_LABEL = re.compile(r"U([1-4])\Z", re.IGNORECASE)
_GRID_ACTIONS = frozenset(
    {"IMAGINE", "VARIATION", "REROLL", "BLEND", "ZOOM", "PAN", "EDIT", "RETEXTURE"}
    | {"INPAINT", "CUSTOM_ZOOM", "HIGH_VARIATION", "LOW_VARIATION"}
)
_OTHER_ACTIONS = frozenset(
    {"UPSCALE", "UPSCALE_HD", "DESCRIBE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "VIDEO"}
)
_GRID_KINDS = frozenset({"imagine", "blend", "edits"})
_GRID_BUTTONS = re.compile(
    r"\s*(?:v[1-4]|reroll|vary|region|(?:custom )?zoom|pan|left|right|up|down|make square|[🔄⬅➡⬆⬇])\b|\s*[🔄⬅➡⬆⬇]",
    re.IGNORECASE,
)


def is_grid(task: Task, kind: str, button: str | None) -> bool:
    """Return True if a finished task's one picture shows four (PROTOCOL.md §5 `buttons` and `action`, §9).

    The buttons decide: only a grid has U1 to U4. Without buttons (Java callbacks have none, relays fill them late) the
    action decides. Where the action is unclear (ACTION, MODAL, unknown), the request does. In doubt it is no grid,
    because a single picture cut in four is worse than a grid left whole. A video's U1 to U4 look the same, so ask only
    about pictures.
    """
    if task.buttons:
        found = (_UPSAMPLE.search(item.custom_id) or _U_LABEL.match(item.label) for item in task.buttons)
        return {match[1] for match in found if match} == set("1234")
    if task.action in _GRID_ACTIONS:
        return True
    if task.action in _OTHER_ACTIONS:
        return False
    return kind in _GRID_KINDS or _GRID_BUTTONS.match(button or "") is not None
