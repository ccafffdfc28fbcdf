"""Connections to no network: a function answers each request of the provider's client, in the words of httpx."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import httpcore
import httpx


class Answering(httpcore.AsyncConnectionPool):
    """A pool whose requests go to `answer`. Its errors of httpx become those of httpcore."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]) -> None:
        super().__init__()
        self._answer = answer

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        url = request.url
        port = "" if url.port is None else f":{url.port}"
        place = f"{url.scheme.decode()}://{url.host.decode()}{port}{url.target.decode()}"
        body = b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]
        asked = httpx.Request(request.method.decode(), place, headers=request.headers, content=body)
        try:
            found = self._answer(asked)
            answer = await found if inspect.isawaitable(found) else found
        except httpx.TransportError as exc:
            raise getattr(httpcore, type(exc).__name__)(str(exc)) from exc
        raw = b"".join([chunk async for chunk in answer.stream])  # type: ignore[union-attr]
        return httpcore.Response(answer.status_code, headers=answer.headers.raw, content=raw)
