"""The watchdog: it ends a process whose loop stands still, names the culprit, and does not blame a sleeping laptop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from engine import until

from receiver.watchdog import EXIT_STATUS, Stall, Stillness, Watchdog

LIMIT = 0.4
SCRIPT = """
import asyncio, sys, time
from receiver.telemetry import configure
from receiver.watchdog import Watchdog, end_process

async def block():
    {block}

async def main():
    watchdog = Watchdog(stalled=end_process, running=lambda: ["01A", "01B"], limit={limit})
    watchdog.start()
    task = asyncio.create_task(block(), name={name!r})
    print("ready", flush=True)
    await task
    watchdog.stop()

configure(level="info", format="json", secrets=["sk-very-secret"])
asyncio.run(main())
"""


@contextmanager
def process(block: str, *, name: str = "delivery 01A", limit: float = LIMIT) -> Iterator[subprocess.Popen[str]]:
    """A process with a watchdog over a task that does `block`, once it is there."""
    script = SCRIPT.format(block=block, name=name, limit=limit)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def watching(stalls: list[Stall], *running: str) -> Watchdog:
    return Watchdog(stalled=stalls.append, running=lambda: running, limit=LIMIT)


async def test_a_loop_that_stands_still_is_told_once() -> None:
    """By the name of the task that holds it up, and the line it stands at; each stall is told anew."""
    stalls: list[Stall] = []
    watchdog = watching(stalls, "01A", "01B")
    watchdog.start()

    async def hold_up(times: int) -> None:
        end = time.monotonic() + 10
        while len(stalls) < times and time.monotonic() < end:
            pass
        time.sleep(2 * LIMIT)  # noqa: ASYNC251 - it is what must be noticed once only

    for times in (1, 2):
        await asyncio.create_task(hold_up(times), name="delivery 01B")
        assert len(stalls) == times
        await asyncio.sleep(LIMIT / 4)
    watchdog.stop()
    assert stalls[0].task == "delivery 01B"
    assert "in hold_up" in stalls[0].place
    assert f"has stood still for {LIMIT:g} s while delivery 01B was running" in str(stalls[0])


@pytest.mark.parametrize(
    ("task", "running", "words"),
    [
        ("Task-7", ("01A", "01B"), "while one of these was running: delivery 01A, delivery 01B."),
        ("engine reconcile", (), "in engine reconcile."),
        (None, (), "in a callback."),
    ],
)
def test_what_is_not_known_is_not_claimed(task: str | None, running: tuple[str, ...], words: str) -> None:
    """A task that a handler started has no name of ours: then all that ran are named."""
    assert words in str(Stall(seconds=10, task=task, running=running, place=""))


def looks(*gaps: float, turning: bool = False) -> list[bool]:
    """What is found at each of these distances, in seconds, with a limit of 10 s and a look every half second."""
    still = Stillness(limit=10, interval=0.5, now=0.0)
    now, found = 0.0, []
    for number, gap in enumerate(gaps):
        now += gap
        found.append(still.look(now, number if turning else 0))
    return found


@pytest.mark.parametrize(
    ("gaps", "found"),
    [
        ([0.5] * 60, 20),
        ([0.9] * 60, 12),
        ([0.5, 3600.0, 0.5, 3600.0] + [0.5] * 10, None),
        ([100_000.0] * 10, None),
        ([100_000.0] * 60, 10),
    ],
)
def test_only_time_somebody_watched_counts(gaps: list[float], found: int | None) -> None:
    """Ten seconds of looking, told once. An hour asleep counts as two looks at most; one that goes on stalling between
    sleeps is found all the same."""
    told = looks(*gaps)
    assert told.count(True) == (found is not None)
    assert found is None or told[found]
    assert not any(looks(*gaps, turning=True))


async def test_a_loop_that_turns_is_left_alone() -> None:
    """However much it waits, and also after it was started twice and stopped."""
    stalls: list[Stall] = []
    watchdog = watching(stalls)
    watchdog.start()
    watchdog.start()
    await asyncio.sleep(3 * LIMIT)
    watchdog.stop()
    watchdog.stop()
    time.sleep(2 * LIMIT)  # noqa: ASYNC251 - nobody watches any more
    assert stalls == []
    watchdog.start()
    await asyncio.create_task(_blocked(2 * LIMIT))
    await until(lambda: len(stalls) == 1)
    watchdog.stop()


async def _blocked(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - a handler that does what it must not


def test_the_process_is_ended() -> None:
    """With a status of its own, a log line, and a sentence that says what, where, and what comes next; no secret."""
    with process("time.sleep(60)  # sk-very-secret") as running:
        _, err = running.communicate(timeout=20)
    assert running.returncode == EXIT_STATUS == 70
    log, _, sentence = err.partition("\n")
    assert '"event":"engine.stalled"' in log.replace(" ", "")
    assert "01A" in log
    assert sentence.startswith(f"Error: The event loop has stood still for {LIMIT:g} s while delivery 01A was running.")
    assert "in block" in sentence
    assert "exit status 70" in sentence
    assert "sk-very-secret" not in err


def test_a_loop_of_python_is_ended_too() -> None:
    """One that never waits still lets other threads run."""
    with process("while True: pass") as running:
        running.communicate(timeout=20)
    assert running.returncode == EXIT_STATUS


def test_last_words_that_nobody_reads_hold_up_nothing() -> None:
    """A full pipe may be the very reason: the process ends all the same."""
    with process("while True: sys.stderr.write('x' * 10_000_000)") as running:
        assert running.wait(20) == EXIT_STATUS


def test_a_process_that_was_stopped_is_not_blamed() -> None:
    """SIGSTOP and SIGCONT, as of a laptop that slept: time passed, but nobody watched (see the looks above)."""
    with process(f"await asyncio.sleep(4 * {LIMIT})") as running:
        time.sleep(LIMIT / 4)
        running.send_signal(signal.SIGSTOP)
        time.sleep(4 * LIMIT)
        running.send_signal(signal.SIGCONT)
        _, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
