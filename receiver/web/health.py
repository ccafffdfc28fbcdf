"""`/livez`: the process answers. `/readyz`: a callback that comes now would be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from receiver.errors import ReceiverError

Check = Callable[[], Awaitable[None]]


async def livez(request: Request) -> Response:
    """200 as long as the event loop turns."""
    return PlainTextResponse("ok")


class Readyz:
    """200 when every check passes, else 503 that says why. A check raises ReceiverError with a sentence.

    `patience`: seconds a check may take, because whoever asks waits no longer than that.
    """

    def __init__(self, checks: dict[str, Check], *, patience: float = 2.0) -> None:
        self._checks = checks
        self._patience = patience

    async def answer(self, request: Request) -> Response:
        """Run the checks side by side."""
        texts = await asyncio.gather(*(self._run(check) for check in self._checks.values()))
        found = dict(zip(self._checks, texts, strict=True))
        ready = all(text == "ok" for text in found.values())
        return JSONResponse({"ready": ready, **found}, 200 if ready else 503)

    async def _run(self, check: Check) -> str:
        try:
            async with asyncio.timeout(self._patience):
                await check()
        except TimeoutError:
            return f"It has not answered within {self._patience:g} s."
        except ReceiverError as exc:
            return str(exc)
        return "ok"
