"""The web application: callbacks and health, and the API if tokens for it are set.

It never redirects: a sender that follows a redirect turns its POST into a GET without a body (PROTOCOL.md §7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import Scope

from receiver.web.api import Api
from receiver.web.api.openapi import openapi
from receiver.web.callbacks import PATH, Callbacks, CallbacksFirst
from receiver.web.health import Readyz, livez
from receiver.web.problems import HANDLERS


class HasRoutes(Protocol):
    """A part with routes of its own: the page."""

    def routes(self) -> Sequence[Route]: ...


def create_app(
    *,
    callbacks: Callbacks,
    readyz: Readyz,
    api: Api | None = None,
    page: HasRoutes | None = None,
    metrics: Route | None = None,
) -> Starlette:
    """Return an app without a lifespan: the caller starts and stops what it uses."""
    app = CallbacksFirst(
        routes=[
            Route(PATH, callbacks),
            Route(PATH + "/{token:path}", callbacks),
            Route("/livez", livez),
            Route("/readyz", readyz.answer),
            *((metrics,) if metrics is not None else ()),
            *((Route("/openapi.json", openapi), *_api_routes(api, page)) if api is not None else ()),
            *(page.routes() if page is not None else ()),
        ],
        exception_handlers=HANDLERS,
    )
    app.callbacks = callbacks
    app.router.redirect_slashes = False
    return app


def _api_routes(api: Api, page: HasRoutes | None) -> Iterator[Route]:
    """Yield the routes of the API. Under the addresses that it shares with the page (`/deliveries`, `/destinations`), a
    request with a bearer token is the API's and any other is the page's."""
    shared = {_first(route) for route in page.routes()} if page is not None else set()
    for route in api.routes():
        if _first(route) in shared:
            yield _WithToken(route.path, route.endpoint, methods=list(route.methods or ()))
        else:
            yield route


def _first(route: Route) -> str:
    return route.path.split("/")[1]


class _WithToken(Route):
    """A route that takes only requests with a bearer token. A proxy before the page may send other credentials."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        given = Headers(scope=scope).get("authorization", "")
        return super().matches(scope) if given[:7].lower() == "bearer " else (Match.NONE, {})
