"""The HTTP API of submissions: submit, follow, fetch. It exists only where tokens are set."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.clock import Clock
from receiver.errors import ReceiverError
from receiver.journal import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.web.admission import Admission
from receiver.web.api.read_routes import HEARTBEAT, ReadRoutes, Watch
from receiver.web.api.responses import problem_of
from receiver.web.api.write_routes import MAX_BODY, WriteRoutes
from receiver.web.problems import Problem, problem

__all__ = ["Api"]

log = structlog.get_logger("receiver.api")

MAX_WRITES = 100
MAX_WRITE_BYTES = 256 * 1024 * 1024
"""Bytes of bodies in work. A body of unknown length counts as the largest one."""
WRITE_SECONDS = 180.0
"""Longer than a body, its pictures and the provider's answer may take one after the other."""

Endpoint = Callable[[Request, str], Awaitable[Response]]
"""Answers a request of the named caller."""


class Api:
    """The routes for `create_app`, for callers with a bearer token (RFC 6750).

    Args:
        tokens: name of a caller → its token.
        admission: that of the callbacks. While it is shut, nothing is written here either.
    """

    def __init__(
        self,
        *,
        tokens: Mapping[str, str],
        submissions: Submissions,
        journal: Journal,
        provider: Provider,
        store: Store,
        clock: Clock,
        watch: Watch,
        admission: Admission,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._digests = {name: _digest(token) for name, token in tokens.items()}
        self._admission = admission
        self._writes = Admission(
            None,
            most=MAX_WRITES,
            most_bytes=MAX_WRITE_BYTES,
            max_wait=WRITE_SECONDS,
            kept="It may have been kept: GET /submissions shows that, and the same Idempotency-Key finds it.",
        )
        self._making = WriteRoutes(submissions=submissions, journal=journal, provider=provider, clock=clock)
        self._reading = ReadRoutes(journal=journal, provider=provider, store=store, watch=watch, heartbeat=heartbeat)

    def routes(self) -> list[Route]:
        """Return the routes in the order of matching: `watch` is not the id of a submission."""
        making, reading = self._making, self._reading
        return [
            self._route("/uploads", post=making.upload),
            self._route("/submissions", get=reading.list, post=making.submit),
            self._route("/submissions/watch", post=making.watch),
            self._route("/submissions/{id}", get=reading.show),
            self._route("/submissions/{id}/events", get=reading.events),
            self._route("/submissions/{id}/media/{index}", get=reading.media),
            self._route("/submissions/{id}/seed", get=reading.seed),
            self._route("/submissions/{id}/actions", post=making.press),
            self._route("/submissions/{id}/modal", post=making.answer),
            self._route("/submissions/{id}/cancel", post=making.cancel),
        ]

    def _route(self, path: str, *, get: Endpoint | None = None, post: Endpoint | None = None) -> Route:
        """Return a route for callers with a token. Every error becomes a problem, every request one log line."""
        endpoints = {method: item for method, item in (("GET", get), ("HEAD", get), ("POST", post)) if item}

        async def endpoint(request: Request) -> Response:
            caller = None
            cause = None
            try:
                caller = self._caller(request.headers)
                if request.method != "POST":
                    response = await endpoints[request.method](request, caller)
                else:
                    self._admission.check()
                    length = request.headers.get("content-length", "")
                    size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else MAX_BODY
                    with self._writes.enter(min(size, MAX_BODY)):
                        response = await endpoints["POST"](request, caller)
            except (Problem, ReceiverError) as exc:
                error = exc if isinstance(exc, Problem) else problem_of(exc)
                cause = error.cause or error.detail
                response = problem(error)
            except ClientDisconnect:
                cause = "the sender hung up"
                response = Response(status_code=400)
            level = log.error if response.status_code >= 500 else log.info
            level(
                "request.answered", method=request.method, path=request.url.path, status=response.status_code,
                caller=caller, cause=cause,
            )  # fmt: skip
            return response

        return Route(path, endpoint, methods=list(endpoints))

    def _caller(self, headers: Headers) -> str:
        """Return the name of the caller, or raise Problem (401), with the same answer for every wrong token."""
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(401, "Send `Authorization: Bearer` with a token.", {"WWW-Authenticate": "Bearer"})
        digest = _digest(token.strip())
        # Compare with every token, so that the time taken reveals nothing.
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        if not matches:
            detail = "This token is not valid. Valid tokens are set in RECEIVER_API_TOKENS."
            raise Problem(401, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return matches[-1]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
