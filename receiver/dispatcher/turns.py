"""Whose turn it is: a delivery that may end the process runs in no company, and yet holds nobody up for long."""

from __future__ import annotations

from receiver.clock import Clock

HOLD_SECONDS = 10.0
"""How long the others wait for those that run alone; as long, at least, they go on afterwards."""
QUIET_SECONDS = 5.0
"""How much of that is spent waiting for what runs already to end. Then it runs in that company: the journal charges
the suspect, not those beside it."""


class Turns:
    """Divides an engine's time between deliveries that run alone, one after the other, and all the rest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held_since: float | None = None
        self._free_until = float("-inf")

    def others_wait(self, *, due: bool, running: bool) -> bool:
        """Whether nothing else may start now.

        Args:
            due: one that runs alone could start.
            running: one does run.
        """
        now = self._clock.monotonic()
        if not (due or running):
            self._held_since = None
        elif self._held_since is None:
            if due and now >= self._free_until:
                self._held_since = now
        elif now - self._held_since >= HOLD_SECONDS:
            self._held_since = None
            self._free_until = now + HOLD_SECONDS
        return self._held_since is not None

    def quiet(self, *, others: bool) -> bool:
        """Whether the one that runs alone may start: nothing else runs, or has been waited for long enough."""
        since = self._held_since
        return since is not None and (not others or self._clock.monotonic() - since >= QUIET_SECONDS)
