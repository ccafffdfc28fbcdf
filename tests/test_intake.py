"""What each kind of news does to a submission. The transitions are pure, so every situation is built by hand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import ID, NOW, TASK_ID, submission

from receiver.backoff import PROVISIONAL
from receiver.deliveries import Delivery
from receiver.errors import Refused
from receiver.events import (
    EVENT_TYPES,
    TERMINAL_TYPES,
    Claim,
    Event,
    EventType,
    ExpectedFile,
    Media,
    Submission,
    event_id,
)
from receiver.intake import Policy, Route, Rules, transitions
from receiver.intake.transitions import MAX_CALLBACK_BYTES, MAX_CALLBACKS, MAX_LATE_CALLBACKS
from receiver.journal import Change, files
from receiver.tasks import Button, Task, merge

FOLDER, SCREEN = Route(destination="folder"), Route(destination="screen", progress=True)
POLICY = Policy()
LINK, RAW = "https://api.cometapi.com/mj/image/1", "https://cdn.discordapp.com/attachments/1/2/boat.png"
MEDIA_FILE = Media(digest="d", type="image/png", size=3, extension=".png", url=RAW)
DUE_FILE = ExpectedFile(place="image_url", links=(LINK,), due_ms=NOW)
replace = msgspec.structs.replace


def rules(after_ms: int = 0, *, routes: tuple[Route, ...] = (FOLDER,), **policy: int) -> Rules:
    return Rules(now_ms=NOW + after_ms, policy=Policy(**policy), routes=routes)


def view(status: str, progress: int | None = None, *, id: str = TASK_ID, **fields: Any) -> Task:
    return Task(id=id, status=status, progress=progress, **fields)


SUCCESS = view("SUCCESS", 100, image_url=LINK)
CLAIMED = view("SUCCESS", 100, image_url=RAW)
FAILURE = view("FAILURE", fail_reason="任务超时")
RUNNING = view("IN_PROGRESS", 46)


def prepared(**fields: Any) -> Submission:
    return submission(id=ID, **fields)


def sending(**fields: Any) -> Submission:
    return submission(**{"id": ID, "status": "sending", "sends": 1, "send_due_ms": NOW + 120_000} | fields)


def unknown(**fields: Any) -> Submission:
    return submission(**{"id": ID, "status": "unknown", "outcome": "ambiguous", "send_due_ms": None} | fields)


def accepted(task: Task | None = None, **fields: Any) -> Submission:
    default = {
        "id": ID,
        "status": "accepted",
        "outcome": "accepted",
        "sends": 1,
        "send_due_ms": None,
        "task_id": TASK_ID,
        "task": task or view("NOT_START"),
        "poll_due_ms": NOW + 15_000,
    }
    return submission(**default | fields)


def claiming(task: Task = CLAIMED, **fields: Any) -> Submission:
    """A terminal callback came at NOW, and the provider is to be asked."""
    return accepted(**{"claim": Claim(task=task, since_ms=NOW), "poll_due_ms": NOW} | fields)


def failed(**fields: Any) -> Submission:
    return accepted(**{"task": FAILURE, "ended": "task.failed", "poll_due_ms": NOW + 30_000} | fields)


def lost(**fields: Any) -> Submission:
    return accepted(**{"ended": "task.lost", "detail": "late", "poll_due_ms": NOW + 30_000} | fields)


def succeeded(**fields: Any) -> Submission:
    return accepted(**{"task": SUCCESS, "ended": "task.succeeded", "poll_due_ms": None} | fields)


def types(change: Change | None) -> list[EventType]:
    return [event.type for event in change.events] if change else []


def only(change: Change | None) -> Event:
    assert change is not None
    (event,) = change.events
    return event


def row_of(change: Change | None) -> Submission:
    assert change is not None
    return change.submission


def due_after(change: Change | None) -> int | None:
    """Milliseconds after NOW at which the provider is asked next."""
    due = row_of(change).poll_due_ms
    return None if due is None else due - NOW


# The submit answer


@pytest.mark.parametrize(
    ("outcome", "status"), [("accepted", "NOT_START"), ("queued", "NOT_START"), ("modal", "MODAL")]
)
@pytest.mark.parametrize("before", [prepared(), sending(), unknown(), submission(id=ID, status="refused")])
def test_an_accepted_request(before: Submission, outcome: str, status: str) -> None:
    """Answers 1 and 22 set NOT_START, 21 for a dialogue MODAL; the task is bound, polled, and never sent again."""
    change = transitions.answered(before, rules(routes=(SCREEN,)), (TASK_ID,), outcome)
    row = change.submission
    assert (row.status, row.outcome, row.task_id, row.task_status) == ("accepted", outcome, TASK_ID, status)
    assert row.send_due_ms is None
    assert due_after(change) == POLICY.poll_ms
    assert types(change) == ["task.accepted"] + (["task.input_required"] if outcome == "modal" else [])
    assert [event.source for event in change.events] == ["submit"] * len(change.events)
    assert [one.event_id for one in change.deliveries] == [event.id for event in change.events]


def test_an_answer_after_a_callback_is_no_second_acceptance() -> None:
    """A callback outran the answer and bound the same task: nothing is new, and the task keeps its status."""
    before = accepted(RUNNING, outcome=None)
    change = transitions.answered(before, rules(), (TASK_ID,), "queued")
    assert types(change) == []
    assert row_of(change).task_status == "IN_PROGRESS"
    assert row_of(change).outcome == "queued"


def test_an_answer_does_not_hold_up_a_confirmation() -> None:
    """A terminal callback outran the answer: its claim stays, and is asked about when it was to be."""
    change = transitions.answered(claiming(), rules(200), (TASK_ID,), "accepted")
    assert row_of(change).claim == Claim(task=CLAIMED, since_ms=NOW)
    assert due_after(change) == 0


@pytest.mark.parametrize("ended", [None, "task.failed", "task.lost", "task.succeeded"])
def test_the_answer_wins_over_another_task(ended: EventType | None) -> None:
    """What a callback of another task brought is forgotten: the answer came over our own connection."""
    before = accepted(
        view("SUCCESS", 100, id="other", image_url=RAW), task_id="other", ended=ended,
        claim=Claim(task=CLAIMED, since_ms=NOW), files=(DUE_FILE,), late_ms=NOW,
    )  # fmt: skip
    change = transitions.answered(before, rules(), (TASK_ID,), "accepted")
    row = row_of(change)
    assert (row.task_id, row.task, row.claim, row.ended) == (TASK_ID, view("NOT_START"), None, None)
    assert (row.files, row.late_ms) == ((), None)
    assert due_after(change) == POLICY.poll_ms


def refusal(outcome: str = "banned_word") -> Refused:
    return Refused("The provider refuses a word.", outcome=outcome, retry=False)


@pytest.mark.parametrize("announce", [True, False])
def test_a_refused_request(announce: bool) -> None:
    """It stays refused, and is told to the destinations only when nobody waits for the answer."""
    change = transitions.refused(sending(), rules(), refusal(), announce=announce)
    row = row_of(change)
    assert (row.status, row.outcome, row.detail) == ("refused", "banned_word", "The provider refuses a word.")
    assert (row.send_due_ms, row.poll_due_ms) == (None, None)
    assert row.ended == ("task.failed" if announce else None)
    if announce:
        event = only(change)
        assert (event.type, event.source, event.reason) == ("task.failed", "submit", "The provider refuses a word.")
        assert (event.confirmed, event.supersedes) == (True, None)
        assert [one.destination for one in row_deliveries(change)] == ["folder"]


def row_deliveries(change: Change | None) -> tuple[Delivery, ...]:
    assert change is not None
    return change.deliveries


def test_a_refusal_after_the_deadline_corrects_the_loss() -> None:
    """`task.failed` with the provider's reason follows `task.lost`, and says what it supersedes."""
    event = only(transitions.refused(sending(ended="task.lost"), rules(), refusal(), announce=True))
    assert event.supersedes == f"{ID}.task.lost"


@pytest.mark.parametrize(
    ("sends", "after", "low", "high"), [(1, None, 13.5, 16.5), (9, None, 108, 132), (1, 300, 300, 300)]
)
def test_a_request_that_made_no_task_goes_out_again(sends: int, after: float | None, low: float, high: float) -> None:
    """Back to prepared with a due time that grows, or the one the provider asked for."""
    change = transitions.postponed(sending(sends=sends), rules(), "queue_full", "Queue is full.", after)
    row = row_of(change)
    assert (row.status, row.outcome, row.detail) == ("prepared", "queue_full", "Queue is full.")
    assert row.send_due_ms is not None
    assert low * 1000 <= row.send_due_ms - NOW <= high * 1000
    assert types(change) == []


def test_what_has_ended_is_not_sent_again() -> None:
    """A request postponed after its deadline is never due again: it would be due for ever."""
    row = row_of(transitions.postponed(sending(ended="task.lost"), rules(), "queue_full", "Queue is full.", None))
    assert row.send_due_ms is None


def test_a_lost_answer_waits_for_a_callback() -> None:
    """A request whose answer was lost becomes unknown and is never sent again; a callback can still resolve it."""
    change = transitions.unanswered(sending(), rules(), "The answer was lost.")
    row = row_of(change)
    assert (row.status, row.ended, row.send_due_ms, row.detail) == ("unknown", None, None, "The answer was lost.")
    assert types(change) == []


def test_a_lost_answer_without_a_callback_url_is_lost_at_once() -> None:
    """Nobody could ever tell what became of it, and the event says so."""
    change = transitions.unanswered(sending(hooked=False), rules(), "The answer was lost.")
    event = only(change)
    assert (row_of(change).status, row_of(change).ended) == ("unknown", "task.lost")
    assert event.type == "task.lost"
    assert event.reason is not None
    assert event.reason.startswith("The answer was lost. No callback URL")
    assert len(row_deliveries(change)) == 1


def test_what_is_lost_is_not_lost_twice() -> None:
    """The deadline ended it while it was under way; the lost answer adds no event."""
    change = transitions.unanswered(sending(hooked=False, ended="task.lost"), rules(), "The answer was lost.")
    assert types(change) == []
    assert row_of(change).status == "unknown"


ANSWERS: dict[str, Callable[[Submission, Rules], Change | None]] = {
    "refused": lambda row, by: transitions.refused(row, by, refusal(), announce=True),
    "postponed": lambda row, by: transitions.postponed(row, by, "queue_full", "Full.", None),
    "unanswered": lambda row, by: transitions.unanswered(row, by, "Lost."),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("row", [accepted(), claiming(), succeeded(), lost()], ids=["accepted", "claim", "won", "lost"])
def test_an_accepted_submission_takes_no_other_answer(answer: str, row: Submission) -> None:
    """A callback proved that there is a task, whatever the submit seems to say."""
    assert ANSWERS[answer](row, rules()) is None


@pytest.mark.parametrize("row", [prepared(), unknown(), submission(id=ID, status="refused")])
def test_only_what_is_being_sent_can_go_unanswered(row: Submission) -> None:
    """A row that a crash left behind is given up once."""
    assert transitions.unanswered(row, rules(), "Lost.") is None


# Callbacks: trust


def received(row: Submission, seen: Task, cause: str | None = None, by: Rules | None = None) -> Change:
    change = transitions.received(row, by or rules(), seen, cause, 1000)
    assert change is not None
    return change


def counted(row: Submission, **changes: Any) -> Submission:
    """The row after one callback more."""
    return replace(row, callbacks=row.callbacks + 1, callback_bytes=row.callback_bytes + 1000, **changes)


@pytest.mark.parametrize(
    ("due", "after", "then"),
    [
        (15_000, 3_000, 15_000),  # no more than half an interval sooner: it stands
        (15_000, 7_500, 15_000),
        (15_000, 7_501, 22_501),
        (15_000, 15_000, 30_000),
        (99_000, 3_000, 18_000),  # later than an interval from now: somebody had another pace
        (None, 3_000, 18_000),
    ],
)
def test_a_callback_moves_the_next_poll_by_halves(due: int | None, after: int, then: int) -> None:
    """Silence is noticed within one interval, and not every callback has to move an index entry for it."""
    before = accepted(RUNNING, poll_due_ms=None if due is None else NOW + due)
    change = transitions.received(before, rules(after), view("IN_PROGRESS", 62), None, 1000)
    assert row_of(change).poll_due_ms == NOW + then


@pytest.mark.parametrize("cause", ["no_url_token", "no_state", "bad_state", "other_state"])
@pytest.mark.parametrize("seen", [RUNNING, SUCCESS, FAILURE, view("SUCCESS", 100, id="other")])
def test_a_callback_that_is_not_believed(cause: str, seen: Task) -> None:
    """It is counted, moves nothing, and the provider is asked now."""
    before = accepted()
    change = received(before, seen, cause)
    assert change.submission == counted(before, poll_due_ms=NOW)
    assert (change.cause, change.events, change.deliveries) == (cause, (), ())


def test_a_callback_about_another_task() -> None:
    """Both tokens are good, but the task is not the one bound: kept with that cause, and the provider is asked."""
    before = accepted()
    change = received(before, view("SUCCESS", 100, id="other", image_url=RAW))
    assert change.cause == "other_task"
    assert change.submission == counted(before, poll_due_ms=NOW)
    assert types(change) == []


@pytest.mark.parametrize("row", [prepared(), sending()])
def test_a_callback_that_is_not_believed_binds_nothing(row: Submission) -> None:
    """While the answer to the submit is still to come there is nothing to ask about."""
    change = received(row, RUNNING, "no_state")
    assert change.submission == counted(row)


@pytest.mark.parametrize("row", [unknown(), unknown(ended="task.lost")])
def test_a_callback_that_is_not_believed_says_what_to_ask_about(row: Submission) -> None:
    """The answer was lost: it binds nothing either, but the provider is asked about the task it names, now."""
    change = received(row, RUNNING, "no_state")
    assert change.submission == counted(row, late_callbacks=int(row.ended is not None), poll_due_ms=NOW)
    assert (change.events, change.deliveries) == ((), ())


# Callbacks: the share of one submission


@pytest.mark.parametrize(
    ("row", "size", "room"),
    [
        (accepted(), 256 * 1024, True),
        (accepted(callbacks=MAX_CALLBACKS - 1), 1000, True),
        (accepted(callbacks=MAX_CALLBACKS), 1000, False),
        (accepted(callback_bytes=MAX_CALLBACK_BYTES - 1000), 1000, True),
        (accepted(callback_bytes=MAX_CALLBACK_BYTES - 1000), 1001, False),
        (succeeded(callbacks=101), 1000, True),
        (succeeded(late_callbacks=MAX_LATE_CALLBACKS - 1), 1000, True),
        (succeeded(late_callbacks=MAX_LATE_CALLBACKS), 1000, False),
        (failed(late_callbacks=MAX_LATE_CALLBACKS), 1000, False),
    ],
)
def test_a_submission_has_its_share_of_callbacks(row: Submission, size: int, room: bool) -> None:
    """So many, so many bytes, and a few after its end. Beyond that nothing changes, not even the next question."""
    for cause in (None, "no_state"):
        assert (transitions.received(row, rules(), SUCCESS, cause, size) is not None) == room


def test_late_callbacks_are_those_after_the_end() -> None:
    """What came before it does not count."""
    assert row_of(received(accepted(callbacks=101), RUNNING)).late_callbacks == 0
    assert row_of(received(succeeded(callbacks=101), SUCCESS)).late_callbacks == 1


@pytest.mark.parametrize(
    ("due", "asked", "then"),
    [
        (None, None, 0),
        (15_000, None, 0),
        (15_000, -10_000, 0),
        (15_000, -500, 1_500),
        (15_000, 0, 2_000),
        (1_000, 0, 1_000),  # it is polled before that anyway
        (-1_000, 0, -1_000),  # it is being asked about
        (15_000, 86_400_000, 2_000),  # by a clock that was ahead
    ],
)
def test_callbacks_cause_one_question_in_two_seconds(due: int | None, asked: int | None, then: int) -> None:
    """A callback that is not believed and one that ends the task both ask, but not again and again."""
    row = accepted(poll_due_ms=None if due is None else NOW + due, asked_ms=None if asked is None else NOW + asked)
    for change in (received(row, RUNNING, "no_state"), received(row, CLAIMED)):
        assert due_after(change) == then


def test_a_callback_before_a_lost_answer_says_what_to_ask_about() -> None:
    """It came while the answer was still expected; when that is lost, the provider is asked at once."""
    row = row_of(transitions.unanswered(sending(callbacks=1), rules(), "Lost."))
    assert (row.status, row.poll_due_ms) == ("unknown", NOW)


def test_nobody_is_asked_about_what_has_succeeded() -> None:
    """A success is final; a bad callback about it costs no request."""
    change = received(succeeded(), FAILURE, "bad_state")
    assert change.submission == counted(succeeded(), late_callbacks=1)


@pytest.mark.parametrize("row", [prepared(), sending(), unknown(), submission(id=ID, status="refused")])
@pytest.mark.parametrize(
    ("seen", "news"),
    [
        (view("SUBMITTED", 0), ["task.accepted"]),
        (RUNNING, ["task.accepted", "task.progressed"]),
        (view(""), ["task.accepted"]),
        (view("PAUSED"), ["task.accepted"]),
    ],
)
def test_a_callback_before_the_answer_binds_its_task(row: Submission, seen: Task, news: list[str]) -> None:
    """A task that answers under our tokens was accepted, whatever the submit says; it is polled from now on."""
    change = received(row, seen, by=rules(routes=(SCREEN,)))
    after = change.submission
    assert (after.status, after.task_id, after.send_due_ms) == ("accepted", TASK_ID, None)
    assert types(change) == news
    assert due_after(change) == POLICY.poll_ms
    assert change.cause is None


# Callbacks: progress


@pytest.mark.parametrize("routes", [(), (FOLDER,), (SCREEN,), (FOLDER, SCREEN)])
def test_progress_is_an_event_only_where_it_is_wanted(routes: tuple[Route, ...]) -> None:
    """The row always knows; an event is written, and owed, only to a destination that wants progress."""
    change = received(accepted(), RUNNING, by=rules(routes=routes))
    assert row_of(change).task == RUNNING
    if SCREEN in routes:
        event = only(change)
        assert (event.id, event.progress, event.status) == (f"{ID}.task.progressed.46", 46, "IN_PROGRESS")
        assert [one.destination for one in change.deliveries] == ["screen"]
    else:
        assert (change.events, change.deliveries) == ((), ())


@pytest.mark.parametrize(
    "late",
    [RUNNING, view("IN_PROGRESS", 15), view("IN_PROGRESS"), view("SUBMITTED", 0), view("NOT_START"), view("MODAL"),
     view(""), view("PAUSED", 99)],
)  # fmt: skip
def test_duplicates_and_lag_change_nothing(late: Task) -> None:
    """A view that is not newer gives no event, by callback or by poll, and leaves the task as it is."""
    everything = rules(routes=(FOLDER, SCREEN))
    for change, due_ms in (
        (received(accepted(RUNNING), late, by=everything), POLICY.poll_ms),
        (transitions.polled(accepted(RUNNING, risen_ms=NOW), everything, late), 10_800),  # half of 54 % of 40 s
    ):
        assert types(change) == []
        task = row_of(change).task
        assert task is not None
        assert msgspec.structs.replace(task, other_status="") == RUNNING
        assert due_after(change) == due_ms


def test_a_dialogue_is_asked_for_once() -> None:
    """MODAL gives `task.input_required`; once the dialogue has been answered, the same task goes on."""
    first = transitions.polled(accepted(), rules(), view("MODAL"))
    assert only(first).type == "task.input_required"
    again = transitions.polled(row_of(first), rules(), view("MODAL"))
    assert types(again) == []
    on = transitions.polled(row_of(again), rules(), view("SUBMITTED", 0))
    assert types(on) == []
    assert types(transitions.polled(row_of(on), rules(), view("MODAL"))) == []


@pytest.mark.parametrize("before", [failed, lost])
@pytest.mark.parametrize("seen", [RUNNING, view("MODAL"), view("SUBMITTED", 0)])
def test_only_another_end_follows_an_end(before: Callable[[], Submission], seen: Task) -> None:
    """Progress after an end is no event: it would take the place of the end where that is still owed."""
    everything = rules(routes=(FOLDER, SCREEN))
    assert types(received(before(), seen, by=everything)) == []
    assert types(transitions.polled(before(), everything, seen)) == []


# Confirmation


@pytest.mark.parametrize("seen", [CLAIMED, FAILURE, view("CANCEL")])
def test_a_terminal_callback_is_a_claim_first(seen: Task) -> None:
    """It makes no end yet; the provider is asked now."""
    change = received(accepted(RUNNING), seen, by=rules(7))
    row = row_of(change)
    assert row.claim == Claim(task=seen, since_ms=NOW + 7)
    assert (row.task, row.ended) == (RUNNING, None)
    assert due_after(change) == 7
    assert types(change) == []


@pytest.mark.parametrize("row", [prepared(), sending(), unknown()])
def test_a_claim_can_be_the_first_word(row: Submission) -> None:
    """It binds the task, which is accepted by that, and is then confirmed."""
    change = received(row, CLAIMED)
    after = row_of(change)
    assert (after.status, after.task_id, after.task_status) == ("accepted", TASK_ID, "NOT_START")
    assert after.claim == Claim(task=CLAIMED, since_ms=NOW)
    assert due_after(change) == 0
    assert types(change) == ["task.accepted"]


def test_a_lagging_provider_is_asked_six_times() -> None:
    """At 0, 2, 5, 10, 16 and 30 s; a lag is no contradiction, and when the time is out the callback is believed."""
    row, asked, change = row_of(received(accepted(), CLAIMED)), [], None
    while row.claim is not None:
        assert row.poll_due_ms is not None
        asked.append(row.poll_due_ms - NOW)
        change = transitions.polled(row, rules(asked[-1]), RUNNING)
        row = row_of(change)
    assert asked == [0, 2_000, 5_000, 10_000, 16_000, 30_000]
    event = only(change)
    assert (event.type, event.confirmed, event.source) == ("task.succeeded", False, "callback")
    assert (row.ended, row.task_status) == ("task.succeeded", "SUCCESS")


@pytest.mark.parametrize(("late_ms", "next_ms"), [(100, 2_100), (2_000, 5_000), (6_000, 10_000), (29_000, 30_000)])
def test_late_questions_are_not_made_up_for(late_ms: int, next_ms: int) -> None:
    """However often it was asked, the next question comes at the next of the six moments, not before two seconds."""
    assert due_after(transitions.polled(claiming(), rules(late_ms), None)) == next_ms


def test_a_claim_from_before_the_clock_was_set_back_is_asked_about_anew() -> None:
    """Two days back: it gets its 30 s from now on, instead of waiting for the old time to come again."""
    row = claiming()
    assert row.claim is not None
    row = replace(row, claim=replace(row.claim, since_ms=NOW + 2 * 86_400_000))
    first = row_of(transitions.polled(row, rules(), None))
    assert first.claim is not None
    assert (first.claim.since_ms, first.poll_due_ms) == (NOW, NOW + 2_000)
    change = transitions.polled(first, rules(30_000), None)
    assert types(change) == ["task.succeeded"]


@pytest.mark.parametrize("claimed", [CLAIMED, FAILURE])
@pytest.mark.parametrize("seen", [None, view(""), view("NOT_START"), RUNNING])
def test_a_claim_nobody_contradicts(claimed: Task, seen: Task | None) -> None:
    """While time runs it waits; when time is out it is believed, unconfirmed."""
    before = claiming(claimed)
    waiting = transitions.polled(before, rules(29_999), seen)
    assert row_of(waiting).claim == Claim(task=claimed, since_ms=NOW, asked=1)
    assert types(waiting) == []
    event = only(transitions.polled(before, rules(30_000), seen))
    assert event.type == ("task.succeeded" if claimed is CLAIMED else "task.failed")
    assert event.confirmed is False


def test_agreement_confirms_a_success() -> None:
    """The fetch's links come first, the callback's are kept as the second source; the picture is due now."""
    change = transitions.polled(claiming(), rules(2_000), SUCCESS)
    row, event = row_of(change), only(change)
    assert (event.type, event.confirmed, event.source) == ("task.succeeded", True, "poll")
    assert (row.claim, row.ended, row.poll_due_ms) == (None, "task.succeeded", None)
    assert row.task is not None
    (file,) = row.files
    assert (file.links, file.due_ms) == ((LINK, RAW), NOW + 2_000)
    assert [one.due_ms for one in change.deliveries] == [NOW + 2_000 + POLICY.media_wait_ms]


def test_a_link_only_the_callback_has_is_downloaded() -> None:
    """The relay confirms without a link: the callback's is the only one, and worth a download."""
    row = row_of(transitions.polled(claiming(), rules(), view("SUCCESS", 100)))
    assert [(item.links, item.due_ms) for item in row.files] == [((RAW,), NOW)]


def test_agreement_confirms_a_failure() -> None:
    """At once, and provisionally: the task is still polled."""
    change = transitions.polled(claiming(FAILURE), rules(), FAILURE)
    event = only(change)
    assert (event.type, event.confirmed, event.reason) == ("task.failed", True, "任务超时")
    assert (row_of(change).claim, due_after(change)) == (None, 30_000)
    assert [one.due_ms for one in change.deliveries] == [NOW]


def test_a_fetched_success_beats_a_claimed_failure() -> None:
    """The task has succeeded, and the callback's links are no source."""
    change = transitions.polled(claiming(replace(FAILURE, image_url=RAW)), rules(), SUCCESS)
    assert (only(change).type, only(change).confirmed) == ("task.succeeded", True)
    assert [item.links for item in row_of(change).files] == [(LINK,)]


def test_a_contradiction_is_asked_about_until_time_is_out() -> None:
    """SUCCESS claimed, FAILURE fetched, and no picture to prove it: the provider's last word counts."""
    waiting = transitions.polled(claiming(), rules(5_000), FAILURE)
    assert types(waiting) == []
    assert (row_of(waiting).task_status, due_after(waiting)) == ("NOT_START", 10_000)
    event = only(transitions.polled(claiming(), rules(30_000), FAILURE))
    assert (event.type, event.confirmed) == ("task.failed", True)


def test_a_picture_proves_a_claim() -> None:
    """SUCCESS claimed, FAILURE fetched, and the picture downloads: it has succeeded, and its file is due."""
    change = transitions.polled(claiming(), rules(), FAILURE, proof=True)
    row, event = row_of(change), only(change)
    assert (event.type, event.confirmed, event.source) == ("task.succeeded", False, "callback")
    assert (row.media_due_ms, row.claim) == (NOW, None)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (CLAIMED, FAILURE, CLAIMED),
        (FAILURE, CLAIMED, CLAIMED),
        (CLAIMED, SUCCESS, CLAIMED),
        (FAILURE, FAILURE, FAILURE),
    ],
)
def test_of_two_claims_the_success_is_kept(first: Task, second: Task, kept: Task) -> None:
    """A second callback does not start the first one's time again, unless it says more."""
    row = row_of(received(claiming(first), second, by=rules(9_000)))
    assert row.claim is not None
    assert row.claim.task == kept
    assert row.claim.since_ms == (NOW if kept == first else NOW + 9_000)


@pytest.mark.parametrize("claimed", [CLAIMED, FAILURE])
@pytest.mark.parametrize("seen", [view("SUBMITTED", 0), RUNNING, view("MODAL")])
def test_a_contradicted_claim_waits_up_to_the_deadline(claimed: Task, seen: Task) -> None:
    """The provider shows our state and another status: it is asked at its usual pace, also past silent polls."""
    row = claiming(claimed, deadline_ms=NOW + 600_000)
    row = row_of(transitions.polled(row, rules(29_000), seen, ours=True))
    for after in (30_000, 45_000, 300_000):
        change = transitions.polled(row, rules(after), None if after == 300_000 else seen, ours=True)
        assert types(change) == []
        assert due_after(change) == after + POLICY.poll_ms
        row = row_of(change)
    event = only(transitions.polled(row, rules(600_000), seen, ours=True))
    assert (event.type, event.confirmed) == (f"task.{'succeeded' if claimed is CLAIMED else 'failed'}", False)
    agreed = transitions.polled(row, rules(310_000), SUCCESS, ours=True)
    assert (only(agreed).type, only(agreed).confirmed) == ("task.succeeded", True)


@pytest.mark.parametrize("seen", [view(""), view("IN_PROGRESS", 100), view("LATER")])
def test_a_lag_is_no_contradiction(seen: Task) -> None:
    """A relay that has not looked yet, or has stopped looking at 100 %, says nothing against a claim."""
    event = only(transitions.polled(claiming(deadline_ms=NOW + 600_000), rules(30_000), seen, ours=True))
    assert (event.type, event.confirmed) == ("task.succeeded", False)


def test_a_fetched_failure_ends_a_forged_success() -> None:
    """Both tokens were stolen. The provider's FAILURE is the end, and its later SUCCESS still counts."""
    waiting = transitions.polled(claiming(), rules(5_000), FAILURE, ours=True)
    assert types(waiting) == []
    row = row_of(transitions.polled(row_of(waiting), rules(30_000), FAILURE, ours=True))
    assert (row.ended, row.claim) == ("task.failed", None)
    assert only(transitions.polled(row, rules(60_000), SUCCESS, ours=True)).confirmed


def unconfirmed() -> Submission:
    return row_of(transitions.polled(claiming(), rules(30_000), None))


def test_an_unconfirmed_success_is_asked_about_on() -> None:
    """The provider's SUCCESS with the same link ends that, without another event."""
    row = unconfirmed()
    assert (row.ended, row.unconfirmed, row.poll_due_ms) == ("task.succeeded", True, NOW + 60_000)
    assert types(transitions.polled(row, rules(60_000), RUNNING, ours=True)) == []
    change = transitions.polled(row, rules(60_000), CLAIMED, ours=True)
    assert types(change) == []
    assert (row_of(change).unconfirmed, row_of(change).poll_due_ms) == (False, None)
    row = row_of(received(row, SUCCESS, by=rules(40_000)))
    assert row.poll_due_ms == NOW + 40_000


def test_a_confirmed_result_with_other_links_supersedes_an_unconfirmed_one() -> None:
    """Its files take the place of the claimed ones, and it goes to the same destinations as a further event."""
    change = transitions.polled(unconfirmed(), rules(60_000), SUCCESS, ours=True)
    row, event = row_of(change), only(change)
    first = event_id(row.id, "task.succeeded")
    assert (event.id, event.supersedes, event.confirmed) == (f"{first}.1", first, True)
    assert row.task is not None
    assert (row.task.result_urls, row.unconfirmed, row.poll_due_ms) == ((LINK,), False, None)
    assert [item.links for item in row.files] == [(LINK,)]
    assert [delivery.event_id for delivery in change.deliveries] == [event.id]
    assert types(transitions.polled(row, rules(70_000), SUCCESS)) == []


def test_a_success_without_confirmation_is_not_asked_about() -> None:
    """`confirm_within = 0` asks for no confirmation."""
    row = row_of(received(accepted(), CLAIMED, by=rules(confirm_ms=0)))
    assert (row.unconfirmed, row.poll_due_ms) == (False, None)


def test_progress_during_a_claim_keeps_its_pace() -> None:
    """A late progress callback does not put the confirmation off."""
    change = received(claiming(poll_due_ms=NOW + 2_000), RUNNING, by=rules(1_000, routes=(SCREEN,)))
    assert due_after(change) == 2_000
    assert row_of(change).claim is not None
    assert types(change) == ["task.progressed"]


@pytest.mark.parametrize(("seen", "type"), [(CLAIMED, "task.succeeded"), (FAILURE, "task.failed")])
def test_without_confirmation_a_callback_is_trusted_at_once(seen: Task, type: EventType) -> None:
    """`confirm_within = 0`: the callback makes the event, marked unconfirmed."""
    change = received(accepted(), seen, by=rules(confirm_ms=0))
    assert (only(change).type, only(change).confirmed) == (type, False)
    assert row_of(change).claim is None


def test_a_view_of_another_task_is_no_answer() -> None:
    """The submit answer bound another task while we asked about the first: its view must not bind it again."""
    change = transitions.polled(accepted(), rules(), view("SUCCESS", 100, id="other", image_url=LINK))
    row = row_of(change)
    assert (row.task_id, row.ended, types(change)) == (TASK_ID, None, [])
    assert due_after(change) == POLICY.poll_ms


# Ends that may be false


@pytest.mark.parametrize(("before", "supersedes"), [(failed(), "task.failed"), (lost(), "task.lost")])
def test_a_success_supersedes(before: Submission, supersedes: str) -> None:
    """By poll at once, by callback after confirmation; the event names the end it corrects."""
    by_poll = transitions.polled(before, rules(), SUCCESS)
    claim = row_of(received(before, CLAIMED))
    by_callback = transitions.polled(claim, rules(), SUCCESS)
    for change in (by_poll, by_callback):
        event = only(change)
        assert (event.type, event.supersedes) == ("task.succeeded", f"{ID}.{supersedes}")
        assert (row_of(change).ended, row_of(change).poll_due_ms) == ("task.succeeded", None)
        assert row_of(change).media_due_ms == NOW
        assert len(change.deliveries) == 1


def test_a_failure_follows_a_loss() -> None:
    """The provider's reason is worth more than our deadline; it is polled some minutes more from then."""
    change = transitions.polled(lost(polls=4), rules(), FAILURE)
    event = only(change)
    assert (event.type, event.reason, event.supersedes) == ("task.failed", "任务超时", f"{ID}.task.lost")
    assert (row_of(change).polls, due_after(change)) == (0, 30_000)


@pytest.mark.parametrize("seen", [FAILURE, view("CANCEL"), None, view(""), RUNNING])
@pytest.mark.parametrize("before", [failed(), succeeded()])
def test_nothing_else_follows_an_end(before: Submission, seen: Task | None) -> None:
    """A failure is told once, and a success is final."""
    change = transitions.polled(before, rules(), seen)
    assert types(change) == []
    assert (row_of(change).ended, row_of(change).task) == (before.ended, before.task)
    if seen is not None and seen.terminal:
        assert types(received(before, seen)) == []
        assert row_of(received(before, seen)).claim is None


@pytest.mark.parametrize("before", [failed(), lost()])
def test_a_provisional_end_is_polled_some_minutes_more(before: Submission) -> None:
    """After 30, 60, 120, 180 and 300 s, then no more."""
    row, waits, at = before, [], NOW
    while row.poll_due_ms is not None:
        waits.append((row.poll_due_ms - at) / 1000)
        at = row.poll_due_ms
        row = row_of(transitions.polled(row, rules(at - NOW), row.task))
    assert tuple(waits) == PROVISIONAL


def test_a_confirmation_uses_up_no_provisional_poll() -> None:
    """A SUCCESS claimed after a FAILURE and not confirmed leaves the slow polls as they were."""
    row = row_of(received(failed(), CLAIMED))
    while row.claim is not None:
        assert row.poll_due_ms is not None
        row = row_of(transitions.polled(row, rules(row.poll_due_ms - NOW), FAILURE))
    assert (row.ended, row.polls) == ("task.failed", 0)
    assert row.poll_due_ms == NOW + 30_000 + 30_000


# The deadline


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (prepared(), "could not be sent before the deadline"),
        (prepared(detail="Queue is full."), "before the deadline. Queue is full."),
        (sending(), "The answer to the submit was lost. No callback told"),
        (unknown(detail="The answer was cut short."), "The answer was cut short. No callback told"),
        (accepted(), f"still says NOT_START of task {TASK_ID}"),
        (accepted(RUNNING), f"still says IN_PROGRESS of task {TASK_ID}"),
        (accepted(view("")), f"still says nothing of task {TASK_ID}"),
        (accepted(merge(RUNNING, view("COMPLETED"))), f"says COMPLETED of task {TASK_ID}, which is no status"),
        (accepted(RUNNING, misses=3), f"nothing of task {TASK_ID} in its last 3 answers"),
    ],
)
def test_the_deadline_gives_its_reason(row: Submission, words: str) -> None:
    """Whatever the status, the end is `task.lost` and says why; a bound task is still polled some minutes."""
    change = transitions.expired(row, rules(900_000))
    event = only(change)
    assert (event.type, event.source, event.confirmed) == ("task.lost", "deadline", True)
    assert event.reason is not None
    assert words in event.reason
    after = row_of(change)
    assert (after.ended, after.detail, after.send_due_ms) == ("task.lost", event.reason, None)
    assert due_after(change) == (900_000 + 30_000 if row.task_id else None)
    assert len(row_deliveries(change)) == 1


@pytest.mark.parametrize(
    ("row", "after_ms"),
    [
        (accepted(), 899_999),
        (claiming(), 900_000),
        (failed(), 900_000),
        (lost(), 900_000),
        (succeeded(), 900_000),
        (submission(id=ID, status="refused"), 900_000),
    ],
    ids=["not yet", "claim", "failed", "lost", "succeeded", "refused"],
)
def test_what_the_deadline_does_not_touch(row: Submission, after_ms: int) -> None:
    """Too early, ended or refused already, or a claim that is being settled."""
    assert transitions.expired(row, rules(after_ms)) is None


# Files


def arrived(row: Submission, after_ms: int, **outcomes: files.Outcome) -> Change:
    return transitions.tried(row, rules(after_ms), None, outcomes)


def test_the_last_file_releases_what_waited() -> None:
    """The row has its files, nothing more is due, and the deliveries go out now."""
    change = arrived(succeeded(files=(DUE_FILE,), late_ms=NOW + 120_000), 5, image_url=MEDIA_FILE)
    row = row_of(change)
    assert (row.media, row.media_problem, row.media_due_ms) == ((MEDIA_FILE,), None, None)
    assert (change.release_ms, change.events) == (NOW + 5, ())


def test_a_failed_download_releases_nothing_while_it_is_tried_again() -> None:
    """Only a failure that cannot help lets the deliveries go at once, with the reason on the row."""
    row = succeeded(files=(DUE_FILE,), late_ms=NOW + 120_000)
    again = arrived(row, 0, image_url=files.Failure(problem="HTTP 503"))
    assert (row_of(again).media_problem, again.release_ms) == ("HTTP 503", None)
    over = arrived(row, 9, image_url=files.Failure(problem="forbidden", permanent=True))
    problem = f"forbidden. To try again: receiver media fetch {row.id}"
    assert (row_of(over).media_due_ms, row_of(over).media_problem, over.release_ms) == (None, problem, NOW + 9)


def test_a_late_file_is_one_further_event() -> None:
    """Deliveries have started without it: every destination gets the result once more, and after the first event."""
    row = succeeded(files=(DUE_FILE,), late_ms=NOW + 120_000)
    change = arrived(row, 120_000, image_url=MEDIA_FILE)
    event = only(change)
    assert (event.id, event.type, event.further) == (f"{ID}.task.succeeded.1", "task.succeeded", 1)
    assert [(one.event_id, one.due_ms) for one in change.deliveries] == [(event.id, NOW + 120_000)]
    assert row_of(arrived(row_of(change), 200_000, image_url=MEDIA_FILE)).further == 1


def test_a_person_makes_missing_files_due() -> None:
    """What is there stays, and a submission without a result has none."""
    given_up = replace(DUE_FILE, due_ms=None, tries=30, problem="gone")
    row = row_of(transitions.refetched(succeeded(files=(given_up,)), rules(7)))
    assert [(item.due_ms, item.tries) for item in row.files] == [(NOW + 7, 0)]
    assert transitions.refetched(failed(), rules()) is None


def test_a_result_of_text_waits_for_no_file() -> None:
    """A description has no file: its deliveries are due at once."""
    change = transitions.polled(accepted(), rules(), view("SUCCESS", 100, prompt="1️⃣ Cat", action="DESCRIBE"))
    assert row_of(change).files == ()
    assert [one.due_ms for one in change.deliveries] == [NOW]


LINKLESS = view("SUCCESS", 100)


def test_a_success_without_links_is_no_end() -> None:
    """It is polled on, also while the provider is silent, and the first links make the end."""
    waiting = transitions.polled(accepted(deadline_ms=NOW + 10**7), rules(), LINKLESS)
    assert (types(waiting), row_of(waiting).ended, due_after(waiting)) == ([], None, 2_000)
    silent = transitions.polled(row_of(waiting), rules(60_000), None)
    assert (types(silent), due_after(silent)) == ([], 60_000 + POLICY.poll_ms)
    event = only(transitions.polled(row_of(silent), rules(75_000), SUCCESS))
    assert event.task is not None
    assert (event.type, event.task.result_urls) == ("task.succeeded", (LINK,))


def test_links_of_a_later_callback_end_a_success() -> None:
    """The provider's own answer never has them."""
    waiting = row_of(transitions.polled(accepted(deadline_ms=NOW + 10**7), rules(), LINKLESS))
    claim = row_of(received(waiting, CLAIMED, by=rules(20_000)))
    change = transitions.polled(claim, rules(20_000), LINKLESS)
    assert only(change).type == "task.succeeded"
    assert [item.links for item in row_of(change).files] == [(RAW,)]


@pytest.mark.parametrize("seen", [LINKLESS, None])
def test_after_some_minutes_a_success_without_links_ends(seen: Task | None) -> None:
    """The event says nothing of files, the row does, deliveries start, and later links are still taken."""
    waiting = row_of(transitions.polled(accepted(deadline_ms=NOW + 10**7), rules(), LINKLESS))
    change = transitions.polled(waiting, rules(POLICY.unlinked_ms), seen)
    row = row_of(change)
    assert only(change).type == "task.succeeded"
    assert (row.media_problem, len(row.expected)) == (files.no_link(None), 1)
    assert [one.due_ms - NOW for one in change.deliveries] == [POLICY.unlinked_ms]
    late = row_of(received(row, CLAIMED, by=rules(900_000)))
    assert [(item.links, item.due_ms) for item in late.files] == [((RAW,), NOW + 900_000)]


def test_the_deadline_ends_a_success_without_links_as_one() -> None:
    """The provider has said SUCCESS, so the task is not lost."""
    waiting = row_of(transitions.polled(accepted(deadline_ms=NOW + 60_000), rules(), LINKLESS))
    event = only(transitions.expired(waiting, rules(60_000)))
    assert (event.type, event.source) == ("task.succeeded", "deadline")


# What events carry


def test_an_event_carries_what_the_caller_gave() -> None:
    """Labels, state, parent, prompt and kind come back with every event, and the task as it stands."""
    given_fields = {"labels": {"order": "7"}, "user_state": "mine", "parent_id": "parent", "prompt": "a boat"}
    event = only(
        transitions.polled(accepted(**given_fields), rules(3), replace(SUCCESS, buttons=(Button(custom_id="c"),)))
    )
    assert (event.labels, event.state, event.parent_id, event.prompt) == ({"order": "7"}, "mine", "parent", "a boat")
    assert (event.kind, event.created_ms, event.task_id, event.progress) == ("imagine", NOW + 3, TASK_ID, 100)
    assert event.task is not None
    assert event.task.buttons == (Button(custom_id="c"),)


@pytest.mark.parametrize(
    ("type", "folder", "screen"),
    [
        ("task.accepted", False, True),
        ("task.progressed", False, True),
        ("task.input_required", True, True),
        ("task.succeeded", True, True),
        ("task.failed", True, True),
        ("task.lost", True, True),
    ],
)
def test_who_wants_what(type: EventType, folder: bool, screen: bool) -> None:
    """Every decisive event goes everywhere; what happens on the way only where it is wanted."""
    assert (FOLDER.wants(type), SCREEN.wants(type)) == (folder, screen)


UPSCALES = Route(destination="album", actions=frozenset({"UPSCALE*"}), labels=(("customer", "acme-*"),))


@pytest.mark.parametrize(
    ("fields", "type", "owed"),
    [
        ({"task": Task(id="1", action="UPSCALE")}, "task.succeeded", True),
        ({"task": Task(id="1", action="upscale_hd")}, "task.failed", True),
        ({"task": Task(id="1", action="IMAGINE")}, "task.succeeded", False),
        ({"task": Task(id="1", action="UPSCALE"), "labels": {"customer": "other"}}, "task.succeeded", False),
        ({"task": Task(id="1", action="UPSCALE"), "labels": {}}, "task.succeeded", False),
        ({"kind": "imagine"}, "task.lost", False),
        ({"kind": "action"}, "task.lost", True),
        ({"kind": "action"}, "task.accepted", False),
        ({"task": Task(id="1", action="IMAGINE"), "labels": {}, "destinations": ("album",)}, "task.succeeded", True),
        ({"task": Task(id="1", action="UPSCALE"), "destinations": ("other",)}, "task.succeeded", False),
    ],
)
def test_a_destination_may_want_some_tasks_only(fields: dict[str, Any], type: EventType, owed: bool) -> None:
    """By action and labels, with patterns. Nobody is kept from the end of a task whose action was never told, and a
    submission that names its destinations goes to them whatever it is."""
    route = dataclasses.replace(UPSCALES, progress=True)
    row = accepted(**{"labels": {"customer": "acme-7", "order": "1"}, "task": None, **fields})
    assert route.matches(row, type) == owed


@pytest.mark.parametrize(
    ("fields", "type", "owed"),
    [
        ({"reply_to": "https://n8n.example.com/wait/1?s=2"}, "task.succeeded", True),
        ({"reply_to": "https://n8n.example.com/wait/1?s=2", "destinations": ("album",)}, "task.failed", True),
        ({"reply_to": "https://n8n.example.com/wait/1?s=2"}, "task.progressed", False),
        ({"reply_to": "https://n8n.example.com.evil.example/"}, "task.succeeded", False),
        ({"reply_to": "https://n8n.example.com:8443/"}, "task.succeeded", False),
        ({"reply_to": "http://n8n.example.com/"}, "task.succeeded", False),
        ({"reply_to": None, "destinations": ("reply",)}, "task.succeeded", False),
        ({}, "task.succeeded", False),
    ],
)
def test_replies_go_where_the_submission_says(fields: dict[str, Any], type: EventType, owed: bool) -> None:
    """Beside the destinations it names, to an allowed origin only, and of no submission without a URL."""
    route = Route(destination="reply", reply_origins=frozenset({"https://n8n.example.com"}))
    assert route.matches(accepted(**fields), type) == owed


def test_a_destination_may_name_the_types_it_wants() -> None:
    """Then it gets these, and with `progress` what happens on the way as well."""
    route = Route(destination="alarm", types=frozenset({"task.failed"}))
    wanted = [type for type in EVENT_TYPES if route.wants(type)]
    assert wanted == ["task.failed"]
    assert [type for type in EVENT_TYPES if dataclasses.replace(route, progress=True).wants(type)] == [
        "task.accepted",
        "task.progressed",
        "task.failed",
    ]


# Any order of any news


@dataclass
class Life:
    """One submission, its journal as far as it matters, and the time."""

    row: Submission = field(default_factory=sending)
    now: int = 0
    events: dict[str, Event] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)

    def apply(self, change: Change | None) -> None:
        """As the journal does it: an event whose id is there already is dropped with its deliveries."""
        if change is None:
            return
        fresh = [event for event in change.events if event.id not in self.events]
        self.events |= {event.id: event for event in fresh}
        ids = {event.id for event in fresh}
        self.deliveries += [one for one in change.deliveries if one.event_id in ids]
        self.row = change.submission
        self.check()

    def check(self) -> None:
        """What holds after every piece of news."""
        row = self.row
        if row.status == "accepted" and row.ended is None:
            assert row.poll_due_ms is not None, "nobody would ever ask about it"
        if row.claim is not None:
            assert row.poll_due_ms is not None, "the claim would never be settled"
            assert row.poll_due_ms <= max(row.claim.since_ms + POLICY.confirm_ms, NOW + self.now)
        if row.ended is not None or row.status not in ("prepared", "sending"):
            assert row.send_due_ms is None or row.status == "sending", "it would be due for ever"
        if row.ended is not None:
            assert f"{ID}.{row.ended}" in self.events, "it ended without an event"

    def rules(self) -> Rules:
        return rules(self.now, routes=(FOLDER, SCREEN))

    def due(self) -> None:
        """What the engine does of itself, with a provider that says nothing."""
        self.apply(transitions.expired(self.row, self.rules()))
        if self.row.status == "sending" and self.row.send_due_ms is not None and self.row.send_due_ms <= NOW + self.now:
            self.apply(transitions.unanswered(self.row, self.rules(), "Lost."))
        if self.row.poll_due_ms is not None and self.row.poll_due_ms <= NOW + self.now:
            silent = self.row.task_id is None
            by = self.rules()
            self.apply(transitions.unidentified(self.row, by) if silent else transitions.polled(self.row, by, None))


TASKS = st.sampled_from(
    [view(""), view("NOT_START"), view("MODAL"), view("SUBMITTED", 0), view("IN_PROGRESS"), view("PAUSED", 3),
     *(view("IN_PROGRESS", percent) for percent in (0, 15, 46, 93)),
     view("FAILURE", 100, fail_reason="r"), FAILURE, view("CANCEL"), CLAIMED, SUCCESS, view("SUCCESS", 100)],
)  # fmt: skip
CAUSES = st.sampled_from([None, None, None, "no_url_token", "no_state", "bad_state", "other_state"])
News = tuple[str, tuple[Any, ...]]
NEWS: st.SearchStrategy[News] = st.one_of(
    st.tuples(st.just("wait"), st.tuples(st.sampled_from([1, 1_000, 3_000, 16_000, 61_000, 200_000]))),
    st.tuples(st.just("callback"), st.tuples(TASKS, CAUSES)),
    st.tuples(st.just("poll"), st.tuples(st.none() | TASKS, st.booleans())),
    st.tuples(st.just("identify"), st.tuples(TASKS)),
    st.tuples(st.just("answer"), st.tuples(st.sampled_from(["accepted", "queued", "modal"]))),
    st.tuples(st.sampled_from(["refused", "postponed", "unanswered", "archived", "not_archived"]), st.just(())),
)


def tell(life: Life, news: News) -> None:
    kind, given_values = news
    by = life.rules()
    if kind == "wait":
        life.now += given_values[0]
        life.due()
    elif kind == "callback":
        seen, cause = given_values
        life.apply(transitions.received(life.row, by, seen, cause, 1000))
    elif kind == "poll" and life.row.task_id is not None:
        seen, proof = given_values
        life.apply(transitions.polled(life.row, by, seen, proof=proof))
    elif kind == "identify":
        life.apply(transitions.identified(life.row, by, given_values[0]))
    elif kind == "answer":
        life.apply(transitions.answered(life.row, by, (TASK_ID,), given_values[0]))
    elif kind in ANSWERS and life.row.status == "sending":
        life.apply(ANSWERS[kind](life.row, by))
    elif kind == "archived" and life.row.media_due_ms is not None:
        life.apply(transitions.tried(life.row, by, None, {item.place: MEDIA_FILE for item in life.row.files}))
    elif kind == "not_archived" and life.row.media_due_ms is not None:
        failure = files.Failure(problem="HTTP 503")
        life.apply(transitions.tried(life.row, by, None, {item.place: failure for item in life.row.files}))


RANK_OF: dict[EventType, int] = {
    "task.accepted": 0, "task.input_required": 1, "task.progressed": 3,
    "task.lost": 4, "task.failed": 5, "task.succeeded": 6,
}  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.lists(NEWS, max_size=25))
def test_no_order_of_news_breaks_the_promises(hooked: bool, news: list[News]) -> None:
    """Whatever comes in whatever order: facts only rise, each is owed once to each destination, and all ends."""
    life = Life(row=sending(hooked=hooked))
    for one in news:
        tell(life, one)
    for _ in range(60):  # then silence, well beyond the deadline
        life.now += 30_000
        life.due()
    row, events = life.row, list(life.events.values())
    # what is prepared is sent again or expires; what is refused was told to whoever waited
    assert row.ended is not None or row.status == "refused"
    assert row.claim is None
    assert row.poll_due_ms is None
    ranks = [(RANK_OF[event.type], event.progress or 0) for event in events]
    told = [rank if rank[0] < 4 else (rank[0], 0) for rank in ranks]
    assert told == sorted(told), "a fact went back behind another"
    ends = [event for event in events if event.type in TERMINAL_TYPES and not event.further]
    assert [end.supersedes for end in ends] == [None, *(end.id for end in ends)][: len(ends)]
    for event in events:
        owed = sorted(one.destination for one in life.deliveries if one.event_id == event.id)
        assert owed == (["screen"] if event.type in ("task.accepted", "task.progressed") else ["folder", "screen"])


REAL = [view("SUBMITTED", 0), view("IN_PROGRESS", 0), RUNNING, view("IN_PROGRESS", 93), CLAIMED]


def test_every_order_of_five_callbacks_is_one_result() -> None:
    """Each order ends with one confirmed success, and no destination is told of it twice."""
    for order in itertools.permutations(REAL):
        life = Life(row=accepted())
        for number, seen in enumerate([*order, *order]):
            life.now = number
            life.apply(received(life.row, seen, by=life.rules()))
        life.apply(transitions.polled(life.row, life.rules(), SUCCESS))
        wins = [event for event in life.events.values() if event.type == "task.succeeded"]
        assert [(win.confirmed, win.status) for win in wins] == [(True, "SUCCESS")]
        assert sum(one.event_id == wins[0].id for one in life.deliveries) == 2
