"""Every answer to a request other than a task object (PROTOCOL.md §2 submit response, §4 codes)."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACCEPTED, EXISTS, QUEUED, QUEUE_FULL, BANNED_WORD = 1, 21, 22, 23, 24
VALIDATION, AMBIGUOUS = 4, 5


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and a JSON body; a body of `NOTHING` is sent as no bytes at all."""

    http: int
    body: object


NOTHING = object()


def accepted(task_id: str, description: str, properties: Mapping[str, Any]) -> Answer:
    """Code 1 (payload submit_01)."""
    body = {"code": ACCEPTED, "description": description, "result": task_id, "properties": dict(properties)}
    return Answer(200, body)


def queued(task_id: str, waiting: int, properties: Mapping[str, Any]) -> Answer:
    """Code 22 with the number of tasks ahead (payload submit_02)."""
    description = f"排队中，前面还有{waiting}个任务"
    facts = {"numberOfQueues": waiting, **properties}
    return Answer(200, {"code": QUEUED, "description": description, "result": task_id, "properties": facts})


def queue_full(properties: Mapping[str, Any]) -> Answer:
    """Code 23, result null: no task was made (payload submit_03b)."""
    description = "Queue is full, please try again later"
    return Answer(200, {"code": QUEUE_FULL, "description": description, "result": None, "properties": dict(properties)})


def banned_word(prompt: str, word: str) -> Answer:
    """Code 24 with the word, and no ``result`` key (payload submit_04)."""
    facts = {"promptEn": prompt, "bannedWord": word}
    return Answer(200, {"code": BANNED_WORD, "description": "可能包含敏感词", "properties": facts})


def validation(description: str = "参数错误") -> Answer:
    """Code 4 from the upstream, HTTP 200 (payload submit_07)."""
    return Answer(200, {"code": VALIDATION, "description": description, "result": None, "properties": {}})


def relay_error(code: int, description: str, http: int = 400) -> Answer:
    """An error of the relay itself; the space that ends the description is its own (payloads error_02–04)."""
    return Answer(http, {"description": f"{description} ", "type": "upstream_error", "code": code})


def unauthorized() -> Answer:
    """The relay's answer to a wrong key (payload error_06)."""
    request_id = f"{time.strftime('%Y%m%d%H%M%S')}{time.time_ns() % 10**9:09d}{secrets.token_urlsafe(6)}"
    message = f"无效的令牌 (request id: {request_id})"
    return Answer(401, {"error": {"message": message, "type": "new_api_error"}})


def unreadable_by_relay() -> Answer:
    """A body that does not bind to the relay's model (PROTOCOL.md §2)."""
    return relay_error(VALIDATION, "bind_request_body_failed")


def unreadable_by_csharp() -> Answer:
    """A body that does not bind to the C# model: HTTP 200, code −1 (PROTOCOL.md §2, §4)."""
    message = "The JSON value could not be converted."
    return Answer(200, {"success": False, "code": -1, "message": message, "timestamp": round(time.time() * 1000)})


def unreadable_by_java() -> Answer:
    """Spring's error page as JSON."""
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.000+00:00"
    path = "/mj/submit/imagine"
    return Answer(400, {"timestamp": moment, "status": 400, "error": "Bad Request", "path": path})


def picture_error(reason: str, http: int) -> Answer:
    """The relay's picture route, failing (payload error_09)."""
    return Answer(http, {"error": reason})
