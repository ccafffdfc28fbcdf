"""Faults of the provider by name, alone or together (PROTOCOL.md §4–§9).

A fault is a value with small pure hooks. Hooks of one kind run in the order of `FAULTS`, whatever order the user wrote.
For submit answers that order is the precedence, and the first fault that answers wins: refusals, then ambiguous
answers, then temporary ones. Every other hook is applied for every active fault.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from receiver.simulator import answers
from receiver.simulator.answers import Answer, coded
from receiver.simulator.prompts import scene_words
from receiver.simulator.timeline import Call, Step, Timeline, delayed, dice

if TYPE_CHECKING:
    from receiver.simulator.submits import Submit

FAULTS = {
    "unauthorized": "Every submit is answered 401, as if the key were wrong.",
    "validation": "Every submit is answered with code 4, bad parameters.",
    "banned_word": "Every submit is answered with code 24 and the word.",
    "ambiguous_created": "Every submit is answered 400 with code 5 although the task was made and runs.",
    "submit_html": "Every submit is answered 524 with an HTML page although the task was made and runs.",
    "ambiguous_lost": "Every submit is answered 400 with code 5 and no task was made.",
    "submit_500": "Every submit is answered 500 and no task was made.",
    "system_error": "Every submit is answered with code 9 and no task was made.",
    "saturated": "The first two submits are answered 429 with code 30.",
    "no_channel": "The first two submits are answered 503, no channel for this model.",
    "no_account": "The first two submits are answered with code 3, no account is free.",
    "queue_full": "The first two submits are answered with code 23, the queue is full.",
    "existed": "Every submit is answered with code 21 and an old task that already has the picture.",
    "queued": "Every submit is answered with code 22 and its task starts some seconds later.",
    "slow_answer": "Every submit is answered 5 seconds late, after the first callbacks.",
    "numeric_result": "Task ids in submit answers are numbers instead of strings.",
    "failure": "Every task ends in FAILURE by a time-out.",
    "banned_later": "Every task is accepted and then fails before its start for a banned word.",
    "false_failure": "Every task fails, by callback and fetch, and 30 seconds later succeeds all the same.",
    "stuck_100": "Fetch and list show IN_PROGRESS 100% for good when the task is done.",
    "relay_timeout": "Fetch and list show the relay's own one-hour FAILURE at once while the task runs and calls back.",
    "dropped": "The callback with the end of a task is never sent.",
    "duplicated": "Every callback is sent twice.",
    "reordered": "The end is called back before some of the progress.",
    "late": "Every callback is sent 20 seconds late.",
    "hook_stripped": "The relay drops the notifyHook: no callback is ever sent.",
    "state_missing": "Callbacks have no key `state`.",
    "state_mangled": "Callbacks carry only the first half of the state.",
    "old_encoding": "Callbacks are ISO-8859-1, as of old Java senders: an accent makes them invalid UTF-8.",
    "foreign_token": "With every task runs another client's, whose callbacks carry this task's state to its hook.",
    "odd_progress": "Progress is a text that holds no number, until the end.",
    "no_buttons": "Tasks have no key `buttons`, in callbacks as in fetch and list.",
    "forgotten": "The list leaves out every task, which fetch still knows.",
    "unknown_to_fetch": "Neither fetch nor list knows any task, while callbacks still come.",
    "provider_500": "The first three fetches or lists are answered 500.",
    "provider_html": "The first three fetches or lists are answered 502 with an HTML page.",
    "expired_link": "The first two downloads are answered 404, no longer available.",
    "expired_for_good": "Every download is answered 404, no longer available.",
}
"""Name and one sentence of each fault."""

SLOW, LATE, CORRECTED = 5.0, 20.0, 30.0
"""Simulated seconds until a slow answer, by which a callback is late, and from a false FAILURE to the SUCCESS."""

_PROGRESS_TEXTS = ("Waiting to start", "paused", "fast", "")

Body = dict[str, Any]
Value = TypeVar("Value")
Hook = Literal["answered", "timeline", "fetched_timeline", "calls", "callback", "fetched"]


def _same(value: Value, *_: object) -> Value:
    return value


@dataclass(frozen=True, slots=True)
class Fault:
    """Hooks of one fault."""

    answer: Answer | None = None  # to submits
    reply: Callable[["Submit"], Answer | None] | None = None  # to submits, where the answer depends on them
    accepts: bool = False  # makes the task before the answer
    answered: Callable[[Answer, Random], Answer] = _same  # answer to a submit
    timeline: Callable[[Timeline, Random], Timeline] = _same  # true timeline of a task
    fetched_timeline: Callable[[Timeline, Random], Timeline] = _same  # the one that fetch and list show
    calls: Callable[[list[Call], Random], list[Call]] = _same  # callbacks of a task
    callback: Callable[[Body, Random], Body] = _same  # body of a callback
    fetched: Callable[[Body, Random], Body] = _same  # task in fetch and list
    query: Answer | None = None  # to fetches and lists
    hides: tuple[str, ...] = ()  # queries that know no task: fetch, list
    gone: bool = False  # downloads fail
    first: float = math.inf  # submits, queries or downloads that this affects
    latin_1: bool = False  # callbacks are ISO-8859-1
    doubles: bool = False  # another task carries this one's state and hook


# --- submit answers (PROTOCOL.md §4) -------------------------------------------------------------------------


def banned_word(submit: "Submit") -> Answer:
    """Return code 24 with the longest word and ``result`` null, as both proxies do (PROTOCOL.md §13.7)."""
    words = re.findall(r"\w+", scene_words(submit.work.prompt)) or [submit.work.prompt]
    facts = {"promptEn": submit.work.prompt, "bannedWord": max(words, key=len)}
    return coded(answers.BANNED_WORD, "可能包含敏感词", None, facts)


def queued(submit: "Submit") -> Answer:
    waiting = dice("queue", submit.number).randint(1, 5)
    facts = {"numberOfQueues": waiting, **submit.properties}
    return coded(answers.QUEUED, f"排队中，前面还有{waiting}个任务", submit.accept(), facts)


def numeric(answer: Answer, chance: Random) -> Answer:
    body = answer.body
    if isinstance(body, dict) and str(body.get("result")).isdigit():
        return replace(answer, body={**body, "result": int(body["result"])})
    return answer


# --- timelines and callbacks (PROTOCOL.md §6, §7, §8) --------------------------------------------------------


def _failure(after: float, reason: str = "任务超时", progress: str = "") -> Step:
    return Step(after, "FAILURE", progress, reason)


def _later(calls: list[Call], seconds: float) -> list[Call]:
    return [replace(call, after=call.after + seconds) for call in calls]


def fail(timeline: Timeline, chance: Random) -> Timeline:
    """Submitted, then nothing, then FAILURE: the effect of a lost websocket (PROTOCOL.md §8)."""
    early = tuple(step for step in timeline if step.status in {"NOT_START", "SUBMITTED"})
    return (*early, _failure(timeline[-1].after))


def fail_falsely(timeline: Timeline, chance: Random) -> Timeline:
    *before, end = timeline
    if end.status != "SUCCESS":
        return timeline
    return (*before, _failure(end.after), replace(end, after=end.after + CORRECTED))


def stay_at_100(timeline: Timeline, chance: Random) -> Timeline:
    *before, end = timeline
    return (*before, replace(end, status="IN_PROGRESS")) if end.status == "SUCCESS" else timeline


def reorder(calls: list[Call], chance: Random) -> list[Call]:
    """Delay half of the earlier callbacks until after the last one. None is sent before its status."""
    if not calls:
        return []
    end = max([call.after for call in calls if call.step.terminal] or [calls[-1].after])
    earlier = [call for call in calls if not call.step.terminal and call.after < end]
    held = {id(call) for call in chance.sample(earlier, (len(earlier) + 1) // 2)}
    return [replace(call, after=end + chance.uniform(0.5, 6.0)) if id(call) in held else call for call in calls]


# --- bodies, fetch and list (PROTOCOL.md §5, §7, §9) ---------------------------------------------------------


def _without(key: str) -> Callable[[Body, Random], Body]:
    return lambda body, chance: {name: value for name, value in body.items() if name != key}


def with_half_a_state(body: Body, chance: Random) -> Body:
    state = body.get("state")
    return {**body, "state": state[: len(state) // 2]} if isinstance(state, str) else body


def with_odd_progress(body: Body, chance: Random) -> Body:
    progress = str(body.get("progress") or "")
    if body.get("status") not in {"SUBMITTED", "IN_PROGRESS"} or not progress.endswith("%"):
        return body
    return {**body, "progress": _PROGRESS_TEXTS[int(progress[:-1]) // 15 % len(_PROGRESS_TEXTS)]}


_AMBIGUOUS = answers.relay_error(answers.AMBIGUOUS, "do_request_failed")
_SERVER_ERROR = answers.comet_error(500, "", "system error")
_SATURATED = {
    "description": "rate limited 当前分组负载已饱和，请稍后再试，或升级账户以提升服务质量。",
    "type": "upstream_error",
    "code": answers.SATURATED,
}
_FULL = "Queue is full, please try again later"
_NO_CHANNEL = "no available channel for group default and model mj_imagine (distributor)"

_HOOKS: Mapping[str, Fault] = {
    "unauthorized": Fault(answer=answers.unauthorized()),
    "validation": Fault(answer=answers.validation()),
    "banned_word": Fault(reply=banned_word),
    "ambiguous_created": Fault(answer=_AMBIGUOUS, accepts=True),
    "submit_html": Fault(answer=answers.html_page(524, "A timeout occurred"), accepts=True),
    "ambiguous_lost": Fault(answer=_AMBIGUOUS),
    "submit_500": Fault(answer=_SERVER_ERROR),
    "system_error": Fault(reply=lambda submit: coded(answers.FAILED, "提交失败，系统异常", None, submit.properties)),
    "saturated": Fault(answer=Answer(429, _SATURATED), first=2),
    "no_channel": Fault(answer=answers.comet_error(503, "model_not_found", _NO_CHANNEL), first=2),
    "no_account": Fault(answer=coded(answers.NOT_FOUND, "无可用的账号实例"), first=2),
    "queue_full": Fault(reply=lambda submit: coded(answers.QUEUE_FULL, _FULL, None, submit.properties), first=2),
    "existed": Fault(reply=lambda submit: submit.existing()),
    "queued": Fault(reply=queued, timeline=lambda timeline, chance: delayed(timeline, chance.uniform(3.0, 8.0))),
    "slow_answer": Fault(answered=lambda answer, chance: replace(answer, after=SLOW)),
    "numeric_result": Fault(answered=numeric),
    "failure": Fault(timeline=fail),
    "banned_later": Fault(
        timeline=lambda steps, chance: (steps[0], _failure(chance.uniform(1.0, 2.0), "可能包含敏感词"))
    ),
    "false_failure": Fault(timeline=fail_falsely),
    "stuck_100": Fault(fetched_timeline=stay_at_100),
    "relay_timeout": Fault(
        fetched_timeline=lambda steps, chance: (steps[0], _failure(1.0, "上游任务超时（超过1小时）", "100%"))
    ),
    "dropped": Fault(calls=lambda calls, chance: [call for call in calls if not call.step.terminal]),
    "duplicated": Fault(calls=lambda calls, chance: [*calls, *_later(calls, 0.2)]),
    "reordered": Fault(calls=reorder),
    "late": Fault(calls=lambda calls, chance: _later(calls, LATE)),
    "hook_stripped": Fault(calls=lambda calls, chance: []),
    "state_missing": Fault(callback=_without("state")),
    "state_mangled": Fault(callback=with_half_a_state),
    "old_encoding": Fault(latin_1=True),
    "foreign_token": Fault(doubles=True),
    "odd_progress": Fault(callback=with_odd_progress, fetched=with_odd_progress),
    "no_buttons": Fault(callback=_without("buttons"), fetched=_without("buttons")),
    "forgotten": Fault(hides=("list",)),
    "unknown_to_fetch": Fault(hides=("list", "fetch")),
    "provider_500": Fault(query=_SERVER_ERROR, first=3),
    "provider_html": Fault(query=answers.html_page(502, "Bad gateway"), first=3),
    "expired_link": Fault(gone=True, first=2),
    "expired_for_good": Fault(gone=True),
}


class Faults:
    """The active faults as one. Each has its own dice, so none disturbs another. An unknown one is a ValueError."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        wanted = set(names)
        if unknown := sorted(wanted - FAULTS.keys()):
            raise ValueError(f"Unknown simulator fault {', '.join(unknown)}; there are {', '.join(FAULTS)}.")
        self._active = {name: _HOOKS[name] for name in FAULTS if name in wanted}
        self._faults = list(self._active.values())
        self.latin_1 = any(fault.latin_1 for fault in self._faults)
        self.doubles = any(fault.doubles for fault in self._faults)

    def answer(self, submit: "Submit") -> Answer | None:
        """Return the first answer that any fault gives, None if all is well."""
        for fault in self._faults:
            if submit.number > fault.first:
                continue
            if answer := fault.reply(submit) if fault.reply else fault.answer:
                if fault.accepts:
                    submit.accept()
                return answer
        return None

    def apply(self, hook: Hook, value: Value, chance: str = "") -> Value:
        """Return an answer, timeline, list of callbacks or body as the faults leave it."""
        for name, fault in self._active.items():
            value = getattr(fault, hook)(value, dice(chance, name))
        return value

    def query(self, before: int) -> Answer | None:
        """Return the error for a fetch or list, given how many there were before."""
        return next((fault.query for fault in self._faults if fault.query and before < fault.first), None)

    def hides(self, query: str) -> bool:
        """Return True if a ``fetch`` or ``list`` knows no task."""
        return any(query in fault.hides for fault in self._faults)

    def gone(self, before: int) -> bool:
        """Return True if a picture is gone, given how many downloads there were before."""
        return any(fault.gone and before < fault.first for fault in self._faults)
