"""A clock that an experiment sets while Receiver runs. It goes on over restarts."""

from __future__ import annotations

import time
from pathlib import Path

from receiver.clock import Clock

SPEED = 20.0
"""Seconds of this clock in one real second."""
FILE = "clock"
"""In the server's folder: when the clock began (epoch seconds), and by how much it was set forward (< 0: back)."""
_LOOK = 0.02


class SetClock(Clock):
    """`SPEED` times as fast as real time, and set to another time when the file says so."""

    def __init__(self) -> None:
        super().__init__(SPEED)
        self._looked = 0.0
        self._read()

    def now(self) -> float:
        if time.monotonic() - self._looked > _LOOK:
            self._read()
        return _time(self._began, self._forward)

    def _read(self) -> None:
        self._looked = time.monotonic()
        self._began, self._forward = map(float, Path(FILE).read_text().split())


def _time(began: float, forward: float) -> float:
    return began + (time.time() - began) * SPEED + forward


def now(folder: Path) -> float:
    """Return the time of a clock in epoch seconds."""
    began, forward = map(float, (folder / FILE).read_text().split())
    return _time(began, forward)


def make(folder: Path) -> None:
    """Begin a clock now."""
    put(folder, time.time(), 0)


def step(folder: Path, seconds: float) -> None:
    """Set the clock forward by so much, or back."""
    began, forward = map(float, (folder / FILE).read_text().split())
    put(folder, began, forward + seconds)


def put(folder: Path, began: float, forward: float) -> None:
    """Write the file in one step, because the server reads it all the time."""
    draft = folder / f"{FILE}.part"
    draft.write_text(f"{began} {forward}")
    draft.replace(folder / FILE)
