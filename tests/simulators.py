"""A simulator, a client of it and a receiver of its callbacks, all in one event loop."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE

from receiver.simulator import Simulator
from receiver.simulator.timeline import TERMINAL

PAYLOADS = Path(__file__).parent / "payloads"
PROMPT = "a paper boat floating on calm water at sunrise --v 6.1"
HOOK = "http://hooks.test/cb"
ORIGIN = "http://provider.test"
FAST = 200.0


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / name).read_text())


def request_body(**changes: Any) -> dict[str, Any]:
    return {**payload("request_01_imagine.json"), "notifyHook": HOOK, **changes}


def kind(value: Any) -> Any:
    """The JSON type of a value; of objects and of the first item of lists also what is inside."""
    if isinstance(value, dict):
        return {key: kind(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kind(item) for item in value[:1]]
    names = {type(None): "null", bool: "boolean", str: "string", int: "number", float: "number"}
    return names[type(value)]


class Hooks:
    """A receiver of callbacks that remembers them and can be waited for."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.requests: list[Request] = []
        self._answer = (status, headers)
        self._arrived = asyncio.Event()
        methods = ["GET", "POST"]
        self.app = Starlette(routes=[Route("/{path:path}", self._receive, methods=methods)])

    async def _receive(self, request: Request) -> Response:
        self.raw.append(await request.body())
        self.requests.append(request)
        self.bodies.append(json.loads(self.raw[-1]))
        self._arrived.set()
        return Response(None, *self._answer)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(body["status"], body["progress"]) for body in self.bodies]

    async def until(self, done: Callable[["Hooks"], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not done(self):
                self._arrived.clear()
                await self._arrived.wait()

    async def until_end(self, ends: int = 1) -> None:
        await self.until(lambda hooks: sum(status in TERMINAL for status, _ in hooks.told) >= ends)


class Run:
    """A simulator, a client of it, and a receiver of its callbacks."""

    def __init__(self, simulator: Simulator, client: httpx.AsyncClient, hooks: Hooks) -> None:
        self.simulator, self.client, self.hooks = simulator, client, hooks

    async def submit(self, path: str = "/mj/submit/imagine", **changes: Any) -> httpx.Response:
        return await self.client.post(path, json=request_body(**changes))

    async def task_id(self, **changes: Any) -> str:
        return str((await self.submit(**changes)).json()["result"])

    async def fetch(self, task_id: str) -> Any:
        return (await self.client.get(f"/mj/task/{task_id}/fetch")).json()

    async def fetch_until(self, task_id: str, done: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not done(task := await self.fetch(task_id)):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        return task


@asynccontextmanager
async def running(hooks: Hooks | None = None, **options: Any) -> AsyncIterator[Run]:
    hooks = hooks or Hooks()
    async with AsyncExitStack() as stack:
        calls = await stack.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(app=hooks.app)))
        simulator = Simulator(**{"speed": FAST, "side": 128, "client": calls, **options})
        stack.push_async_callback(simulator.aclose)
        transport = httpx.ASGITransport(app=simulator.app)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=ORIGIN))
        yield Run(simulator, client, hooks)


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", 0))
    # Whoever connects before the server is up waits instead of being refused.
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    running_server = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running_server
        listener.close()
