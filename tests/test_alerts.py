"""Alerts: what is wrong reaches the destinations that want it, once, and never the one that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from journals import NOW, SetClock, completion, owe, submission, take

from receiver.app.factory import route_of
from receiver.engine.alerts import EVERY_SECONDS, QUIET_MS, Alerts, Told, compare
from receiver.errors import SettingsError
from receiver.events import ALERT_TYPES
from receiver.handlers.file import FileHandler
from receiver.intake import Route
from receiver.journal import Journal, Trouble
from receiver.journal.store import Filter
from receiver.journal.troubles import find_troubles
from receiver.settings import Destination
from receiver.testing import make_attempt

MINUTE = 60_000
AWAY = Trouble(name="provider", since_ms=0, text="The provider cannot be reached.")


def dead(count: int) -> Trouble:
    return Trouble(name="dead slack", since_ms=0, text=f"{count} are dead.", count=count)


def types(steps: list[tuple[int, list[Trouble]]]) -> list[list[str]]:
    """The types of the alerts of each step, given its minute and what is wrong then."""
    told: dict[str, Told] = {}
    found = []
    for minute, troubles in steps:
        told, alerts = compare(told, troubles, NOW + minute * MINUTE)
        found.append([alert.type.removeprefix("receiver.") for alert in alerts])
    assert set(told) <= {"provider", "dead slack"}
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(0, []), (1, [])], [[], []]),
        ([(0, [AWAY]), (1, [])], [[], []]),  # it did not last
        ([(0, [AWAY]), (1, [AWAY]), (2, [AWAY]), (300, [AWAY])], [[], ["provider_unreachable"], [], []]),
        (
            [(0, [AWAY]), (1, [AWAY]), (2, []), (3, [])],
            [[], ["provider_unreachable"], ["provider_recovered"], []],
        ),
        (  # it flaps: silence for an hour
            [(0, [AWAY]), (1, [AWAY]), (2, []), (3, [AWAY]), (9, []), (20, [AWAY]), (61, [AWAY]), (62, [AWAY])],
            [[], ["provider_unreachable"], ["provider_recovered"], [], [], [], [], ["provider_unreachable"]],
        ),
        ([(0, [dead(1)])], [["delivery_dead"]]),
        (
            [(0, [dead(1)]), (1, [dead(5)]), (60, [dead(6)]), (200, [dead(6)])],
            [["delivery_dead"], [], ["delivery_dead"], []],
        ),
        ([(0, [dead(9)]), (100, [dead(2)]), (101, [dead(3)])], [["delivery_dead"], [], ["delivery_dead"]]),
        ([(0, [dead(1)]), (1, [])], [["delivery_dead"], ["delivery_recovered"]]),
    ],
)
def test_what_is_told_and_when(steps: list[tuple[int, list[Trouble]]], expected: list[list[str]]) -> None:
    """A trouble that lasts a minute is told once, and its end once. More dead deliveries are told once an hour."""
    assert types(steps) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"alerts": True}, set(ALERT_TYPES)),
        ({"events": ("receiver.*",)}, set(ALERT_TYPES)),
        ({"events": ("receiver.disk_low", "task.failed")}, {"receiver.disk_low"}),
    ],
)
def test_a_destination_says_which_alerts_it_gets(options: dict[str, Any], expected: set[str]) -> None:
    """By default none; with `receiver.*` alone no results either."""
    route = route_of(Destination(name="ops", url="file:./ops", **options))
    assert {type for type in ALERT_TYPES if route.wants(type)} == expected
    assert route.wants("task.succeeded") == ("events" not in options)


def test_an_unknown_alert_is_refused() -> None:
    """The sentence names the nearest one."""
    with pytest.raises(SettingsError, match=r"Did you mean receiver\.disk_low"):
        route_of(Destination(name="ops", url="file:./ops", events=("receiver.disk_lo",)))


async def test_an_alert_is_delivered_like_any_event_but_never_about_itself(journal: Journal) -> None:
    """Two destinations want alerts, and one has a dead delivery. The other one is owed the alert, with the reason and
    the command. No list of tasks and no count of them has it."""
    await journal.register({"slack": "slack", "ops": "file"})
    clock = SetClock()
    routes = [Route(destination="slack", alerts=True), Route(destination="ops", alerts=True), Route(destination="x")]
    alerts = Alerts(journal=journal, routes=routes, clock=clock)
    await alerts.alert_once()
    assert await journal.events(Filter(type="receiver.delivery_dead"), limit=10) == []
    await refuse(journal, "slack")
    clock.seconds += EVERY_SECONDS
    await alerts.alert_once()

    (alert,) = await journal.events(Filter(type="receiver.delivery_dead"), limit=10)
    assert alert.labels == {"destination": "slack"}
    assert alert.reason == (
        "1 delivery to slack is dead, and not tried again by itself. The last reason: channel_not_found. "
        "Correct it, then: receiver deliveries replay --destination slack --status dead"
    )
    (owed,) = await journal.outstanding(alert.submission_id)
    assert (owed.destination, owed.event_id) == ("ops", alert.id)
    assert [row.id for row in await journal.submissions(limit=100)] == [submission().id]
    assert sum((await journal.counts(submissions=True)).submissions.values()) == 1
    (work,) = await take(journal, 60_000, destination="ops")
    assert work.event == alert
    assert await journal.complete(completion(work))

    # Another process goes on where this one ended, and says nothing twice.
    clock.seconds += QUIET_MS / 1000
    await Alerts(journal=journal, routes=routes, clock=clock).alert_once()
    assert len(await journal.events(limit=10)) == 2


async def test_a_pause_is_told_and_its_end(journal: Journal) -> None:
    """After a minute, so that a short rate limit makes no alert."""
    await journal.register({"slack": "slack", "ops": "file"})
    clock = SetClock()
    alerts = Alerts(journal=journal, routes=[Route(destination="ops", alerts=True)], clock=clock)
    await journal.pause("slack", NOW + 10 * MINUTE, "it answered 410")
    told = []
    for _ in range(3):
        await alerts.alert_once()
        told.append(len(await journal.events(limit=10)))
        clock.seconds += EVERY_SECONDS
    assert told == [0, 1, 1]
    await journal.resume("slack")
    await alerts.alert_once()
    over, paused = await journal.events(limit=10)
    assert (over.type, paused.type) == ("receiver.destination_resumed", "receiver.destination_paused")
    assert "it answered 410" in (paused.reason or "")
    assert over.reason == "Destination slack works again, and gets what waited."


async def test_without_a_destination_that_wants_alerts_nothing_is_read(journal: Journal) -> None:
    """And nothing is written."""
    await refuse(journal, "slack")
    await Alerts(journal=journal, routes=[Route(destination="slack")], clock=SetClock()).alert_once()
    assert [event.type for event in await journal.events(limit=10)] == ["task.succeeded"]
    assert "alerts" not in await journal.store.values("alerts")


async def test_a_folder_gets_an_alert_as_json(tmp_path: Path) -> None:
    """With the sentence, and no picture."""
    attempt = make_attempt(tmp_path / "media", "receiver.disk_low")
    receipt = await FileHandler(FileHandler.Options(path=tmp_path / "ops")).deliver(attempt)
    (file,) = (tmp_path / "ops").iterdir()
    assert str(file) == receipt.ref
    assert json.loads(file.read_text())["event"]["reason"] == attempt.event.reason


async def test_what_is_wrong_is_found_in_the_journal(journal: Journal) -> None:
    """Every place that says what is wrong gets the same sentences."""
    await journal.register({"slack": "slack", "ops": "file"})
    assert await find_troubles(journal, NOW) == []
    await refuse(journal, "slack")
    await journal.pause("ops", NOW + 10 * MINUTE, "its disk is full.")
    await journal.note(AWAY)
    found = await find_troubles(journal, NOW)
    assert [item.name for item in found] == ["provider", "paused ops", "dead slack"]
    assert found[1].text == (
        "Destination ops is paused, 0 deliveries wait: its disk is full. It is tried again by itself; if the place "
        "works again: receiver destinations resume ops"
    )


async def refuse(journal: Journal, name: str) -> None:
    """Owe a result to a destination, which refuses it for good."""
    row = submission(ended="task.succeeded", send_due_ms=None, status="accepted")
    await journal.add(row)
    await owe(journal, row, "task.succeeded", 1, destination=name)
    (work,) = await take(journal, destination=name)
    ended = completion(work, outcome="rejected", status="dead", detail="channel_not_found")
    assert await journal.complete(ended)
