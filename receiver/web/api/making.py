"""What starts something: submissions, follow-ups, replies, taking over, uploads, and cancelling."""

from __future__ import annotations

import asyncio
import hashlib
import json as stdlib_json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, NotJSON, Refused, Unreachable
from receiver.events import Submission, new_id
from receiver.journal.base import Journal
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.tasks import decode_json
from receiver.web.admission import BodyLimits
from receiver.web.api import asked
from receiver.web.api.read_routes import find
from receiver.web.api.responses import Links, json, problem_of, submission_record
from receiver.web.problems import Problem

T = TypeVar("T")

MAX_BODY = 80 * 1024 * 1024
"""Bytes: a few pictures of the largest size, as base64."""
BODY_SECONDS = 60.0
MAX_KEY = 200


class Making:
    """The endpoints that write."""

    def __init__(self, *, submissions: Submissions, journal: Journal, provider: Provider, clock: Clock) -> None:
        self._submissions = submissions
        self._journal = journal
        self._provider = provider
        self._clock = clock
        self._bodies = BodyLimits(name="Bodies", limit=MAX_BODY, seconds=BODY_SECONDS)
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(self, request: Request, caller: str) -> Response:
        """`POST /submissions`."""
        body = asked.read_kind(await self._read(request))
        once, digest = _once(request, caller, body)
        options = body.options(once=once, once_digest=digest)
        built = asked.request(body)
        return await self._one_by_one(request, once, lambda: self._submissions.prepare(built, options))

    async def press(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/actions`. A button pressed before gives what it gave then; `again` presses it anew,
        and only then a key means something."""
        parent = await find(self._journal, request)
        body = asked.read(asked.Press, await self._read(request))
        asked.check_uri(body.mask)
        once, digest = _once(request, caller, body, parent.id) if body.again else (None, None)
        options = body.options(once=once, once_digest=digest)

        async def prepare() -> Submission:
            return await self._submissions.follow_up(
                parent, body.button, options, again=body.again, prompt=body.prompt, mask=body.mask
            )

        return await self._one_by_one(request, once or f"{parent.id} {body.button}", prepare)

    async def answer(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/modal`."""
        row = await find(self._journal, request)
        body = asked.read(asked.Answer, await self._read(request))
        asked.check_uri(body.mask)
        row = await self._submissions.reply(row, prompt=body.prompt, mask=body.mask)
        try:
            row = await self._submissions.send_reply(row.id)
        except Refused as exc:
            if not exc.retry:
                raise problem_of(exc, row.id) from exc
        except (Ambiguous, Unreachable):
            pass  # the record says it, and the engine goes on with it
        row = await self._journal.get(row.id) or row
        sent = row.reply is not None and row.reply.status == "sent"
        return json(submission_record(row), 200 if sent else 202)

    async def watch(self, request: Request, caller: str) -> Response:
        """`POST /submissions/watch`."""
        body = asked.read(asked.Watch, await self._read(request))
        before = self._mark()
        row = await self._submissions.adopt(body.task_id, body.options())
        return _made(request, row, 201 if row.id > before else 200)

    async def upload(self, request: Request, caller: str) -> Response:
        """`POST /uploads`."""
        built = asked.request(asked.read(asked.Upload, await self._read(request)))
        return json(Links(urls=tuple(await self._submissions.upload(built))))

    async def cancel(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/cancel`: what became of it, an event tells."""
        row = await find(self._journal, request)
        if row.ended is not None or row.status == "refused":
            raise Problem(409, "It has ended already, so there is nothing to cancel.")
        if row.task_id is None:
            raise Problem(409, "It has no task yet that could be cancelled.")
        await self._provider.cancel(row.task_id)
        return json(submission_record(row), 202)

    async def _one_by_one(
        self, request: Request, name: str | None, prepare: Callable[[], Awaitable[Submission]]
    ) -> Response:
        """Two requests of one name wait for each other, so that one of them makes it and the other finds it."""
        if name is None:
            return await self._make(request, prepare)
        lock = self._keys.setdefault(name, asyncio.Lock())
        async with lock:
            return await self._make(request, prepare)

    async def _make(self, request: Request, prepare: Callable[[], Awaitable[Submission]]) -> Response:
        before = self._mark()
        row = await prepare()
        if row.id < before:
            return _made(request, row, 200)
        try:
            row = await self._submissions.send(row.id)
        except Refused as exc:
            if not exc.retry:
                raise problem_of(exc, row.id) from exc
        except Unreachable as exc:
            refused = Refused(str(exc), outcome="unreachable", retry=False)
            raise problem_of(refused, row.id) from exc
        except Ambiguous:
            pass  # the record says `unknown`, and why
        row = await self._journal.get(row.id) or row
        return _made(request, row, 201 if row.status == "accepted" else 202)

    def _mark(self) -> str:
        """An id that is older than every one made after it."""
        return new_id(self._clock.now_ms())

    async def _read(self, request: Request) -> Any:
        headers = dict(request.scope["headers"])
        await self._bodies.check_length(headers, request.receive)
        self._bodies.check_type(headers)
        body = await self._bodies.read(request.receive)
        try:
            return decode_json(body)
        except NotJSON as exc:
            raise Problem(400, "The body is not JSON.") from exc


def _made(request: Request, row: Submission, status: int) -> Response:
    """The path without a host: whoever calls knows where we are, and the Host header is anybody's."""
    place = f"{request.scope.get('root_path', '')}/submissions/{row.id}"
    return json(submission_record(row), status, {"Location": place})


def _once(request: Request, caller: str, body: msgspec.Struct, *parts: str) -> tuple[str | None, str | None]:
    """The name under which a submission exists once for this caller, and the digest of what it asks for."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None, None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY or not (keys[0].isascii() and keys[0].isprintable()):
        raise InputError(f"Idempotency-Key must come once, with 1 to {MAX_KEY} printable ASCII characters.")
    asked_for = stdlib_json.dumps([*parts, msgspec.to_builtins(body)], sort_keys=True)
    return f"http {caller} {keys[0]}", hashlib.sha256(asked_for.encode()).hexdigest()
