"""`GET /metrics`: the metrics of this process, for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.metrics.export import text_of
from receiver.web.callers import Callers
from receiver.web.problems import HANDLERS


class Scrape:
    """The endpoint. Importing this module needs the extra `metrics`.

    Args:
        token: the bearer token that a request must have. None: the address is open.
        refresh: sets the gauges that are read only now.
    """

    def __init__(self, *, token: str | None, refresh: Callable[[], Awaitable[None]]) -> None:
        self._callers = None if token is None else Callers({"metrics": token}, "RECEIVER_METRICS_TOKEN")
        self._refresh = refresh

    def route(self) -> Route:
        """Return the route of the endpoint."""
        return Route("/metrics", self.answer, methods=["GET"])

    def app(self) -> Starlette:
        """Return an app with nothing else, for a port of its own."""
        return Starlette(routes=[self.route()], exception_handlers=HANDLERS)

    async def answer(self, request: Request) -> Response:
        """Return the metrics in the format that the request accepts."""
        if self._callers is not None:
            self._callers.named(request.headers)
        await self._refresh()
        body, type = text_of(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": type, "Cache-Control": "no-store"})
