"""An event as others get it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from receiver.deliveries import Receipt
from receiver.events import EVENT_TYPES, EventType
from receiver.handlers.cloudevents import cloud_event
from receiver.testing import make_attempt


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_the_official_sdk_reads_every_type(tmp_path: Path, type: EventType) -> None:
    """As CloudEvents 1.0 in structured JSON mode."""
    attempt = make_attempt(tmp_path, type)
    event = attempt.event
    message = HTTPMessage(
        {"content-type": "application/cloudevents+json"}, msgspec.json.encode(cloud_event(attempt, source="here"))
    )
    read = from_structured_event(message)
    assert (read.get_id(), read.get_source(), read.get_type()) == (event.id, "here", type)
    assert (read.get_subject(), read.get_specversion()) == (event.submission_id, "1.0")
    assert read.get_time().timestamp() == event.created_ms / 1000
    assert read.get_data()["prompt"] == event.prompt
    assert read.get_data()["labels"] == event.labels


def test_what_a_result_says(tmp_path: Path) -> None:
    """Files with digest and link, and where other destinations have put them."""
    receipts = {"assets": Receipt(ref="mj/boat.png", url="https://assets.example/mj/boat.png", data={"etag": "1"})}
    attempt = make_attempt(tmp_path, pictures=2, receipts=receipts)
    data = cloud_event(attempt, files=[{"path": "/a"}])["data"]
    assert data["receipts"] == {"assets": {"ref": "mj/boat.png", "url": "https://assets.example/mj/boat.png"}}
    first, second = data["media"]
    media = attempt.media[0].media
    assert first == {
        "index": 0, "type": "image/png", "size": media.size, "digest": media.digest, "link": media.url, "path": "/a",
    }  # fmt: skip
    assert (second["index"], "path" in second) == (1, False)
    assert attempt.event.task is not None
    assert data["links"] == list(attempt.event.task.result_urls)


def test_our_tokens_stay_here(tmp_path: Path) -> None:
    """The task's own `state` is our state token, and a reason may quote the callback URL."""
    attempt = make_attempt(tmp_path, "task.failed")
    token = "01JD7K0000ABCDEFGHJKMNPQRS.aaaaaa." + "b" * 43
    assert attempt.event.task is not None
    task = msgspec.structs.replace(attempt.event.task, state=token)
    reason = f"could not call https://receiver.example/callbacks/{token}"
    event = msgspec.structs.replace(attempt.event, task=task, reason=reason, state="mine")
    document = msgspec.json.encode(cloud_event(dataclasses.replace(attempt, event=event)))
    assert token not in document.decode()
    assert json.loads(document)["data"]["state"] == "mine"
    assert json.loads(document)["data"]["reason"] == "could not call https://receiver.example/callbacks/[redacted]"
