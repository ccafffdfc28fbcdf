"""An engine among others: its signs of life, whether it leads, and what those left behind that gave no more."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from receiver.clock import Clock
from receiver.dispatcher import Dispatcher
from receiver.errors import JournalError
from receiver.journal import BEAT_SECONDS, DEAD_SECONDS, LEASE_SECONDS, Journal
from receiver.worker import Step

log = structlog.get_logger("receiver.engine")

GAP_SECONDS = 2 * BEAT_SECONDS
"""Between two signs of life: after more than that the journal, or this process, was away."""
RESIGN_SECONDS = 2.0
"""How long the journal may take to let an engine go: whoever stops us has no more patience."""
_NEVER, _ALWAYS = float("-inf"), float("inf")


class _Time(NamedTuple):
    """By both clocks: the one that only goes forward stands still while a machine is suspended."""

    forward: float
    wall: float

    def after(self, seconds: float) -> _Time:
        return _Time(self.forward + seconds, self.wall + seconds)


_LONG_AGO = _Time(_NEVER, _NEVER)


class Standing:
    """Where a journal is not shared, its one engine lives and leads from its start to its end.

    Args:
        led: called when it has begun to lead.
        freed: called when deliveries of the dead are due again.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        clock: Clock,
        led: Callable[[], None],
        freed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._clock = clock
        self._led = led
        self._freed = freed
        self._role = self._store = ""
        self._entered = False
        self._lives_until = self._leads_until = _LONG_AGO
        self._renew_at = self._heard_at = self._heard_since = _NEVER

    @property
    def lives(self) -> bool:
        """Whether nobody can have taken us for dead yet, so that what we claim is ours."""
        return self._is_before(self._lives_until)

    @property
    def leads(self) -> bool:
        """Whether nobody else can lead now."""
        return self._is_before(self._leads_until)

    def _now(self) -> _Time:
        return _Time(self._clock.monotonic(), self._clock.now())

    def _is_before(self, until: _Time) -> bool:
        """By both clocks. A wall clock that was set back takes nothing away: the leader has to mend what that did."""
        now = self._now()
        return now.forward < until.forward and now.wall < until.wall

    def steps(self) -> dict[str, Step]:
        """What is to be repeated as long as others may run beside us."""
        if not self._journal.shared:
            return {}
        beat, free = self._every(BEAT_SECONDS, self._beat), self._every(BEAT_SECONDS, self._free)
        return {"beat": beat, "lead": self._lead, "free": free}

    async def enter(self, role: str, *, store: str) -> None:
        """Become an engine. Raises what `Journal.become_engine` does."""
        self._role, self._store = role, store
        await self._enter()

    async def _enter(self) -> None:
        owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        asked = self._now()
        await self._journal.become_engine(self._role, owner, store=self._store)
        self._dispatcher.owner = owner
        self._entered = True
        self._heard(asked.forward)
        self._lives_until = asked.after(DEAD_SECONDS if self._journal.shared else _ALWAYS)
        self._leads_until = _LONG_AGO if self._journal.shared else asked.after(_ALWAYS)

    async def leave(self) -> None:
        """Give way to others. Where the journal is out of reach, they learn it from our silence. Idempotent."""
        if not self._entered:
            return
        self._gone()
        try:
            async with asyncio.timeout(RESIGN_SECONDS):
                await self._journal.resign(self._dispatcher.owner)
        except (JournalError, TimeoutError) as exc:
            problem = str(exc) or "The journal does not answer in time."
            log.warning("engine.not_resigned", owner=self._dispatcher.owner, problem=problem)

    def _gone(self) -> None:
        self._entered = False
        self._lives_until = self._leads_until = _LONG_AGO
        self._renew_at = _NEVER

    async def _beat(self) -> None:
        asked = self._now()
        if self._entered and await self._journal.beat(self._dispatcher.owner):
            self._lives_until = asked.after(DEAD_SECONDS)
            self._heard(asked.forward)
            return
        if self._entered:
            owner = self._dispatcher.owner
            self._gone()
            dropped = await self._dispatcher.abandon()
            log.error("engine.taken_for_dead", owner=owner, dropped=dropped)
        await self._enter()
        log.info("engine.entered_again", owner=self._dispatcher.owner)

    def _heard(self, at: float) -> None:
        """The journal has taken a sign of life; whether others could give theirs shows in whether we could."""
        if at - self._heard_at > GAP_SECONDS:
            self._heard_since = at
        self._heard_at = at

    async def _lead(self) -> int:
        asked = self._now()
        if not self.lives or asked.forward < self._renew_at:
            return 0
        led = self.leads
        if not await self._journal.lead(self._dispatcher.owner):
            self._leads_until, self._renew_at = _LONG_AGO, _NEVER
            return 0
        self._leads_until, self._renew_at = asked.after(LEASE_SECONDS), asked.forward + BEAT_SECONDS
        if not led:
            log.info("engine.leads", owner=self._dispatcher.owner)
            self._led()
        return 0

    async def _free(self) -> None:
        """The leader alone, and not as soon as a database is back that was away for longer than engines may be silent:
        then all seem dead, until each has had its turn to say that it is not."""
        if not self.leads or self._clock.monotonic() - self._heard_since < GAP_SECONDS:
            return
        freed = await self._dispatcher.free()
        if freed:
            log.warning("engine.freed", deliveries=freed)
            self._freed()

    def _every(self, seconds: float, call: Callable[[], Awaitable[None]]) -> Step:
        """A step that does something no oftener than that, and soon again where it failed."""
        due = _NEVER

        async def step() -> int:
            nonlocal due
            if self._clock.monotonic() >= due:
                await call()
                due = self._clock.monotonic() + seconds
            return 0

        return step
