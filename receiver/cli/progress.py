"""Live view of one submission: a bar with a forecast on a terminal, a line per change elsewhere.

The provider's view moves every 15 s (PROTOCOL.md §9), so the bar moves on a forecast between two updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from receiver.cli.output import err, note
from receiver.clock import Clock
from receiver.events import Submission

USUAL_SECONDS = {"turbo": 30.0, "fast": 60.0, "relax": 180.0}
"""From submit to picture, before the first update (PROTOCOL.md §9: turbo 10–40 s, fast 30–100 s, relax 90–300 s)."""
_CEILING = 0.97
"""Largest share that a forecast reaches by itself."""
_LAST = 0.99
"""Largest share shown, even at the provider's 100 %: some tasks stay there forever (PROTOCOL.md §6)."""
_LONGEST, _SHORTEST = 40, 8
_BESIDE = len("⠋  ") + len(" about 99 min left")


class Progress:
    """Shows a submission on standard error while it is under way. `quiet` shows nothing."""

    def __init__(self, clock: Clock, *, quiet: bool) -> None:
        self._clock = clock
        self._quiet = quiet
        self._forecast: Forecast | None = None
        self._drawing = True
        self._last = ""
        self._live = err.is_terminal and not quiet
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            _ForecastBar(self),
            console=err,
            transient=True,
            disable=not self._live,
        )
        self._line = self._bar.add_task("Submitted", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, row: Submission) -> None:
        """Show the row as it is now."""
        percent = row.task.progress if row.task else None
        now = self._clock.now()
        if self._forecast is None or percent != self._forecast.percent:
            shown = self._forecast.fraction(now) if self._forecast else 0.0
            self._forecast = Forecast(
                started=row.created_ms / 1000, percent=percent, updated=now, speed=row.speed, shown=shown
            )
        self._drawing = row.status == "accepted" and row.ended is None
        text = describe(row)
        self._bar.update(self._line, description=text)
        shows = row.ended in (None, "task.succeeded")  # the command reports other ends itself
        if shows and not self._quiet and not self._live and text != self._last:
            note(text)
        self._last = text

    def guess(self) -> tuple[float, str]:
        """Return the share done and the time left, at this moment."""
        now = self._clock.now()
        if self._forecast is None:
            return 0.0, ""
        return self._forecast.fraction(now), self._forecast.left(now) if self._drawing else ""


class _ForecastBar(BarColumn):
    """Bar drawn at the forecast of the moment of drawing, if the line has room. A line that wraps leaves traces."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(bar_width=_LONGEST)
        self._progress = progress

    def render(self, task: Task) -> Text:  # type: ignore[override] # a bar and its words are drawn together
        share, left = self._progress.guess()
        width = min(_LONGEST, err.width - cell_len(task.description) - _BESIDE)
        if width < _SHORTEST:
            return Text("")
        full = int(share * width)
        return Text.assemble(("━" * full, "cyan"), ("━" * (width - full), "bright_black"), f" {left}")


def describe(row: Submission) -> str:
    """Return the state of a submission in a few words."""
    if row.ended is not None:
        return "Saving the result" if row.ended == "task.succeeded" else row.ended.removeprefix("task.").capitalize()
    if row.status == "prepared":
        return f"Waiting to send again: {row.detail}" if row.detail else "Sending"
    if row.status in ("sending", "unknown"):
        return "Sending" if row.status == "sending" else "Waiting for a callback"
    if row.claim is not None:
        return "Checking the result with the provider"
    percent = row.task.progress if row.task else None
    if row.task_status == "IN_PROGRESS":
        return f"Drawing {percent} %" if percent is not None else "Drawing"
    return "Asks for input" if row.task_status == "MODAL" else "Accepted, waiting to start"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Pure forecast of a task's progress and end, from the provider's last update.

    Attributes:
        started: time of the submission, in seconds.
        percent: progress at the last update, or None.
        updated: time of the last update.
        speed: mode of the submission.
        shown: share shown at the last update. The forecast never goes back behind it.
    """

    started: float
    percent: int | None
    updated: float
    speed: str | None = None
    shown: float = 0.0

    @property
    def total(self) -> float:
        """Seconds from start to end."""
        usual = USUAL_SECONDS.get(self.speed or "fast", USUAL_SECONDS["fast"])
        if not self.percent:
            return max(usual, (self.updated - self.started) * 1.25)
        measured = (self.updated - self.started) / (self.percent / 100)
        trust = min(self.percent / 50, 1.0)
        return trust * measured + (1 - trust) * max(usual, self.updated - self.started)

    def fraction(self, now: float) -> float:
        """Return the share done, 0–0.99: at least the last update and what was shown, then on to the expected end."""
        total, elapsed = self.total, self.updated - self.started
        reached = max(self.shown, (self.percent or 0) / 100, min(elapsed / total, _CEILING) if total > 0 else 0.0)
        rest = total - elapsed
        crept = min((now - self.updated) / rest, 1.0) if rest > 0 else 1.0
        return min(max(reached, min(reached + (1 - reached) * max(crept, 0.0), _CEILING)), _LAST)

    def left(self, now: float) -> str:
        """Return the time left for people, as `about 25 s left`, in steps that do not flicker."""
        seconds = self.started + self.total - now
        if seconds < 5:
            return "any moment now"
        if seconds < 90:
            return f"about {round(seconds / 5) * 5} s left"
        return f"about {round(seconds / 60)} min left"
