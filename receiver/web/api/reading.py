"""What only reads: submissions, their events, their files, and a picture's seed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from receiver.errors import MediaError
from receiver.events import Media
from receiver.journal import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.web.api.answers import RETRY, json
from receiver.web.api.finding import find, query, whole_number
from receiver.web.api.records import STATUSES, Seed, submission_record
from receiver.web.api.streaming import Streaming, all_events
from receiver.web.problems import Problem

MAX_LIST = 200
_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}
"""A file came from outside: whatever it is, it must not act in the name of this address."""


class Reading:
    """The endpoints that change nothing."""

    def __init__(self, *, journal: Journal, provider: Provider, store: Store, streaming: Streaming) -> None:
        self._journal = journal
        self._provider = provider
        self._store = store
        self._streaming = streaming

    async def list(self, request: Request, caller: str) -> Response:
        """`GET /submissions`: the newest first."""
        asked = query(request, ("limit", "status"))
        limit = whole_number(asked.get("limit", "20"), 1, MAX_LIST)
        if limit is None:
            raise Problem(422, f"limit is a whole number from 1 to {MAX_LIST}.")
        status = asked.get("status")
        if status is not None and status not in STATUSES:
            raise Problem(422, f"status is one of {', '.join(STATUSES)}.")
        status = "modal" if status == "input_required" else status
        return json([submission_record(row) for row in await self._journal.submissions(limit=limit, status=status)])

    async def show(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}`."""
        row = await find(self._journal, request)
        deliveries = await self._journal.deliveries(limit=100, submission_id=row.id)
        return json(submission_record(row, deliveries[::-1]))

    async def events(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/events`: a list, or a stream for those who accept one."""
        row = await find(self._journal, request)
        if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            return await self._streaming.answer(row, request.headers.get("last-event-id"))
        found = await all_events(self._journal, row.id)
        return json(found, headers={"Vary": "Accept"})

    async def media(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/media/{index}`."""
        row = await find(self._journal, request)
        index = whole_number(request.path_params["index"], 0, 10**6)
        item = next((item for item in row.media if item.index == index), None)
        if item is None and row.media_due_ms is not None:
            raise Problem(404, "The files are still being downloaded; ask again in a moment.", RETRY)
        if item is None:
            raise Problem(404, f"There is no such file; it has {len(row.media)}.")
        path = await self._local(item)
        try:
            found = await asyncio.to_thread(path.stat)
        except OSError as exc:
            raise Problem(410, "The file is no longer in the media store.", cause=str(exc)) from exc
        name = f"{row.id}-{item.index}{item.extension}"
        return FileResponse(
            path,
            headers=_FILE_HEADERS,
            media_type=item.type,
            filename=name,
            stat_result=found,
            content_disposition_type="inline",
        )

    async def _local(self, item: Media) -> Path:
        try:
            return await self._store.local(item)
        except MediaError as exc:
            cause = str(exc)
            if exc.permanent:
                raise Problem(410, "The file is no longer in the media store.", cause=cause) from exc
            raise Problem(503, "The media store cannot be read; ask again in a moment.", RETRY, cause=cause) from exc

    async def seed(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/seed`: the provider may take a minute."""
        row = await find(self._journal, request)
        if row.task_id is None or row.ended != "task.succeeded":
            raise Problem(409, "Only a task that has succeeded has a seed.")
        return json(Seed(task=row.task_id, seed=await self._provider.image_seed(row.task_id)))
