"""Streams of server-sent events (WHATWG HTML §9.2): their heartbeat, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent. Proxies cut silent connections after a minute."""


class EventStream(StreamingResponse):
    """A stream that ends in order when the server stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def with_pauses(items: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """Yield the items, and None after each silence of so many seconds. Close `items` at the end."""
    coming: asyncio.Future[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait([coming], timeout=seconds)
            if not done:
                yield None
                continue
            ready, coming = coming, None
            try:
                item = ready.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()  # ends `items`, too
        else:
            await items.aclose()
