"""`POST /callbacks/<URL token>`: what the provider's callbacks meet.

Checks go from cheap to dear: method → length → token → content type → bytes under a deadline → JSON → task → state →
(inside the journal's transaction) binding. Nothing unsigned is stored, and 2xx is said only after the commit.

    URL token bad                                                     401, body unread, one answer for every cause
    URL token good, but `state` or the task id is not its submission's   202: kept, and the provider is asked now
    no URL token (`POST /callbacks`), `state` good                    202: the same
    both good                                                         200: kept and believed
    more than can be written, or too long a wait for the commit       503 (see `web.admission`)
    no journal, and not confirmed or not delivered                    500 (see `receiver.courier`)
"""

from __future__ import annotations

from typing import Protocol

import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from receiver.errors import JournalError, NotATask, NotDelivered, NotFound, NotJSON, TokenError
from receiver.tasks import Task, decode_task
from receiver.tokens import Tokens
from receiver.verification import trust
from receiver.web.admission import Admission
from receiver.web.bodies import Bodies, Gone
from receiver.web.problems import OURS, Problem, problem

log = structlog.get_logger("receiver.callbacks")

_BELIEVED = JSONResponse({"accepted": True}, 200)
_KEPT = JSONResponse({"accepted": False}, 202)

PATH = "/callbacks"
MAX_BODY = 256 * 1024
"""Bytes; real callbacks have 1–6 KB."""
_LINGER = 1024 * 1024
"""Bytes of a body too large that are still read, and forgotten."""


class Takes(Protocol):
    """What callbacks go to: `Intake`, or where there is no journal `Courier`."""

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool: ...


class Callbacks:
    """An ASGI endpoint, for both addresses. Counts what it refused as unsigned in `unsigned`."""

    def __init__(self, *, intake: Takes, tokens: Tokens, admission: Admission, body_timeout: float = 10.0) -> None:
        self._intake = intake
        self._tokens = tokens
        self._admission = admission
        self._bodies = Bodies(name="Callbacks", limit=MAX_BODY, linger=_LINGER, seconds=body_timeout)
        self.unsigned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Problem as exc:
            level = log.error if exc.status >= 500 else log.info
            level("callback.refused", status=exc.status, reason=exc.detail, cause=exc.cause, unsigned=self.unsigned)
            response = problem(exc)
        except Gone:
            log.info("callback.broken_off")
            return
        except Exception:
            log.exception("callback.failed")
            response = problem(OURS)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] != "POST":
            raise Problem(405, "Callbacks come by POST.", {"Allow": "POST"})
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        await self._bodies.check_length(headers, receive)
        token = route_path(scope).removeprefix(PATH)
        submission_id = self._read_url_token(token[1:]) if token else None
        self._bodies.check_type(headers)
        body = await self._bodies.read(receive)
        return await self._take(submission_id, _task(body), body)

    async def _take(self, url_id: str | None, view: Task, body: bytes) -> Response:
        try:
            submission_id, cause = trust(self._tokens, url_id, view.state)
        except TokenError as exc:
            raise self._unsigned(exc.cause) from exc
        try:
            with self._admission.enter(len(body)):
                accepted = await self._intake.received(submission_id, view, body, cause)
        except NotDelivered as exc:
            raise Problem(500, "The result did not reach every place it is for.", cause=str(exc)) from exc
        except NotFound as exc:
            raise Problem(404, "The submission this callback belongs to is not here.") from exc
        except JournalError as exc:
            detail = "The callback could not be stored; send it again."
            raise Problem(503, detail, {"Retry-After": "5"}, cause=str(exc)) from exc
        if accepted:
            log.debug(
                "callback.received", submission=submission_id, task=view.id, status=view.status, progress=view.progress
            )
            return _BELIEVED
        log.info("callback.received", submission=submission_id, task=view.id, accepted=False, cause=cause)
        return _KEPT

    def _read_url_token(self, token: str) -> str:
        try:
            return self._tokens.read_url_token(token)
        except TokenError as exc:
            raise self._unsigned(exc.cause) from exc

    def _unsigned(self, cause: str) -> Problem:
        self.unsigned += 1
        return Problem(401, "This address is not signed by us.", cause=cause)


def route_path(scope: Scope) -> str:
    """The path below the one we are mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"})


def _task(body: bytes) -> Task:
    try:
        return decode_task(body)
    except NotJSON as exc:
        raise Problem(400, "The body is not JSON.") from exc
    except NotATask as exc:
        raise Problem(422, "The body is no task object: it needs at least an `id`.") from exc
