"""The relay (new-api) in front of a proxy: what its fetch and list show (PROTOCOL.md §0, §5)."""

from time import time_ns
from typing import Any

import msgspec

from receiver.simulator.tasks import View, buttons


def task(view: View) -> dict[str, Any]:
    """The relay's own row: "" and 0 for unset, buttons and properties null before the first poll."""
    polled = view.step.status != ""
    return {
        "id": view.task.id,
        "action": "IMAGINE",
        "customId": "",
        "botType": "",
        "prompt": view.task.prompt,
        "promptEn": view.task.prompt if polled else "",
        "description": view.task.description,
        "state": (view.task.state or "") if polled else "",
        "submitTime": view.submit_time,
        "startTime": (view.start_time or 0) if polled else 0,
        "finishTime": view.finish_time or 0,
        "imageUrl": _image_route(view),
        "videoUrl": "",
        "videoUrls": None,
        "status": view.step.status,
        "progress": "100%" if view.step.status == "FAILURE" else view.step.progress or "0%",
        "failReason": view.step.reason or "",
        "buttons": _buttons(view) if polled else None,
        "maskBase64": "",
        "properties": {"finalPrompt": view.task.prompt, "finalZhPrompt": ""} if polled else None,
    }


def accepted_by_all(view: View) -> dict[str, Any]:
    """The relay's keys with the values that no foreign client stumbles over (PROTOCOL.md §12)."""
    progress = "0%" if view.step.progress is None else view.step.progress
    return {**task(view), "progress": progress, "failReason": view.step.reason}


def _buttons(view: View) -> list[dict[str, object]]:
    return buttons(view.task.job) if view.succeeded else []


def _image_route(view: View) -> str:
    if view.picture is None:
        return ""
    link = f"{view.origin}/mj/image/{view.task.id}"
    # Real nanoseconds: the only use of `rand` is to get past caches.
    return link if view.succeeded else f"{link}?rand={time_ns()}"


def encode(body: object) -> bytes:
    """JSON in raw UTF-8."""
    return msgspec.json.encode(body)
