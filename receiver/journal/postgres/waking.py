"""Word from process to process that something is due now (LISTEN/NOTIFY). It may fail to come: all poll as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from receiver.errors import JournalError
from receiver.journal.postgres.connections import Connections
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.faults import ERRORS, sentence

log = structlog.get_logger("receiver.journal")

CHANNEL = "receiver"
PAUSE_SECONDS = 0.025
"""Between two words of ours: what happens meanwhile shares the next one."""
AGAIN_SECONDS = 1.0
"""Before a listening connection that broke is replaced."""
ALIVE_SECONDS = 15.0
"""How often a listening connection is asked whether it still is one."""


class Waking:
    """Tells other processes, and listens to them on a connection of its own."""

    def __init__(self, connections: Connections, *, enabled: bool) -> None:
        self._connections = connections
        self._enabled = enabled
        self._woken: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._name = connections.process
        self.hears = asyncio.Event()
        """Set while the listening connection stands."""

    def listen(self, woken: Callable[[], None]) -> None:
        """Call `woken` whenever another process has told of something."""
        self._woken.append(woken)
        if self._enabled and len(self._woken) == 1:
            self._tasks.append(asyncio.create_task(self._listen(), name="journal listener"))

    def tell(self) -> None:
        """Something that is due now was committed. Other processes learn of it at once, or within
        `PAUSE_SECONDS`."""
        if not self._enabled:
            return
        if not self._news.is_set():
            self._news.set()
        if not any(task.get_name() == "journal herald" for task in self._tasks):
            self._tasks.append(asyncio.create_task(self._herald(), name="journal herald"))

    async def aclose(self) -> None:
        """Say and hear nothing any more."""
        self._enabled = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _herald(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            with suppress(JournalError):  # whoever listens polls as well
                await self._connections.read(lambda db: db.execute("SELECT pg_notify($1, $2)", CHANNEL, self._name))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _listen(self) -> None:
        quiet = False
        while True:
            try:
                await self._hear()
            except ERRORS as exc:
                if not quiet:
                    log.warning("journal.deaf", problem=str(sentence(exc, self._connections.where)))
                quiet = True
            else:
                quiet = False
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self) -> None:
        """Listen until the connection breaks."""
        db = await self._connections.lone()
        broken = asyncio.Event()
        db.add_termination_listener(lambda _: broken.set())
        try:
            await db.add_listener(CHANNEL, self._heard)
            self.hears.set()
            self._wake()  # what was said meanwhile was not heard
            while not broken.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(broken.wait(), ALIVE_SECONDS)
                    return
                await db.execute("SELECT 1", timeout=ALIVE_SECONDS)
        finally:
            self.hears.clear()
            await _drop(db)

    def _heard(self, db: Connection, pid: int, channel: str, payload: Any) -> None:
        if payload != self._name:
            self._wake()

    def _wake(self) -> None:
        for woken in self._woken:
            woken()


async def _drop(db: Connection) -> None:
    with suppress(*ERRORS):
        await db.close(timeout=1)
