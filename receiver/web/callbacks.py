"""`POST /callbacks/<URL token>`: verify a callback of the provider, and give it to intake.

Checks go from cheap to dear: method → length → token → content type → bytes under a deadline → JSON → task → state →
binding (inside the journal's transaction). Nothing unsigned is stored, and 2xx is sent only after the commit.

    URL token bad                                                        401, body unread, the same for every cause
    URL token good, but `state` or the task id is not its submission's   202: kept, and the provider is asked now
    no URL token (`POST /callbacks`), `state` good                       202: the same
    the body is ISO-8859-1, as old Java senders write it                 202: the same
    both good                                                            200: kept and accepted
    the submission has had its share of callbacks                        429: nothing is kept, and polls show the rest
    more at once than the share of one token (`AT_ONCE`)                 429, body unread
    overload, or too long a wait for the commit                          503 (see `web.admission`)
    no journal, and not confirmed or not delivered                       500 (see `app.stateless`)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from receiver import metrics
from receiver.errors import JournalError, NotATask, NotDelivered, NotFound, NotJSON, TokenError, TooManyCallbacks
from receiver.tasks import Task, decode_any_task
from receiver.telemetry import Log
from receiver.tokens import Tokens, trust
from receiver.web.admission import RETRY, Admission, BodyLimits, Shares
from receiver.web.problems import INTERNAL, Problem, problem

log = Log("receiver.callbacks")

PATH = "/callbacks"
MAX_BODY = 256 * 1024
"""Bytes. Real callbacks have 1–6 KB."""
AT_ONCE = 64
"""Callbacks of one URL token at a time. A task makes one after the other."""
UNNAMED = ""
"""The sender of all callbacks without a URL token. They are read before it is known that they are signed."""
_ACCEPTED = JSONResponse({"accepted": True}, 200)
_KEPT = JSONResponse({"accepted": False}, 202)
_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"})


class TakesCallbacks(Protocol):
    """The destination of verified callbacks: `Intake`, or `StatelessReceive` without a journal."""

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool: ...


class CallbacksFirst(Starlette):
    """An app that sends callbacks past its middleware and routes, which would take a third of a bare route's time.
    Nearly all requests are callbacks."""

    callbacks: Callbacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            if path.startswith(PATH) and (path == PATH or path[len(PATH)] == "/"):
                await self.callbacks(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Callbacks:
    """An ASGI endpoint for both addresses. `unsigned` counts the callbacks refused with 401."""

    def __init__(
        self, *, intake: TakesCallbacks, tokens: Tokens, admission: Admission, body_timeout: float = 10.0
    ) -> None:
        self._intake = intake
        self._tokens = tokens
        self._admission = admission
        self._bodies = BodyLimits(name="Callbacks", limit=MAX_BODY, seconds=body_timeout)
        self._shares = Shares(AT_ONCE)
        self.unsigned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Problem as exc:
            level = log.error if exc.status >= 500 else log.info
            level("callback.refused", status=exc.status, reason=exc.detail, cause=exc.cause, unsigned=self.unsigned)
            response = problem(exc)
        except ClientDisconnect:
            log.info("callback.broken_off")
            return
        except Exception as exc:
            log.error("callback.failed", exc_info=exc)
            response = problem(INTERNAL)
        if metrics.counting:
            metrics.callback_answered(response.status_code)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] != "POST":
            raise Problem(405, "A callback must be a POST.", {"Allow": "POST"})
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        await self._bodies.check_length(headers, receive)
        token = route_path(scope).removeprefix(PATH)
        try:
            # Some senders add a slash.
            url_id = self._tokens.read_url_token(token[1:].removesuffix("/")) if token else None
        except TokenError as exc:
            raise self._unsigned(exc) from exc
        sender = url_id or UNNAMED
        self._shares.take(sender)
        try:
            return await self._take(url_id, headers, receive)
        finally:
            self._shares.give_back(sender)

    async def _take(self, url_id: str | None, headers: Mapping[bytes, bytes], receive: Receive) -> Response:
        try:
            self._bodies.check_type(headers)
            body = await self._bodies.read(receive)
            view, text = decode_any_task(body)
            submission_id, cause = trust(self._tokens, url_id, view.state, utf8=text is body)
        except TokenError as exc:
            raise self._unsigned(exc) from exc
        except NotJSON as exc:
            raise Problem(400, "The body is not JSON.") from exc
        except NotATask as exc:
            raise Problem(422, "The body is not a task object: it needs at least an `id`.") from exc
        try:
            began = time.perf_counter()
            accepted = await self._admission.run(len(body), self._intake.received, submission_id, view, text, cause)
            if metrics.counting:
                metrics.CALLBACK_SECONDS.observe(time.perf_counter() - began)
        except NotDelivered as exc:
            raise Problem(500, "The result did not reach every destination.", cause=str(exc)) from exc
        except NotFound as exc:
            raise Problem(404, "The submission of this callback does not exist here.") from exc
        except TooManyCallbacks as exc:
            raise Problem(429, "This submission has had its share of callbacks. It is polled instead.") from exc
        except JournalError as exc:
            raise Problem(503, "The callback could not be stored. Send it again.", RETRY, cause=str(exc)) from exc
        if accepted:
            log.debug(
                "callback.received", submission=submission_id, task=view.id, status=view.status, progress=view.progress
            )
            return _ACCEPTED
        log.info("callback.received", submission=submission_id, task=view.id, accepted=False, cause=cause)
        return _KEPT

    def _unsigned(self, error: TokenError) -> Problem:
        self.unsigned += 1
        return Problem(401, "This address is not signed by us.", cause=error.cause)


def route_path(scope: Scope) -> str:
    """Return the path below the one at which we are mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
