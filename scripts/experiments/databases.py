"""A PostgreSQL server that can be crashed, and a proxy to it that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from postgres_server import Server

PATIENCE = 30.0
"""Limit of an answer in seconds."""


class Database:
    """A server, and queries to it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.url()
        self.port = server.port

    async def crash(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does: nothing is finished, and the next start recovers."""
        await asyncio.to_thread(self._server.stop, "immediate")

    async def start(self) -> None:
        """Start the server. It takes connections when this returns."""
        await asyncio.to_thread(self._server.start)

    async def ask(self, statement: str, *values: Any) -> list[Any]:
        """Return rows, as any program can read them."""
        db = await asyncpg.connect(self.url, timeout=PATIENCE)
        try:
            return await db.fetch(statement, *values)  # type: ignore[no-any-return]
        finally:
            await db.close()


@asynccontextmanager
async def database(**settings: str) -> AsyncIterator[Database]:
    """Run a server until the end of the block, then remove its files. `settings` are of `postgresql.conf`."""
    server = await asyncio.to_thread(Server, **settings)
    try:
        yield Database(server)
    finally:
        await asyncio.to_thread(server.close)


class Way:
    """A TCP proxy to a server. While it is cut, bytes go nowhere, and neither side gets an error."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    def cut(self) -> None:
        """Drop everything, new connections too."""
        self._open.clear()

    def mend(self) -> None:
        """Abort the old connections, and let new ones through."""
        for task in self._tasks:
            task.cancel()
        self._open.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            await self._open.wait()
            answers, questions = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(questions)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, questions))
                group.create_task(self._pass(answers, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # one side has hung up, or `mend` ends this connection
        finally:
            self._tasks.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionError("one side has hung up")


@asynccontextmanager
async def way_to(database: Database) -> AsyncIterator[Way]:
    """Open a proxy to the database."""
    way = Way(database.port)
    server = await asyncio.start_server(way.take, "127.0.0.1", 0)
    way.url = database.url.replace(f":{database.port}/", f":{server.sockets[0].getsockname()[1]}/")
    try:
        yield way
    finally:
        way.mend()
        server.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 1)
