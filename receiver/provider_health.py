"""Whether the provider can be asked: one pause for the whole account, and what the operator is told about it."""

from __future__ import annotations

import structlog

from receiver.backoff import PROVIDER, wait_forever
from receiver.clock import Clock
from receiver.errors import ProviderError, Refused
from receiver.health import Troubles

log = structlog.get_logger("receiver.provider")

TROUBLE = "provider"
IN_VAIN = 3
"""Rounds without a word of any task before that is told: a relay may lag by one."""


class ProviderHealth:
    """After a round that failed nothing is asked for 5, 10, 20, 40 and then 60 s, or as long as the provider wants."""

    def __init__(self, *, troubles: Troubles, clock: Clock) -> None:
        self._troubles = troubles
        self._clock = clock
        self._failures = 0
        self._not_before_ms = 0
        self._pause_ms = 0
        self._in_vain = 0

    @property
    def paused(self) -> bool:
        """Whether the account backs off. The upper bound frees us when the clock was set back."""
        return 0 < self._not_before_ms - self._clock.now_ms() <= self._pause_ms

    async def failed(self, error: ProviderError) -> None:
        """A round could not be asked, or not to its end."""
        self._failures += 1
        asked = (error.retry_after or 0) if isinstance(error, Refused) else 0
        seconds = max(wait_forever(PROVIDER, self._failures), asked)
        self._pause_ms = int(seconds * 1000)
        self._not_before_ms = self._clock.now_ms() + self._pause_ms
        text = f"{error} It is asked again by itself; nothing is lost meanwhile."
        level = log.warning if await self._troubles.begin(TROUBLE, text) else log.debug
        level("provider.unavailable", problem=str(error), again_in=round(seconds))

    async def answered(self) -> None:
        """A round was asked to its end."""
        self._failures = 0
        self._not_before_ms = 0
        if over := await self._troubles.end(TROUBLE):
            seconds = round((self._clock.now_ms() - over.since_ms) / 1000)
            log.info("provider.recovered", after=seconds)

    def heard(self, tasks: int, words: int, problem: str) -> None:
        """How many tasks a round asked about, and of how many the provider had a word. It changes no pace: a task the
        provider has forgotten must not hold up another."""
        if words:
            if self._in_vain >= IN_VAIN:
                log.info("provider.knows_again", tasks=words)
            self._in_vain = 0
        elif tasks:
            self._in_vain += 1
            if self._in_vain == IN_VAIN:
                log.warning("provider.knows_nothing", tasks=tasks, problem=problem)
