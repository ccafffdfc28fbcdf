"""Whose quirks the simulator shows: named profiles (PROTOCOL.md §12, §5, §7).

``default`` is what all known foreign clients accept; the others are one real server each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from receiver.simulator import answers, csharp, java, relay
from receiver.simulator.answers import Answer
from receiver.simulator.course import Call, Course, Step, calls_for
from receiver.simulator.tasks import Task, View

_UNKNOWN_TASK = answers.relay_error(answers.VALIDATION, "task_no_found")
_NO_PROMPT = answers.validation("prompt不能为空")
_NO_INDEX = answers.validation("index参数错误")
_RELAY_UNKNOWN_PARENT = answers.relay_error(answers.VALIDATION, "task_not_found")
_RELAY_UNREADY_PARENT = answers.relay_error(answers.VALIDATION, "task_status_not_success")
_UNREADY_PARENT = answers.validation("关联任务状态错误")

KEEPS_CODE = frozenset({"INPAINT", "CUSTOM_ZOOM"})
"""Actions of the relay whose code 21 it leaves alone (PROTOCOL.md §4)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """How a proxy calls back."""

    shape: Callable[[View], dict[str, Any]]
    encode: Callable[[object], bytes]
    headers: Mapping[str, str]
    schedule: Callable[[Course], list[Call]]
    address: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider as seen from outside.

    Attributes:
        shape: The task object of fetch and list.
        encode: JSON as this server writes it.
        caller: How callbacks are made.
        properties: What accepting submit answers carry.
        lagging: The view is the last poll's, not the live one.
        previews: Pictures can be seen while IN_PROGRESS.
        limits: Longest text allowed, by request field.
        coerces: A number where a string belongs is taken as its text.
        rewrites: Codes replaced in submit answers, except where the relay's action is one of `KEEPS_CODE`.
        unknown_parent: The answer when there is no task to build on.
        unready_parent: The answer when the task to build on has not succeeded.
        index_always: A change needs an index even for REROLL.
        no_index: The answer when it has none.
        no_simple_change: The answer to simple-change where it does not work.
        outdated_buttons: A customId whose hash is no longer, or never was, a button's is good.
        films_are_pictures: imageUrl of a video is the first mp4, not a still.
        window_patience: Seconds until a window that nobody answered fails the task.
        numbers_states: "imagine all" gives each task the state with its number behind it.
    """

    name: str
    description: str
    shape: Callable[[View], dict[str, Any]]
    encode: Callable[[object], bytes]
    caller: Caller
    properties: Mapping[str, str]
    content_type: str = "application/json"
    accepted: str = "提交成功"
    lagging: bool = False
    previews: bool = True
    coerces: bool = False
    limits: Mapping[str, int] = field(default_factory=lambda: {"state": 255, "notifyHook": 2000})
    rewrites: Mapping[int, int] = field(default_factory=dict)
    unknown_parent: Answer = _RELAY_UNKNOWN_PARENT
    unready_parent: Answer = _RELAY_UNREADY_PARENT
    index_always: bool = False
    no_index: Answer = _NO_INDEX
    no_simple_change: Answer | None = None
    outdated_buttons: bool = False
    films_are_pictures: bool = True
    window_patience: float = 3600.0
    numbers_states: bool = False
    unknown_task: Answer = _UNKNOWN_TASK
    no_prompt: Answer = _NO_PROMPT
    unreadable: Callable[[], Answer] = answers.unreadable_by_relay

    def step(self, task: Task, now: float) -> Step:
        """The status this server knows of at the moment."""
        return task.polled_step(now) if self.lagging else task.seen_step(now)

    def view(self, task: Task, step: Step, origin: str, now: float) -> View:
        """The task at a step, with or without previews."""
        return View(task, step, origin, now, self.previews, self.films_are_pictures)

    def reworded(self, answer: Answer, action: str) -> Answer:
        """A submit answer after the relay replaced codes in its text (PROTOCOL.md §4)."""
        if action in KEEPS_CODE:
            return answer
        if isinstance(answer.body, dict) and answer.body.get("code") in self.rewrites:
            return replace(answer, body={**answer.body, "code": self.rewrites[answer.body["code"]]})
        return answer


_CSHARP_CALLER = Caller(csharp.task, csharp.encode, csharp.HEADERS, csharp.schedule)
_JAVA_CALLER = Caller(java.task, java.encode, java.HEADERS, java.schedule, java.hook_address)
_CSHARP_PROPERTIES = {"discordChannelId": csharp.INSTANCE, "discordInstanceId": csharp.INSTANCE}

_ALL = (
    Profile(
        name="default",
        description="What every known client accepts: a live fetch, no empty status, each callback once.",
        shape=relay.accepted_by_all,
        encode=relay.encode,
        caller=replace(_CSHARP_CALLER, schedule=calls_for),
        properties=_CSHARP_PROPERTIES,
        accepted="Submission successful",
        outdated_buttons=True,
        films_are_pictures=False,
    ),
    Profile(
        name="relay",
        description="new-api before a C# proxy: its view moves every 15 s and starts with an empty status.",
        shape=relay.task,
        encode=relay.encode,
        caller=_CSHARP_CALLER,
        properties=_CSHARP_PROPERTIES,
        lagging=True,
        rewrites={answers.QUEUED: answers.ACCEPTED, answers.EXISTS: answers.ACCEPTED},
        no_prompt=answers.relay_error(answers.VALIDATION, "prompt_is_required"),
        index_always=True,
        no_index=answers.relay_error(answers.VALIDATION, "index_can_only_be_1_2_3_4"),
        no_simple_change=answers.relay_error(answers.VALIDATION, "task_id_is_required"),
        numbers_states=True,
    ),
    Profile(
        name="java",
        description="novicezk's Java proxy alone: 14 keys, no buttons, equal states called back twice.",
        shape=java.task,
        encode=java.encode,
        caller=_JAVA_CALLER,
        properties={"discordInstanceId": java.INSTANCE},
        coerces=True,
        limits={},
        unknown_task=Answer(200, answers.NOTHING),
        unreadable=answers.unreadable_by_java,
        unknown_parent=answers.parent_not_found(200),
        unready_parent=_UNREADY_PARENT,
        outdated_buttons=True,
        window_patience=300.0,
    ),
    Profile(
        name="csharp",
        description="trueai's C# proxy alone: 75 keys, escaped JSON, no previews, the end called back twice.",
        shape=csharp.task,
        encode=csharp.encode,
        caller=_CSHARP_CALLER,
        properties=_CSHARP_PROPERTIES,
        content_type="application/json; charset=utf-8",
        previews=False,
        unknown_task=Answer(204, answers.NOTHING),
        unreadable=answers.unreadable_by_csharp,
        unknown_parent=answers.parent_not_found(404),
        unready_parent=_UNREADY_PARENT,
        window_patience=300.0,
        numbers_states=True,
    ),
)

_BY_NAME = {profile.name: profile for profile in _ALL}

PROFILES: dict[str, str] = {profile.name: profile.description for profile in _ALL}
"""Name and one sentence of each profile."""


def find(name: str) -> Profile:
    """The profile of this name.

    Raises:
        ValueError: There is none; the sentence lists those there are.
    """
    if name not in _BY_NAME:
        raise ValueError(f"Unknown simulator profile {name!r}; there are {', '.join(PROFILES)}.")
    return _BY_NAME[name]
