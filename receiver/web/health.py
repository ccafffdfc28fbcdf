"""`/livez`: the process answers. `/readyz`: a callback that comes now would be kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from receiver.errors import ReceiverError

Check = Callable[[], Awaitable[None]]


async def livez(request: Request) -> Response:
    """200 as long as the event loop turns."""
    return PlainTextResponse("ok")


class Readyz:
    """200 when every check passes, else 503 that says why. A check raises ReceiverError with a sentence."""

    def __init__(self, checks: dict[str, Check]) -> None:
        self._checks = checks

    async def answer(self, request: Request) -> Response:
        """Run the checks in order."""
        found = {name: await _run(check) for name, check in self._checks.items()}
        ready = all(text == "ok" for text in found.values())
        return JSONResponse({"ready": ready, **found}, 200 if ready else 503)


async def _run(check: Check) -> str:
    try:
        await check()
    except ReceiverError as exc:
        return str(exc)
    return "ok"
