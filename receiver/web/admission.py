"""How much may wait for the journal at once: beyond that a 503 comes at once, instead of a queue that never ends.

    below the bounds              let in; it waits for its commit
    too many, or too many bytes   503 with `Retry-After`, at once
    one has waited too long       503 for it, and the door is shut: 503 at once for all who come, until a write works

What waited too long may still be committed when the journal moves again: the writer keeps its order and drops nothing.
Then the callback is kept although its sender heard 503, which is harmless: a second one of the same fact is no second
event. The other way round never happens: 2xx is said only after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog

from receiver.errors import JournalError
from receiver.web.problems import Problem

log = structlog.get_logger("receiver.admission")

MAX_WAITING = 1000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Of bodies; while it waits, a callback takes about four times the size of its body."""
PATIENCE = 10.0
"""Seconds one may wait for its commit: as long as the journal waits for another process's lock."""
PROBE_SECONDS = 0.5
_SWEEPS = 20
"""How often within `patience` is looked for those who have waited too long."""

RETRY = {"Retry-After": "5"}


class Admission:
    """Counts what waits, and ends waits that take too long. One event loop, no locks, no tasks but for the probe.

    Args:
        probe: a write that works when the journal does; it raises JournalError otherwise. None: what waits too long is
            given up, and shuts the door for nobody else.
        most: how many may wait.
        most_bytes: how many bytes their bodies may have together.
        patience: seconds each may wait.
        kept: whether what was given up may still happen, in words for whoever waited.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]] | None,
        *,
        most: int = MAX_WAITING,
        most_bytes: int = MAX_WAITING_BYTES,
        patience: float = PATIENCE,
        kept: str = "It may have been kept; send it again.",
    ) -> None:
        self._probe = probe
        self._most = most
        self._most_bytes = most_bytes
        self._patience = patience
        self._kept = kept
        self._waiting: dict[Place, None] = {}
        """In the order they came, so that only the first ones need a look."""
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Known from the first who comes: to ask for it costs a system call."""
        self._sweep: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self.refused = 0

    @property
    def shut(self) -> bool:
        """Whether the journal has let somebody wait too long, and no write has worked since."""
        return self._probing is not None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, size: int) -> Place:
        """A place among those who wait; use it as a context manager around the wait.

        Raises:
            Problem: 503, at once.
        """
        self.check()
        if len(self._waiting) >= self._most or self._bytes + size > self._most_bytes:
            self.refused += 1
            raise Problem(503, "Receiver has more to do than it can; send it again.", RETRY, cause="overload")
        loop = self._loop = self._loop or asyncio.get_running_loop()
        return Place(self, size, loop)

    def check(self) -> None:
        """Raises Problem, 503, while the door is shut."""
        if self._probing is not None:
            self.refused += 1
            raise Problem(503, "Receiver cannot write just now; send it again.", RETRY, cause="journal stalled")

    def _entered(self, place: Place) -> None:
        self._waiting[place] = None
        self._bytes += place.size
        if self._sweep is None:
            self._wait_for_late(place.loop)

    def _left(self, place: Place) -> None:
        del self._waiting[place]
        self._bytes -= place.size

    def _wait_for_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = loop.call_later(self._patience / _SWEEPS, self._end_late, loop)

    def _end_late(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - self._patience
        for place in self._waiting:
            if place.since > oldest:
                break
            if not place.late:
                self._shut(loop)
                place.give_up()
        self._sweep = None
        if self._waiting:
            self._wait_for_late(loop)

    def _shut(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._probe is not None and self._probing is None:
            log.error("admission.shut", waiting=len(self._waiting), bytes=self._bytes, seconds=self._patience)
            self._probing = loop.create_task(self._reopen(self._probe), name="admission probe")

    async def _reopen(self, probe: Callable[[], Awaitable[None]]) -> None:
        """The probe queues behind all that was given up, so that none of it takes memory when the door opens."""
        while True:
            try:
                await probe()
            except JournalError:
                await asyncio.sleep(PROBE_SECONDS)
            else:
                break
        self._probing = None
        log.info("admission.open", refused=self.refused)

    async def aclose(self) -> None:
        """End the probe. Idempotent."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._probing = None

    def wait_ended(self, *, late: bool) -> Problem:
        """What whoever waited is told, because its wait was ended from outside."""
        if late:
            detail = f"Receiver could not write within {self._patience:g} s. {self._kept}"
            return Problem(503, detail, RETRY, cause="journal stalled")
        return Problem(503, f"Receiver stops. {self._kept}", {**RETRY, "Connection": "close"}, cause="stopping")


class Place:
    """One who waits. Its task's cancellation, by us or by the server's stop, becomes a 503."""

    __slots__ = ("_admission", "_task", "late", "loop", "since", "size")

    def __init__(self, admission: Admission, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._admission = admission
        self._task: asyncio.Task[object] | None = None
        self.size = size
        self.late = False
        self.loop = loop
        self.since = loop.time()

    def __enter__(self) -> None:
        self._task = asyncio.current_task(self.loop)
        self._admission._entered(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission._left(self)
        if kind is asyncio.CancelledError:
            if self.late and self._task is not None:
                self._task.uncancel()
            raise self._admission.wait_ended(late=self.late) from error

    def give_up(self) -> None:
        """End the wait."""
        self.late = True
        if self._task is not None:
            self._task.cancel()
