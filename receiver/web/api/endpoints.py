"""Endpoints of the API, each named as its operation in the OpenAPI document: one request of one caller."""

from __future__ import annotations

import asyncio
import hashlib
import json as stdlib_json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from receiver.clock import Clock
from receiver.deliveries import DELIVERY_STATUSES, MAX_PAUSE_SECONDS, PAUSE_SECONDS, Delivery
from receiver.errors import Ambiguous, InputError, MediaError, NotFound, ReceiverError, Refused, Unreachable
from receiver.events import DISPLAY_STATUSES, Event, Submission, new_id
from receiver.journal import Journal
from receiver.journal.store import EVERYTHING, Filter
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Retention
from receiver.media import Store
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.telemetry import Log
from receiver.web.admission import RETRY
from receiver.web.api import schemas
from receiver.web.api.queries import read_query, whole_number
from receiver.web.api.responses import (
    Destination,
    Erased,
    Links,
    Replayed,
    Seed,
    clean,
    delivery_record,
    json,
    media_status,
    problem_of,
    submission_record,
)
from receiver.web.problems import Problem
from receiver.web.streams import HEARTBEAT, EventStream, with_pauses

log = Log("receiver.api")

Watch = Callable[[str], AsyncGenerator[Submission, None]]
"""Yields a submission now, and again after each change."""

MAX_EVENTS = 1000
"""A submission has about a hundred at most: one for each percent of progress."""
MAX_KEY = 200
_STREAM_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}
_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}
"""A file came from outside, so it must not act in the name of this address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The API's endpoints, each named as its operation in the OpenAPI document.

    Attributes:
        destinations: names, as configured in this process.
        heartbeat: seconds of silence after which a stream sends a comment.
    """

    journal: Journal
    submissions: Submissions
    provider: Provider
    store: Store
    replays: Replay
    retention: Retention
    clock: Clock
    destinations: Collection[str]
    changes: Watch
    heartbeat: float = HEARTBEAT
    keys: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    # Reading

    async def list_submissions(self, request: Request, caller: str) -> Response:
        """`GET /submissions`: the newest first."""
        query = read_query(request, DISPLAY_STATUSES)
        page = await self.journal.page("submissions", query.selection, after=query.after, limit=query.limit)
        rows = [submission_record(row.record) for row in page if isinstance(row.record, Submission)]
        return json(rows, headers=query.following(request, [row.id for row in rows]))

    async def get_submission(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}`."""
        row = await self._row(request)
        deliveries = await self.journal.deliveries(limit=100, submission_id=row.id)
        return json(submission_record(row, deliveries[::-1]))

    async def list_events(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/events`: a list, or a stream if the caller accepts one."""
        row = await self._row(request)
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
                async with aclosing(with_pauses(self.changes(row.id), self.heartbeat)) as changes:
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

    async def get_file(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/media/{index}`."""
        row = await self._row(request)
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

    async def get_seed(self, request: Request, caller: str) -> Response:
        """`GET /submissions/{id}/seed`. The provider may take a minute."""
        row = await self._row(request)
        if row.task_id is None or row.ended != "task.succeeded":
            raise Problem(409, "Only a task that has succeeded has a seed.")
        return json(Seed(task=row.task_id, seed=await self.provider.image_seed(row.task_id)))

    # Writing

    async def submit(self, request: Request, caller: str) -> Response:
        """`POST /submissions`."""
        built, body = await schemas.read_submission(request)
        once, digest = _once(request, caller, body)
        options = body.options(once=once, once_digest=digest)
        return await self._one_by_one(request, once, lambda: self.submissions.prepare(built, options))

    async def press(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/actions`. A button pressed before gives the submission of then.

        `again` presses it once more. The Idempotency-Key counts only then.
        """
        parent = await self._row(request)
        body = await schemas.read_body(request, schemas.Press)
        schemas.check_uri(body.mask)
        once, digest = _once(request, caller, body, parent.id) if body.again else (None, None)
        options = body.options(once=once, once_digest=digest)

        async def prepare() -> Submission:
            return await self.submissions.follow_up(
                parent,
                body.button,
                options,
                again=body.again,
                prompt=body.prompt,
                mask=body.mask,
                account_filter=body.account_filter,
            )

        return await self._one_by_one(request, once or f"{parent.id} {body.button}", prepare)

    async def answer(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/modal`."""
        row = await self._row(request)
        body = await schemas.read_body(request, schemas.Answer)
        schemas.check_uri(body.mask)
        row = await self.submissions.reply(row, prompt=body.prompt, mask=body.mask)
        try:
            row = await self.submissions.send_reply(row.id)
        except Refused as exc:
            if not exc.retry:
                raise problem_of(exc, row.id) from exc
        except (Ambiguous, Unreachable):
            pass  # the record holds the reason, and the engine continues
        row = await self.journal.get(row.id) or row
        sent = row.reply is not None and row.reply.status == "sent"
        return json(submission_record(row), 200 if sent else 202)

    async def watch(self, request: Request, caller: str) -> Response:
        """`POST /submissions/watch`."""
        body = await schemas.read_body(request, schemas.Watch)
        before = self._mark()
        row = await self.submissions.adopt(body.task_id, body.options())
        return _made(request, row, 201 if row.id > before else 200)

    async def upload(self, request: Request, caller: str) -> Response:
        """`POST /uploads`."""
        built = await schemas.read_upload(request)
        return json(Links(urls=tuple(await self.submissions.upload(built))))

    async def cancel(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/cancel`. An event shows the effect."""
        row = await self._row(request)
        if row.ended is not None or row.status == "refused":
            raise Problem(409, "It has ended already, so there is nothing to cancel.")
        if row.task_id is None:
            raise Problem(409, "It has no task yet that could be cancelled.")
        await self.provider.cancel(row.task_id)
        return json(submission_record(row), 202)

    async def erase(self, request: Request, caller: str) -> Response:
        """`DELETE /submissions/{id}`: for good, with everything that belongs to it."""
        row = await self._row(request)
        force = request.query_params.get("force", "false")
        if force not in ("true", "false"):
            raise Problem(422, "force is true or false.")
        try:
            erased = await self.retention.erase(row, force=force == "true")
        except InputError as exc:
            detail = "Its task is under way, or deliveries are outstanding. Wait, or give up on it with force=true."
            raise Problem(409, detail, cause=str(exc)) from exc
        return json(
            Erased(
                submission=row.id,
                removed=dict(erased.removed),
                waiting_files=erased.waiting,
                files_problem=clean(erased.problem) if erased.problem else None,
                follow_ups=erased.children,
                traces=clean(erased.traces) if erased.traces else None,
            )
        )

    async def _one_by_one(
        self, request: Request, name: str | None, prepare: Callable[[], Awaitable[Submission]]
    ) -> Response:
        """Serialize requests of one name, so that one of them makes the submission and the others find it."""
        async with asyncio.Lock() if name is None else self.keys.setdefault(name, asyncio.Lock()):
            before = self._mark()
            row = await prepare()
            if row.id < before:
                return _made(request, row, 200)
            try:
                row = await self.submissions.send(row.id)
            except Refused as exc:
                if not exc.retry:
                    raise problem_of(exc, row.id) from exc
            except Unreachable as exc:
                raise problem_of(Refused(str(exc), outcome="unreachable", retry=False), row.id) from exc
            except Ambiguous:
                pass  # the record has the status `unknown` and the reason
            row = await self.journal.get(row.id) or row
            return _made(request, row, 201 if row.status == "accepted" else 202)

    def _mark(self) -> str:
        """Return an id that sorts before every id made later."""
        return new_id(self.clock.now_ms())

    # Deliveries and destinations

    async def list_deliveries(self, request: Request, caller: str) -> Response:
        """`GET /deliveries`: the newest first."""
        query = read_query(request, DELIVERY_STATUSES, "destination", "submission")
        given = request.query_params
        wanted = replace(
            query.selection,
            destination=given.get("destination"),
            submission_id=await self._id_of(given.get("submission")),
        )
        page = await self.journal.page("deliveries", wanted, after=query.after, limit=query.limit)
        rows = [delivery_record(row.record) for row in page if isinstance(row.record, Delivery)]
        return json(rows, headers=query.following(request, [row.id for row in rows]))

    async def get_delivery(self, request: Request, caller: str) -> Response:
        """`GET /deliveries/{id}`: with its attempts."""
        delivery = await self._delivery(request.path_params["id"])
        attempts = await self.journal.attempts(delivery.id)
        return json(delivery_record(delivery, attempts))

    async def replay(self, request: Request, caller: str) -> Response:
        """`POST /deliveries/replay`: make deliveries due again, or with `preview` say which."""
        body = await schemas.read_body(request, schemas.Replay)
        if body.status is not None and body.status not in DELIVERY_STATUSES:
            raise InputError(f"The field status is one of {', '.join(DELIVERY_STATUSES)}.")
        if len(body.ids) > schemas.MAX_IDS:
            raise InputError(f"The field ids takes {schemas.MAX_IDS} at most. Use conditions for more.")
        selection = Filter(
            ids=tuple([(await self._delivery(id)).id for id in body.ids]) or None,
            submission_id=await self._id_of(body.submission),
            destination=body.destination,
            status=body.status,
            labels=tuple(body.labels.items()),
            words=tuple((body.search or "").split()),
            since_ms=body.since_ms,
            until_ms=body.until_ms,
        )
        if selection == EVERYTHING:
            raise InputError("A replay of everything is refused. Give ids, or at least one condition.", page="operate")
        orders = await self.replays.of_deliveries(selection, to=body.to, as_new=body.as_new)
        done = await (self.replays.foresee(orders) if body.preview else self.replays.carry_out(orders))
        return json(
            [
                Replayed(
                    delivery=item.delivery_id,
                    event=item.order.event_id,
                    destination=item.order.destination,
                    outcome=item.outcome,
                    was=item.was,
                )
                for item in done
            ]
        )

    async def list_destinations(self, request: Request, caller: str) -> Response:
        """`GET /destinations`: all that this journal knows, by name."""
        return json(await self._all_destinations())

    async def pause(self, request: Request, caller: str) -> Response:
        """`POST /destinations/{name}/pause`: nothing is delivered to it for `seconds`."""
        text = request.query_params.get("seconds", str(PAUSE_SECONDS))
        seconds = whole_number("seconds", text, 1, MAX_PAUSE_SECONDS)
        name = await self._known(request)
        await self.journal.pause(name, self.clock.now_ms() + seconds * 1000, f"paused by {caller}", by_hand=True)
        return await self._shown(name)

    async def resume(self, request: Request, caller: str) -> Response:
        """`POST /destinations/{name}/resume`: end its pause and forget its failures."""
        name = await self._known(request)
        await self.journal.resume(name)
        self.replays.changed()
        return await self._shown(name)

    async def _all_destinations(self) -> tuple[Destination, ...]:
        now_ms = self.clock.now_ms()
        return tuple(
            Destination(
                name=item.name,
                handler=item.handler,
                configured=item.name in self.destinations,
                status=item.display_status(now_ms),
                failures=item.failures,
                pending=item.pending,
                dead=item.dead,
                paused_until_ms=item.paused_until_ms if item.paused(now_ms) else None,
                reason=clean(item.paused_reason or "") or None if item.paused(now_ms) else None,
                last_success_ms=item.last_success_ms,
                last_error_ms=item.last_error_ms,
                last_error=clean(item.last_error) if item.last_error else None,
            )
            for item in await self.journal.destinations()
        )

    async def _shown(self, name: str) -> Response:
        return json(next(item for item in await self._all_destinations() if item.name == name))

    async def _known(self, request: Request) -> str:
        name: str = request.path_params["name"]
        if name not in await self.journal.registered():
            raise Problem(404, "There is no such destination. GET /destinations lists them.")
        return name

    # Finding

    async def _row(self, request: Request) -> Submission:
        return await self._submission(request.path_params["id"])

    async def _id_of(self, reference: str | None) -> str | None:
        return None if reference is None else (await self._submission(reference)).id

    async def _submission(self, id: str) -> Submission:
        """Return the submission with this whole id, its own or its task's, or raise Problem (404)."""
        try:
            return await self.journal.find(id, whole=True)
        except NotFound as exc:
            raise Problem(404, "No submission has that id, and no submission's task has it.") from exc

    async def _delivery(self, id: str) -> Delivery:
        delivery = await self.journal.delivery(id)
        if delivery is None:
            raise Problem(404, "No delivery has that id.")
        return delivery


def _over(row: Submission, now_ms: int) -> bool:
    """Return True if no event can follow, but for files that come late."""
    return row.status == "refused" or (row.ended is not None and not row.awaits_files(now_ms))


def _made(request: Request, row: Submission, status: int) -> Response:
    """Answer with a submission. Its address has no host, because the Host header is not trustworthy."""
    place = f"{request.scope.get('root_path', '')}/submissions/{row.id}"
    return json(submission_record(row), status, {"Location": place})


def _once(request: Request, caller: str, body: msgspec.Struct, *parts: str) -> tuple[str | None, str | None]:
    """Return the name that makes a submission unique for this caller, and the digest of its request."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None, None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY or not (keys[0].isascii() and keys[0].isprintable()):
        raise InputError(f"Idempotency-Key must come once, with 1 to {MAX_KEY} printable ASCII characters.")
    content = stdlib_json.dumps([*parts, msgspec.to_builtins(body)], sort_keys=True)
    return f"http {caller} {keys[0]}", hashlib.sha256(content.encode()).hexdigest()
