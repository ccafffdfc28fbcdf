"""The live view of one submission: a bar on a terminal, a line per change elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from receiver.cli.forecast import Forecast
from receiver.cli.output import err, note
from receiver.clock import Clock
from receiver.events import Submission


class Progress:
    """Shows a submission while it is under way, on standard error. `quiet` shows nothing."""

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
            _CreepingBar(self),
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
        """Take the row as it is now."""
        percent = row.task.progress if row.task else None
        now = self._clock.now()
        if self._forecast is None or percent != self._forecast.percent:
            shown = self._forecast.fraction(now) if self._forecast else 0.0
            self._forecast = Forecast(
                started=row.created_ms / 1000, percent=percent, heard=now, speed=row.speed, shown=shown
            )
        self._drawing = row.status == "accepted" and row.ended is None
        text = describe(row)
        self._bar.update(self._line, description=text)
        told = row.ended in (None, "task.succeeded")  # of another end the command says more itself
        if told and not self._quiet and not self._live and text != self._last:
            note(text)
        self._last = text

    def guess(self) -> tuple[float, str]:
        """(share done, what is left) at this moment."""
        now = self._clock.now()
        if self._forecast is None:
            return 0.0, ""
        return self._forecast.fraction(now), self._forecast.left(now) if self._drawing else ""


class _CreepingBar(BarColumn):
    """A bar that is drawn where the forecast is at the moment of drawing, not where the last word was, and as long as
    the line has room for it: one that wraps leaves its upper half behind."""

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


_LONGEST, _SHORTEST = 40, 8
_BESIDE = len("⠋  ") + len(" about 99 min left")


def describe(row: Submission) -> str:
    """Where a submission stands, in a few words."""
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
