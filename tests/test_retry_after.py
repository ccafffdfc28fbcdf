"""The one reading of Retry-After, as the provider and handlers use it (tests/test_answers.py reads it off answers)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.backoff import LONGEST_RETRY_AFTER, retry_after
from receiver.handlers.base import RetryLater

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
