"""The interface of an experiment: a fault in real processes, and a control with a broken build that must fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The counts of a run.

    Attributes:
        injected: faults done; a run that did none proves nothing, and fails.
        acknowledged: facts that were reported as safe (answered 2xx, returned, printed).
        lost: acknowledged, and not there afterwards.
        doubled: effects there twice where once was promised.
        seconds: how long it took.
        notes: further figures, in a few words.
        problem: a promise that broke in another way, as a sentence.
    """

    injected: int
    acknowledged: int
    lost: int
    doubled: int
    seconds: float
    notes: str = ""
    problem: str | None = None

    @property
    def harmed(self) -> bool:
        """True if anything was lost, doubled or broken: never in a run, always in a control."""
        return self.lost > 0 or self.doubled > 0 or self.problem is not None


class Experiment(Protocol):
    """One fault. Modules of this package list theirs in `EXPERIMENTS`."""

    @property
    def name(self) -> str:
        """In kebab-case; the handbook names it as a proof."""

    @property
    def summary(self) -> str:
        """One line: what is done, and what must hold."""

    @property
    def promises(self) -> tuple[str, ...]:
        """The promises it proves, by number, for instance `("P2", "P8")`."""

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Do it to Receiver as it is. `folder` is empty and its own; `quick`: in seconds, with fewer faults."""

    async def control(self, folder: Path, *, quick: bool) -> Outcome | None:
        """Do it to a build that is broken on purpose, by replacing a seam in here, never by a switch in Receiver. It
        must be harmed. None only where the docstring says why there is no such build."""
