"""`/livez`: the process answers. `/readyz`: a callback that comes now would be kept.

Both are for everybody, so they name no path and no address; the log has the whole sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from receiver.errors import JournalError, MediaError, ReceiverError

log = structlog.get_logger("receiver.health")

Check = Callable[[], Awaitable[None]]

_FAULTS: Mapping[str, str] = {
    "closed": "The journal is closed.",
    "damaged": "The journal is damaged. Restore it from a backup and start Receiver again.",
    "full": "The disk is full, or nearly. Free some space; Receiver goes on by itself.",
    "io": "The disk reports errors. Look at the disk and at the system's log.",
    "locked": "Another process has locked the journal. Look for a program that holds it open for writing.",
    "newer": "The journal belongs to a newer Receiver. Start that version.",
    "readonly": "The journal cannot be written. Give Receiver write access to it.",
    "replaced": "The journal's file was removed or replaced. Put it back, or start Receiver again.",
}


async def livez(request: Request) -> Response:
    """200 as long as the event loop turns."""
    return PlainTextResponse("ok")


class Readyz:
    """200 when every check passes, else 503 that says why. A check raises ReceiverError with a sentence.

    All who ask at the same time get one answer, and a check that hangs is not begun again: a check writes, anybody may
    ask, and many who ask shall cost no more than one.

    Args:
        checks: by name.
        patience: seconds a check may take, because whoever asks waits no longer than that.
    """

    def __init__(self, checks: Mapping[str, Check], *, patience: float = 2.0) -> None:
        self._checks = checks
        self._patience = patience
        self._running: dict[str, asyncio.Task[str]] = {}
        self._answer: asyncio.Task[dict[str, str]] | None = None
        self._told: dict[str, str] = {}

    async def answer(self, request: Request) -> Response:
        """Run the checks side by side, or wait with those who asked before."""
        if self._answer is None or self._answer.done():
            self._answer = asyncio.create_task(self._check(), name="readyz")
        found = await asyncio.shield(self._answer)
        ready = all(text == "ok" for text in found.values())
        return JSONResponse({"ready": ready, **found}, 200 if ready else 503)

    async def _check(self) -> dict[str, str]:
        texts = await asyncio.gather(*(self._run(name, check) for name, check in self._checks.items()))
        return dict(zip(self._checks, texts, strict=True))

    async def _run(self, name: str, check: Check) -> str:
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._one(name, check), name=f"readyz {name}")
            task.add_done_callback(lambda _: self._running.pop(name))
        done, _ = await asyncio.wait([task], timeout=self._patience)
        if not done:
            return self._tell(name, f"It has not answered within {self._patience:g} s.", None)
        return task.result()

    async def _one(self, name: str, check: Check) -> str:
        try:
            await check()
        except ReceiverError as exc:
            return self._tell(name, _public(exc), str(exc))
        return self._tell(name, "ok", None)

    def _tell(self, name: str, text: str, problem: str | None) -> str:
        """One line in the log when an answer changes."""
        if self._told.get(name, "ok") != text:
            level = log.info if text == "ok" else log.error
            level("readyz.changed", check=name, answer=text, problem=problem)
        self._told[name] = text
        return text


def _public(exc: ReceiverError) -> str:
    """What is wrong and what to do, for somebody who shall not learn where our files are."""
    if isinstance(exc, JournalError):
        return _FAULTS.get(exc.fault, "The journal cannot be used. Receiver's log says why.")
    if isinstance(exc, MediaError):
        return "The media store cannot be used. Receiver's log says why."
    return str(exc)
