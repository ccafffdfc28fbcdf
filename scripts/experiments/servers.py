"""`receiver serve` as a process that can be killed, and the same in this process, where a seam can be replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ports import free_port
from starlette.types import ASGIApp

from experiments.stage import HOUR, KEY, ROOT, START, http_client
from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.functions import Function
from receiver.app.web import web_app
from receiver.cli.servers import address, bind
from receiver.cli.servers import server as web_server
from receiver.clock import Clock
from receiver.settings import Settings


def environment(folder: Path, port: int, **more: str) -> dict[str, str]:
    """Return settings of a Receiver that never polls: callbacks need no confirmation, and polls are an hour away."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(folder)]),
        "COMETAPI_KEY": "experiments",
        "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9",
        "RECEIVER_KEYS": KEY,
        "RECEIVER_DATA": str(folder / "data"),
        "RECEIVER_TO": f"file:{folder / 'outputs'}",
        "RECEIVER_CONFIRM_WITHIN": "0",
        "RECEIVER_POLL_INTERVAL": "1h",
        "RECEIVER_PORT": str(port),
        "RECEIVER_LOG_LEVEL": "warning",
        **more,
    }


class Server:
    """`receiver serve`, or a broken build of it, as a process; started as often as it is killed, on the same port.

    Args:
        folder: for its data, its outputs and its log.
        build: a name in `builds.seams`; None: Receiver as it is.
        command: what it is to be.
        more: further variables of its environment.
    """

    def __init__(
        self, folder: Path, *, build: str | None = None, command: Sequence[str] = ("serve",), **more: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._environ = environment(folder, self.port, **more)
        self._command = [*(["receiver"] if build is None else ["builds", build]), *command]
        self._process: asyncio.subprocess.Process | None = None

    def let_callbacks_come(self) -> None:
        """Tell it its own address."""
        self._environ["RECEIVER_PUBLIC_URL"] = self.url

    @property
    def running(self) -> bool:
        """True if it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it is not started"
        return self._process.pid

    async def spawn(self) -> None:
        """Start it, and wait for nothing."""
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._command,
                cwd=self._folder, env=self._environ, stdout=log, stderr=log,
            )  # fmt: skip

    async def start(self) -> float:
        """Start it. Returns the seconds until `/readyz` said 200."""
        begun = time.monotonic()
        await self.spawn()
        await self.ready()
        return time.monotonic() - begun

    async def ready(self) -> None:
        """Until `/readyz` says 200. Raises RuntimeError with its log if it does not."""
        until = time.monotonic() + START
        async with http_client(self.url) as http:
            while time.monotonic() < until and self._process is not None and self._process.returncode is None:
                with suppress(httpx.TransportError):
                    if (await http.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.01)
        raise RuntimeError(f"`receiver serve` did not become ready. It said: {self.log()[-2000:]}")

    async def ended(self) -> int:
        """Wait until it ends by itself. Returns its exit status."""
        assert self._process is not None, "it is not started"
        return await self._process.wait()

    async def kill(self) -> None:
        """Send SIGKILL, as sudden as a power cut."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> float:
        """SIGTERM. Returns the seconds until its end."""
        begun = time.monotonic()
        await self._end(signal.SIGTERM)
        return time.monotonic() - begun

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            await self._process.wait()
            self._process = None

    def log(self) -> str:
        """All it has said."""
        return (self._folder / "log").read_text()


@asynccontextmanager
async def server(folder: Path, *, build: str | None = None, **more: str) -> AsyncIterator[Server]:
    """A Server that is not started yet, and ends with the block."""
    item = Server(folder, build=build, **more)
    try:
        yield item
    finally:
        await item.kill()


# In this process


@dataclass(frozen=True)
class Here:
    """A Receiver in this event loop, behind real HTTP."""

    receiver: Runtime
    url: str


@asynccontextmanager
async def here(
    folder: Path,
    *,
    clock: Clock | None = None,
    functions: Iterable[Function] = (),
    call_back: bool = False,
    **settings: Any,
) -> AsyncIterator[Here]:
    """Opened as `receiver serve` opens it, the engine included, with the settings of `environment`.

    Args:
        clock: the time; a real one if None.
        functions: destinations beside those of the settings.
        call_back: give the provider our address.
        settings: in place of what `environment` says.
    """
    defaults: dict[str, Any] = {
        "provider_url": "http://127.0.0.1:9",
        "provider_key": "experiments",
        "keys": (KEY,),
        "data": folder / "data",
        "to": f"file:{folder / 'outputs'}",
        "confirm_within": 0,
        "poll_interval": HOUR,
    }
    with bind("127.0.0.1", 0) as listener:
        if call_back:
            defaults["public_url"] = address(listener)
        async with open_runtime(Settings(**defaults | settings), clock=clock, functions=functions) as receiver:
            await receiver.start_engine("serve")
            async with _served(web_app(receiver), listener):
                yield Here(receiver, address(listener))


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Any app behind real HTTP while the block runs. Yields its URL."""
    with bind("127.0.0.1", 0) as listener:
        async with _served(app, listener):
            yield address(listener)


@asynccontextmanager
async def _served(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    running = web_server(app)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield
    finally:
        running.should_exit = True
        await task
