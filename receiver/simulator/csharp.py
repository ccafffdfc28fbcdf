"""The C# proxy (trueai-org/midjourney-proxy): task object and way of calling back (PROTOCOL.md §5, §7)."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from receiver.simulator import prompts
from receiver.simulator.course import Call, Course, calls_for
from receiver.simulator.tasks import View
from receiver.simulator.works import Work

INSTANCE = "5e6ca8e1f40e4de6"
LOOP = 3.0
"""Seconds between two looks of the sender's loop (PROTOCOL.md §7)."""

HEADERS = {"Content-Type": "application/json; charset=utf-8"}

_NOT_PLAIN = re.compile(r"\\(?:u[0-9a-f]{4}|.)|[&<>+'`\x7f]")


def task(view: View) -> dict[str, Any]:
    """The C# task with its 75 keys, derived class first, then ``id`` and ``properties``."""
    return {
        **_head(view),
        **_course(view),
        **_account(view),
        **_picture_facts(view),
        "id": view.task.id,
        "properties": _properties(view),
    }


def _head(view: View) -> dict[str, Any]:
    message = view.task.snowflake("message")
    return {
        "parentId": view.task.work.parent,
        "botType": view.task.bot_type,
        "realBotType": None,
        "userId": "admin",
        "isWhite": True,
        "nonce": view.task.snowflake("nonce"),
        "interactionMetadataId": None,
        "messageId": message if view.succeeded else None,
        "remixModalMessageId": None,
        "remixAutoSubmit": False,
        "remixModaling": False,
        "instanceId": INSTANCE,
        "subInstanceId": None,
        "messageIds": [view.task.snowflake("progress message"), message] if view.succeeded else [],
    }


def _course(view: View) -> dict[str, Any]:
    pictured = view.succeeded and bool(view.task.work.shots) and not view.videos
    return {
        "action": view.task.work.action,
        "status": view.step.status,
        "isCompleted": view.step.terminal,
        "prompt": view.prompt,
        "promptEn": view.prompt,
        "promptFull": None,
        "description": view.command,
        "language": None,
        "state": view.task.state,
        "submitTime": view.submit_time,
        "startTime": view.start_time,
        "finishTime": view.finish_time,
        "imageUrl": view.picture,
        "baseImageUrl": None,
        "imageUrls": _single_pictures(view) if pictured else None,
        "thumbnailUrl": f"{view.picture}width=256" if pictured else None,
        "progress": view.step.progress,
        "failReason": view.step.reason,
    }


def _account(view: View) -> dict[str, Any]:
    return {
        "hasAIReviewRetried": False,
        "isThirdParty": False,
        "isPartner": False,
        "isPartnerRelax": False,
        "partnerTaskId": None,
        "partnerTaskInfo": None,
        "isOfficial": False,
        "officialTaskId": None,
        "officialTaskInfo": None,
        "isDiscord": True,
        "buttons": view.buttons,
        "displays": _displays(view),
        "seed": None,
        "seedError": None,
        "seedMessageId": None,
        "clientIp": "203.0.113.7",
        "jobId": view.task.job if view.succeeded else None,
        "isReplicate": False,
        "replicateSource": None,
        "replicateTarget": None,
        "mode": view.task.mode.upper(),
        "requestMode": view.task.mode.upper(),
        "accountFilter": _account_filter(view),
    }


def _picture_facts(view: View) -> dict[str, Any]:
    work = view.task.work
    width, height = _size(work) if view.succeeded else (None, None)
    film = work.film if view.succeeded else None
    return {
        "url": None,
        "proxyUrl": None,
        "height": height,
        "width": width,
        # A guess, as in the recorded payloads: the picture is only drawn when somebody asks for it.
        "size": width * height * 3 // 4 if width and height else None,
        "contentType": ("video/mp4" if film else "image/png") if width else None,
        "imageHeight": height,
        "imageWidth": width,
        "videoGenOriginImageUrl": None,
        "videoDuration": 5 if film else None,
        "frameCount": 125 if film else None,
        "videoUrl": view.videos[0] if film else None,
        "videoUrls": [{"url": link, "thumbnail": f"{link[:-4]}_640_N.webp"} for link in view.videos] or None,
        "useTime": _use_time(view),
        "version": prompts.version(work.prompt) if view.succeeded else None,
        "storageOption": None,
        "videoType": film.kind if film else None,
        "isHdVideo": bool(film and film.kind.endswith("720")),
    }


def _size(work: Work) -> tuple[int, int] | tuple[None, None]:
    if not work.shots:
        return None, None
    width, height = prompts.picture_size(work.shots[0].ratio)
    return width * work.enlarged, height * work.enlarged


def _single_pictures(view: View) -> list[dict[str, str]]:
    base = f"{view.origin}/cdn/{view.task.job}"
    return [
        {"url": f"{base}/0_{n}.png", "thumbnail": f"{base}/0_{n}_640_N.webp"} for n in range(len(view.task.work.shots))
    ]


def _displays(view: View) -> dict[str, Any]:
    # The proxy's own pages show Chinese local time.
    local = datetime.fromtimestamp(view.task.submitted, UTC) + timedelta(hours=8)
    return {
        "status": view.step.status,
        "submitTime": f"{local:%Y-%m-%d %H:%M:%S}",
        "startTime": None,
        "finishTime": None,
        "action": view.task.work.action,
        "discordInstanceId": INSTANCE,
    }


def _account_filter(view: View) -> dict[str, Any]:
    modes = list(view.task.filter_modes) or [view.task.mode.upper()]
    unset = dict.fromkeys(("remix", "nijiRemix", "remixAutoConsidered", "remark"))
    return {"instanceId": None, "modes": modes, **unset}


def _use_time(view: View) -> str:
    if view.start_time is None or view.finish_time is None:
        return "-"
    return f"{(view.finish_time - view.start_time) / 1000:.2f} s"


def _properties(view: View) -> dict[str, Any]:
    found: dict[str, Any] = {
        "notifyHook": view.task.hook,
        "nonce": view.task.snowflake("nonce"),
        "botType": view.task.bot_type,
        "discordInstanceId": INSTANCE,
        "discordChannelId": INSTANCE,
    }
    if view.succeeded:
        found["finalPrompt"] = view.prompt
        found["messageHash"] = view.task.job
        found["messageId"] = view.task.snowflake("message")
        found["flags"] = 0
    return found


def schedule(course: Course) -> list[Call]:
    """A loop looks every 3 s and tells what rose; the end is told at once and, 3 s later, once more."""
    *progress, end = calls_for(course)
    calls: dict[int, Call] = {}
    for call in progress:
        turn = math.ceil((call.after - progress[0].after) / LOOP)
        calls[turn] = Call(progress[0].after + turn * LOOP, call.step)
    told = [call for call in calls.values() if call.after < end.after]
    # The memory of what was told is erased at the end, so `finally` tells it again (PROTOCOL.md §7).
    return [*told, end, Call(end.after + LOOP, end.step)]


def encode(body: object) -> bytes:
    r"""JSON as System.Text.Json writes it (PROTOCOL.md §5): non-ASCII and ``& < > + ' "`` as ``\uXXXX``."""
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return _NOT_PLAIN.sub(_escape, text).encode("ascii")


def _escape(found: re.Match[str]) -> str:
    part = found[0]
    if part.startswith("\\u"):
        return "\\u" + part[2:].upper()
    if part == '\\"':
        return "\\u0022"
    return part if part.startswith("\\") else f"\\u{ord(part):04X}"
