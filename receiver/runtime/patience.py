"""Patience with a journal that is away for a moment, for those who wait anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from receiver.clock import Clock
from receiver.errors import JournalError
from receiver.worker import TICK

log = structlog.get_logger("receiver.engine")

SECONDS = 60.0
"""How long the journal may be away before whoever waits is told: a server is restarted, or a disk cleared, in less."""

_PASSING = frozenset({"crowded", "full", "io", "locked", "readonly", "uncertain", "unopened", "unreachable"})
"""Faults that may be over without us. A server only reads while it takes over from another."""

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], *, clock: Clock, seconds: float = SECONDS) -> T:
    """What `call` gives; while the journal is away, call again.

    Raises:
        JournalError: it was away for `seconds`, or somebody has to mend something.
    """
    until: float | None = None
    while True:
        try:
            return await call()
        except JournalError as exc:
            if exc.fault not in _PASSING:
                raise
            if until is None:
                log.warning("journal.away", problem=str(exc))
                until = clock.monotonic() + seconds
            elif clock.monotonic() >= until:
                raise
        await clock.sleep(TICK)
