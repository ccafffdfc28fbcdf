"""Answers to requests other than a task object (PROTOCOL.md §2 submit response, §4 codes)."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACCEPTED, EXISTS, QUEUED, QUEUE_FULL, BANNED_WORD = 1, 21, 22, 23, 24
NOT_FOUND, VALIDATION, AMBIGUOUS, FAILED, SATURATED = 3, 4, 5, 9, 30


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and body, sent after ``after`` simulated seconds.

    The body is sent as JSON, except that text is HTML and None is no bytes at all.
    """

    http: int
    body: dict[str, Any] | list[Any] | str | None
    after: float = 0.0


def coded(
    code: int, description: str, result: object = None, properties: Mapping[str, Any] | None = None, http: int = 200
) -> Answer:
    """Return a proxy's answer to a submit (payloads submit_01–09)."""
    body = {"code": code, "description": description, "result": result, "properties": dict(properties or {})}
    return Answer(http, body)


def validation(description: str = "参数错误") -> Answer:
    """Return code 4 of the upstream, HTTP 200 (payload submit_07)."""
    return coded(VALIDATION, description)


NO_PICTURE = validation("base64格式错误")
NO_MASK = validation("局部重绘时，蒙版不能为空")
NO_BUTTON = validation("customId 无效")
WRONG_STATUS = validation("关联任务状态错误")


def relay_error(code: int, description: str, http: int = 400) -> Answer:
    """Return an error of the relay itself, whose description ends in a space (payloads error_02–04)."""
    return Answer(http, {"description": f"{description} ", "type": "upstream_error", "code": code})


def comet_error(http: int, code: str, message: str) -> Answer:
    """Return an error of the relay's router (PROTOCOL.md §4, payload error_07)."""
    message = f"{message} (request id: {_request_id()})"
    return Answer(http, {"error": {"code": code, "message": message, "type": "comet_api_error"}})


def unauthorized() -> Answer:
    """Return the relay's answer to a wrong key (payload error_06)."""
    message = f"无效的令牌 (request id: {_request_id()})"
    return Answer(401, {"error": {"message": message, "type": "new_api_error"}})


def _request_id() -> str:
    return f"{time.strftime('%Y%m%d%H%M%S')}{time.time_ns() % 10**9:09d}{secrets.token_urlsafe(6)}"


def html_page(http: int, title: str) -> Answer:
    """Return a page of the web server in front of the relay (PROTOCOL.md §1)."""
    page = f"<!DOCTYPE html>\n<html><head><title>{http}: {title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Answer(http, page)
