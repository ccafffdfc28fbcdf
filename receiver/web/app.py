"""The web application: callbacks and health, and the API where there are tokens for it. It never redirects, because a
sender that follows a redirect turns its POST into a GET without a body (PROTOCOL.md §7)."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from receiver.web.api import Api
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz, livez
from receiver.web.openapi import openapi
from receiver.web.problems import on_error, on_http_exception


def create_app(*, callbacks: Callbacks, readyz: Readyz, api: Api | None = None) -> Starlette:
    """An app whose owner starts and stops everything behind it."""
    app = Starlette(
        routes=[
            Route("/callbacks", callbacks),
            Route("/callbacks/{token:path}", callbacks),
            Route("/livez", livez),
            Route("/readyz", readyz.answer),
            *((Route("/openapi.json", openapi), *api.routes()) if api is not None else ()),
        ],
        exception_handlers={HTTPException: on_http_exception, Exception: on_error},
    )
    app.router.redirect_slashes = False
    return app
