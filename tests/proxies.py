"""Proxies on loopback: one for TCP that breaks connections where it is told to, and one for HTTP (CONNECT)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, cast

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


class ConnectProxy:
    """An HTTP proxy that leads every connection to one port here, whatever address was asked for.

    It keeps the heads of the requests. With a status that is not 200 it refuses them.
    """

    def __init__(self, target: int, status: int) -> None:
        self._target, self._status = target, status
        self.heads: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def asked(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 %d No\r\n\r\n" % self._status)
        if self._status == 200:
            back, forth = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pump(reader, forth), _pump(back, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@asynccontextmanager
async def connect_proxy(target: int = 0, *, status: int = 200) -> AsyncIterator[ConnectProxy]:
    """An HTTP proxy to a port of this machine."""
    proxy = ConnectProxy(target, status)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
