"""Answers to bad input: `application/problem+json` (RFC 9457), and never an echo of what came in."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

log = structlog.get_logger("receiver.requests")

_MAX_PATH = 200
"""Characters of a path that the log keeps."""


class Problem(Exception):
    """Raised while a request is read, answered by `problem`. `detail` is a sentence of ours; `cause` says more, for the
    log alone; `members` are further members of the answer (RFC 9457 §3.2)."""

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


OURS = Problem(500, "Something went wrong here; it has been logged.")
"""A fault of ours."""


def problem(error: Problem) -> Response:
    """The answer to a problem."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        **error.members,
    }
    return Response(msgspec.json.encode(body), error.status, error.headers, media_type="application/problem+json")


_DETAILS: Mapping[int, str] = {
    404: "There is nothing here.",
    405: "This address does not take that method.",
}


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals (no such path, no such method) in our form."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - Starlette calls it with nothing else
    log.info("request.refused", status=exc.status_code, method=request.method, path=request.url.path[:_MAX_PATH])
    detail = _DETAILS.get(exc.status_code, "The request could not be answered.")
    return problem(Problem(exc.status_code, detail, exc.headers))


async def on_error(request: Request, exc: Exception) -> Response:
    """A fault of ours. Starlette logs it after this."""
    return problem(OURS)
