"""A TCP proxy between a client and a server on loopback, that breaks connections where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Cut = Literal["before", "after"]


class Proxy:
    """Forwards everything, until a client's message holds the words of `cut_at`: then that connection is closed,
    `before` the message reaches the server or `after` the server has answered it, and the client hears nothing. Several
    cuts come one after the other.

    `hold` makes a black hole: connections stand, and nothing passes any more.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self._planned: list[tuple[bytes, Cut]] = []
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0

    def cut_at(self, words: bytes, cut: Cut) -> None:
        """The next message with these words is the last one of its connection."""
        self._planned.append((words, cut))

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        mute = asyncio.Event()
        pumps = {
            asyncio.create_task(self._requests(reader, forth, mute)),
            asyncio.create_task(self._answers(back, writer, mute)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in (writer, forth):
            with suppress(OSError):
                end.close()
        self._tasks -= pumps

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if self._planned and self._planned[0][0] in data:
                    _, cut = self._planned.pop(0)
                    self.cuts += 1
                    if cut == "before":
                        return
                    mute.set()
                writer.write(data)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if mute.is_set():
                    return
                writer.write(data)
                await writer.drain()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of that port."""
    made = Proxy(port)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.aclose()
