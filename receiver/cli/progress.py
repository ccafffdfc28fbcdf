"""Live view of one submission: a bar with a forecast on a terminal, a line per change elsewhere.

The provider's view moves every 15 s (PROTOCOL.md §9), so the bar moves on a forecast between two updates.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self, cast

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from receiver.cli.output import note
from receiver.cli.tables import describe, percent_of
from receiver.clock import Clock
from receiver.events import Submission

USUAL_SECONDS = {"turbo": 30.0, "fast": 60.0, "relax": 180.0}
"""From submit to picture, before the first update (PROTOCOL.md §9: turbo 10–40 s, fast 30–100 s, relax 90–300 s)."""
_CEILING = 0.97
"""Largest share shown, even at the provider's 100 %: some tasks stay there forever (PROTOCOL.md §6)."""
_LONGEST, _SHORTEST = 40, 8
_BESIDE = len(" about 99 min left")


err = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """Shows a submission on standard error while it is under way. `quiet` shows nothing."""

    def __init__(self, clock: Clock, *, quiet: bool) -> None:
        self._clock = clock
        self._quiet = quiet
        self._row: Submission | None = None
        self._updated = 0.0
        self._share = 0.0
        self._text = "Submitted"
        self._spinner = Spinner("dots")
        self._view = Live(get_renderable=self._draw, console=err, transient=True, refresh_per_second=10)

    def __enter__(self) -> Self:
        if err.is_terminal and not self._quiet:
            self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def show(self, row: Submission) -> None:
        """Show the row as it is now."""
        if self._row is None or percent_of(row) != percent_of(self._row):
            self._updated = self._clock.now() - row.created_ms / 1000
        self._row = row
        last, self._text = self._text, describe(row)
        shows = row.ended in (None, "task.succeeded")  # the command reports other ends itself
        if shows and not self._quiet and not err.is_terminal and self._text != last:
            note(self._text)

    def _draw(self) -> Text:
        """Draw the bar at the forecast of this moment, if the line has room. A line that wraps leaves traces."""
        row, now = self._row, self._clock.now()
        share, left = 0.0, ""
        if row is not None:
            usual = USUAL_SECONDS.get(row.speed or "fast", USUAL_SECONDS["fast"])
            elapsed = now - row.created_ms / 1000
            share, left = forecast(elapsed, usual=usual, percent=percent_of(row) or 0, updated=self._updated)
            left = left if row.status == "accepted" and row.ended is None else ""
        self._share = share = max(self._share, share)  # it never goes back
        head = Text.assemble(cast(Text, self._spinner.render(now)), f" {self._text} ")
        width = min(_LONGEST, err.width - head.cell_len - _BESIDE)
        if width < _SHORTEST:
            return head
        full = int(share * width)
        return Text.assemble(head, ("━" * full, "cyan"), ("━" * (width - full), "bright_black"), f" {left}")


def forecast(elapsed: float, *, usual: float, percent: int, updated: float) -> tuple[float, str]:
    """Return the share of a task that is done, 0–0.97, and the time left for people, in steps that do not flicker.

    `elapsed` and `updated` are seconds from the submission to now, and to the provider's last update, with its percent.
    """
    weight = percent / 100  # the more is done, the more the measured pace counts
    total = max(usual, updated) if not percent else updated + (1 - weight) * usual
    share = min(max(weight, elapsed / total), _CEILING)
    seconds = total - elapsed
    if seconds < 5:
        return share, "any moment now"
    return share, f"about {round(seconds / 5) * 5} s left" if seconds < 90 else f"about {round(seconds / 60)} min left"
