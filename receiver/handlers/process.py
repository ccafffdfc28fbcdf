"""A program in a process group of its own, fed, listened to and ended without holding up the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

KEPT = 16 * 1024
"""Bytes of each stream that are kept: the last ones."""
REST = 0.2
"""Seconds to wait for the rest of what it said, once it has ended: somebody it left behind may hold the stream."""


@dataclass(slots=True)
class Output:
    """What a program said, the end of each stream, and its exit status; a negative one is the signal that ended it."""

    out: bytes = b""
    err: bytes = b""
    status: int = 0


class _Listener(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.output = Output()
        self.exited = asyncio.Event()
        self.silent = asyncio.Event()
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.output.out = (self.output.out + data)[-KEPT:]
        else:
            self.output.err = (self.output.err + data)[-KEPT:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open:
            self.silent.set()

    def process_exited(self) -> None:
        self.exited.set()


class Process:
    """A running program. Whoever starts one must `end` it, however things go."""

    def __init__(self, transport: asyncio.SubprocessTransport, listener: _Listener) -> None:
        self._transport = transport
        self._pid = transport.get_pid()
        self._listener = listener
        self._ended = False

    @classmethod
    async def start(cls, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Process:
        """Start a program; its first argument is its path. Raises OSError when the system cannot."""
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(
            loop.subprocess_exec(_Listener, *arguments, cwd=folder, env=dict(environment), start_new_session=True)
        )
        try:
            transport, listener = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Cancelled between its birth and our knowing of it: nobody else could end it.
            starting.add_done_callback(_end_at_once)
            raise
        return cls(transport, listener)

    @property
    def output(self) -> Output:
        """What it has said so far; complete once `feed` has returned."""
        self._listener.output.status = self._transport.get_returncode() or 0
        return self._listener.output

    async def feed(self, data: bytes) -> None:
        """Give it `data` on its standard input, and wait for its end. It need not read."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        if not stdin.is_closing():  # it may have ended, or closed it, already
            stdin.write(data)
            stdin.close()  # when all is written
        await self._listener.exited.wait()

    async def end(self, grace: float) -> None:
        """End whatever is left of its process group: TERM, and `grace` seconds later KILL; close the pipes. Cancelled,
        it kills at once. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        try:
            if not self._listener.exited.is_set():
                self._signal(signal.SIGTERM)
                await _within(grace, self._listener.exited)
            self._signal(signal.SIGKILL)
            await _within(REST, self._listener.exited)
            await _within(REST, self._listener.silent)
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            raise
        finally:
            self._transport.close()

    def _signal(self, number: signal.Signals) -> None:
        _signal(self._pid, number)


def _end_at_once(starting: asyncio.Future[tuple[asyncio.SubprocessTransport, _Listener]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        transport, _ = starting.result()
        _signal(transport.get_pid(), signal.SIGKILL)
        transport.close()


def _signal(group: int, number: signal.Signals) -> None:
    """To a whole group, which has the number of its first process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
