"""Routes that only read: submissions, their events (also as a stream), their files, and a picture's seed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.clock import Clock
from receiver.errors import MediaError, NotFound, ReceiverError
from receiver.events import DISPLAY_STATUSES, Event, Submission
from receiver.journal import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.telemetry import Log
from receiver.web.admission import RETRY
from receiver.web.api.queries import read_query
from receiver.web.api.responses import Seed, clean, json, media_status, submission_record
from receiver.web.problems import Problem

log = Log("receiver.api")

T = TypeVar("T")

Watch = Callable[[str], AsyncGenerator[Submission, None]]
"""Yields a submission now, and again after each change."""

MAX_EVENTS = 1000
"""A submission has about a hundred at most: one for each percent of progress."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent. Proxies cut silent connections after a minute."""
_STREAM_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}
_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}
"""A file came from outside, so it must not act in the name of this address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRoutes:
    """The endpoints that change nothing."""

    journal: Journal
    provider: Provider
    store: Store
    watch: Watch
    heartbeat: float
    clock: Clock

    async def list_submissions(self, request: Request, caller: str) -> Response:
        """`GET /submissions`: the newest first."""
        query = read_query(request, DISPLAY_STATUSES)
        wanted = query.selection.filter()
        page = await self.journal.page("submissions", wanted, after=query.after, limit=query.limit)
        rows = [submission_record(row.record) for row in page if isinstance(row.record, Submission)]
        return json(rows, headers=query.following(request, [row.id for row in rows]))

    async def show(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}`."""
        row = await find(self.journal, request.path_params["id"])
        deliveries = await self.journal.deliveries(limit=100, submission_id=row.id)
        return json(submission_record(row, deliveries[::-1]))

    async def events(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/events`: a list, or a stream if the caller accepts one."""
        row = await find(self.journal, request.path_params["id"])
        if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            return await self._stream(row, request.headers.get("last-event-id"))
        return json(await self._events_after(row, None), headers={"Vary": "Accept"})

    async def _stream(self, row: Submission, last_id: str | None) -> Response:
        """Return a stream (WHATWG HTML §9.2) of the events after `last_id` (all if it is unknown) until none can
        follow. If none can, 204 tells a browser to stop asking. Silence is broken by comments."""
        if last_id is not None and _over(row, self.clock.now_ms()) and not await self._events_after(row, last_id):
            return Response(status_code=204, headers=_STREAM_HEADERS)

        async def lines() -> AsyncIterator[bytes]:
            seen = last_id
            try:
                async with aclosing(with_pauses(self.watch(row.id), self.heartbeat)) as changes:
                    async for change in changes:
                        if change is None:
                            yield b": nothing new\n\n"
                            continue
                        for event in await self._events_after(row, seen):
                            seen = event.id
                            fields = event.id.encode(), event.type.encode(), msgspec.json.encode(event)
                            yield b"id: %b\nevent: %b\ndata: %b\n\n" % fields
                        if _over(change, self.clock.now_ms()):
                            return
            except ReceiverError as exc:  # the answer has begun, so it can only end, and the client reconnects
                log.error("stream.broken_off", submission=row.id, problem=str(exc))

        return EventStream(lines(), headers=_STREAM_HEADERS, media_type="text/event-stream")

    async def _events_after(self, row: Submission, last_id: str | None) -> list[Event]:
        """Return the events of a submission after this one, or all of them if it is unknown, the oldest first."""
        events = (await self.journal.events(limit=MAX_EVENTS, submission_id=row.id))[::-1]
        seen = next((number for number, event in enumerate(events, 1) if event.id == last_id), 0)
        return events[seen:]

    async def media(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/media/{index}`."""
        row = await find(self.journal, request.path_params["id"])
        text = request.path_params["index"]
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1  # there is no such file
        item = next((item for item in row.media if item.index == index), None)
        if item is None:
            raise self._absent(row, index)
        try:
            path = await self.store.local(item)
            found = await asyncio.to_thread(path.stat)
        except (MediaError, OSError) as exc:
            if isinstance(exc, MediaError) and not exc.permanent:
                detail = "The media store cannot be read. Ask again in a moment."
                raise Problem(503, detail, RETRY, cause=str(exc)) from exc
            raise Problem(410, "The file is no longer in the media store.", cause=str(exc)) from exc
        return FileResponse(
            path,
            headers=_FILE_HEADERS,
            media_type=item.type,
            filename=f"{row.id}-{item.index}{item.extension}",
            stat_result=found,
            content_disposition_type="inline",
        )

    def _absent(self, row: Submission, index: int) -> Problem:
        """Return the answer for a file that is not here (yet)."""
        if media_status(row) == "waiting for links":
            return Problem(409, "The provider has given no link to the files yet. Ask again in a moment.", RETRY)
        if not 0 <= index < len(row.expected):
            return Problem(404, f"There is no such file. The submission has {len(row.media)}.")
        expected = row.expected[index]
        if expected.due_ms is None:
            return Problem(404, f"This file is missing. {clean(expected.problem or '')}")
        seconds = max(1, min(3600, (expected.due_ms - self.clock.now_ms()) // 1000))
        return Problem(409, "This file is still being downloaded. Ask again then.", {"Retry-After": str(seconds)})

    async def seed(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/seed`. The provider may take a minute."""
        row = await find(self.journal, request.path_params["id"])
        if row.task_id is None or row.ended != "task.succeeded":
            raise Problem(409, "Only a task that has succeeded has a seed.")
        return json(Seed(task=row.task_id, seed=await self.provider.image_seed(row.task_id)))


async def find(journal: Journal, id: str) -> Submission:
    """Return the submission with this whole id, its own or its task's, or raise Problem (404)."""
    try:
        return await journal.find(id, whole=True)
    except NotFound as exc:
        raise Problem(404, "No submission has that id, and no submission's task has it.") from exc


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


def _over(row: Submission, now_ms: int) -> bool:
    """Return True if no event can follow, but for files that come late."""
    return row.status == "refused" or (row.ended is not None and not row.awaits_files(now_ms))
