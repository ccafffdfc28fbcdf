"""Receiver's web application as it is mounted into another one: there before Receiver starts, and clear about it."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from receiver.errors import NotStarted
from receiver.web.health import livez
from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.app")


def create_mountable(started: Callable[[], ASGIApp], lifespan: Lifespan[Starlette]) -> Starlette:
    """An app that hands everything to the one `started` gives.

    Args:
        started: gives the app of the running Receiver, or raises NotStarted.
        lifespan: used when the app is served by itself; a mounted app's is nobody's business.
    """
    app = Starlette(routes=[Route("/livez", livez), Route("/{path:path}", _Door(started))], lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


class _Door:
    """Leads to the running app, or says why there is none; logged once."""

    def __init__(self, started: Callable[[], ASGIApp]) -> None:
        self._started = started
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self._started()
        except NotStarted as exc:
            if not self._told:
                log.error("receiver.not_started", problem=str(exc))
            self._told = True
            app = problem(Problem(503, str(exc), {"Retry-After": "5"}))
        # What the outer routes matched is not ours: a parameter of theirs may be called like one of ours.
        await app({**scope, "path_params": {}}, receive, send)
