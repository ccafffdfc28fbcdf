"""How long ago something was, where one of the clocks may have stood still or been set."""

from __future__ import annotations

import pytest
from receiver.journal.bucket.moments import Moment

THEN = Moment(100.0, 1_800_000_000.0)


@pytest.mark.parametrize(
    ("monotonic", "wall", "seconds"),
    [
        pytest.param(0, 0, 0, id="at once"),
        pytest.param(5, 5, 5, id="both went on"),
        pytest.param(5, 6.5, 5, id="the wall clock is adjusted a little all the time"),
        pytest.param(0.1, 3600, None, id="an hour asleep"),
        pytest.param(5, -3595, None, id="set back"),
        pytest.param(5, 7205, None, id="set forth"),
    ],
)
def test_how_long_ago_it_was(monotonic: float, wall: float, seconds: float | None) -> None:
    """Known only where both clocks say the same."""
    now = Moment(THEN.monotonic + monotonic, THEN.wall + wall)
    assert THEN.seconds(now) == (None if seconds is None else pytest.approx(seconds))
