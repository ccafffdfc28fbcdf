"""Watchdog of the event loop: a loop that stands still for too long gets its tracebacks dumped and its process ended.

A handler that computes for ever or blocks holds up every delivery, every callback and every shutdown, and no code in
the loop can end it. The supervisor starts another process, and each delivery that was running counts a failure.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os

from receiver import metrics

STALL_SECONDS = 8.0
REARM_SECONDS = 1.0


class Watchdog:
    """Timer of `faulthandler` that the running event loop sets back about every second.

    The timer fires from a thread of C code that needs no Python lock. A process has only one such timer.

    Args:
        seconds: how long the loop may stand still.
        exit: end the process after the dump, with exit status 1. False where the process is not ours to end.
    """

    def __init__(self, seconds: float = STALL_SECONDS, *, exit: bool = False) -> None:
        self._seconds = seconds
        self._exit = exit

    async def run(self) -> None:
        """Watch the running loop until cancelled."""
        loop, output, wait = asyncio.get_running_loop(), _unblocked_stderr(), min(REARM_SECONDS, self._seconds / 4)
        try:
            while True:
                faulthandler.dump_traceback_later(self._seconds, exit=self._exit, file=output)
                due = loop.time() + wait
                await asyncio.sleep(wait)
                metrics.LOOP_DELAY.observe(max(loop.time() - due, 0))
        finally:
            faulthandler.cancel_dump_traceback_later()
            if output != 2:
                os.close(output)


def _unblocked_stderr() -> int:
    """Return a descriptor of standard error that never waits for a reader, or 2 where there is none.

    A full pipe that nothing reads may be the very reason of the stall. Opened anew, because O_NONBLOCK set on
    descriptor 2 would hold for each process that shares it.
    """
    try:
        return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    except OSError:
        return 2
