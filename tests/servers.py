"""Real servers for tests: an ASGI app on uvicorn in this event loop, and the `receiver` command as its own process."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

from forking import Forked
from starlette.types import ASGIApp
from waiting import PATIENCE

from receiver.cli.servers import address, bind, server
from receiver.web.connections import Connection

COMMAND = Path(sys.executable).with_name("receiver")


@asynccontextmanager
async def serving(app: ASGIApp, connection: type[Connection] = Connection) -> AsyncIterator[str]:
    """The app as `receiver serve` serves it, on a free port. Yields its URL."""
    item = server(app)
    item.config.http = connection
    with bind("127.0.0.1", 0) as listener:
        running = asyncio.create_task(item.serve(sockets=[listener]))
        try:
            yield address(listener)
        finally:
            item.should_exit = True
            await running


def connect(url: str) -> socket.socket:
    """A plain connection to a server, for what no client library sends."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


async def exchange(url: str, data: bytes) -> bytes:
    """Send bytes, and read until the server closes. The request should ask for that (`Connection: close`)."""

    def talk() -> bytes:
        with connect(url) as connection:
            connection.sendall(data)
            return read_all(connection)

    return await asyncio.to_thread(talk)


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line on standard output."""
        return self.out.splitlines()[-1]


class Command:
    """A `receiver` process. It inherits nothing from our environment but PATH."""

    def __init__(self, *arguments: str, folder: Path, env: Mapping[str, str], stdin: bytes | None = None) -> None:
        self._process = _start(arguments, folder, environment(folder, env), stdin=stdin is not None)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.out = _Lines(self._process.stdout)
        self.err = _Lines(self._process.stderr)
        if self._process.stdin is not None:
            self._process.stdin.write(stdin or b"")
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> Result:
        """Its end."""
        code = self._process.wait(timeout)
        return Result(code, self.out.all(), self.err.all())

    def stop(self) -> Result:
        """SIGTERM, and its end."""
        self.send_signal(signal.SIGTERM)
        return self.wait()


def _start(
    arguments: Sequence[str], folder: Path, env: Mapping[str, str], *, stdin: bool
) -> subprocess.Popen[bytes] | Forked:
    """Fork the command from a process that has imported it. Start it as people do where Python itself reads `env`."""
    if not any(name.startswith(("PYTHON", "LC_")) for name in env):
        return Forked(arguments, folder, env, stdin=stdin)
    return subprocess.Popen(
        [COMMAND, *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class _Lines:
    """A stream read by a thread, so that a test can wait for a line and still give up."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: list[str] = []
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode()
            self._lines.append(text)
            self._fresh.put(text)
        self._fresh.put(None)

    def line(self, part: str) -> str:
        """The next line that holds `part`."""
        end = time.monotonic() + PATIENCE
        while (text := self._fresh.get(timeout=max(end - time.monotonic(), 0.01))) is not None:
            if part in text:
                return text.rstrip("\n")
        raise AssertionError(f"the process ended without {part!r}; it said: {''.join(self._lines)}")

    def all(self) -> str:
        """The whole text of a process that has ended."""
        self._thread.join(PATIENCE)
        return "".join(self._lines)


def environment(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "TZ": "UTC", **env}


def receiver(*arguments: str, folder: Path, env: Mapping[str, str], stdin: bytes | None = None) -> Result:
    """Run a command to its end."""
    with Command(*arguments, folder=folder, env=env, stdin=stdin) as command:
        return command.wait()


@contextmanager
def simulating(folder: Path, *arguments: str, speed: float = 20) -> Iterator[str]:
    """`receiver simulate` on a free port. Yields its URL."""
    with Command("simulate", "--port", "0", "--speed", str(speed), *arguments, folder=folder, env={}) as command:
        yield _url(command.out.line("http://"))
        command.stop()


@contextmanager
def serving_receiver(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[Command, str]]:
    """`receiver serve` on a free port unless `env` names one. Yields the process and its URL."""
    with Command("serve", folder=folder, env={"RECEIVER_PORT": "0", **env}) as command:
        yield command, _url(command.out.line("http://"))


def _url(line: str) -> str:
    return next(word.rstrip(".;") for word in line.split() if word.startswith("http://"))
