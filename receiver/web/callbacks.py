"""`POST /callbacks/<URL token>`: what the provider's callbacks meet.

Checks go from cheap to dear: method → length → token → content type → bytes under a deadline → JSON → task → state →
(inside the journal's transaction) binding. Nothing unsigned is stored, and 2xx is said only after the commit.

    URL token bad                                                     401, body unread, one answer for every cause
    URL token good, but `state` or the task id is not its submission's   202: kept, and the provider is asked now
    no URL token (`POST /callbacks`), `state` good                    202: the same
    both good                                                         200: kept and believed
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from receiver.errors import JournalError, NotATask, NotFound, NotJSON, TokenError
from receiver.intake import Intake
from receiver.tasks import Task, decode_json, read_task
from receiver.tokens import Tokens
from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.callbacks")

MAX_BODY = 256 * 1024
"""Bytes; real callbacks have 1–6 KB."""
_LINGER = 1024 * 1024
"""Bytes of a body too large that are still read, and forgotten."""


class Callbacks:
    """An ASGI endpoint, for both addresses. Counts what it refused as unsigned in `unsigned`."""

    def __init__(self, *, intake: Intake, tokens: Tokens, body_timeout: float = 10.0) -> None:
        self._intake = intake
        self._tokens = tokens
        self._body_timeout = body_timeout
        self.unsigned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Problem as exc:
            level = log.error if exc.status >= 500 else log.info
            level("callback.refused", status=exc.status, reason=exc.detail, cause=exc.cause, unsigned=self.unsigned)
            response = problem(exc)
        except _Gone:
            log.info("callback.broken_off")
            return
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        if scope["method"] != "POST":
            raise Problem(405, "Callbacks come by POST.", {"Allow": "POST"})
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        if (length := _length(headers)) > MAX_BODY:
            if length <= _LINGER:
                await self._body(receive)
            raise _too_large()
        token = scope["path_params"].get("token")
        submission_id = None if token is None else self._read_url_token(token)
        _check_type(headers)
        body = await self._body(receive)
        view = _task(body)
        return await self._take(submission_id, view, body)

    async def _take(self, url_id: str | None, view: Task, body: bytes) -> Response:
        submission_id, cause = self._trust(url_id, view.state)
        try:
            accepted = await self._intake.received(submission_id, view, _text(body), cause)
        except NotFound as exc:
            raise Problem(404, "The submission this callback belongs to is not here.") from exc
        except JournalError as exc:
            detail = "The callback could not be stored; send it again."
            raise Problem(503, detail, {"Retry-After": "5"}, cause=str(exc)) from exc
        log.info(
            "callback.received", submission=submission_id, task=view.id, status=view.status, progress=view.progress,
            accepted=accepted, cause=cause,
        )  # fmt: skip
        return JSONResponse({"accepted": accepted}, 200 if accepted else 202)

    def _trust(self, url_id: str | None, state: str) -> tuple[str, str | None]:
        """Whose callback it is, and why it is not believed (None: it is)."""
        state_id, fault = None, "no_state"
        if state:
            try:
                state_id = self._tokens.read_state_token(state)
            except TokenError:
                fault = "bad_state"
        if url_id is None:
            if state_id is None:
                raise self._unsigned(fault)
            return state_id, "no_url_token"
        if state_id is None:
            return url_id, fault
        return url_id, None if state_id == url_id else "other_state"

    def _read_url_token(self, token: str) -> str:
        try:
            return self._tokens.read_url_token(token)
        except TokenError as exc:
            raise self._unsigned(exc.cause) from exc

    def _unsigned(self, cause: str) -> Problem:
        self.unsigned += 1
        return Problem(401, "This address is not signed by us.", cause=cause)

    async def _body(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout):
                return await _read(receive)
        except TimeoutError as exc:
            headers = {"Connection": "close"}
            raise Problem(408, f"The body did not come within {self._body_timeout:g} s.", headers) from exc
        except asyncio.CancelledError as exc:
            # The server stops and waits no longer. Nothing has been stored, and the sender shall know that.
            headers = {"Connection": "close", "Retry-After": "5"}
            raise Problem(503, "Receiver stops; send it again.", headers, cause="stopping") from exc


class _Gone(Exception):
    """The sender hung up before its body was complete."""


_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding"})


def _length(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise Problem(400, "Content-Length is no number.")
    return int(length)


def _too_large() -> Problem:
    return Problem(413, f"A callback may have {MAX_BODY // 1024} KiB at most.", {"Connection": "close"})


def _check_type(headers: dict[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Problem(415, "Callbacks are application/json.", {"Accept": "application/json"})
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise Problem(415, "Callbacks are not compressed.", {"Accept-Encoding": "identity"})


async def _read(receive: Receive) -> bytes:
    """The body. One that is a little too large is read to its end before that is said: closing with bytes unread
    resets the connection, and the sender loses our answer (RFC 9112 §9.6)."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= _LINGER:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY:
            chunks.append(chunk)
        more = message.get("more_body", False)
    if size > MAX_BODY:
        raise _too_large()
    return b"".join(chunks)


def _task(body: bytes) -> Task:
    try:
        return read_task(decode_json(body))
    except NotJSON as exc:
        raise Problem(400, "The body is not JSON.") from exc
    except NotATask as exc:
        raise Problem(422, "The body is no task object: it needs at least an `id`.") from exc


def _text(body: bytes) -> str:
    """The body as stored: as it came, but for what no database takes."""
    return body.decode("utf-8", "replace").replace("\x00", "�")
