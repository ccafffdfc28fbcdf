"""Events, pictures and attempts for authors of handlers."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from receiver.events import ALERT_TYPES, EVENT_TYPES, Event, EventType
from receiver.handlers.base import Attempt
from receiver.media import sniff
from receiver.tasks import event_type
from receiver.testing import make_attempt, make_event, make_media


def test_pictures_are_real(tmp_path: Path) -> None:
    """Pillow and our own archive take them for PNGs, they differ, and they lie where the attempt says."""
    stored = make_media(tmp_path, 4)
    assert len({item.media.digest for item in stored}) == 4
    for item in stored:
        data = item.path.read_bytes()
        assert sniff(data) == ("image/png", ".png")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.size == (16, 16)


@pytest.mark.parametrize("type", ALERT_TYPES)
def test_alerts_have_no_task(type: EventType) -> None:
    """The journal keeps them as they are, and the sentence is the reason."""
    event = make_event(type)
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event
    assert (event.task, event.task_id, event.prompt, event.kind) == (None, None, "", "alert")
    assert event.reason


@pytest.mark.parametrize("type", [type for type in EVENT_TYPES if type not in ALERT_TYPES])
def test_events_are_as_intake_writes_them(type: EventType) -> None:
    """Of every type, kept by the journal as they are; a task's status agrees with what the event says."""
    event = make_event(type)
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event
    assert event.task is not None
    assert type == "task.lost" or event_type(event.task) == type
    assert event.id.startswith(f"{event.submission_id}.{type}")
    assert (event.reason is not None) == (type in ("task.failed", "task.lost"))


def test_results_of_texts_have_no_picture(tmp_path: Path) -> None:
    """`describe` gives words: no link, no media, no problem."""
    attempt = make_attempt(tmp_path, pictures=0)
    assert attempt.event.task is not None
    assert attempt.event.task.texts
    assert not attempt.event.task.result_urls
    assert not attempt.media
    assert attempt.media_problem is None


def test_each_attempt_is_of_a_delivery_of_its_own(tmp_path: Path) -> None:
    """New keys and submissions, unless the caller says which."""
    one, other = make_attempt(tmp_path), make_attempt(tmp_path)
    assert one.idempotency_key != other.idempotency_key
    assert one.event.submission_id != other.event.submission_id
    again = make_attempt(tmp_path, "task.failed", submission_id=one.event.submission_id, number=3, deadline=1.0)
    assert isinstance(again, Attempt)
    assert (again.event.submission_id, again.number, again.deadline) == (one.event.submission_id, 3, 1.0)
    assert not again.media
