"""Routes that only read: submissions, their events, their files, and a picture's seed."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from receiver.errors import MediaError, NotFound
from receiver.events import Submission
from receiver.journal import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.web.admission import RETRY
from receiver.web.api.responses import STATUSES, Seed, json, submission_record
from receiver.web.api.streaming import Watch, all_events, stream_events
from receiver.web.problems import Problem

MAX_LIST = 200
_QUERY = ("limit", "status")
_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}
"""A file came from outside, so it must not act in the name of this address."""


class ReadRoutes:
    """The endpoints that change nothing."""

    def __init__(self, *, journal: Journal, provider: Provider, store: Store, watch: Watch, heartbeat: float) -> None:
        self._journal = journal
        self._provider = provider
        self._store = store
        self._watch = watch
        self._heartbeat = heartbeat

    async def list(self, request: Request, caller: str) -> Response:
        """`GET /submissions`: the newest first."""
        query = request.query_params
        if any(name not in _QUERY for name in query):
            raise Problem(422, f"This address has no such query parameter. There are: {', '.join(_QUERY)}.")
        limit = _whole_number(query.get("limit", "20"), 1, MAX_LIST)
        if limit is None:
            raise Problem(422, f"limit is a whole number from 1 to {MAX_LIST}.")
        status = query.get("status")
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
        """`GET /submissions/{id}/events`: a list, or a stream if the caller accepts one."""
        row = await find(self._journal, request)
        if request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            last_id = request.headers.get("last-event-id")
            return await stream_events(self._journal, self._watch, row, last_id, heartbeat=self._heartbeat)
        return json(await all_events(self._journal, row.id), headers={"Vary": "Accept"})

    async def media(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/media/{index}`."""
        row = await find(self._journal, request)
        index = _whole_number(request.path_params["index"], 0, 10**6)
        item = next((item for item in row.media if item.index == index), None)
        if item is None and row.media_due_ms is not None:
            raise Problem(404, "The files are still being downloaded. Ask again in a moment.", RETRY)
        if item is None:
            raise Problem(404, f"There is no such file. The submission has {len(row.media)}.")
        try:
            path = await self._store.local(item)
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

    async def seed(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/seed`. The provider may take a minute."""
        row = await find(self._journal, request)
        if row.task_id is None or row.ended != "task.succeeded":
            raise Problem(409, "Only a task that has succeeded has a seed.")
        return json(Seed(task=row.task_id, seed=await self._provider.image_seed(row.task_id)))


async def find(journal: Journal, request: Request) -> Submission:
    """Return the submission with the id in the path, its own or its task's. Unlike in a shell, the id must be whole.

    Raises:
        Problem: 404.
    """
    try:
        return await journal.find(request.path_params["id"], whole=True)
    except NotFound as exc:
        raise Problem(404, "No submission has that id, and no submission's task has it.") from exc


def _whole_number(text: str, least: int, most: int) -> int | None:
    """Return the number in a text, or None if it is not within these bounds."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    return number if least <= number <= most else None
