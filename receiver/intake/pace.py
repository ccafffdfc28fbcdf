"""Pace of polls: often near the end of a task, rarely long before it and long after it.

The end is expected after the usual time of such tasks, less the share that the task's percentage says is done. What is
usual is learnt from the last results and forgotten at a restart, because the percentage soon corrects a wrong start.
"""

from __future__ import annotations

from collections import deque

from receiver.events import Event, Submission

SHORTEST_MS = 2_000
"""Wait between polls of a task that is about to end."""
SHORTEST_LAGGING_MS = 5_000
"""The same where a relay's view is refreshed only every 15 s (PROTOCOL.md §9)."""
LAG_MS = 5_000
"""Usual age of a result when it is seen, from which on the view counts as lagging."""
ENOUGH = 4
"""Results seen before that is judged."""
LAST = 16
"""Results of one kind and speed that are remembered."""
NAMES = 100
"""Pairs of a kind and a speed that are remembered."""
USUAL_MS = {"turbo": 20_000, "fast": 40_000, "relax": 120_000}
"""Time of a picture by speed, before any result (PROTOCOL.md §9)."""
SHORT = frozenset({"action", "upscale", "describe", "shorten", "swap", "swap_face"})
"""Kinds and actions that take about a quarter of that. An action of another kind shows itself at the first poll."""


def next_poll_ms(
    now_ms: int, *, since_ms: int, percent: int, usual_ms: int, longest_ms: int, shortest_ms: int = SHORTEST_MS
) -> int:
    """Return the time of the next poll: after half of the time to the expected end, or half of the time since then.

    Args:
        now_ms: epoch milliseconds, as all times.
        since_ms: time at which this percentage was first seen, or of the acceptance.
        percent: the task's progress.
        usual_ms: duration of such a task.
        longest_ms: longest wait. It is stronger than the shortest.
        shortest_ms: shortest wait.
    """
    idle_ms = max(now_ms - since_ms, 0)  # the clock may have been set back
    left_ms = usual_ms * (100 - percent) // 100 - idle_ms
    return now_ms + min(max(abs(left_ms) // 2, shortest_ms), longest_ms)


class Durations:
    """Usual times of tasks by kind and speed, and of the provider's view, from the last results of this process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], deque[int]] = {}
        self._lags: deque[int] = deque(maxlen=LAST)

    @property
    def shortest_ms(self) -> int:
        """Shortest wait between polls that the provider's view is worth."""
        lags = len(self._lags) >= ENOUGH and _median(self._lags) > LAG_MS
        return SHORTEST_LAGGING_MS if lags else SHORTEST_MS

    def usual_ms(self, row: Submission) -> int:
        """Return the usual time of such a task, from submit to end."""
        speed, names = row.speed or "fast", _names(row)
        for name in names:
            if known := self._known.get((name, speed)):
                return _median(known)
        usual = USUAL_MS.get(speed, USUAL_MS["fast"])
        return usual // 4 if names[0] in SHORT else usual

    def learn(self, row: Submission, event: Event) -> None:
        """Take the times of a first result. Both are the provider's, so that its clock may differ from ours."""
        task = event.task
        if task is None or not task.submit_ms or not task.finish_ms or row.reply is not None:
            return
        took_ms = task.finish_ms - task.submit_ms
        if not 0 < took_ms < row.deadline_ms - row.created_ms:
            return
        for name in set(_names(row)):
            key = name, row.speed or "fast"
            if key not in self._known and len(self._known) >= NAMES:
                self._known.pop(next(iter(self._known)))
            self._known.setdefault(key, deque(maxlen=LAST)).append(took_ms)
        if event.source == "poll" and row.sends == 1:
            self._lags.append(event.created_ms - row.created_ms - took_ms)


class Budget:
    """Requests per minute. A sixth of them may follow one another without a wait."""

    def __init__(self, per_minute: int) -> None:
        self._burst = per_minute // 6
        self._per_second = (per_minute - self._burst) / 60
        self._left, self._at = float(self._burst), 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a request may be made. `now` is any number of seconds that never goes back."""
        self._left = min(self._left + (now - self._at) * self._per_second, self._burst)
        self._at = now
        return max(1 - self._left, 0) / self._per_second

    def spend(self, requests: int) -> None:
        """Count requests. Of those above the budget only a sixth of a minute's postpone the next ones."""
        self._left = max(self._left - requests, -self._burst)


def _names(row: Submission) -> tuple[str, ...]:
    """Return the task's action, once it is known, and the kind of its request."""
    action = row.task.action.lower() if row.task is not None else ""
    return (action, row.kind) if action else (row.kind,)


def _median(values: deque[int]) -> int:
    return sorted(values)[len(values) // 2]
