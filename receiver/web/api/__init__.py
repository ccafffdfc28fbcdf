"""The HTTP API of submissions: submit, follow, fetch. It exists only where tokens are set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver import metrics
from receiver.errors import ReceiverError
from receiver.telemetry import Log
from receiver.web.admission import Admission, Shares
from receiver.web.api.endpoints import Endpoints
from receiver.web.api.openapi import OPERATIONS
from receiver.web.api.responses import problem_of
from receiver.web.api.schemas import MAX_BODY
from receiver.web.callers import Callers
from receiver.web.connections import MAX_CONNECTIONS
from receiver.web.problems import Problem, problem

__all__ = ["Api", "Endpoints"]

log = Log("receiver.api")

MAX_WRITES = 100
MAX_WRITE_BYTES = 256 * 1024 * 1024
"""Bytes of bodies in work. A body of unknown length counts as the largest one."""
MAX_OWN_WRITES = 50
MAX_OWN_BYTES = MAX_BODY
"""Shares of one caller of these. One larger body is taken when it is the only one."""
WRITE_SECONDS = 180.0
"""Longer than a body, its pictures and the provider's answer may take one after the other."""

Endpoint = Callable[[Request, str], Awaitable[Response]]
"""Answers a request of the named caller."""


class Api:
    """The routes for `create_app`, for callers with a bearer token (RFC 6750).

    Args:
        tokens: name of a caller → its token.
        admission: that of the callbacks. While it is shut, nothing is written here either.
        max_connections: those of the server. One caller may use a fifth of them, and all callers half of them.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        tokens: Mapping[str, str],
        admission: Admission,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._endpoints = endpoints
        self._callers = Callers(tokens, "RECEIVER_API_TOKENS")
        self._admission = admission
        self._writes = Admission(
            None,
            most=MAX_WRITES,
            most_bytes=MAX_WRITE_BYTES,
            max_wait=WRITE_SECONDS,
            kept="It may have been kept: GET /submissions shows that, and the same Idempotency-Key finds it.",
        )
        # Half of all connections are left to callbacks and health checks. Streams last for hours.
        self._requests = Shares(max(max_connections // 5, 1), max(max_connections // 2, 1))
        self._own_writes = Shares(MAX_OWN_WRITES)
        self._own_bytes = Shares(MAX_OWN_BYTES)

    def routes(self) -> list[Route]:
        """Return the routes in the order of matching, which is the document's: `watch` is not a submission's id."""
        paths: dict[str, dict[str, Endpoint]] = defaultdict(dict)
        for (verb, path), operation in OPERATIONS.items():
            if not operation.open:
                paths[path][verb.upper()] = getattr(self._endpoints, operation.name)
        return [self._route(path, endpoints) for path, endpoints in paths.items()]

    def _route(self, path: str, endpoints: Mapping[str, Endpoint]) -> Route:
        """Return a route for callers with a token. Every error becomes a problem, every request one log line."""

        async def endpoint(request: Request) -> Response:
            caller = None
            cause = None
            held = ExitStack()
            metrics.door.set("http")
            try:
                caller = self._callers.named(request.headers)
                held.enter_context(self._requests.hold(caller))
                if request.method in ("GET", "HEAD"):
                    response = await endpoints["GET"](request, caller)
                else:
                    self._admission.check()
                    length = request.headers.get("content-length", "")
                    size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else MAX_BODY
                    size = 0 if request.method == "DELETE" else min(size, MAX_BODY)
                    with self._own_writes.hold(caller), self._own_bytes.hold(caller, size):
                        response = await self._writes.run(size, endpoints[request.method], request, caller)
            except (Problem, ReceiverError) as exc:
                error = exc if isinstance(exc, Problem) else problem_of(exc)
                cause = error.cause or error.detail
                response = problem(error)
            except ClientDisconnect:
                cause = "the sender hung up"
                response = Response(status_code=400)
            level = log.error if response.status_code >= 500 else log.info
            level(
                "request.answered", method=request.method, path=request.url.path[:200], status=response.status_code,
                caller=caller, cause=cause,
            )  # fmt: skip
            return _Held(response, held)  # type: ignore[return-value] # Starlette only calls it

        return Route(path, endpoint, methods=list(endpoints))


class _Held:
    """An answer that counts for its caller until it is sent. A stream may last for hours."""

    def __init__(self, response: Response, held: ExitStack) -> None:
        self._response = response
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await self._response(scope, receive, send)
