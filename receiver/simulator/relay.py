"""The relay (new-api) in front of a proxy: what its fetch and list show (PROTOCOL.md §0, §5)."""

from time import time_ns
from typing import Any

import msgspec

from receiver.simulator.course import Step
from receiver.simulator.tasks import View


def task(view: View) -> dict[str, Any]:
    """The relay's own row: "" and 0 for unset, buttons and properties null before the first poll."""
    polled, work = view.step.status != "", view.task.work
    return {
        "id": view.task.id,
        "action": work.relay_action or work.action,
        "customId": "",
        "botType": "",
        "prompt": view.prompt,
        "promptEn": view.prompt if polled else "",
        "description": view.task.description,
        "state": (view.task.state or "") if polled else "",
        "submitTime": view.submit_time,
        "startTime": (view.start_time or 0) if polled else 0,
        "finishTime": view.finish_time or 0,
        "imageUrl": _image_route(view),
        "videoUrl": next(iter(view.videos), ""),
        "videoUrls": [{"url": link} for link in view.videos] or None,
        "status": view.step.status,
        "progress": _progress(view.step),
        "failReason": view.step.reason or "",
        "buttons": view.buttons if polled else None,
        "maskBase64": "",
        "properties": {"finalPrompt": view.prompt, "finalZhPrompt": ""} if polled else None,
    }


def accepted_by_all(view: View) -> dict[str, Any]:
    """The relay's keys with the values that no foreign client stumbles over (PROTOCOL.md §12)."""
    progress = "0%" if view.step.progress is None else view.step.progress
    return {**task(view), "progress": progress, "failReason": view.step.reason}


def _progress(step: Step) -> str:
    if step.status == "MODAL":
        return ""
    return "100%" if step.status == "FAILURE" else step.progress or "0%"


def _image_route(view: View) -> str:
    if view.picture is None:
        return ""
    link = f"{view.origin}/mj/image/{view.task.id}"
    # Real nanoseconds: the only use of `rand` is to get past caches.
    return link if view.succeeded else f"{link}?rand={time_ns()}"


def encode(body: object) -> bytes:
    """JSON in raw UTF-8."""
    return msgspec.json.encode(body)
