"""Every answer to a request other than a task object (PROTOCOL.md §2 submit response, §4 codes)."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACCEPTED, EXISTS, QUEUED, QUEUE_FULL, BANNED_WORD = 1, 21, 22, 23, 24
NOT_FOUND, VALIDATION, AMBIGUOUS, FAILED, SATURATED = 3, 4, 5, 9, 30


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and a body, ``after`` simulated seconds.

    The body is sent as JSON, except that `NOTHING` is sent as no bytes at all and a `Page` as HTML.
    """

    http: int
    body: object
    after: float = 0.0


NOTHING = object()


class Page(str):
    """HTML."""

    __slots__ = ()


def accepted(result: object, description: str, properties: Mapping[str, Any]) -> Answer:
    """Code 1 (payload submit_01)."""
    body = {"code": ACCEPTED, "description": description, "result": result, "properties": dict(properties)}
    return Answer(200, body)


def existed(task_id: str, picture: str, properties: Mapping[str, Any]) -> Answer:
    """Code 21 with a task that is there already (payload submit_05)."""
    facts = {"status": "SUCCESS", "imageUrl": picture, **properties}
    return Answer(200, {"code": EXISTS, "description": "任务已存在", "result": task_id, "properties": facts})


def window_opened(task_id: object, final_prompt: str, properties: Mapping[str, Any]) -> Answer:
    """Code 21 with a task that waits for submit/modal (payload submit_06)."""
    facts = {"finalPrompt": final_prompt, "remix": True, **properties}
    description = "Waiting for window confirm"
    return Answer(200, {"code": EXISTS, "description": description, "result": task_id, "properties": facts})


def queued(task_id: object, waiting: int, properties: Mapping[str, Any]) -> Answer:
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


def no_account() -> Answer:
    """Code 3: no account can do it now (payload submit_08)."""
    return Answer(200, {"code": NOT_FOUND, "description": "无可用的账号实例", "result": None, "properties": {}})


def parent_not_found(http: int) -> Answer:
    """Code 3 from a proxy: no task of this id (PROTOCOL.md §4)."""
    description = "关联任务不存在或已失效"
    return Answer(http, {"code": NOT_FOUND, "description": description, "result": None, "properties": {}})


def failed(properties: Mapping[str, Any]) -> Answer:
    """Code 9 (payload submit_09)."""
    description = "提交失败，系统异常"
    return Answer(200, {"code": FAILED, "description": description, "result": None, "properties": dict(properties)})


def saturated() -> Answer:
    """Code 30 from the relay: the group has too much to do (payload error_03)."""
    description = "rate limited 当前分组负载已饱和，请稍后再试，或升级账户以提升服务质量。"
    return Answer(429, {"description": description, "type": "upstream_error", "code": SATURATED})


def no_channel() -> Answer:
    """The relay's router found nobody to ask (payload error_07)."""
    message = f"no available channel for group default and model mj_imagine (distributor) (request id: {_request_id()})"
    return Answer(503, {"error": {"code": "model_not_found", "message": message, "type": "comet_api_error"}})


def server_error() -> Answer:
    """HTTP 500 in the relay's words (PROTOCOL.md §4)."""
    message = f"system error (request id: {_request_id()})"
    return Answer(500, {"error": {"code": "", "message": message, "type": "comet_api_error"}})


def html_page(http: int, title: str) -> Answer:
    """A page of whatever stands in front of the relay (PROTOCOL.md §1)."""
    page = f"<!DOCTYPE html>\n<html><head><title>{http}: {title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Answer(http, Page(page))


def relay_error(code: int, description: str, http: int = 400) -> Answer:
    """An error of the relay itself; the space that ends the description is its own (payloads error_02–04)."""
    return Answer(http, {"description": f"{description} ", "type": "upstream_error", "code": code})


def unauthorized() -> Answer:
    """The relay's answer to a wrong key (payload error_06)."""
    message = f"无效的令牌 (request id: {_request_id()})"
    return Answer(401, {"error": {"message": message, "type": "new_api_error"}})


def _request_id() -> str:
    return f"{time.strftime('%Y%m%d%H%M%S')}{time.time_ns() % 10**9:09d}{secrets.token_urlsafe(6)}"


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
