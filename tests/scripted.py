"""A provider that plays a case of `cases/`: the n-th question sees the n-th view, and the last view stays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import PNG
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CASES = Path(__file__).parent / "cases"
TASK = "1790000000000001"


@dataclass
class Scripted:
    """One task as a case file scripts it.

    Attributes:
        case: the parsed file. Its links say `$BASE` for this server.
        sent: the body of the submit.
        url: the origin of this server, once it runs.
        down: True while every picture is answered 503.
        asked: number of questions about the task.
    """

    case: dict[str, Any]
    sent: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    down: bool = False
    asked: int = 0

    def view(self) -> dict[str, Any]:
        """Return the task as the next question sees it."""
        views = self.case["views"]
        found = views[min(self.asked, len(views) - 1)]
        self.asked += 1
        return self.filled(found)

    def filled(self, view: dict[str, Any]) -> dict[str, Any]:
        """Return a view with the id, the state and the links of this run."""
        text = json.dumps(view).replace("$ID", TASK).replace("$STATE", self.sent["state"]).replace("$BASE", self.url)
        found: dict[str, Any] = json.loads(text)
        return found

    async def _submit(self, request: Request) -> Response:
        self.sent = await request.json()
        return JSONResponse({"code": 1, "description": "", "result": TASK})

    async def _list(self, request: Request) -> Response:
        return JSONResponse([self.view()])

    async def _fetch(self, request: Request) -> Response:
        return JSONResponse(self.view())

    async def _media(self, request: Request) -> Response:
        file = self.case["media"].get(request.url.path)
        if file is None:
            return Response(status_code=404)
        if self.down:
            return Response(status_code=503)
        if "status" in file:
            return Response(file["text"], file["status"], media_type=file["type"])
        return Response(content_of(file["file"]))

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mj/submit/{kind}", self._submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self._list, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self._fetch),
                Route("/{path:path}", self._media),
            ]
        )


def content_of(name: str) -> bytes:
    """Return a small picture or clip that differs by name."""
    if name.endswith(".mp4"):
        return b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + name.encode() * 99
    return PNG + name.encode()


@asynccontextmanager
async def scripted(name: str, **fields: Any) -> AsyncIterator[Scripted]:
    """The provider of one case, running."""
    found = Scripted(json.loads((CASES / f"{name}.json").read_text()), **fields)
    async with serving(found.app) as found.url:
        yield found
