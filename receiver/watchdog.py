"""The watchdog: a thread that notices when the event loop stands still, names what holds it up, and ends the process.

A handler that computes for ever or blocks holds up every other delivery, every callback and every shutdown, and nothing
in the loop can do anything about it. So the process ends, the supervisor starts another, and what ran counts a failure
and runs alone from then on (see `receiver.deliveries`).

Time is counted only while this thread itself is running: a laptop that slept, a process that was stopped and continued,
or a machine too busy to let anybody run has no guilty handler. Code that keeps Python's lock for itself all the time
stops this thread, too; such code belongs into a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from receiver.telemetry import redact

log = structlog.get_logger("receiver.watchdog")

STALL_SECONDS = 10.0
EXIT_STATUS = 70
"""What a process that the watchdog ended exits with (EX_SOFTWARE of sysexits.h)."""
CHECKS = 20
"""How often within the limit the thread looks."""
TELL_SECONDS = 1.0
"""How long the last words may take: whoever reads our log may be what holds us up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """What is known of a loop that stands still.

    Attributes:
        seconds: how long it was allowed to.
        task: the name of the task it is stuck in; None if it is not in a task.
        running: the deliveries that were running.
        place: where, as the innermost lines of its stack.
    """

    seconds: float
    task: str | None
    running: tuple[str, ...]
    place: str

    @property
    def delivery(self) -> str | None:
        """The id of the delivery it is stuck in, if that is known for sure."""
        kind, _, id = (self.task or "").partition(" ")
        return id if kind == "delivery" else None

    def __str__(self) -> str:
        if self.delivery is not None:
            what = f"while {self.task} was running"
        elif self.running:
            what = f"while one of these was running: {', '.join(f'delivery {name}' for name in self.running)}"
        else:
            what = f"in {self.task or 'a callback'}"
        return f"The event loop has stood still for {self.seconds:g} s {what}. It stands at:\n{self.place}"


def tell(stall: Stall) -> None:
    """Log it. For a process that is not ours to end."""
    log.critical(
        "engine.stalled", seconds=stall.seconds, task=stall.task, running=list(stall.running), place=stall.place
    )


def end_process(stall: Stall) -> None:
    """Log it, say it on standard error, and end the process with `EXIT_STATUS`, whatever else it is doing."""
    within(TELL_SECONDS, lambda: _last_words(stall))
    os._exit(EXIT_STATUS)


def within(seconds: float, call: Callable[[], None]) -> None:
    """Call something that may hang, and wait no longer than that."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def _last_words(stall: Stall) -> None:
    tell(stall)
    sys.stderr.write(
        f"Error: {redact(str(stall))}"
        f"This process ends now, with exit status {EXIT_STATUS}, so that its supervisor starts another. "
        "What it was stuck in counts a failure and runs alone next time.\n"
    )
    sys.stderr.flush()


class Stillness:
    """For how long a loop has stood still, as somebody saw who looks at it every `interval` seconds."""

    def __init__(self, *, limit: float, interval: float, now: float) -> None:
        self._limit = limit
        self._interval = interval
        self._last = now
        self._turns = -1
        self._seconds = 0.0

    def look(self, now: float, turns: int) -> bool:
        """Whether it has just become too long. `turns`: how often the loop has turned so far."""
        # What is beyond an interval passed without us: suspended, stopped, or nobody had the processor.
        elapsed, self._last = min(now - self._last, 2 * self._interval), now
        if turns != self._turns:
            self._turns, self._seconds = turns, 0.0
            return False
        before, self._seconds = self._seconds, self._seconds + elapsed
        return before < self._limit <= self._seconds


class Watchdog:
    """Watches the event loop it is started in.

    Args:
        stalled: called from the thread, once for each stall.
        running: the deliveries that are running, by id; called from the thread.
        limit: seconds the loop may stand still.
    """

    def __init__(
        self,
        *,
        stalled: Callable[[Stall], None],
        running: Callable[[], Iterable[str]],
        limit: float = STALL_SECONDS,
    ) -> None:
        self._stalled = stalled
        self._running = running
        self._limit = limit
        self._interval = limit / CHECKS
        self._turns = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beat: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the running loop. Without effect while it is being watched."""
        if self._thread is not None:
            return
        self._stop = threading.Event()
        loop = asyncio.get_running_loop()
        self._turn(loop)
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident(), self._stop), name="watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Idempotent."""
        self._stop.set()
        if self._beat is not None:
            self._beat.cancel()
        self._thread = self._beat = None

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turns += 1
        self._beat = loop.call_later(self._interval, self._turn, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int, stop: threading.Event) -> None:
        still = Stillness(limit=self._limit, interval=self._interval, now=time.monotonic())
        while not stop.wait(self._interval):
            if still.look(time.monotonic(), self._turns):
                self._stalled(self._describe(loop, thread))

    def _describe(self, loop: asyncio.AbstractEventLoop, thread: int) -> Stall:
        task = asyncio.current_task(loop)
        frame = sys._current_frames().get(thread)
        place = "".join(traceback.format_stack(frame)[-5:]) if frame is not None else ""
        return Stall(
            seconds=self._limit, task=task.get_name() if task else None, running=tuple(self._running()), place=place
        )
