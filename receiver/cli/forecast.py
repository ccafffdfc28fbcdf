"""How far a task is and how long it still takes: a pure guess from what the provider has said so far.

The relay's own view moves every 15 s (PROTOCOL.md §9), so between two words the guess goes on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

USUAL_SECONDS = {"turbo": 30.0, "fast": 60.0, "relax": 180.0}
"""From submit to picture, before the first word (PROTOCOL.md §9: turbo 10–40 s, fast 30–100 s, relax 90–300 s)."""
_CEILING = 0.97
"""A guess never says that it is done."""
_LAST = 0.99
"""Not even the provider's 100 % does: only the end is the end (PROTOCOL.md §6: some tasks stay there for ever)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known at the last word.

    Attributes:
        started: when the submission was made, seconds.
        percent: the last word, or None.
        heard: when the last word came.
        speed: the mode it was submitted with.
        shown: the share that was already shown when the last word came: what has been shown is not taken back.
    """

    started: float
    percent: int | None
    heard: float
    speed: str | None = None
    shown: float = 0.0

    @property
    def total(self) -> float:
        """Seconds from start to end."""
        usual = USUAL_SECONDS.get(self.speed or "fast", USUAL_SECONDS["fast"])
        if not self.percent:
            return max(usual, (self.heard - self.started) * 1.25)
        measured = (self.heard - self.started) / (self.percent / 100)
        trust = min(self.percent / 50, 1.0)
        return trust * measured + (1 - trust) * max(usual, self.heard - self.started)

    def fraction(self, now: float) -> float:
        """0–0.99: never behind the last word or what was shown, and creeping on from there to the guessed end."""
        total, heard = self.total, self.heard - self.started
        reached = max(self.shown, (self.percent or 0) / 100, min(heard / total, _CEILING) if total > 0 else 0.0)
        still = total - heard
        crept = min((now - self.heard) / still, 1.0) if still > 0 else 1.0
        return min(max(reached, min(reached + (1 - reached) * max(crept, 0.0), _CEILING)), _LAST)

    def left(self, now: float) -> str:
        """For people: `about 25 s left`, in steps that do not flicker."""
        seconds = self.started + self.total - now
        if seconds < 5:
            return "any moment now"
        if seconds < 90:
            return f"about {round(seconds / 5) * 5} s left"
        return f"about {round(seconds / 60)} min left"
