"""Profiles: the task objects, callbacks and quirks of each known server (PROTOCOL.md §0, §5, §7, §12).

``default`` is what all known clients accept. The others are one real server each: the relay (new-api), the Java proxy
(novicezk/midjourney-proxy) and the C# proxy (trueai-org/midjourney-proxy).
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from receiver.simulator import answers, prompts
from receiver.simulator.answers import Answer
from receiver.simulator.tasks import Task, View
from receiver.simulator.timeline import Call, Step, Timeline, calls_for

KEEPS_CODE = frozenset({"INPAINT", "CUSTOM_ZOOM"})
"""Actions of the relay whose code 21 it does not replace (PROTOCOL.md §4)."""

CSHARP_LOOP = 3.0
"""Seconds between two turns of the C# sender's loop (PROTOCOL.md §7)."""

_JAVA_INSTANCE = "1118138338562560102"
_CSHARP_INSTANCE = "5e6ca8e1f40e4de6"
_PLACES = ("discordChannelId", "discordInstanceId")
_JSON_UTF_8 = "application/json; charset=utf-8"

_UNKNOWN_PARENT = answers.relay_error(answers.VALIDATION, "task_not_found")
_UNREADY_PARENT = answers.relay_error(answers.VALIDATION, "task_status_not_success")
_UNKNOWN_TASK = answers.relay_error(answers.VALIDATION, "task_no_found")
_NO_PROMPT = answers.validation("prompt不能为空")
_NO_INDEX = answers.validation("index参数错误")
_NO_VIDEO_PROMPT = answers.validation("Prompt 不能为空")
_NO_PATH = Answer(404, None)


# --- the relay -----------------------------------------------------------------------------------------------


def relay_task(view: View) -> dict[str, Any]:
    """Return the relay's own row: "" and 0 for unset, buttons and properties null before the first poll."""
    polled, work, step = view.step.status != "", view.task.work, view.step
    link = f"{view.origin}/mj/image/{view.task.id}" if view.picture is not None else ""
    if link and not view.succeeded:
        # Real nanoseconds: the only use of `rand` is to get past caches.
        link = f"{link}?rand={time.time_ns()}"
    progress = {"MODAL": "", "FAILURE": "100%"}.get(step.status, step.progress or "0%")
    return {
        "id": view.task.id,
        "action": work.relay_action or work.action,
        "customId": "",
        "botType": "",
        "prompt": work.prompt,
        "promptEn": view.prompt_en if polled else "",
        "description": view.profile.accepted,
        "state": (view.task.state or "") if polled else "",
        "submitTime": view.submit_time,
        "startTime": (view.start_time or 0) if polled else 0,
        "finishTime": view.finish_time or 0,
        "imageUrl": link,
        "videoUrl": next(iter(view.videos), ""),
        "videoUrls": [{"url": link} for link in view.videos] or None,
        "status": step.status,
        "progress": progress,
        "failReason": step.reason or "",
        "buttons": view.buttons if polled else None,
        "maskBase64": "",
        "properties": {"finalPrompt": view.final_prompt, "finalZhPrompt": ""} if polled else None,
    }


def default_task(view: View) -> dict[str, Any]:
    """Return the relay's keys with values that every known client accepts (PROTOCOL.md §12)."""
    progress = "0%" if view.step.progress is None else view.step.progress
    return {**relay_task(view), "progress": progress, "failReason": view.step.reason}


# --- the Java proxy ------------------------------------------------------------------------------------------


def _proxy_task(view: View) -> dict[str, Any]:
    """Return the keys that both proxies have, in their order."""
    return {
        "action": view.task.work.action,
        "status": view.step.status,
        "prompt": view.task.work.prompt,
        "promptEn": view.prompt_en,
        "description": view.command,
        "state": view.task.state or "",
        "submitTime": view.submit_time,
        "startTime": view.start_time,
        "finishTime": view.finish_time,
        "imageUrl": view.picture,
        "progress": view.step.progress,
        "failReason": view.step.reason,
    }


def java_task(view: View) -> dict[str, Any]:
    """Return the 14 keys of a Java task, the same in fetch and callback, with nulls and without buttons."""
    properties: dict[str, Any] = {
        "notifyHook": view.task.hook,
        "nonce": view.task.snowflake("nonce"),
        "discordInstanceId": _JAVA_INSTANCE,
    }
    if view.step.status in {"IN_PROGRESS", "SUCCESS"}:
        properties["progressMessageId"] = view.task.snowflake("progress message")
        properties["finalPrompt"] = view.final_prompt
    if view.picture:
        properties["messageHash"] = view.task.job
    if view.succeeded:
        properties |= {"messageId": view.task.snowflake("message"), "flags": 0}
    task = {"id": view.task.id, "properties": properties, **_proxy_task(view)}
    # Its describe writes the texts into all three fields, the C# proxy's into the other two (PROTOCOL.md §13.1).
    return {**task, "prompt": view.prompt_en} if view.task.work.action == "DESCRIBE" else task


def java_schedule(timeline: Timeline) -> list[Call]:
    """Return a call for each change. 0 % comes twice, because only lower statuses are dropped, not equal ones."""
    calls: list[Call] = []
    for call in calls_for(timeline):
        calls.append(call)
        if (call.step.status, call.step.progress) == ("IN_PROGRESS", "0%"):
            calls.append(Call(call.after + 0.3, call.step))
    return calls


def java_address(hook: str) -> str:
    """Return the hook read as a URI template: ``%`` is encoded again (PROTOCOL.md §7, §11). A brace is a ValueError."""
    if "{" in hook:
        raise ValueError("not enough variable values available to expand the hook")
    return hook.replace("%", "%25")


# --- the C# proxy --------------------------------------------------------------------------------------------

_CSHARP_KEYS = """
    parentId botType realBotType userId isWhite nonce interactionMetadataId messageId remixModalMessageId
    remixAutoSubmit! remixModaling! instanceId subInstanceId messageIds action status isCompleted prompt promptEn
    promptFull description language state submitTime startTime finishTime imageUrl baseImageUrl imageUrls thumbnailUrl
    progress failReason hasAIReviewRetried! isThirdParty! isPartner! isPartnerRelax! partnerTaskId partnerTaskInfo
    isOfficial! officialTaskId officialTaskInfo isDiscord buttons displays seed seedError seedMessageId clientIp jobId
    isReplicate! replicateSource replicateTarget mode requestMode accountFilter url proxyUrl height width size
    contentType imageHeight imageWidth videoGenOriginImageUrl videoDuration frameCount videoUrl videoUrls useTime
    version storageOption videoType isHdVideo! id properties
"""
"""The 75 keys in order, of the derived class first. Without a value they are null, or false where marked."""

_NOT_PLAIN = re.compile(r"\\(?:u[0-9a-f]{4}|.)|[&<>+'`\x7f]")


def csharp_task(view: View) -> dict[str, Any]:
    """Return the C# task with its 75 keys."""
    task, work, step = view.task, view.task.work, view.step
    # The proxy's own pages show Chinese local time.
    local = datetime.fromtimestamp(task.submitted, UTC) + timedelta(hours=8)
    values: dict[str, Any] = {
        **_proxy_task(view),
        "parentId": work.parent,
        "botType": task.bot_type,
        "userId": "admin",
        "isWhite": True,
        "nonce": task.snowflake("nonce"),
        "instanceId": _CSHARP_INSTANCE,
        "messageIds": [],
        "isCompleted": step.terminal,
        "isDiscord": True,
        "buttons": view.buttons,
        "displays": {
            "status": step.status,
            "submitTime": f"{local:%Y-%m-%d %H:%M:%S}",
            "startTime": None,
            "finishTime": None,
            "action": work.action,
            "discordInstanceId": _CSHARP_INSTANCE,
        },
        "clientIp": "203.0.113.7",
        "mode": task.mode.upper(),
        "requestMode": task.mode.upper(),
        "accountFilter": {
            "instanceId": None,
            "modes": list(task.filter_modes) or [task.mode.upper()],
            **dict.fromkeys(("remix", "nijiRemix", "remixAutoConsidered", "remark")),
        },
        "useTime": "-",
        "id": task.id,
        "properties": {
            "notifyHook": task.hook,
            "nonce": task.snowflake("nonce"),
            "botType": task.bot_type,
            "discordInstanceId": _CSHARP_INSTANCE,
            "discordChannelId": _CSHARP_INSTANCE,
        },
    }
    if view.start_time is not None and view.finish_time is not None:
        values["useTime"] = f"{(view.finish_time - view.start_time) / 1000:.2f} s"
    if view.succeeded:
        values |= _csharp_result(view)
        values["properties"] |= {
            "finalPrompt": view.final_prompt,
            "messageHash": task.job,
            "messageId": task.snowflake("message"),
            "flags": 0,
        }
    return {key.rstrip("!"): values.get(key.rstrip("!"), False if "!" in key else None) for key in _CSHARP_KEYS.split()}


def _csharp_result(view: View) -> dict[str, Any]:
    """Return the values that only a finished task has."""
    task, work = view.task, view.task.work
    message, film = task.snowflake("message"), work.film
    found: dict[str, Any] = {
        "messageId": message,
        "messageIds": [task.snowflake("progress message"), message],
        "jobId": task.job,
        "version": prompts.version(work.prompt),
    }
    if work.pictures:
        size = prompts.picture_size(work.pictures[0].ratio, view.profile.side)
        width, height = (side * work.enlarged for side in size)
        found |= dict.fromkeys(("width", "imageWidth"), width) | dict.fromkeys(("height", "imageHeight"), height)
        # A guess, as in the recorded payloads: the picture is only drawn on request.
        found |= {"size": width * height * 3 // 4, "contentType": "video/mp4" if film else "image/png"}
    if film:
        stills = [{"url": link, "thumbnail": f"{link[:-4]}_640_N.webp"} for link in view.videos]
        found |= {"videoDuration": 5, "frameCount": 125, "videoUrl": view.videos[0], "videoUrls": stills}
        found |= {"videoType": film.kind, "isHdVideo": film.kind.endswith("720")}
    elif work.pictures:
        single = f"{view.origin}/cdn/{task.job}/0_"
        found["imageUrls"] = [
            {"url": f"{single}{n}.png", "thumbnail": f"{single}{n}_640_N.webp"} for n in range(len(work.pictures))
        ]
        found["thumbnailUrl"] = f"{view.picture}width=256"
    return found


def csharp_schedule(timeline: Timeline) -> list[Call]:
    """Return the calls of a loop with turns of 3 s and the latest progress. The end comes at once and once more."""
    *progress, end = calls_for(timeline)
    calls: dict[int, Call] = {}
    for call in progress:
        turn = math.ceil((call.after - progress[0].after) / CSHARP_LOOP)
        calls[turn] = Call(progress[0].after + turn * CSHARP_LOOP, call.step)
    before = [call for call in calls.values() if call.after < end.after]
    # The memory of what was sent is erased at the end, so `finally` sends it again (PROTOCOL.md §7).
    return [*before, end, Call(end.after + CSHARP_LOOP, end.step)]


def csharp_encode(body: object) -> bytes:
    r"""Return JSON as System.Text.Json writes it (PROTOCOL.md §5): non-ASCII and ``& < > + ' "`` as ``\uXXXX``."""

    def escaped(found: re.Match[str]) -> str:
        part = found[0]
        if part.startswith("\\u"):
            return "\\u" + part[2:].upper()
        if part == '\\"':
            return "\\u0022"
        return part if part.startswith("\\") else f"\\u{ord(part):04X}"

    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return _NOT_PLAIN.sub(escaped, text).encode("ascii")


def _no_parent(http: int) -> Answer:
    return answers.coded(answers.NOT_FOUND, "关联任务不存在或已失效", http=http)


def _unreadable_by_java() -> Answer:
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.000+00:00"
    return Answer(400, {"timestamp": moment, "status": 400, "error": "Bad Request", "path": "/mj/submit/imagine"})


def _unreadable_by_csharp() -> Answer:
    message, now = "The JSON value could not be converted.", round(time.time() * 1000)
    return Answer(200, {"success": False, "code": -1, "message": message, "timestamp": now})


# --- all profiles -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider as seen from outside."""

    name: str
    description: str
    shape: Callable[[View], dict[str, Any]]  # the task object of fetch and list
    # Its callbacks
    called: Callable[[View], dict[str, Any]] = csharp_task
    call_encode: Callable[[object], bytes] = csharp_encode
    call_headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": _JSON_UTF_8})
    schedule: Callable[[Timeline], list[Call]] = csharp_schedule
    call_address: Callable[[str], str] = str
    # Its answers
    properties: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(_PLACES, _CSHARP_INSTANCE))
    encode: Callable[[object], bytes] = msgspec.json.encode  # JSON as this server writes it
    content_type: str = "application/json"
    accepted: str = "提交成功"
    lagging: bool = False  # fetch shows the last poll's view, not the live one
    previews: bool = True  # pictures are visible while IN_PROGRESS
    coerces: bool = False  # a number in place of a string is read as its text
    state_limit: float = 255
    hook_limit: float = 2000
    hides_codes: bool = False  # code 1 takes the place of 21 and 22, but see `KEEPS_CODE`
    unknown_parent: Answer = _UNKNOWN_PARENT  # there is no task to build on
    unready_parent: Answer = _UNREADY_PARENT  # the task to build on has not succeeded
    index_always: bool = False  # a change needs an index even for REROLL
    no_index: Answer = _NO_INDEX  # the answer when it has none
    no_simple_change: Answer | None = None  # the answer where simple-change does not work
    no_change: Answer | None = None  # the answer where change does not exist
    no_video_prompt: Answer | None = None  # the answer to a video without a prompt, where it needs one
    motion: str = ""  # motion of a video where none is sent
    links_in_lists: bool = True  # links are taken in base64Array
    lists: tuple[str, ...] = ()  # lists of all tasks: list, queue
    by_prefix: bool = False  # a customId is judged by its beginning alone
    outdated_buttons: bool = False  # a customId with an old or invented hash is accepted
    films_are_pictures: bool = True  # imageUrl of a video is the first mp4, not a still
    window_timeout: float = 3600.0  # seconds until a window that gets no answer fails the task
    numbers_states: bool = False  # "imagine all" gives each task the state with its number behind it
    side: int = prompts.SIDE  # of a square picture, in pixels
    unknown_task: Answer = _UNKNOWN_TASK
    no_prompt: Answer = _NO_PROMPT
    unreadable: Callable[[], Answer] = lambda: answers.relay_error(answers.VALIDATION, "bind_request_body_failed")

    def step(self, task: Task, now: float) -> Step:
        """Return the status as this server knows it now."""
        return task.polled_step(now) if self.lagging else task.fetched_step(now)

    def rewritten(self, answer: Answer, action: str) -> Answer:
        """Return a submit answer with the codes that the relay shows (PROTOCOL.md §4)."""
        body, hidden = answer.body, {answers.QUEUED, answers.EXISTS}
        if self.hides_codes and isinstance(body, dict) and body.get("code") in hidden and action not in KEEPS_CODE:
            return replace(answer, body={**body, "code": answers.ACCEPTED})
        return answer


ALL_PROFILES = (
    Profile(
        name="default",
        description="What every known client accepts: a live fetch, no empty status, each callback once.",
        shape=default_task,
        schedule=calls_for,
        accepted="Submission successful",
        outdated_buttons=True,
        films_are_pictures=False,
        lists=("list", "queue"),
    ),
    Profile(
        name="relay",
        description="new-api before a C# proxy: its view moves every 15 s and starts with an empty status.",
        shape=relay_task,
        lagging=True,
        hides_codes=True,
        no_prompt=answers.relay_error(answers.VALIDATION, "prompt_is_required"),
        index_always=True,
        no_index=answers.relay_error(answers.VALIDATION, "index_can_only_be_1_2_3_4"),
        no_simple_change=answers.relay_error(answers.VALIDATION, "task_id_is_required"),
        no_video_prompt=_NO_VIDEO_PROMPT,
        motion="low",
        numbers_states=True,
    ),
    Profile(
        name="java",
        description="novicezk's Java proxy alone: 14 keys, no buttons, equal states called back twice.",
        shape=java_task,
        called=java_task,
        call_encode=msgspec.json.encode,
        call_headers={
            "Content-Type": "application/json",
            "Accept": "application/json, application/*+json",
            "User-Agent": "Java/17.0.10",
        },
        schedule=java_schedule,
        call_address=java_address,
        properties={"discordInstanceId": _JAVA_INSTANCE},
        coerces=True,
        state_limit=math.inf,
        hook_limit=math.inf,
        unknown_task=Answer(200, None),
        unreadable=_unreadable_by_java,
        unknown_parent=_no_parent(200),
        unready_parent=answers.WRONG_STATUS,
        outdated_buttons=True,
        window_timeout=300.0,
        links_in_lists=False,
        lists=("list", "queue"),
    ),
    Profile(
        name="csharp",
        description="trueai's C# proxy alone: 75 keys, escaped JSON, no previews, the end called back twice.",
        shape=csharp_task,
        encode=csharp_encode,
        content_type=_JSON_UTF_8,
        previews=False,
        unknown_task=Answer(204, None),
        unreadable=_unreadable_by_csharp,
        unknown_parent=_no_parent(404),
        unready_parent=answers.WRONG_STATUS,
        window_timeout=300.0,
        numbers_states=True,
        no_change=_NO_PATH,
        no_simple_change=_NO_PATH,
        no_video_prompt=_NO_VIDEO_PROMPT,
        motion="low",
        lists=("list",),
        by_prefix=True,
    ),
)

PROFILES: dict[str, str] = {profile.name: profile.description for profile in ALL_PROFILES}
"""Name and one sentence of each profile."""
