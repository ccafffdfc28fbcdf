"""The progress bar's guess: the share done, and the time left."""

from __future__ import annotations

import pytest

from receiver.cli.progress import forecast


@pytest.mark.parametrize(
    ("elapsed", "percent", "updated", "share", "left"),
    [
        (0, 0, 0, 0.0, "about 60 s left"),
        (30, 0, 0, 0.5, "about 30 s left"),
        (58, 0, 0, 0.97, "any moment now"),
        (500, 0, 0, 0.97, "any moment now"),
        (30, 50, 30, 0.5, "about 30 s left"),
        (45, 50, 30, 0.75, "about 15 s left"),
        (600, 10, 600, 0.92, "about 55 s left"),
        (100, 100, 100, 0.97, "any moment now"),
        (-50, 0, -60, 0.0, "about 2 min left"),
    ],
)
def test_forecast(elapsed: float, percent: int, updated: float, share: float, left: str) -> None:
    """At first the usual time, then the provider's progress. It is never complete, even if a clock steps back."""
    found = forecast(elapsed, usual=60.0, percent=percent, updated=updated)
    assert (round(found[0], 2), found[1]) == (share, left)
