"""How long to wait before trying again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import backoff
from receiver.backoff import CONFIRM, DELIVERY, LONGEST_RETRY_AFTER, retry_after, wait, wait_forever
from receiver.handlers.base import RetryLater

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


NOW = 1795348800.0
"""Sun, 22 Nov 2026 12:00:00 GMT."""


@pytest.fixture(params=["UTC", "Asia/Shanghai", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    "text",
    [
        "Sun, 22 Nov 2026 12:00:30 GMT",
        "Sunday, 22-Nov-26 12:00:30 GMT",
        "Sun Nov 22 12:00:30 2026",
        "Sun, 22 Nov 2026 12:00:30",
        "Sun, 22 Nov 2026 12:00:30 -0000",
    ],
)
def test_every_form_of_a_date_means_gmt(text: str) -> None:
    """Also the old one that does not say so, wherever this machine stands."""
    assert retry_after({"Retry-After": text}, NOW) == 30.0


@given(st.text(max_size=40), st.text(max_size=40))
def test_nonsense_is_none_or_a_wait_in_bounds(text: str, date: str) -> None:
    """No header makes us fail, wait for ever, or wait less than nothing."""
    seconds = retry_after({"retry-after": text, "date": date}, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "86400"}, 3600.0),
        ({"Retry-After": "soon"}, 45.0),
        ({}, 45.0),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": "Sun, 22 Nov 2026 12:00:10 GMT"}, 20.0),
    ],
)
def test_a_handler_waits_as_an_answer_asks(headers: dict[str, str], after: float) -> None:
    """Seconds or a date; what is missing or nonsense becomes the handler's own wait. The whole destination pauses."""
    later = RetryLater.from_headers(headers, otherwise=45.0, reason="429 from the webhook")
    assert (later.after, later.pause, str(later)) == (after, True, "429 from the webhook")


def test_a_handler_need_not_know_the_time() -> None:
    """A date without the answer's own is measured by this machine's clock."""
    until = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 600))
    assert 590 < RetryLater.from_headers({"Retry-After": until}, otherwise=1.0).after <= 600
    assert RetryLater.from_headers({}, otherwise=1.0, pause=False).pause is False
