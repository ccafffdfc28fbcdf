"""Error answers: `application/problem+json` (RFC 9457), which never echo the input."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from receiver.telemetry import Log

log = Log("receiver.requests")

_MAX_PATH = 200
"""Characters of a path that are logged."""
_DETAILS: Mapping[int, str] = {
    404: "There is nothing here.",
    405: "This address does not take that method.",
}


class Problem(Exception):
    """An error answer, raised while a request is handled. `detail` is a sentence of ours, `cause` says more in the log
    only, `members` are further members of the answer (RFC 9457 §3.2)."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        cause: str | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.cause = cause
        self.members = dict(members or {})


INTERNAL = Problem(500, "Something went wrong here. It has been logged.")
"""The answer to an error of ours."""


def problem(error: Problem) -> Response:
    """Return the answer to a problem."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        **error.members,
    }
    return Response(msgspec.json.encode(body), error.status, error.headers, media_type="application/problem+json")


async def answer_error(request: Request, exc: Exception) -> Response:
    """Answer a problem that an endpoint raises, an error of Starlette's (unknown path or method), or one of ours.

    Starlette logs the last kind afterwards.
    """
    if isinstance(exc, Problem):
        return problem(exc)
    if not isinstance(exc, HTTPException):
        return problem(INTERNAL)
    log.info("request.refused", status=exc.status_code, method=request.method, path=request.url.path[:_MAX_PATH])
    detail = _DETAILS.get(exc.status_code, "The request could not be answered.")
    return problem(Problem(exc.status_code, detail, exc.headers))


HANDLERS = dict.fromkeys((Problem, HTTPException, Exception), answer_error)
"""Answers to the errors of an application's endpoints."""
