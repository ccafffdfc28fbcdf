"""The HTTP API of submissions: submit, follow, fetch. It exists only where tokens are set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver import metrics
from receiver.clock import Clock
from receiver.errors import ReceiverError
from receiver.journal import Journal
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Retention
from receiver.media import Store
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.telemetry import Log
from receiver.web.admission import Admission, Shares
from receiver.web.api.delivery_routes import DeliveryRoutes
from receiver.web.api.read_routes import HEARTBEAT, ReadRoutes, Watch
from receiver.web.api.responses import problem_of
from receiver.web.api.schemas import MAX_BODY
from receiver.web.api.write_routes import WriteRoutes
from receiver.web.callers import Callers
from receiver.web.connections import MAX_CONNECTIONS
from receiver.web.problems import Problem, problem

__all__ = ["Api"]

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
        destinations: names, as configured in this process.
        max_connections: those of the server. One caller may use a fifth of them, and all callers half of them.
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
        replay: Replay,
        retention: Retention,
        destinations: Collection[str],
        heartbeat: float = HEARTBEAT,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
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
        self._making = WriteRoutes(
            submissions=submissions, journal=journal, provider=provider, clock=clock, retention=retention
        )
        self._delivering = DeliveryRoutes(journal=journal, replays=replay, destinations=destinations, clock=clock)
        self._reading = ReadRoutes(
            journal=journal, provider=provider, store=store, watch=watch, heartbeat=heartbeat, clock=clock
        )

    def routes(self) -> list[Route]:
        """Return the routes in the order of matching: `watch` is not the id of a submission."""
        making, reading, delivering = self._making, self._reading, self._delivering
        return [
            self._route("/uploads", post=making.upload),
            self._route("/submissions", get=reading.list_submissions, post=making.submit),
            self._route("/submissions/watch", post=making.watch),
            self._route("/submissions/{id}", get=reading.show, delete=making.erase),
            self._route("/submissions/{id}/events", get=reading.events),
            self._route("/submissions/{id}/media/{index}", get=reading.media),
            self._route("/submissions/{id}/seed", get=reading.seed),
            self._route("/submissions/{id}/actions", post=making.press),
            self._route("/submissions/{id}/modal", post=making.answer),
            self._route("/submissions/{id}/cancel", post=making.cancel),
            self._route("/deliveries", get=delivering.list_deliveries),
            self._route("/deliveries/replay", post=delivering.replay),
            self._route("/deliveries/{id}", get=delivering.show),
            self._route("/destinations", get=delivering.list_destinations),
            self._route("/destinations/{name}/pause", post=delivering.pause),
            self._route("/destinations/{name}/resume", post=delivering.resume),
        ]

    def _route(
        self, path: str, *, get: Endpoint | None = None, post: Endpoint | None = None, delete: Endpoint | None = None
    ) -> Route:
        """Return a route for callers with a token. Every error becomes a problem, every request one log line."""
        given = {"GET": get, "HEAD": get, "POST": post, "DELETE": delete}
        endpoints = {method: item for method, item in given.items() if item}

        async def endpoint(request: Request) -> Response:
            caller = None
            cause = None
            held = ExitStack()
            metrics.door.set("http")
            try:
                caller = self._callers.named(request.headers)
                held.enter_context(self._requests.hold(caller))
                if request.method in ("GET", "HEAD"):
                    response = await endpoints[request.method](request, caller)
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
