"""Errors as answers, and one log line for each request: everything an endpoint of the API does alike."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from receiver.errors import (
    Conflict,
    InputError,
    JournalError,
    MediaError,
    NotFound,
    ProviderError,
    ReceiverError,
    Refused,
)
from receiver.web.api.access import Access
from receiver.web.api.records import clean
from receiver.web.bodies import Gone
from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.api")

Endpoint = Callable[[Request], Awaitable[Response]]
Named = Callable[[Request, str], Awaitable[Response]]
"""An endpoint that is told who calls."""

PROVIDER_FAULTS = frozenset({"unauthorized", "wrong_address", "unreachable", "failed"})
"""Outcomes for which nobody who calls here can do anything."""
RETRY = {"Retry-After": "5"}


def guarded(access: Access, answer: Named) -> Endpoint:
    """The endpoint for callers with a token. Every error becomes a problem, and the log learns who asked for what."""

    async def endpoint(request: Request) -> Response:
        caller = None
        cause = None
        try:
            caller = access.caller(request.headers)
            response = await answer(request, caller)
        except (Problem, ReceiverError) as exc:
            found = exc if isinstance(exc, Problem) else problem_of(exc)
            cause = found.cause or found.detail
            response = problem(found)
        except Gone:
            cause = "the sender hung up"
            response = Response(status_code=400)
        level = log.error if response.status_code >= 500 else log.info
        level(
            "request.answered", method=request.method, path=request.url.path, status=response.status_code,
            caller=caller, cause=cause,
        )  # fmt: skip
        return response

    return endpoint


def problem_of(exc: ReceiverError, submission_id: str | None = None) -> Problem:
    """The answer to an error.

    Args:
        exc: what an endpoint ran into.
        submission_id: the submission it happened to, if there is one.
    """
    members: dict[str, str] = {} if submission_id is None else {"submission": submission_id}
    if isinstance(exc, Refused):
        return _refusal(exc, members)
    if isinstance(exc, Conflict):
        return Problem(409, "That Idempotency-Key came with another request before.", cause=str(exc))
    if isinstance(exc, InputError):
        return Problem(422, _without_shell(str(exc)), members=members)
    if isinstance(exc, NotFound):
        return Problem(404, _without_shell(str(exc)), members=members)
    if isinstance(exc, ProviderError):
        return Problem(502, clean(str(exc)), members={"outcome": type(exc).__name__.lower(), **members})
    if isinstance(exc, JournalError | MediaError):
        kept = "journal" if isinstance(exc, JournalError) else "media store"
        detail = f"The {kept} cannot be used now; send it again."
        return Problem(503, detail, RETRY, cause=str(exc), members=members)
    raise exc


def _refusal(exc: Refused, members: Mapping[str, str]) -> Problem:
    status = 502 if exc.outcome in PROVIDER_FAULTS else 503 if exc.retry else 422
    headers = {"Retry-After": str(int(exc.retry_after or 5))} if status == 503 else {}
    return Problem(status, clean(str(exc)), headers, members={"outcome": exc.outcome, **members})


_SHELL = re.compile(r"\s*See: receiver .*\Z", re.DOTALL)


def _without_shell(text: str) -> str:
    """The sentence for somebody who has no shell here to look further."""
    return clean(_SHELL.sub("", text))


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of records. Nobody on the way may keep it: it changes, and not everyone may see it."""
    fields = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(value), status, fields, media_type="application/json")
