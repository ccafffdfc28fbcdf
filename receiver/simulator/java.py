"""The Java proxy (novicezk/midjourney-proxy): task object and way of calling back (PROTOCOL.md §5, §7)."""

from typing import Any

import msgspec

from receiver.simulator.course import Call, Course, calls_for
from receiver.simulator.tasks import View

INSTANCE = "1118138338562560102"

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, application/*+json",
    "User-Agent": "Java/17.0.10",
}


def task(view: View) -> dict[str, Any]:
    """The 14 keys of a Java task, the same in fetch and callback; nulls present, no buttons."""
    return {
        "id": view.task.id,
        "properties": _properties(view),
        "action": view.task.work.action,
        "status": view.step.status,
        "prompt": view.prompt,
        "promptEn": view.prompt,
        "description": view.command,
        "state": view.task.state,
        "submitTime": view.submit_time,
        "startTime": view.start_time,
        "finishTime": view.finish_time,
        "imageUrl": view.picture,
        "progress": view.step.progress,
        "failReason": view.step.reason,
    }


def _properties(view: View) -> dict[str, Any]:
    found: dict[str, Any] = {
        "notifyHook": view.task.hook,
        "nonce": view.task.snowflake("nonce"),
        "discordInstanceId": INSTANCE,
    }
    if view.step.status in {"IN_PROGRESS", "SUCCESS"}:
        found["progressMessageId"] = view.task.snowflake("progress message")
        found["finalPrompt"] = view.prompt
    if view.picture:
        found["messageHash"] = view.task.job
    if view.succeeded:
        found["messageId"] = view.task.snowflake("message")
        found["flags"] = 0
    return found


def schedule(course: Course) -> list[Call]:
    """A call for each change; 0 % comes twice, because only lower states are dropped, equal ones are not."""
    calls: list[Call] = []
    for call in calls_for(course):
        calls.append(call)
        if (call.step.status, call.step.progress) == ("IN_PROGRESS", "0%"):
            calls.append(Call(call.after + 0.3, call.step))
    return calls


def hook_address(hook: str) -> str:
    """The hook as a URI template: ``%`` is encoded again, ``{x}`` has no value (PROTOCOL.md §7, §11).

    Raises:
        ValueError: The hook holds a brace; such a hook is never called.
    """
    if "{" in hook:
        raise ValueError("not enough variable values available to expand the hook")
    return hook.replace("%", "%25")


def encode(body: object) -> bytes:
    """JSON in raw UTF-8."""
    return msgspec.json.encode(body)
