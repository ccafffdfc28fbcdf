"""How long to wait before trying again: pure functions, tested as tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MOST = 1.1
"""How much longer than its step a wait may be: jitter."""

SECOND, MINUTE, HOUR = 1.0, 60.0, 3600.0

DELIVERY: tuple[float, ...] = (5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR)
"""Waits after the 1st, 2nd … failure of a delivery; after one failure more it is `dead` (Standard Webhooks' pace)."""

SEND: tuple[float, ...] = (15, 30, 60, 120)
"""Waits before a submission that made no task is sent again; users of full queues wait 30–120 s (PROTOCOL.md §4)."""

MEDIA: tuple[float, ...] = (3, 7, 20, 30, 60, 120, 300, 600)
"""Waits after failed downloads of a picture: minutes, because its link dies within a day (PROTOCOL.md §9)."""

STORE: tuple[float, ...] = (5, 15, 60, 180, 300)
"""Waits before a delivery whose files cannot be read from the media store is tried again; the last one repeats."""

PROVIDER: tuple[float, ...] = (5, 10, 20, 40, 60)
"""Waits after a failed poll; the last one repeats."""

PROVISIONAL: tuple[float, ...] = (30, 60, 120, 180, 300)
"""Polls after `task.failed` or `task.lost`: a FAILURE may be false (PROTOCOL.md §8), so we look a while longer."""

JOURNAL: tuple[float, ...] = (1, 2, 5, 10)
"""Waits before what happened outside is journalled again: it has happened, and nobody says it twice."""

DOWN_AFTER = 5
"""Failures in a row after which a destination is taken for down."""

PAUSE: tuple[float, ...] = (10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE)
"""How long a destination that is down is left alone, until one delivery probes it; the last one repeats."""

CONFIRM: tuple[float, ...] = (0, 2 / 30, 5 / 30, 10 / 30, 16 / 30, 1)
"""When a terminal callback is asked about, as shares of `confirm_within`: 0, 2, 5, 10, 16 and 30 s of 30."""


def wait(schedule: Sequence[float], failures: int, *, random: Callable[[], float] = random.random) -> float | None:
    """Seconds to wait after the `failures`-th failure (1-based), ±10 % jitter; None when the schedule is used up."""
    if failures > len(schedule):
        return None
    return schedule[max(failures, 1) - 1] * (0.9 + 0.2 * random())


def wait_forever(schedule: Sequence[float], failures: int, *, random: Callable[[], float] = random.random) -> float:
    """Like `wait`, but the last step repeats for ever."""
    return schedule[min(max(failures, 1), len(schedule)) - 1] * (0.9 + 0.2 * random())


def pause(failures: int, *, random: Callable[[], float] = random.random) -> float | None:
    """Seconds to leave a destination alone after so many failures in a row; None while it is not taken for down."""
    if failures < DOWN_AFTER:
        return None
    return wait_forever(PAUSE, failures - DOWN_AFTER + 1, random=random)
