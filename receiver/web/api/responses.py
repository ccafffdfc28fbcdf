"""Answers of the API: records as JSON, errors as problems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
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
from receiver.web.admission import RETRY
from receiver.web.api.records import clean
from receiver.web.problems import Problem

PROVIDER_FAULTS = frozenset({"unauthorized", "wrong_address", "unreachable", "failed"})
"""Outcomes about which the caller can do nothing."""
_SHELL = re.compile(r"\s*See: receiver .*\Z", re.DOTALL)
"""Advice for a shell, which a caller does not have."""


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return records as JSON that no cache may store: they change, and not everyone may see them."""
    fields = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(value), status, fields, media_type="application/json")


def problem_of(exc: ReceiverError, submission_id: str | None = None) -> Problem:
    """Return the problem for an error of an endpoint.

    Args:
        exc: the error. An unknown kind is raised again.
        submission_id: the submission it concerns, if there is one.
    """
    members: dict[str, str] = {} if submission_id is None else {"submission": submission_id}
    if isinstance(exc, Refused):
        status = 502 if exc.outcome in PROVIDER_FAULTS else 503 if exc.retry else 422
        headers = {"Retry-After": str(int(exc.retry_after or 5))} if status == 503 else {}
        return Problem(status, clean(str(exc)), headers, members={"outcome": exc.outcome, **members})
    if isinstance(exc, Conflict):
        return Problem(409, "That Idempotency-Key was used with another request.", cause=str(exc))
    if isinstance(exc, InputError | NotFound):
        status = 404 if isinstance(exc, NotFound) else 422
        return Problem(status, clean(_SHELL.sub("", str(exc))), members=members)
    if isinstance(exc, ProviderError):
        return Problem(502, clean(str(exc)), members={"outcome": type(exc).__name__.lower(), **members})
    if isinstance(exc, JournalError | MediaError):
        name = "journal" if isinstance(exc, JournalError) else "media store"
        return Problem(503, f"The {name} cannot be used now. Send it again.", RETRY, cause=str(exc), members=members)
    raise exc
