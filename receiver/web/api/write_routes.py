"""Endpoints that write: submissions, follow-ups, replies, taking over, uploads, and cancelling."""

from __future__ import annotations

import asyncio
import hashlib
import json as stdlib_json
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, NotJSON, Refused, Unreachable
from receiver.events import Submission, new_id
from receiver.journal import Journal
from receiver.maintenance.retention import Retention
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.tasks import decode_json
from receiver.web.admission import BodyLimits
from receiver.web.api import schemas
from receiver.web.api.read_routes import find
from receiver.web.api.responses import Erased, Links, clean, json, problem_of, submission_record
from receiver.web.problems import Problem

T = TypeVar("T")

MAX_BODY = 80 * 1024 * 1024
"""Bytes of a body: a few pictures of the largest size, as base64."""
BODY_SECONDS = 60.0
MAX_KEY = 200
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a character outside the BMP, in JSON. Without its other half it is in no text (RFC 8259 §8.2)."""


class WriteRoutes:
    """The endpoints that write."""

    def __init__(
        self, *, submissions: Submissions, journal: Journal, provider: Provider, clock: Clock, retention: Retention
    ) -> None:
        self._submissions = submissions
        self._journal = journal
        self._provider = provider
        self._clock = clock
        self._retention = retention
        self._bodies = BodyLimits(name="Bodies", limit=MAX_BODY, seconds=BODY_SECONDS)
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(self, request: Request, caller: str) -> Response:
        """`POST /submissions`."""
        built, body = schemas.read_submission(await self.read(request))
        once, digest = _once(request, caller, body)
        options = body.options(once=once, once_digest=digest)
        return await self._one_by_one(request, once, lambda: self._submissions.prepare(built, options))

    async def press(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/actions`. A button pressed before gives the submission of then.

        `again` presses it once more. The Idempotency-Key counts only then.
        """
        parent = await find(self._journal, request.path_params["id"])
        body = schemas.read(schemas.Press, await self.read(request))
        schemas.check_uri(body.mask)
        once, digest = _once(request, caller, body, parent.id) if body.again else (None, None)
        options = body.options(once=once, once_digest=digest)

        async def prepare() -> Submission:
            return await self._submissions.follow_up(
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
        row = await find(self._journal, request.path_params["id"])
        body = schemas.read(schemas.Answer, await self.read(request))
        schemas.check_uri(body.mask)
        row = await self._submissions.reply(row, prompt=body.prompt, mask=body.mask)
        try:
            row = await self._submissions.send_reply(row.id)
        except Refused as exc:
            if not exc.retry:
                raise problem_of(exc, row.id) from exc
        except (Ambiguous, Unreachable):
            pass  # the record holds the reason, and the engine continues
        row = await self._journal.get(row.id) or row
        sent = row.reply is not None and row.reply.status == "sent"
        return json(submission_record(row), 200 if sent else 202)

    async def watch(self, request: Request, caller: str) -> Response:
        """`POST /submissions/watch`."""
        body = schemas.read(schemas.Watch, await self.read(request))
        before = self._mark()
        row = await self._submissions.adopt(body.task_id, body.options())
        return _made(request, row, 201 if row.id > before else 200)

    async def upload(self, request: Request, caller: str) -> Response:
        """`POST /uploads`."""
        built = schemas.read_upload(await self.read(request))
        return json(Links(urls=tuple(await self._submissions.upload(built))))

    async def cancel(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/cancel`. An event shows the effect."""
        row = await find(self._journal, request.path_params["id"])
        if row.ended is not None or row.status == "refused":
            raise Problem(409, "It has ended already, so there is nothing to cancel.")
        if row.task_id is None:
            raise Problem(409, "It has no task yet that could be cancelled.")
        await self._provider.cancel(row.task_id)
        return json(submission_record(row), 202)

    async def erase(self, request: Request, caller: str) -> Response:
        """`DELETE /submissions/{id}`: for good, with everything that belongs to it."""
        row = await find(self._journal, request.path_params["id"])
        force = request.query_params.get("force", "false")
        if force not in ("true", "false"):
            raise Problem(422, "force is true or false.")
        try:
            erased = await self._retention.erase(row, force=force == "true")
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
        async with asyncio.Lock() if name is None else self._keys.setdefault(name, asyncio.Lock()):
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
                raise problem_of(Refused(str(exc), outcome="unreachable", retry=False), row.id) from exc
            except Ambiguous:
                pass  # the record has the status `unknown` and the reason
            row = await self._journal.get(row.id) or row
            return _made(request, row, 201 if row.status == "accepted" else 202)

    def _mark(self) -> str:
        """Return an id that sorts before every id made later."""
        return new_id(self._clock.now_ms())

    async def read(self, request: Request) -> Any:
        """Return the JSON of a request's body."""
        headers = dict(request.scope["headers"])
        await self._bodies.check_length(headers, request.receive)
        self._bodies.check_type(headers)
        body = await self._bodies.read(request.receive)
        try:
            value = decode_json(body)
        except NotJSON as exc:
            raise Problem(400, "The body is not JSON.") from exc
        if _HALF.search(body):
            try:
                msgspec.json.encode(value)
            except UnicodeEncodeError as exc:
                raise InputError("The body holds half a character, which cannot be stored. Remove it.") from exc
        return value


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
