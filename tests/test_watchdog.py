"""The watchdog: it ends a process whose event loop stands still, says where, and leaves a loop that turns alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from waiting import PATIENCE

from receiver.engine.watchdog import Watchdog

LIMIT = 0.4
SCRIPT = """
import asyncio, sys, time
from receiver.engine.watchdog import Watchdog

async def block():
    {block}

async def main():
    watching = asyncio.create_task(Watchdog({limit}, exit={exit}).run())
    await asyncio.sleep(0)
    print("ready", flush=True)
    await block()
    watching.cancel()

asyncio.run(main())
"""


@contextmanager
def process(block: str, *, limit: float = LIMIT, exit: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A process with a watchdog whose loop runs `block`, once it is there."""
    script = SCRIPT.format(block=block, limit=limit, exit=exit)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def test_the_process_is_ended() -> None:
    """With exit status 1 and every thread's traceback, which names the function but quotes no source."""
    with process("time.sleep(60)  # sk-very-secret") as running:
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1
    assert err.startswith("Timeout (0:00:00.400000)!")
    assert "in block" in err
    assert "sk-very-secret" not in err


def test_a_loop_of_python_is_ended_too() -> None:
    """One that never waits."""
    with process("while True: pass") as running:
        running.communicate(timeout=PATIENCE)
    assert running.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc opens the pipe a second time")
def test_a_dump_that_nothing_reads_holds_up_nothing() -> None:
    """A full pipe may be the very reason: the process ends all the same."""
    with process("while True: sys.stderr.write('x' * 10_000_000)") as running:
        assert running.wait(PATIENCE) == 1


@pytest.mark.parametrize("exit", [True, False])
def test_a_loop_that_turns_is_left_alone(exit: bool) -> None:
    """However long it waits, and after the watchdog has ended. A busy machine lets it stand still for a while, too."""
    with process("await asyncio.sleep(3)", limit=2, exit=exit) as running:
        _, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err) == (0, "")


def test_a_process_that_is_not_ours_goes_on() -> None:
    """It gets the tracebacks once for each stall, and is not ended."""
    with process(
        f"time.sleep({3 * LIMIT}); await asyncio.sleep({LIMIT}); time.sleep({3 * LIMIT})", exit=False
    ) as running:
        _, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err.count("Timeout (")) == (0, 2)


async def test_a_cancelled_watchdog_watches_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    """It takes its timer along."""
    watching = asyncio.create_task(Watchdog(LIMIT).run())
    await asyncio.sleep(LIMIT / 2)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    time.sleep(2 * LIMIT)  # noqa: ASYNC251 - a stall that nothing watches
    assert capfd.readouterr().err == ""
