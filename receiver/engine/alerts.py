"""Alerts: events of the types `receiver.…` about a trouble and its end, delivered like any other event.

Once a minute the leader compares the present troubles (`find_troubles`) with the alerts that were sent. All processes
share the record of these. An alert is a submission of the kind `alert` with one event. No list of tasks shows it, and
retention deletes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from receiver.clock import Clock
from receiver.events import ALERT_KIND, EventType, Submission, alert_event, new_id
from receiver.intake import Policy, Route, Rules
from receiver.intake.transitions import fan_out
from receiver.journal import Change, Journal, Trouble
from receiver.journal.shared import Shared
from receiver.journal.troubles import find_troubles
from receiver.telemetry import Log

log = Log("receiver.engine.alerts")

EVERY_SECONDS = 60.0
LASTS_MS = 60_000
"""Age of a trouble at its first alert, so that a short one makes none. A dead delivery makes one at once."""
QUIET_MS = 3_600_000
"""Time in which one trouble makes at most one alert, and one of its end."""

TYPES: Mapping[str, tuple[EventType, EventType]] = {
    "provider": ("receiver.provider_unreachable", "receiver.provider_recovered"),
    "callbacks": ("receiver.callbacks_missing", "receiver.callbacks_returned"),
    "paused": ("receiver.destination_paused", "receiver.destination_resumed"),
    "dead": ("receiver.delivery_dead", "receiver.delivery_recovered"),
    "disk": ("receiver.disk_low", "receiver.disk_recovered"),
}
"""Types of the alert and of the one of its end, by the first word of a trouble's name."""
_OVER: Mapping[str, str] = {
    "provider": "The provider answers again.",
    "callbacks": "Callbacks come again.",
    "paused": "Destination {} works again, and gets what waited.",
    "dead": "No delivery to {} is dead any more.",
    "disk": "There is space on the disk again.",
}
"""Text of the alert of its end, by the same word. `{}` is the destination."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The last alert about one trouble.

    Attributes:
        since_ms: time at which it was first seen.
        told_ms: time of the last alert, 0 before the first one.
        count: number that the last alert named.
        over: True after the alert of its end.
    """

    since_ms: int
    told_ms: int = 0
    count: int = 0
    over: bool = False


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert to be sent. `about` is the destination that has the trouble, which does not get it, or None."""

    type: EventType
    text: str
    about: str | None


def compare(told: Mapping[str, Told], troubles: Iterable[Trouble], now_ms: int) -> tuple[dict[str, Told], list[Alert]]:
    """Return the record of all alerts after this step, and the alerts that are due."""
    after, alerts = dict[str, Told](), list[Alert]()
    for trouble in troubles:
        old = told.get(trouble.name) or Told(since_ms=now_ms)
        fresh = old.told_ms == 0 or old.over
        if old.over and not _quiet(old, now_ms):
            old = Told(since_ms=now_ms)
        lasts = trouble.count > 0 or now_ms - old.since_ms >= LASTS_MS
        if (lasts if fresh else trouble.count > old.count) and not _quiet(old, now_ms):
            alerts.append(_alert(trouble.name, trouble.text, over=False))
            old = Told(since_ms=old.since_ms, told_ms=now_ms, count=trouble.count)
        elif trouble.count < old.count:
            old = msgspec.structs.replace(old, count=trouble.count)
        after[trouble.name] = old
    for name, old in told.items():
        if name in after or not old.told_ms:
            continue
        if not old.over:
            subject = name.partition(" ")[2]
            alerts.append(_alert(name, _OVER[name.partition(" ")[0]].format(subject), over=True))
        if _quiet(old, now_ms):
            after[name] = msgspec.structs.replace(old, over=True)
    return after, alerts


def _quiet(old: Told, now_ms: int) -> bool:
    return old.told_ms > 0 and abs(now_ms - old.told_ms) < QUIET_MS


def _alert(name: str, text: str, *, over: bool) -> Alert:
    kind, _, subject = name.partition(" ")
    return Alert(type=TYPES[kind][over], text=text, about=subject if kind in ("paused", "dead") else None)


class Alerts:
    """The step that sends alerts. It reads nothing if no destination wants any."""

    def __init__(self, *, journal: Journal, routes: Sequence[Route], clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        types = {type for pair in TYPES.values() for type in pair}
        self._routes = tuple(route for route in routes if any(map(route.wants, types)))
        self._told: Shared[dict[str, Told]] = Shared(journal.store, "alerts", dict[str, Told], {})
        self._next = 0.0

    async def alert_once(self) -> int:
        """Send the alerts that are due. Return their number."""
        wait = self._next - self._clock.now()
        if not self._routes or 0 < wait <= EVERY_SECONDS:  # the upper bound ends the wait if the clock was set back
            return 0
        self._next = self._clock.now() + EVERY_SECONDS
        now_ms = self._clock.now_ms()
        told = await self._told.read()
        after, alerts = compare(told, await find_troubles(self._journal, now_ms), now_ms)
        for alert in alerts:
            await self._send(alert, now_ms)
        await self._told.update(lambda _: after)  # last: after a crash, rather twice than never
        return len(alerts)

    async def _send(self, alert: Alert, now_ms: int) -> None:
        names = [route.destination for route in self._routes if route.wants(alert.type)]
        row = Submission(
            id=new_id(now_ms),
            kind=ALERT_KIND,
            created_ms=now_ms,
            prompt="",
            request={},
            labels={"destination": alert.about} if alert.about else {},
            destinations=tuple(name for name in names if name != alert.about),
            status="refused",
            detail=alert.text,
            deadline_ms=now_ms,
        )
        event = alert_event(alert.type, alert.text, created_ms=now_ms, labels=row.labels, submission_id=row.id)
        rules = Rules(now_ms=now_ms, policy=Policy(), routes=self._routes)
        deliveries = fan_out(row, (event,), rules)
        if deliveries:
            await self._journal.add(row)
            await self._journal.change(
                row.id, lambda found: Change(submission=found, events=(event,), deliveries=deliveries)
            )
        log.warning("alert.sent", type=alert.type, to=list(row.destinations or ()), text=alert.text)
