"""The progress bar's guess: how far, and how long still."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.cli.progress import USUAL_SECONDS, Forecast


def test_nothing_said_yet() -> None:
    """Before the first word the usual duration of the mode is the guess."""
    for speed, seconds in USUAL_SECONDS.items():
        assert Forecast(started=0, percent=None, updated=0, speed=speed).total == seconds
    assert Forecast(started=0, percent=None, updated=0).total == USUAL_SECONDS["fast"]
    assert Forecast(started=0, percent=None, updated=0, speed="unheard of").total == USUAL_SECONDS["fast"]


@pytest.mark.parametrize(
    ("percent", "updated", "now", "fraction", "left"),
    [
        (None, 0, 0, 0.0, "about 60 s left"),
        (None, 0, 30, 0.5, "about 30 s left"),
        (None, 0, 56, 0.93, "any moment now"),
        (None, 0, 600, 0.97, "any moment now"),
        (None, 100, 100, 0.8, "about 25 s left"),
        (0, 10, 10, 0.17, "about 50 s left"),
        (50, 30, 30, 0.5, "about 30 s left"),
        (50, 30, 45, 0.75, "about 15 s left"),
        (50, 30, 600, 0.97, "any moment now"),
        (50, 300, 300, 0.5, "about 5 min left"),
        (80, 40, 40, 0.8, "about 10 s left"),
        (25, 30, 30, 0.33, "about 60 s left"),
        (98, 49, 49, 0.98, "any moment now"),
        (100, 50, 50, 0.99, "any moment now"),
        (100, 50, 5000, 0.99, "any moment now"),
        (46, 0, 0, 0.46, "any moment now"),
    ],
)
def test_guess(percent: int | None, updated: float, now: float, fraction: float, left: str) -> None:
    """What is guessed of a task at normal speed that started at 0."""
    forecast = Forecast(started=0, percent=percent, updated=updated)
    assert round(forecast.fraction(now), 2) == fraction
    assert forecast.left(now) == left


def test_not_taken_back() -> None:
    """A first word below what was shown already slows the bar and does not throw it back."""
    before = Forecast(started=0, percent=None, updated=0)
    shown = before.fraction(50)
    after = Forecast(started=0, percent=15, updated=50, shown=shown)
    assert after.total > before.total
    assert after.fraction(50) == shown
    assert shown < after.fraction(60) < shown + 10 / 60


seconds = st.floats(0, 10_000)


@given(
    st.lists(st.tuples(seconds, st.none() | st.integers(0, 100)), max_size=10),
    st.lists(seconds, min_size=1, max_size=10),
    st.sampled_from([None, *USUAL_SECONDS]),
)
def test_never_back_and_never_done(
    words: list[tuple[float, int | None]], looks: list[float], speed: str | None
) -> None:
    """Whatever is said and whenever one looks, the share only rises, and stays below 1."""
    moments = sorted([(at, True, percent) for at, percent in words] + [(at, False, None) for at in looks], key=str)
    moments.sort(key=lambda moment: moment[0])
    forecast = Forecast(started=0, percent=None, updated=0, speed=speed)
    last = 0.0
    for now, said, percent in moments:
        if said:
            shown = forecast.fraction(now)
            forecast = Forecast(started=0, percent=percent, updated=now, speed=speed, shown=shown)
        share = forecast.fraction(now)
        assert last <= share < 1
        assert forecast.left(now)
        last = share


def test_clock_that_steps_back() -> None:
    """A moment before the last word is no less than the word, and no more than time allows."""
    forecast = Forecast(started=100, percent=40, updated=150)
    assert 0.4 <= forecast.fraction(0) <= forecast.fraction(150) < 1
    assert Forecast(started=100, percent=None, updated=50).fraction(60) >= 0
