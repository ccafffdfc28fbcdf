"""One command that submits or waits: what it does, what it prints, and what it says when a person interrupts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import typer

from receiver.cli.direct import send_directly
from receiver.cli.following import SUCCEEDED, follow, follow_all
from receiver.cli.output import note, print_json, say
from receiver.cli.running import run, settings_for
from receiver.errors import Ambiguous, JournalError, MediaError, Refused, Unreachable
from receiver.events import Submission
from receiver.requests import Request
from receiver.runtime import Runtime, open_runtime
from receiver.submissions import Options
from receiver.watchdog import end_process

INTERRUPTED = 130

Prepare = Callable[[Runtime], Awaitable[Submission]]


class Session:
    """Runs one command on the settings of the moment."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._resume: str | None = None
        self._status: int | None = None  # once all is told: what is left is to let deliveries of others finish

    def submit(self, prepare: Prepare, *, wait: bool) -> None:
        """Journal what `prepare` makes, send it, and stay for the result if `wait`."""
        self._interruptibly(self._submit(prepare, wait=wait))

    def request(self, request: Request, options: Options, *, wait: bool) -> None:
        """Submit a request, with a journal or without."""
        settings = settings_for(quiet=True)
        if settings.database_kind == "none":
            self._interruptibly(send_directly(settings, request, options, wait=wait, as_json=self._as_json))
        else:
            self.submit(lambda runtime: runtime.submissions.prepare(request, options), wait=wait)

    def reply(self, prepare: Prepare, *, wait: bool) -> None:
        """Journal the reply that `prepare` gives, send it, and stay for the result if `wait`."""
        self._interruptibly(self._reply(prepare, wait=wait))

    def wait(self, find: Prepare) -> None:
        """Stay for the result of the submission that `find` finds."""
        self._interruptibly(self._wait(find))

    def _interruptibly(self, main: Coroutine[Any, Any, int]) -> None:
        try:
            status = run(main)
        except KeyboardInterrupt:
            status = INTERRUPTED if self._status is None else self._status
            if self._status is None and self._resume:
                note(f"Interrupted; the task goes on. Resume with: receiver wait {self._resume}")
            raise typer.Exit(status) from None
        except JournalError as exc:
            if self._status is not None or self._resume is None:
                raise
            raise JournalError(f"{exc} Resume with: receiver wait {self._resume}", fault=exc.fault) from exc
        if status:
            raise typer.Exit(status)

    async def _submit(self, prepare: Prepare, *, wait: bool) -> int:
        async with open_runtime(settings_for(quiet=True), stalled=end_process) as runtime:
            row = await prepare(runtime)
            self._resume = row.id
            fresh = row.status == "prepared"
            if fresh:
                row = await send(runtime, row, wait=wait)
            if wait:
                return await self._follow(runtime, row)
        self._tell(row, "Submitted" if fresh else "There is already" if row.outcome != "adopted" else "Watching")
        return SUCCEEDED

    async def _reply(self, prepare: Prepare, *, wait: bool) -> int:
        async with open_runtime(settings_for(quiet=True), stalled=end_process) as runtime:
            row = await prepare(runtime)
            self._resume = row.id
            row = await _send_reply(runtime, row, wait=wait)
            if wait:
                return await self._follow(runtime, row)
        if self._as_json or not _is_kept(row):
            self._tell(row, "Replied to")
        return SUCCEEDED

    async def _wait(self, find: Prepare) -> int:
        async with open_runtime(settings_for(quiet=True), stalled=end_process) as runtime:
            row = await find(runtime)
            self._resume = row.id
            return await self._follow(runtime, row)

    async def _follow(self, runtime: Runtime, row: Submission) -> int:
        """To its end, and to the end of what it starts by itself."""

        async def follow_one(id: str) -> tuple[Submission, int]:
            self._resume = id
            return await follow(runtime, id, as_json=self._as_json)

        self._status = await follow_all(runtime, row.id, follow_one)
        return self._status

    def _tell(self, row: Submission, done: str) -> None:
        if self._as_json:
            print_json({"submission": row.id, "task": row.task_id, "status": row.status, "detail": row.detail})
        elif row.status == "accepted":
            say(f"{done} {row.id}, task {row.task_id}. Follow it with: receiver wait {row.id}")
        elif row.standing != "prepared":  # of what is kept `send` has told
            reason = f" {row.reason}" if row.reason else ""
            say(f"Submission {row.id}: {row.standing}.{reason} See: receiver tasks show {row.id}")


async def send(runtime: Runtime, row: Submission, *, wait: bool) -> Submission:
    """Send it now. A provider that is only busy is no error: the submission is kept and sent again. Nor is a lost
    answer, for those who wait: they are told what becomes of it."""
    try:
        return await runtime.submissions.send(row.id)
    except Refused as exc:
        if not exc.retry:
            raise
        _note_kept(row, exc, f"Submission {row.id}")
    except Ambiguous as exc:
        if not wait:
            raise Ambiguous(f"{exc} See: receiver tasks show {row.id}") from exc
    return await runtime.journal.find(row.id)


async def _send_reply(runtime: Runtime, row: Submission, *, wait: bool) -> Submission:
    """Send the reply now, as `send` does a submission. One that never arrived is kept, too."""
    try:
        return await runtime.submissions.send_reply(row.id)
    except (Refused, Unreachable, MediaError) as exc:
        after = await runtime.journal.find(row.id)
        if not _is_kept(after):
            raise
        _note_kept(row, exc, f"The reply to {row.id}")
        return after
    except Ambiguous as exc:
        if not wait:
            raise Ambiguous(f"{exc} See: receiver tasks show {row.id}") from exc
    return await runtime.journal.find(row.id)


def _is_kept(row: Submission) -> bool:
    return row.reply is not None and row.reply.status == "waiting"


def _note_kept(row: Submission, problem: Exception, what: str) -> None:
    note(f"{problem} {what} is kept and sent again by `receiver serve`, `receiver worker` or `receiver wait {row.id}`.")
