"""Waits before the next attempt: schedules, jitter, and the Retry-After header. Pure functions, tested as tables."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

MOST = 1.1
"""Upper factor of jitter."""

SECOND, MINUTE, HOUR = 1.0, 60.0, 3600.0

LONGEST_RETRY_AFTER = HOUR
"""Limit in seconds of a wait that a Retry-After header asks for."""
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?\Z")

DELIVERY: tuple[float, ...] = (5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)
"""Waits after the 1st, 2nd … failure of a delivery, as in Standard Webhooks. After one more it is `dead`."""

SEND: tuple[float, ...] = (15, 30, 60, 120)
"""Waits before a submission that made no task is sent again. Full queues take 30–120 s (PROTOCOL.md §4)."""

MEDIA: tuple[float, ...] = (3, 7, 20, 30, 60, 120, 300, 600, 600, 900, 1800, *(HOUR,) * 22)
"""Waits after failed downloads of a file: a day in all, because its link lives no longer (PROTOCOL.md §9)."""

FILES = 2 * MINUTE
"""Longest wait of a delivery for the files of its result."""

UNLINKED = 5 * MINUTE
"""Time in which a SUCCESS without links is no end, because links may come late (PROTOCOL.md §13.4)."""

STORE: tuple[float, ...] = (5, 15, 60, 180, 300)
"""Waits of a delivery whose files cannot be read from the media store. The last one repeats."""

PROVIDER: tuple[float, ...] = (5, 10, 20, 40, 60)
"""Waits after a failed poll. The last one repeats."""

PROVISIONAL: tuple[float, ...] = (30, 60, 120, 180, 300)
"""Polls after `task.failed` or `task.lost`, because a FAILURE may be false (PROTOCOL.md §8)."""

JOURNAL: tuple[float, ...] = (1, 2, 5, 10)
"""Waits before a fact from outside is journalled again, because no sender repeats it."""

DOWN_AFTER = 5
"""Failures in a row after which a destination counts as down."""

DOWN_AFTER_SUCCESS = 50
"""The same, while its last success is recent. Then some events fail while others succeed."""

PROBE = 2.0
"""Seconds between probes of a paused destination with a delivery that has not failed. One event that fails must not
hold up others."""

PAUSE: tuple[float, ...] = (10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE)
"""Pauses of a destination that is down, each ended by a delivery as a probe. The last one repeats."""

CONFIRM: tuple[float, ...] = (0, 2 / 30, 5 / 30, 10 / 30, 16 / 30, 1)
"""Times to ask about a terminal callback, as shares of `confirm_within`: 0, 2, 5, 10, 16 and 30 s of 30."""


def wait(schedule: Sequence[float], failures: int, *, random: Callable[[], float] = random.random) -> float | None:
    """Return seconds to wait after the `failures`-th failure (from 1), ±10 % jitter. None at the schedule's end."""
    if failures > len(schedule):
        return None
    return schedule[max(failures, 1) - 1] * (0.9 + 0.2 * random())


def wait_forever(schedule: Sequence[float], failures: int, *, random: Callable[[], float] = random.random) -> float:
    """Return as `wait`, but the last step repeats for ever."""
    return schedule[min(max(failures, 1), len(schedule)) - 1] * (0.9 + 0.2 * random())


def pause(failures: int, down_after: int = DOWN_AFTER, *, random: Callable[[], float] = random.random) -> float | None:
    """Return seconds of pause after so many failures of a destination in a row. None while it counts as up."""
    if failures < down_after:
        return None
    return wait_forever(PAUSE, failures - down_after + 1, random=random)


def retry_after(headers: Mapping[str, str], now: float | None) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 §10.2.3), 0–3600. None if it is missing or cannot be read.

    CometAPI documents none (PROTOCOL.md §4), but gateways send it.

    Args:
        headers: of the answer, in any case.
        now: epoch seconds. A date is compared with the answer's own `Date` first, so that a wrong clock does not
            matter. Without either it is ignored.
    """
    found = {name.lower(): value for name, value in headers.items()}
    text = found.get("retry-after", "").strip()
    if _SECONDS.match(text):
        return min(float(text), LONGEST_RETRY_AFTER)
    until = _epoch(text)
    since = _epoch(found.get("date", "")) or now
    if until is None or since is None:
        return None
    return min(max(until - since, 0.0), LONGEST_RETRY_AFTER)


def _epoch(text: str) -> float | None:
    """Return a date in any of HTTP's three forms (RFC 9110 §5.6.7), all of them in GMT, as epoch seconds."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
