"""What a post says, in plain text: the same for every chat."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import msgspec
import pytest

from receiver.deliveries import Receipt
from receiver.events import EVENT_TYPES, EventType
from receiver.handlers.posts import Post, clean, cut, linked, post_of
from receiver.tasks import Button
from receiver.tasks.reasons import advice_on
from receiver.testing import make_attempt, make_event


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_every_event_has_a_title_and_says_the_prompt(type: EventType, tmp_path: Path) -> None:
    """Whatever happened, a post can be made of it."""
    attempt = make_attempt(tmp_path, type)
    post = post_of(attempt)
    assert post.title
    assert (attempt.event.prompt or attempt.event.reason or "?") in post.body
    assert bool(post.advice) == (type in ("task.failed", "task.lost", "task.input_required"))


REWORD, CORRECT, TOP_UP = "reword it", "Correct what begins with --", "Top up"
CHECK, BUSY, TIME, NOTHING = "everybody can open the pictures", "is busy", "ran out of time", ""


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Banned prompt detected", REWORD),
        ("可能包含敏感词", REWORD),
        ("Request cancelled due to output filters", REWORD),
        ("Sorry! Our AI moderators feel your prompt might be against our community standards.", REWORD),
        ("Image denied", REWORD),
        ("Invalid parameter: Unrecognized parameter(s): `--link`", CORRECT),
        ("Invalid value for `--timeout`", CORRECT),
        ("无效参数", CORRECT),
        ("Invalid link", CHECK),
        ("Could not validate the image link", CHECK),
        ("Failed to download your picture: timed out", CHECK),
        ("任务超时", TIME),
        ("上游任务超时（超过1小时）", TIME),
        ("task timeout", TIME),
        ("Timed out", TIME),
        ("quota_not_enough", TOP_UP),
        ("Insufficient account balance", TOP_UP),
        ("You have run out of hours", TOP_UP),
        ("Subscription required", TOP_UP),
        ("Queue full", BUSY),
        ("concurrent limit 并发数已达上限", BUSY),
        # A word alone is no meaning.
        ("Your account is blocked", NOTHING),
        ("The moderation service is down", NOTHING),
        ("Sorry! Could not complete the job!", NOTHING),
        ("The image server has a bad day", NOTHING),
        ("Give credit where credit is due", NOTHING),
        ("The balance of powers failed", NOTHING),
        ("取消任务", NOTHING),
        ("The link between us is broken", NOTHING),
        ('Internal error at "banned prompt detected"', NOTHING),
        ("Internal error at a sign that says queue full", NOTHING),
        ("", NOTHING),
    ],
)
def test_advice_is_by_the_meaning_of_a_reason(reason: str, advice: str) -> None:
    """Not by a word in it, nor by what it repeats of the prompt. An unknown reason gets none."""
    found = advice_on(reason, "a sign that says queue full")
    assert advice in found
    assert bool(found) == bool(advice)


def test_advice_is_found_in_time_in_any_text() -> None:
    """The longest hostile reasons take no more than a moment."""
    for part in ("quota ", "could not get a ", '"', "“", "violates a b c ", "!", "task ", "exceeded your", "w"):
        started = time.process_time()
        advice_on(part * (64_000 // len(part)), "")
        assert time.process_time() - started < 1.0


def test_a_late_success_says_so(tmp_path: Path) -> None:
    """It corrects a failure that people have read."""
    event = make_event(supersedes="01JD7K0000ABCDEFGHJKMNPQRS.task.failed")
    assert post_of(make_attempt(tmp_path, event=event)).title == "Ready after all"


def test_what_people_can_do_next_is_a_command(tmp_path: Path) -> None:
    """The buttons by their labels, the seed, our own id, and what to type; a button that could be markup or more than
    one word to a shell is not typed unquoted."""
    event = make_event()
    assert event.task is not None

    def post(*buttons: Button) -> Post:
        task = msgspec.structs.replace(event.task, seed="42", buttons=buttons)
        return post_of(make_attempt(tmp_path, event=msgspec.structs.replace(event, task=task)))

    small = post(Button(custom_id="b", emoji="🔄"), Button(custom_id="a", label="U1"))
    assert dict(small.details) == {"Task": event.task_id, "Submission": event.submission_id, "Seed": "42"}
    assert (small.steps, small.command) == ("🔄, U1", f"receiver action {event.submission_id} U1")
    assert post(Button(custom_id="a", label="Zoom Out 2x")).command.endswith(" 'Zoom Out 2x'")
    assert post(Button(custom_id="a", label="`$(rm -rf ~)`")).command == ""
    assert f"Next step: {small.command}" in small.body


def test_a_follow_up_says_its_button_where_it_is_plain(tmp_path: Path) -> None:
    """The title may be marked up by a chat, so only what is no markup anywhere gets into it."""
    for button, title in (("U2", "Ready (U2)"), ("*<!channel>*", "Ready"), ("Zoom Out 2x", "Ready (Zoom Out 2x)")):
        assert post_of(make_attempt(tmp_path, event=make_event(button=button))).title == title


def test_a_missing_picture_says_why_in_short(tmp_path: Path) -> None:
    """In the title, and below it the reason, which may name long links."""
    post = post_of(make_attempt(tmp_path, media=(), media_problem="cdn.example answered 404. " + "x" * 400))
    assert post.title == "Ready, but without the picture"
    assert post.remark.startswith("It could not be downloaded: cdn.example answered 404.")
    assert len(post.remark) < 200


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
