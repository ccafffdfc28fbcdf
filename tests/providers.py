"""A provider over real HTTP that does only what it is told, for a function that is asked step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from engine import PNG, Origin
from engine import serving as serving_pictures
from functions import TOKEN
from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class Relay:
    """Makes a task of each submit; `goes_on` and `ends` move the last one, and say what its callback says.

    Attributes:
        sent: the last submit's body.
        tasks: by id, as the provider shows them.
        callers: the connections it was asked on.
    """

    sent: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    callers: set[object] = field(default_factory=set)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mj/submit/imagine", self._submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self._list, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self._fetch),
            ]
        )

    @property
    def path(self) -> str:
        """Where the last task's callbacks go."""
        return httpx.URL(self.sent["notifyHook"]).path

    def goes_on(self, step: str | int) -> dict[str, Any]:
        """A status, or a percentage of IN_PROGRESS."""
        status, percent = ("IN_PROGRESS", f"{step}%") if isinstance(step, int) else (step, "0%")
        return self._moves({"status": status, "progress": percent})

    def ends(self, picture: str) -> dict[str, Any]:
        """It has succeeded."""
        return self._moves({"status": "SUCCESS", "progress": "100%", "imageUrl": picture})

    def _moves(self, fields: dict[str, Any]) -> dict[str, Any]:
        id = str(len(self.tasks))
        self.tasks[id] |= fields
        return self.tasks[id]

    async def _submit(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        self.sent = await request.json()
        id = str(len(self.tasks) + 1)
        self.tasks[id] = {"id": id, "status": "SUBMITTED", "progress": "0%", "action": "IMAGINE"}
        self.tasks[id] |= {"prompt": self.sent["prompt"], "state": self.sent["state"]}
        return JSONResponse({"code": 1, "description": "", "result": id})

    async def _list(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        ids = (await request.json())["ids"]
        return JSONResponse([self.tasks[id] for id in ids if id in self.tasks])

    async def _fetch(self, request: Request) -> Response:
        self.callers.add(request.scope["client"])
        return JSONResponse(self.tasks.get(request.path_params["id"]))


@asynccontextmanager
async def provided() -> AsyncIterator[tuple[Relay, str, dict[str, str]]]:
    """A provider, a picture's link, and the variables that lead a function to both."""
    relay = Relay()
    async with serving(relay.app()) as url, serving_pictures(Origin()) as origin:
        origin.files["/1.png"] = PNG
        yield (
            relay,
            f"{origin.url}/1.png",
            {
                "COMETAPI_KEY": "sk-0123456789",
                "RECEIVER_PROVIDER_URL": url,
                "RECEIVER_PUBLIC_URL": "https://fcodhubyw.lambda-url.ap-northeast-1.on.aws",
                "RECEIVER_KEYS": "k" * 32,
                "RECEIVER_API_TOKENS": f"ci:{TOKEN}",
                "RECEIVER_MEDIA_HOSTS": origin.url,
            },
        )
