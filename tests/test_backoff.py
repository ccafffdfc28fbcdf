"""How long to wait before trying again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import backoff
from receiver.backoff import CONFIRM, DELIVERY, wait, wait_forever

SCHEDULES = {name: value for name, value in vars(backoff).items() if name.isupper() and isinstance(value, tuple)}


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18000), (6, 36000), (7, 36000), (8, None), (100, None)],
)
def test_deliveries_wait_as_promised(failures: int, seconds: float | None) -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, then nothing more."""
    assert wait(DELIVERY, failures, random=middle) == seconds


@pytest.mark.parametrize(("failures", "seconds"), [(0, 5), (1, 5), (2, 7), (3, 7), (1000, 7)])
def test_the_last_step_repeats(failures: int, seconds: float) -> None:
    """`wait_forever` never runs out."""
    assert wait_forever((5, 7), failures, random=middle) == seconds


@given(st.integers(-3, 20), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_a_tenth(failures: int, chance: float) -> None:
    """No wait is more than 10 % off its step, and none is negative."""
    exact = wait(DELIVERY, failures, random=middle)
    seconds = wait(DELIVERY, failures, random=lambda: chance)
    if exact is None or seconds is None:
        assert exact is seconds is None
    else:
        assert 0.9 * exact <= seconds <= 1.1 * exact


def test_jitter_differs() -> None:
    """A herd that failed together does not come back together."""
    assert len({wait(DELIVERY, 3) for _ in range(20)}) > 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_never_get_shorter(name: str) -> None:
    """Every schedule rises."""
    schedule = SCHEDULES[name]
    assert list(schedule) == sorted(schedule)


def test_confirmation_asks_at_once_and_at_the_end() -> None:
    """Shares of 30 s: 0, 2, 5, 10, 16 and 30 s."""
    assert [round(share * 30) for share in CONFIRM] == [0, 2, 5, 10, 16, 30]
