"""One Starlette route on uvicorn for every peer: an answer of 200 means that the peer has queued the callback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from peers.effect import PORT


def serve(
    queue: Callable[[dict[str, Any]], Any], lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None
) -> None:
    """Serve until SIGTERM. A plain function as `queue` runs in a thread, as frameworks do with one."""

    async def answer(request: Request) -> Response:
        task = await request.json()
        await (queue(task) if inspect.iscoroutinefunction(queue) else run_in_threadpool(queue, task))
        return Response()

    app = Starlette(routes=[Route("/callbacks/{token:path}", answer, methods=["POST"])], lifespan=lifespan)
    uvicorn.run(
        app, host="127.0.0.1", port=PORT, http="httptools", loop="uvloop", access_log=False, log_level="warning"
    )
