"""Ids of events and deliveries, and the files of an event."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import ID, NOW

from receiver.events import EVENT_TYPES, PROVISIONAL_TYPES, TERMINAL_TYPES, Event, EventType, event_id, new_id
from receiver.testing import make_attempt


@pytest.mark.parametrize(
    ("type", "percent", "id"),
    [
        ("task.accepted", None, f"{ID}.task.accepted"),
        ("task.accepted", 0, f"{ID}.task.accepted"),
        ("task.progressed", 0, f"{ID}.task.progressed.0"),
        ("task.progressed", 46, f"{ID}.task.progressed.46"),
        ("task.progressed", None, f"{ID}.task.progressed"),
        ("task.input_required", 0, f"{ID}.task.input_required"),
        ("task.succeeded", 100, f"{ID}.task.succeeded"),
        ("task.failed", 100, f"{ID}.task.failed"),
        ("task.lost", 46, f"{ID}.task.lost"),
    ],
)
def test_an_event_is_named_for_its_fact(type: EventType, percent: int | None, id: str) -> None:
    """The percentage belongs to progress only, so that a result is one event whoever brings it."""
    assert event_id(ID, type, percent) == id


def test_words_of_ends() -> None:
    """Every provisional end is an end, and every end a type."""
    assert set(PROVISIONAL_TYPES) < set(TERMINAL_TYPES) < set(EVENT_TYPES)


@given(st.integers(0, 2**47), st.integers(1, 2**30))
def test_ids_sort_by_time(now_ms: int, later: int) -> None:
    """A later id is a greater string, of 26 characters."""
    early, late = new_id(now_ms), new_id(now_ms + later)
    assert early < late
    assert len(early) == len(late) == 26


def test_ids_of_one_millisecond_only_rise() -> None:
    """The order within one change is the order of its ids."""
    ids = [new_id(NOW) for _ in range(1000)]
    assert ids == sorted(set(ids))


def test_ids_differ_between_threads() -> None:
    """Two threads never make one id."""
    made: list[list[str]] = [[] for _ in range(4)]

    def make(into: list[str]) -> None:
        into.extend(new_id(NOW) for _ in range(500))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for into in made for one in into}) == 2000
    assert all(into == sorted(into) for into in made)


def test_ids_cannot_be_guessed_from_the_time() -> None:
    """The same millisecond of two runs does not give the same id."""
    first = new_id(NOW)
    new_id(NOW + 1)
    assert new_id(NOW) != first


def test_an_attempt_gives_its_event_the_files(tmp_path: Path) -> None:
    """Under `event.files`, as in `media`, and never in the event's JSON."""
    attempt = make_attempt(tmp_path, pictures=2)
    assert attempt.event.files == attempt.media
    assert [(file.type, file.size) for file in attempt.event.files] == [
        ("image/png", len(file.path.read_bytes())) for file in attempt.media
    ]
    encoded = msgspec.json.encode(attempt.event)
    assert msgspec.json.decode(encoded, type=Event) == attempt.event
    assert "files" not in msgspec.json.decode(encoded)
    assert make_attempt(tmp_path, "task.failed").event.files == ()
