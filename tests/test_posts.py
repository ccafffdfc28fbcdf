"""What a post says, in plain text: the same for every chat."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from receiver.deliveries import Receipt
from receiver.events import EVENT_TYPES, EventType
from receiver.handlers.posts import clean, cut, linked, post_of
from receiver.tasks import Button
from receiver.testing import make_attempt, make_event


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_every_event_has_a_title_and_says_the_prompt(type: EventType, tmp_path: Path) -> None:
    """Whatever happened, a post can be made of it."""
    attempt = make_attempt(tmp_path, type)
    post = post_of(attempt)
    assert post.title
    assert attempt.event.prompt in post.body
    assert bool(post.advice) == (type in ("task.failed", "task.lost", "task.input_required"))


def test_a_late_success_says_so(tmp_path: Path) -> None:
    """It corrects a failure that people have read."""
    event = make_event(supersedes="01JD7K0000ABCDEFGHJKMNPQRS.task.failed")
    assert post_of(make_attempt(tmp_path, event=event)).title == "Ready after all"


def test_what_people_can_do_next_is_in_the_details(tmp_path: Path) -> None:
    """The buttons by their labels, the seed, and our own id, which commands take."""
    event = make_event()
    assert event.task is not None
    task = msgspec.structs.replace(
        event.task, seed="42", buttons=(Button(custom_id="a", label="U1"), Button(custom_id="b", emoji="🔄"))
    )
    details = dict(post_of(make_attempt(tmp_path, event=msgspec.structs.replace(event, task=task))).details)
    assert (details["Seed"], details["Next steps"], details["Submission"]) == ("42", "U1, 🔄", event.submission_id)


def test_times_and_doubts_are_facts(tmp_path: Path) -> None:
    """How long it took, and that only a callback said so."""
    event = make_event(confirmed=False, button="U2")
    assert event.task is not None
    task = msgspec.structs.replace(event.task, submit_ms=1_000_000, finish_ms=1_125_000)
    post = post_of(make_attempt(tmp_path, event=msgspec.structs.replace(event, task=task)))
    assert post.facts == "U2 · 2 min 5 s · order: 17 · not confirmed by the provider"


def test_only_a_web_link_is_shown(tmp_path: Path) -> None:
    """A receipt of another kind of place is no link for people."""
    attempt = make_attempt(tmp_path, receipts={"a": Receipt(url="file:///srv/boat.png"), "b": Receipt(url="https://x")})
    assert [linked(attempt, name) for name in ("a", "b", None)] == [None, "https://x", None]
    failed = dataclasses.replace(make_attempt(tmp_path, "task.failed"), receipts=attempt.receipts)
    assert linked(failed, "b") is None


def test_texts_are_cut_and_cleaned() -> None:
    """No text turns the direction of what follows, and none is longer than asked."""
    assert clean(" a\u202eb\x00c\n ") == "a b c"
    assert (cut("boat", 4), cut("boats", 4)) == ("boat", "boa…")
