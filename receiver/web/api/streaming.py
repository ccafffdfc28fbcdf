"""Events of a submission as a stream of server-sent events (WHATWG HTML §9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.errors import ReceiverError
from receiver.events import Event, Submission
from receiver.journal import Journal

log = structlog.get_logger("receiver.api")

T = TypeVar("T")

Watch = Callable[[str], AsyncGenerator[Submission, None]]
"""Yields a submission now, and again after each change."""

MAX_EVENTS = 1000
"""A submission has about a hundred at most: one for each percent of progress."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent. Proxies cut silent connections after a minute."""
_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}


async def stream_events(
    journal: Journal, watch: Watch, row: Submission, last_id: str | None, *, heartbeat: float
) -> Response:
    """Return a stream of the events after `last_id` (all if it is unknown) until none can follow. If none can, 204
    tells a browser to stop asking. A comment is sent after each `heartbeat` seconds of silence."""
    if last_id is not None and _over(row) and not await _events_after(journal, row.id, last_id):
        return Response(status_code=204, headers=_HEADERS)

    async def lines() -> AsyncIterator[bytes]:
        seen = last_id
        try:
            async with aclosing(with_pauses(watch(row.id), heartbeat)) as changes:
                async for change in changes:
                    if change is None:
                        yield b": nothing new\n\n"
                        continue
                    for event in await _events_after(journal, row.id, seen):
                        seen = event.id
                        fields = event.id.encode(), event.type.encode(), msgspec.json.encode(event)
                        yield b"id: %b\nevent: %b\ndata: %b\n\n" % fields
                    if _over(change):
                        return
        except ReceiverError as exc:  # the answer has begun, so it can only end, and the client reconnects
            log.error("stream.broken_off", submission=row.id, problem=str(exc))

    return _Stream(lines(), headers=_HEADERS, media_type="text/event-stream")


async def _events_after(journal: Journal, submission_id: str, last_id: str | None) -> list[Event]:
    events = await all_events(journal, submission_id)
    seen = next((number for number, event in enumerate(events, 1) if event.id == last_id), 0)
    return events[seen:]


class _Stream(StreamingResponse):
    """A stream that ends in order when the server stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def all_events(journal: Journal, submission_id: str) -> list[Event]:
    """Return the events of a submission, the oldest first."""
    return (await journal.events(limit=MAX_EVENTS, submission_id=submission_id))[::-1]


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


def _over(row: Submission) -> bool:
    """Return True if no event can follow, and the files are archived."""
    return row.status == "refused" or (row.ended is not None and row.media_due_ms is None)
