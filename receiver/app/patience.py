"""Patience with a journal that is away for a moment, for those who wait anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from receiver.clock import Clock
from receiver.engine.loops import TICK
from receiver.errors import JournalError

log = structlog.get_logger("receiver.engine")

SECONDS = 60.0
"""How long the journal may be away before whoever waits is told: a server is restarted, or a disk cleared, in less."""

_PASSING = frozenset({"crowded", "full", "io", "locked", "readonly", "uncertain", "unopened", "unreachable"})
"""Faults that may be over without us. A server only reads while it takes over from another."""

T = TypeVar("T")


class Patience:
    """What all who wait in one process have of it together: that the journal is away is told once for all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bearing = 0

    async def __call__(self, call: Callable[[], Awaitable[T]], *, seconds: float = SECONDS) -> T:
        """What `call` gives; while the journal is away, call again.

        Raises:
            JournalError: it was away for `seconds`, or somebody has to mend something.
        """
        try:
            return await call()
        except JournalError as exc:
            if exc.fault not in _PASSING:
                raise
            if not self._bearing:
                log.warning("journal.away", problem=str(exc))
        self._bearing += 1
        try:
            return await self._again(call, self._clock.monotonic() + seconds)
        finally:
            self._bearing -= 1

    async def _again(self, call: Callable[[], Awaitable[T]], until: float) -> T:
        while True:
            await self._clock.sleep(TICK)
            try:
                return await call()
            except JournalError as exc:
                if exc.fault not in _PASSING or self._clock.monotonic() >= until:
                    raise
