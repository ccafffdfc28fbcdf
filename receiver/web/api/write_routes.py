"""Endpoints that write: submissions, follow-ups, replies, taking over, uploads, and cancelling."""

from __future__ import annotations

import asyncio
import hashlib
import json as stdlib_json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, Refused, Unreachable
from receiver.events import Submission, new_id
from receiver.journal import Journal
from receiver.maintenance.retention import Retention
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.web.api import schemas
from receiver.web.api.read_routes import find
from receiver.web.api.responses import Erased, Links, clean, json, problem_of, submission_record
from receiver.web.problems import Problem

T = TypeVar("T")

MAX_KEY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRoutes:
    """The endpoints that write."""

    submissions: Submissions
    journal: Journal
    provider: Provider
    clock: Clock
    retention: Retention
    keys: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

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
        parent = await find(self.journal, request.path_params["id"])
        body = schemas.read(schemas.Press, await schemas.read_json(request))
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
        row = await find(self.journal, request.path_params["id"])
        body = schemas.read(schemas.Answer, await schemas.read_json(request))
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
        body = schemas.read(schemas.Watch, await schemas.read_json(request))
        before = self._mark()
        row = await self.submissions.adopt(body.task_id, body.options())
        return _made(request, row, 201 if row.id > before else 200)

    async def upload(self, request: Request, caller: str) -> Response:
        """`POST /uploads`."""
        built = await schemas.read_upload(request)
        return json(Links(urls=tuple(await self.submissions.upload(built))))

    async def cancel(self, request: Request, caller: str) -> Response:
        """`POST /submissions/{id}/cancel`. An event shows the effect."""
        row = await find(self.journal, request.path_params["id"])
        if row.ended is not None or row.status == "refused":
            raise Problem(409, "It has ended already, so there is nothing to cancel.")
        if row.task_id is None:
            raise Problem(409, "It has no task yet that could be cancelled.")
        await self.provider.cancel(row.task_id)
        return json(submission_record(row), 202)

    async def erase(self, request: Request, caller: str) -> Response:
        """`DELETE /submissions/{id}`: for good, with everything that belongs to it."""
        row = await find(self.journal, request.path_params["id"])
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
