"""`/livez`: the process answers. `/readyz`: a callback that comes now would be kept.

Both are public, so their answers name no path and no address. The log has the whole sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from receiver.errors import JournalError, MediaError, ReceiverError
from receiver.telemetry import Log

log = Log("receiver.engine.health")

Check = Callable[[], Awaitable[None]]

_FAULTS: Mapping[str, str] = {
    "closed": "The journal is closed.",
    "cut": "The journal's log was cut by another program. Start Receiver again, and run: receiver journal check",
    "damaged": "The journal is damaged. Restore it from a backup and start Receiver again.",
    "full": "The disk is full, or nearly. Free some space. Receiver then goes on by itself.",
    "io": "The disk reports errors. Look at the disk and at the system's log.",
    "locked": "Another process has locked the journal. Look for a program that holds it open for writing.",
    "newer": "The journal belongs to a newer Receiver. Start that version.",
    "readonly": "The journal cannot be written. Give Receiver write access to it.",
    "unopened": "The journal's folder is gone, or cannot be used. Put it back, or start Receiver again.",
    "replaced": "The journal's file was removed or replaced. Put it back, or start Receiver again.",
}
"""Public sentence of each `JournalError.fault`."""


async def livez(request: Request) -> Response:
    """Answer 200 as long as the event loop runs."""
    return PlainTextResponse("ok")


class Readyz:
    """Answer 200 if every check passes, else 503 with the reasons.

    A check raises ReceiverError with a sentence. Concurrent requests share one run of each check, and a check that
    hangs is not started again, because checks write and are public. `notes` are checks that are shown and do not
    count, because refusing callbacks would not help.
    """

    def __init__(
        self, checks: Mapping[str, Check], *, notes: Mapping[str, Check] = MappingProxyType({}), timeout: float = 2.0
    ) -> None:
        self._checks = {**checks, **notes}
        self._notes = notes.keys()
        self._timeout = timeout
        self._running: dict[str, asyncio.Future[None]] = {}
        self._logged: dict[str, str] = {}

    async def answer(self, request: Request) -> Response:
        """Run the checks concurrently, or wait for those that run already."""
        texts = await asyncio.gather(*(self._run(name, check) for name, check in self._checks.items()))
        found = dict(zip(self._checks, texts, strict=True))
        ready = all(text == "ok" for name, text in found.items() if name not in self._notes)
        return JSONResponse({"ready": ready, **found}, 200 if ready else 503)

    async def _run(self, name: str, check: Check) -> str:
        """Return "ok", or what is wrong and what to do, in words that name no file of ours."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.ensure_future(check())
            task.add_done_callback(lambda done: (self._running.pop(name), done.cancelled() or done.exception()))
        text, problem = "ok", None
        try:
            await asyncio.wait_for(asyncio.shield(task), self._timeout)
        except TimeoutError:
            text = f"It has not answered within {self._timeout:g} s."
        except ReceiverError as exc:
            text = problem = str(exc)
            if isinstance(exc, JournalError):
                text = _FAULTS.get(exc.fault, "The journal cannot be used. Receiver's log says why.")
            elif isinstance(exc, MediaError):
                text = "The media store cannot be used. Receiver's log says why."
        if self._logged.get(name, "ok") != text:
            level = log.info if text == "ok" else log.error
            level("readyz.changed", check=name, answer=text, problem=problem)
        self._logged[name] = text
        return text
