"""Faults of the task's own course and of when its callbacks are sent (PROTOCOL.md §6, §7, §8)."""

from dataclasses import replace
from random import Random

from receiver.simulator.course import Call, Course, Step, failing
from receiver.simulator.faults.fault import Fault

LATE = 20.0
"""Simulated seconds that a late callback is late."""

CORRECTED = 30.0
"""Simulated seconds from a false FAILURE to the SUCCESS."""


def _fail(course: Course, chance: Random) -> Course:
    return failing(course, "任务超时")


def _refuse(course: Course, chance: Random) -> Course:
    return (course[0], Step(course[0].after + chance.uniform(1.0, 2.0), "FAILURE", "", "可能包含敏感词"))


def _fail_falsely(course: Course, chance: Random) -> Course:
    *before, end = course
    if end.status != "SUCCESS":
        return course
    return (*before, Step(end.after, "FAILURE", "", "任务超时"), replace(end, after=end.after + CORRECTED))


def _give_up(course: Course, chance: Random) -> Course:
    return (course[0], Step(1.0, "FAILURE", "100%", "上游任务超时（超过1小时）"))


def _stay_at_100(course: Course, chance: Random) -> Course:
    *before, end = course
    return (*before, replace(end, status="IN_PROGRESS")) if end.status == "SUCCESS" else course


def _drop_end(calls: list[Call], chance: Random) -> list[Call]:
    return [call for call in calls if not call.step.terminal]


def _twice(calls: list[Call], chance: Random) -> list[Call]:
    return [repeated for call in calls for repeated in (call, replace(call, after=call.after + 0.2))]


def _overtaken(calls: list[Call], chance: Random) -> list[Call]:
    """Hold back half of the earlier callbacks until after the last; nothing is told before it happened."""
    if not calls:
        return []
    end = max([call.after for call in calls if call.step.terminal] or [calls[-1].after])
    earlier = [call for call in calls if not call.step.terminal and call.after < end]
    held = {id(call) for call in chance.sample(earlier, (len(earlier) + 1) // 2)}
    return [replace(call, after=end + chance.uniform(0.5, 6.0)) if id(call) in held else call for call in calls]


def _later(calls: list[Call], chance: Random) -> list[Call]:
    return [replace(call, after=call.after + LATE) for call in calls]


def _none(calls: list[Call], chance: Random) -> list[Call]:
    return []


FAULTS = (
    Fault("failure", "Every task ends in FAILURE by a time-out.", course=_fail),
    Fault("banned_later", "Every task is accepted and then fails before its start for a banned word.", course=_refuse),
    Fault(
        "false_failure",
        "Every task fails, by callback and fetch, and 30 seconds later succeeds all the same.",
        course=_fail_falsely,
    ),
    Fault("stuck_100", "Fetch and list show IN_PROGRESS 100% for good when the task is done.", seen=_stay_at_100),
    Fault(
        "relay_timeout",
        "Fetch and list show the relay's own one-hour FAILURE, at once, while the task runs and calls back.",
        seen=_give_up,
    ),
    Fault("dropped", "The callback that tells of the end is never sent.", calls=_drop_end),
    Fault("duplicated", "Every callback is sent twice.", calls=_twice),
    Fault("reordered", "The end is called back before some of the progress.", calls=_overtaken),
    Fault("late", "Every callback is sent 20 seconds late.", calls=_later),
    Fault("hook_stripped", "The relay drops the notifyHook: no callback is ever sent.", calls=_none),
)
