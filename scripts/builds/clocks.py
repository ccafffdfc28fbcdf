"""A clock that others can set while Receiver runs, and that goes on over its restarts."""

from __future__ import annotations

import time
from pathlib import Path

from receiver.clock import Clock

SPEED = 20.0
"""How many times as fast as the world's."""
FILE = "clock"
"""In the server's folder: when the clock began (epoch seconds), and how far it was set forward since (< 0: back)."""
_LOOK = 0.02


class SetClock(Clock):
    """`SPEED` times as fast as the world's, and set to another time whenever the file says so."""

    def __init__(self) -> None:
        super().__init__(SPEED)
        self._looked = 0.0
        self._read()

    def now(self) -> float:
        if time.monotonic() - self._looked > _LOOK:
            self._read()
        return self._began + (time.time() - self._began) * SPEED + self._forward

    def _read(self) -> None:
        self._looked = time.monotonic()
        self._began, self._forward = map(float, Path(FILE).read_text().split())


def make(folder: Path) -> None:
    """Let a clock begin now."""
    put(folder, time.time(), 0)


def step(folder: Path, seconds: float) -> None:
    """Set it forward by so much, or back."""
    began, forward = map(float, (folder / FILE).read_text().split())
    put(folder, began, forward + seconds)


def put(folder: Path, began: float, forward: float) -> None:
    """Whole or not at all: somebody reads it all the time."""
    draft = folder / f"{FILE}.part"
    draft.write_text(f"{began} {forward}")
    draft.replace(folder / FILE)
