"""Whether what a shift claims is its own: the name a process has among the engines, and its signs of life.

It is said before anything is claimed, because a process that lives only while it answers may be put to sleep for hours
between two shifts, and be taken for dead meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping

import structlog

from receiver.clock import Clock
from receiver.dispatcher import Dispatcher
from receiver.errors import EngineRunning, JournalError
from receiver.journal import BEAT_SECONDS, DEAD_SECONDS, Journal
from receiver.media import Store
from receiver.runtime.upkeep import check_to_start

log = structlog.get_logger("receiver.shifts")

ROLE = "function"
"""What other processes are told about who this is."""


class Presence:
    """A process among the engines, under a new name whenever it may have been taken for dead under the last one.

    Args:
        destinations: what this process delivers to: name → handler.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        store: Store,
        destinations: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._entered = self._registered = False
        self._beaten = float("-inf")
        self._turn = asyncio.Lock()
        """Steps run side by side, and a name is taken once."""

    async def sure(self) -> bool:
        """Whether what is claimed now is ours; not where an engine lives that suffers no other."""
        async with self._turn:
            try:
                if self._entered and self._journal.shared and self._slept() and not self._dispatcher.running():
                    self._entered = False
                    await self._journal.resign(self._dispatcher.owner)
                if self._entered:
                    await self._beat()
                else:
                    await self._enter()
                if not self._registered:  # also where an earlier start came no further than its entering
                    await self._register()
            except EngineRunning as exc:
                log.info("shift.left_to_engine", holder=exc.holder)
                return False
        return True

    async def show(self) -> None:
        """A sign of life while deliveries run. If we are taken for dead all the same, the journal refuses what they
        come to."""
        try:
            async with self._turn:
                await self._beat()
        except JournalError as exc:
            log.warning("shift.no_sign_of_life", problem=str(exc))

    def doubt(self) -> None:
        """Something was left behind under our name: take another one before anything is claimed."""
        self._beaten = float("-inf")

    async def leave(self) -> None:
        """Where the journal is out of reach, the others learn it from our silence. Idempotent."""
        if not self._entered:
            return
        self._entered = False
        try:
            await self._journal.resign(self._dispatcher.owner)
        except JournalError as exc:
            log.warning("shift.not_resigned", owner=self._dispatcher.owner, problem=str(exc))

    def _slept(self) -> bool:
        """By the wall clock: the one that only goes forward may stand still while a process is put to sleep."""
        return not 0 <= self._clock.now() - self._beaten < DEAD_SECONDS / 2

    async def _enter(self) -> None:
        owner = f"{ROLE}-{os.getpid()}-{secrets.token_hex(4)}"
        await self._journal.become_engine(ROLE, owner, store=await self._store.identity())
        self._dispatcher.owner = owner
        self._entered = True
        self._beaten = self._clock.now()

    async def _register(self) -> None:
        await check_to_start(self._store.check, self._store)
        await self._journal.register(self._destinations)
        self._registered = True

    async def _beat(self) -> None:
        now = self._clock.now()
        if not self._entered or 0 <= now - self._beaten < BEAT_SECONDS:
            return
        if await self._journal.beat(self._dispatcher.owner):
            self._beaten = now
            return
        self._entered = False
        dropped = await self._dispatcher.abandon()
        log.warning("shift.taken_for_dead", owner=self._dispatcher.owner, dropped=dropped)
        await self._enter()
