"""Notify other processes of documents that were written (LISTEN/NOTIFY). A notification may get lost: all poll, too."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog

from receiver.errors import JournalError
from receiver.journal.postgres.connections import Connections
from receiver.journal.postgres.faults import ERRORS, Connection, translated

log = structlog.get_logger("receiver.journal")

CHANNEL = "receiver"
MOST = 200
"""Ids in one notification, which holds 8,000 bytes. Of more it says only that there are many."""
PAUSE_SECONDS = 0.025
"""Time between two notifications. Writes in between share the next one."""
RETRY_SECONDS = 1.0
"""Time until a listening connection that broke is replaced."""
ALIVE_SECONDS = 15.0
"""Time between two questions to a listening connection if it still works."""

Changed = Callable[[frozenset[str] | None], None]


class Notifier:
    """Notifies subscribers in this process at once, and those in other processes by a connection that listens.

    Attributes:
        listening: set while that connection works.
    """

    def __init__(self, connections: Connections, *, enabled: bool) -> None:
        self._connections = connections
        self._enabled = enabled
        self._process = secrets.token_hex(8)
        self._subscribers: list[Changed] = []
        self._written: set[str] = set()
        self._sender: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    def subscribe(self, changed: Changed) -> None:
        """See `Store.subscribe`."""
        self._subscribers.append(changed)
        if self._enabled and self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="journal listener")

    def tell(self, ids: Iterable[str]) -> None:
        """Notify all of documents that were committed."""
        if not (changed := frozenset(ids)):
            return
        self._call(changed)
        if self._enabled:
            self._written |= changed
            if self._sender is None or self._sender.done():
                self._sender = asyncio.create_task(self._send(), name="journal notifier")

    def _call(self, changed: frozenset[str] | None) -> None:
        for subscriber in self._subscribers:
            subscriber(changed)

    async def flush(self) -> None:
        """Wait until other processes have been notified of all."""
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def aclose(self) -> None:
        await self.flush()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def _send(self) -> None:
        while self._written:
            ids, self._written = self._written, set()
            payload = f"{self._process} {' '.join(ids) if len(ids) <= MOST else ''}"
            with suppress(JournalError, *ERRORS):
                async with self._connections.acquire() as db:
                    await db.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _listen(self) -> None:
        logged = False
        while True:
            try:
                with translated(self._connections.where):
                    async with self._connections.separate() as db:
                        await self._hear(db)
                logged = False
            except JournalError as exc:
                if not logged:
                    log.warning("journal.listener_lost", problem=str(exc))
                logged = True
            await asyncio.sleep(RETRY_SECONDS)

    async def _hear(self, db: Connection) -> None:
        """Listen until the connection breaks."""
        broken = asyncio.Event()
        db.add_termination_listener(lambda _: broken.set())
        await db.add_listener(CHANNEL, self._heard)
        self.listening.set()
        self._call(None)  # notifications before this were missed
        try:
            while not broken.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(broken.wait(), ALIVE_SECONDS)
                    return
                await db.execute("SELECT 1", timeout=ALIVE_SECONDS)
        finally:
            self.listening.clear()

    def _heard(self, db: Connection, pid: int, channel: str, payload: Any) -> None:
        process, *ids = str(payload).split()
        if process != self._process:
            self._call(frozenset(ids) or None)
