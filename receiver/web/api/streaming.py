"""A submission's events as they happen: server-sent events (WHATWG HTML §9.2)."""

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
"""Gives a submission now, and again after each change."""

MAX_EVENTS = 1000
"""One submission has about a hundred at most: a percentage each."""
HEARTBEAT = 15.0
"""Seconds without news after which a comment says that we are there; proxies cut silent connections after a minute."""
_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}


class Streaming:
    """Streams events.

    Args:
        journal: where they stand.
        watch: wakes us when something has changed.
        heartbeat: seconds.
    """

    def __init__(self, journal: Journal, watch: Watch, *, heartbeat: float = HEARTBEAT) -> None:
        self._journal = journal
        self._watch = watch
        self._heartbeat = heartbeat

    async def answer(self, row: Submission, last_id: str | None) -> Response:
        """The events after `last_id`, until nothing more comes. 204 if nothing will: a browser then stops asking."""
        if last_id is not None and _over(row) and not await self._after(row.id, last_id):
            return Response(status_code=204, headers=_HEADERS)
        return _Stream(self._lines(row.id, last_id), headers=_HEADERS, media_type="text/event-stream")

    async def _lines(self, submission_id: str, last_id: str | None) -> AsyncIterator[bytes]:
        try:
            async with aclosing(with_pauses(self._watch(submission_id), self._heartbeat)) as changes:
                async for row in changes:
                    if row is None:
                        yield b": nothing new\n\n"
                        continue
                    for event in await self._after(submission_id, last_id):
                        last_id = event.id
                        yield _message(event)
                    if _over(row):
                        return
        except ReceiverError as exc:  # the answer has begun, so all we can do is end it: whoever listens comes again
            log.error("stream.broken_off", submission=submission_id, problem=str(exc))

    async def _after(self, submission_id: str, last_id: str | None) -> list[Event]:
        """An id we do not know is no reason to keep anything back."""
        events = await all_events(self._journal, submission_id)
        told = next((number for number, event in enumerate(events, 1) if event.id == last_id), 0)
        return events[told:]


class _Stream(StreamingResponse):
    """A stream that the server's stop ends like any other, instead of breaking it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def all_events(journal: Journal, submission_id: str) -> list[Event]:
    """In the order they became known."""
    return (await journal.events(limit=MAX_EVENTS, submission_id=submission_id))[::-1]


async def with_pauses(items: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """What `items` yields, and None whenever nothing came for so long. It closes `items`."""
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
            coming.cancel()  # which ends `items`, too
        else:
            await items.aclose()


def _over(row: Submission) -> bool:
    """Whether the last word is spoken, and the files it speaks of lie here."""
    return row.status == "refused" or (row.ended is not None and row.media_due_ms is None)


def _message(event: Event) -> bytes:
    data = msgspec.json.encode(event)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), data)
