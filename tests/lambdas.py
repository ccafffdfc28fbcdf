"""AWS Lambda on this machine: its runtime API (docs.aws.amazon.com, "runtimes-api"), and Amazon's own runtime client in
a process of its own, which asks it for events."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from waiting import PATIENCE

RECORDED = Path(__file__).parent / "payloads" / "aws"
VERSION = "/2018-06-01/runtime"


def request_event(path: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> dict[str, Any]:
    """The recorded event of a function URL, as that request would make it."""
    event: dict[str, Any] = json.loads((RECORDED / "function_url.json").read_text())
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["http"]["method"] = method
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    event["headers"] |= {"content-length": str(len(body)), **named}
    event["body"] = body.decode()
    return event


def scheduled_event() -> dict[str, Any]:
    """The recorded event of a schedule."""
    event: dict[str, Any] = json.loads((RECORDED / "scheduled.json").read_text())
    return event


@dataclass
class Runtime:
    """The runtime API of one environment: `invoke` gives it an event, and waits for what the function answers.

    Attributes:
        seconds: what an invocation may take.
        failures: what the function reported as an error, at its start or later.
    """

    seconds: float = 120.0
    failures: list[dict[str, Any]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the function asks for its first event: its start has ended."""
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first of `failures`."""
    _events: asyncio.Queue[tuple[str, dict[str, Any]]] = field(default_factory=asyncio.Queue)
    _answers: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def invoke(self, event: dict[str, Any]) -> Any:
        """What the handler returned. Raises RuntimeError where it raised."""
        id = f"8476a536-e9f4-11e8-9739-{next(self._numbers):012d}"
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        await self._events.put((id, event))
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def invoke_nothing(self) -> None:
        """Let the request end that waits for an event."""
        await self._events.put(("", {}))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(VERSION + "/invocation/next", self._next),
                Route(VERSION + "/invocation/{id}/response", self._response, methods=["POST"]),
                Route(VERSION + "/invocation/{id}/error", self._error, methods=["POST"]),
                Route(VERSION + "/init/error", self._error, methods=["POST"]),
            ]
        )

    async def _next(self, request: Request) -> Response:
        self.asked.set()
        id, event = await self._events.get()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:receiver",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
        }
        return JSONResponse(event, headers=headers)

    async def _response(self, request: Request) -> Response:
        self._answers.pop(request.path_params["id"]).set_result(await request.json())
        return JSONResponse({"status": "OK"}, 202)

    async def _error(self, request: Request) -> Response:
        report = await request.json()
        self.failures.append(report)
        self.failed.set()
        answer = self._answers.pop(request.path_params.get("id", ""), None)
        if answer is not None:
            answer.set_exception(RuntimeError(report["errorMessage"]))
        return JSONResponse({"status": "OK"}, 202)


@asynccontextmanager
async def environment(
    folder: Path, handler: str, variables: Mapping[str, str], *, seconds: float = 120.0, core: int | None = None
) -> AsyncIterator[Runtime]:
    """A cold environment: the runtime client has been started, and has imported the handler when it first asks. What it
    writes is in `log`.

    Args:
        folder: where the handler's module lies.
        handler: `module.function`.
        variables: of its environment, beside the paths.
        seconds: what an invocation may take.
        core: the only one it may use; None: any.
    """
    runtime = Runtime(seconds)
    # It asks for the next event as long as it lives, so a request of it is always open: the process goes first.
    async with serving(runtime.app()) as url:
        with (folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(() if core is None else ("taskset", "-c", str(core))),
                sys.executable, "-W", "error", "-m", "awslambdaric", handler,
                cwd=folder,
                env={
                    "PATH": os.environ["PATH"],
                    "AWS_LAMBDA_RUNTIME_API": url.removeprefix("http://"),
                    "AWS_LAMBDA_FUNCTION_NAME": "receiver",
                    **variables,
                },
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield runtime
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await runtime.invoke_nothing()
