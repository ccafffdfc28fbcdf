"""Submitting: what is journalled before anything goes out, what each answer leads to, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import DEADLINE, JPEG, PNG, PUBLIC_URL, Answer, Kit, Relay, StillClock, answer, engine, logged, until
from msgspec import structs

from receiver.errors import Ambiguous, InputError, JournalError, NotFound, ReceiverError, Refused, Unreachable
from receiver.events import Submission
from receiver.submissions import MAX_LABEL, MAX_LABELS
from receiver.submissions.inputs import data_uri
from receiver.tokens import MAX_CALLBACK_URL, MAX_STATE

TIMEOUT = httpx.ReadTimeout("no answer")
REFUSED_CONNECTION = httpx.ConnectError("connection refused")


async def sent_by_engine(kit: Kit, row: Submission) -> Submission:
    """The engine takes an orphan of a crash, after its grace."""
    kit.clock.advance(31)
    await kit.submissions.send_once()
    return await kit.row(row.id)


# --- before the request ------------------------------------------------------------------------------------------


async def test_the_submission_is_journalled_before_the_request(tmp_path: Path) -> None:
    """When the provider sees the request, the row is on disk as `sending`."""
    async with engine(tmp_path) as kit, engine(tmp_path) as reader:
        seen: list[Submission] = []

        async def look(request: httpx.Request) -> None:
            seen.extend(await reader.journal.submissions(limit=10))

        kit.relay.on_submit = look
        row = await kit.submit("a boat --ar 3:2", labels={"album": "7"}, state="mine")
        (before,) = seen
        assert (before.id, before.status, before.sends, before.prompt) == (row.id, "sending", 1, "a boat --ar 3:2")
        assert (before.labels, before.user_state, before.task_id) == ({"album": "7"}, "mine", None)


async def test_preparing_sends_nothing(tmp_path: Path) -> None:
    """`prepare` journals a `prepared` row and the provider hears nothing."""
    async with engine(tmp_path) as kit:
        row = await kit.prepared()
        assert (await kit.row(row.id)).status == "prepared"
        assert kit.relay.paths == []


async def test_both_tokens_verify_and_are_short_enough(tmp_path: Path) -> None:
    """`state` and the path of `notifyHook` hold the submission's id under their own salts, in unreserved characters."""
    async with engine(tmp_path, public_url=f"{PUBLIC_URL}/") as kit:
        row = await kit.submit(state="mine")
        (body,) = kit.relay.submitted
        prefix, _, token = body["notifyHook"].rpartition("/")
        assert prefix == f"{PUBLIC_URL}/callbacks"
        assert kit.tokens.read_url_token(token) == row.id
        assert kit.tokens.read_state_token(body["state"]) == row.id
        assert len(body["state"]) <= MAX_STATE
        assert len(body["notifyHook"]) <= MAX_CALLBACK_URL
        assert row.hooked


async def test_without_a_public_address_no_hook_goes_out(tmp_path: Path) -> None:
    """Nobody can call back, so nothing asks for it; `state` goes along all the same."""
    async with engine(tmp_path, public_url=None) as kit:
        row = await kit.submit()
        assert "notifyHook" not in kit.relay.submitted[0]
        assert kit.tokens.read_state_token(kit.relay.submitted[0]["state"]) == row.id
        assert not row.hooked


async def test_what_goes_out_is_what_was_asked_for(tmp_path: Path) -> None:
    """Speed is a prefix of the path; bot type and account filter stand in body and journal, tokens in the body only."""
    async with engine(tmp_path) as kit:
        row = await kit.submit(bot_type="NIJI_JOURNEY", speed="turbo", account_filter={"modes": ["TURBO"]})
        (body,) = kit.relay.submitted
        assert kit.relay.paths == ["/mj-turbo/mj/submit/imagine"]
        assert body["botType"] == "NIJI_JOURNEY"
        assert body["accountFilter"] == {"modes": ["TURBO"]}
        assert row.request == {key: value for key, value in body.items() if key not in ("state", "notifyHook")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": " "},
        {"prompt": "a", "speed": "warp"},
        {"prompt": "a", "bot_type": "DALLE"},
        {"prompt": "a", "account_filter": {"unknown": 1}},
        {"prompt": "a", "pictures": ("/does/not/exist.png",)},
        {"prompt": "a", "pictures": (data_uri(b"text", "image/png"),)},
        {"prompt": "a", "pictures": (data_uri(PNG, "image/png"),) * 6},
        {"prompt": "a", "labels": {f"l{n}": "" for n in range(MAX_LABELS + 1)}},
        {"prompt": "a", "labels": {"": "x"}},
        {"prompt": "a", "labels": {"x" * (MAX_LABEL + 1): "x"}},
        {"prompt": "a", "labels": {"x": "y" * (MAX_LABEL + 1)}},
        {"prompt": "a", "labels": {"x": "caf\udce9"}},
        {"prompt": "a", "labels": {"x\0": "y"}},
        {"prompt": "a", "state": "half \ud800"},
    ],
)
async def test_what_cannot_be_sent_leaves_no_trace(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A wrong request raises InputError; nothing is journalled and nothing is sent."""
    async with engine(tmp_path) as kit:
        with pytest.raises(InputError):
            await kit.prepared(**wrong)
        assert await kit.journal.submissions(limit=10) == []
        assert kit.relay.paths == []


async def test_the_largest_labels_pass(tmp_path: Path) -> None:
    """The limits themselves are allowed."""
    async with engine(tmp_path) as kit:
        labels = {f"{n:0{MAX_LABEL}}": "ä" * MAX_LABEL for n in range(MAX_LABELS)}
        row = await kit.prepared(labels=labels)
        assert (await kit.row(row.id)).labels == labels


async def test_too_long_a_callback_address_is_refused_before_anything(tmp_path: Path) -> None:
    """The provider may cut long hooks, so a public address that makes one is refused, and nothing is journalled."""
    async with engine(tmp_path, public_url=f"https://{'a' * 450}.example") as kit:
        with pytest.raises(InputError, match="RECEIVER_PUBLIC_URL"):
            await kit.prepared()
        assert await kit.journal.submissions(limit=10) == []


async def test_pictures_are_journalled_by_digest_and_sent_whole(tmp_path: Path) -> None:
    """The journal keeps digest, kind and size; the request carries data URIs in the order given."""
    async with engine(tmp_path) as kit:
        path = tmp_path / "b.jpg"
        path.write_bytes(JPEG)
        row = await kit.submit(pictures=(data_uri(PNG, "image/png"), str(path)))
        assert [(item.digest, item.type, item.size) for item in row.inputs] == [
            (hashlib.sha256(PNG).hexdigest(), "image/png", len(PNG)),
            (hashlib.sha256(JPEG).hexdigest(), "image/jpeg", len(JPEG)),
        ]
        assert kit.relay.submitted[0]["base64Array"] == [data_uri(PNG, "image/png"), data_uri(JPEG, "image/jpeg")]
    stored = (tmp_path / "journal.db").read_bytes()
    assert base64.b64encode(PNG)[:100] not in stored
    assert PNG[:100] not in stored


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "outcome", "task_status", "types"),
    [
        (answer(1, "17"), "accepted", "NOT_START", ["task.accepted"]),
        (answer(22, "17", properties={"numberOfQueues": 3}), "queued", "NOT_START", ["task.accepted"]),
        (answer(21, "17"), "modal", "MODAL", ["task.accepted", "task.input_required"]),
        (answer(21, "17", properties={"status": "SUCCESS"}), "accepted", "NOT_START", ["task.accepted"]),
    ],
)
async def test_a_taken_request_is_accepted(
    tmp_path: Path, given: Answer, outcome: str, task_status: str, types: list[str]
) -> None:
    """Codes 1, 21 and 22 bind the task and are polled from then on."""
    async with engine(tmp_path, relay=Relay(submits=[given])) as kit:
        row = await kit.submit()
        assert (row.status, row.task_id, row.outcome, row.task_status) == ("accepted", "17", outcome, task_status)
        assert row.poll_due_ms == kit.clock.now_ms() + 15_000
        assert row.send_due_ms is None
        assert await kit.types(row.id) == types


FINAL = [
    (answer(24, properties={"bannedWord": "blood"}), "banned_word"),
    (answer(4), "validation"),
    (httpx.Response(401, json={"error": {"message": "bad token", "type": "comet_api_error"}}), "unauthorized"),
    (answer(4, status=400, description="quota_not_enough "), "quota"),
    (answer(9), "failed"),
]


@pytest.mark.parametrize(("given", "outcome"), FINAL)
async def test_a_final_refusal_is_raised_and_never_sent_again(tmp_path: Path, given: Answer, outcome: str) -> None:
    """Whoever waits is told; the row is `refused`, writes no event, and the engine leaves it alone."""
    async with engine(tmp_path, relay=Relay(submits=[given])) as kit:
        row = await kit.prepared()
        with pytest.raises(Refused) as caught:
            await kit.submissions.send(row.id)
        assert caught.value.outcome == outcome
        for _ in range(5):
            kit.clock.advance(3600)
            await kit.submissions.send_once()
            await kit.reconciler.reconcile_once()
        after = await kit.row(row.id)
        assert (after.status, after.outcome, after.detail) == ("refused", outcome, str(caught.value))
        assert await kit.types(row.id) == []
        assert len(kit.relay.submitted) == 1


@pytest.mark.parametrize(("given", "outcome"), FINAL)
async def test_a_refusal_nobody_waits_for_is_told_to_the_destinations(
    tmp_path: Path, given: Answer, outcome: str
) -> None:
    """The engine's own send that is refused becomes `task.failed` with the reason, and is owed to every destination."""
    async with engine(tmp_path, relay=Relay(submits=[given]), routes=("one", "two")) as kit:
        row = await sent_by_engine(kit, await kit.prepared())
        (event,) = await kit.events(row.id)
        assert (row.status, row.ended, event.type, event.reason) == (
            "refused",
            "task.failed",
            "task.failed",
            row.detail,
        )
        assert [item.destination for item in await kit.deliveries(row.id)] == ["one", "two"]
        assert len(kit.relay.submitted) == 1


BUSY = [
    (answer(23), "queue_full"),
    (answer(3), "no_account"),
    (answer(30, status=429), "rate_limited"),
    (
        httpx.Response(503, json={"error": {"message": "no channel (distributor)", "type": "comet_api_error"}}),
        "no_channel",
    ),
]


@pytest.mark.parametrize(("given", "outcome"), BUSY)
async def test_a_busy_provider_is_asked_again_later(tmp_path: Path, given: Answer, outcome: str) -> None:
    """No task was made, so the row is `prepared` again; the engine sends it when due, and not before."""
    async with engine(tmp_path, relay=Relay(submits=[given, given, answer(1, "17")])) as kit:
        row = await kit.prepared()
        with pytest.raises(Refused) as caught:
            await kit.submissions.send(row.id)
        assert caught.value.retry
        after = await kit.row(row.id)
        assert (after.status, after.outcome, after.sends) == ("prepared", outcome, 1)
        kit.clock.advance(13)
        assert await kit.submissions.send_once() == 0
        kit.clock.advance(4)  # 15 s ± 10 %
        assert await kit.submissions.send_once() == 1
        assert (await kit.row(row.id)).status == "prepared"
        kit.clock.advance(26)
        assert await kit.submissions.send_once() == 0
        kit.clock.advance(8)  # 30 s ± 10 %
        assert await kit.submissions.send_once() == 1
        assert (await kit.row(row.id)).status == "accepted"
        assert len(kit.relay.submitted) == 3


async def test_retry_after_is_honoured(tmp_path: Path) -> None:
    """A 429 that names a time is not asked again before it."""
    busy = answer(30, status=429, headers={"Retry-After": "600"})
    async with engine(tmp_path, relay=Relay(submits=[busy, answer(1, "17")])) as kit:
        row = await kit.prepared()
        with pytest.raises(Refused):
            await kit.submissions.send(row.id)
        kit.clock.advance(599)
        assert await kit.submissions.send_once() == 0
        kit.clock.advance(1.001)
        assert await kit.submissions.send_once() == 1
        assert (await kit.row(row.id)).task_id == "17"


async def test_a_busy_provider_is_asked_until_the_deadline(tmp_path: Path) -> None:
    """Then the submission is lost with that reason, and nothing more goes out."""
    async with engine(tmp_path, relay=Relay(submits=[answer(23)])) as kit:
        row = await sent_by_engine(kit, await kit.prepared())
        for _ in range(DEADLINE // 60 + 5):
            kit.clock.advance(60)
            await kit.submissions.send_once()
        sent = len(kit.relay.submitted)
        row = await kit.row(row.id)
        (event,) = await kit.events(row.id)
        assert (row.ended, event.type) == ("task.lost", "task.lost")
        assert "could not be sent before the deadline" in (event.reason or "")
        assert 20 < sent < 60
        kit.clock.advance(86400)
        await kit.submissions.send_once()
        assert len(kit.relay.submitted) == sent


async def test_what_was_found_past_its_deadline_is_not_sent(tmp_path: Path) -> None:
    """After two days off, a prepared row that nobody waits for any more is not charged."""
    async with engine(tmp_path) as kit:
        row = await kit.prepared()
        kit.clock.advance(2 * 86400)
        await kit.submissions.send_once()
        assert kit.relay.submitted == []
        assert (await kit.row(row.id)).ended == "task.lost"
        assert await kit.submissions.send_once() == 0


async def test_a_request_postponed_after_its_end_keeps_nobody_busy(tmp_path: Path) -> None:
    """The deadline passes while the request is out, then the provider is busy: never due again, never sent again."""
    async with engine(tmp_path, relay=Relay(submits=[answer(23)])) as kit:

        async def deadline(request: httpx.Request) -> None:
            kit.clock.advance(DEADLINE)
            await kit.reconciler.reconcile_once()

        kit.relay.on_submit = deadline
        row = await kit.prepared()
        with pytest.raises(Refused):
            await kit.submissions.send(row.id)
        assert (await kit.row(row.id)).ended == "task.lost"
        kit.clock.advance(3600)
        await kit.submissions.send_once()
        assert await kit.submissions.send_once() == 0
        assert len(kit.relay.submitted) == 1


async def test_a_row_that_has_ended_is_never_due_for_long(tmp_path: Path) -> None:
    """However it came about, an ended row with a due time is put to rest, not looked at for ever, and never sent."""
    async with engine(tmp_path) as kit:
        plain = await kit.prepared()
        odd = structs.replace(plain, id="01ARZ3NDEKTSV4RRFFQ69G5FAV", ended="task.lost", send_due_ms=1)
        await kit.journal.add(odd)
        assert [await kit.submissions.send_once(), await kit.submissions.send_once()] == [1, 0]
        assert kit.relay.submitted == []


# --- lost answers ------------------------------------------------------------------------------------------------

UNCLEAR: list[Answer] = [
    answer(5, status=400),
    answer(1, None),
    answer(1, "17", status=500),
    httpx.Response(500),
    httpx.Response(504, text="<html>"),
    httpx.Response(200, text="<html>"),
    TIMEOUT,
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("cut off"),
]


@pytest.mark.parametrize("given", UNCLEAR)
async def test_a_lost_answer_is_never_sent_again(tmp_path: Path, given: Answer) -> None:
    """The task may have been charged: one request, over many runs of the engine and restarts, until it is lost."""
    relay, clock = Relay(submits=[given]), StillClock()
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        row = await kit.prepared()
        with pytest.raises(Ambiguous):
            await kit.submissions.send(row.id)
        assert (await kit.row(row.id)).status == "unknown"
    for _ in range(4):
        async with engine(tmp_path, relay=relay, clock=clock) as kit:
            for _ in range(10):
                clock.advance(120)
                await kit.submissions.send_once()
                await kit.reconciler.reconcile_once()
    assert len(relay.submitted) == 1
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        row = await kit.row(row.id)
        assert (row.status, row.ended, await kit.types(row.id)) == ("unknown", "task.lost", ["task.lost"])


async def test_a_lost_answer_without_hook_is_lost_at_once(tmp_path: Path) -> None:
    """Without a callback URL nothing can ever tell, so nobody is kept waiting."""
    async with engine(tmp_path, relay=Relay(submits=[TIMEOUT]), public_url=None) as kit:
        row = await kit.prepared()
        with pytest.raises(Ambiguous):
            await kit.submissions.send(row.id)
        (event,) = await kit.events(row.id)
        assert event.type == "task.lost"
        assert "No callback URL" in (event.reason or "")


async def test_a_callback_resolves_a_lost_answer(tmp_path: Path) -> None:
    """`unknown` becomes `accepted` with the callback's task id."""
    async with engine(tmp_path, relay=Relay(submits=[TIMEOUT])) as kit:
        row = await kit.prepared()
        with pytest.raises(Ambiguous):
            await kit.submissions.send(row.id)
        assert await kit.calls_back(row, "SUBMITTED", "17")
        after = await kit.row(row.id)
        assert (after.status, after.task_id, await kit.types(row.id)) == ("accepted", "17", ["task.accepted"])


@pytest.mark.parametrize("given", [answer(1, "17"), TIMEOUT, answer(5, status=400)])
async def test_a_callback_may_outrun_the_answer(tmp_path: Path, given: Answer) -> None:
    """The callback binds the task while the request is out; the answer, or its loss, changes nothing about that."""
    async with engine(tmp_path, relay=Relay(submits=[given])) as kit:
        row = await kit.prepared()

        async def call_back(request: httpx.Request) -> None:
            assert await kit.calls_back(row, "IN_PROGRESS", "17", progress=46)

        kit.relay.on_submit = call_back
        after = await kit.submissions.send(row.id)
        assert (after.status, after.task_id, after.task_status) == ("accepted", "17", "IN_PROGRESS")
        assert await kit.types(row.id) == ["task.accepted"]
        kit.clock.advance(3600)
        assert await kit.submissions.send_once() == 0
        assert len(kit.relay.submitted) == 1


async def test_an_unreachable_provider_refuses_whoever_waits(tmp_path: Path) -> None:
    """Nothing was sent and a person is there to decide, so nothing is sent behind their back."""
    async with engine(tmp_path, relay=Relay(submits=[REFUSED_CONNECTION])) as kit:
        row = await kit.prepared()
        with pytest.raises(Unreachable):
            await kit.submissions.send(row.id)
        kit.clock.advance(3600)
        await kit.submissions.send_once()
        after = await kit.row(row.id)
        assert (after.status, after.outcome) == ("refused", "unreachable")
        assert len(kit.relay.submitted) == 1


async def test_an_unreachable_provider_is_tried_again_by_the_engine(tmp_path: Path) -> None:
    """Nobody waits, nothing was sent: the row is `prepared` until the provider can be reached."""
    async with engine(tmp_path, relay=Relay(submits=[REFUSED_CONNECTION, answer(1, "17")])) as kit:
        row = await sent_by_engine(kit, await kit.prepared())
        assert (row.status, row.outcome) == ("prepared", "unreachable")
        kit.clock.advance(17)
        await kit.submissions.send_once()
        assert (await kit.row(row.id)).task_id == "17"


# --- crashes and races -------------------------------------------------------------------------------------------


async def test_a_prepared_orphan_is_sent_once_after_its_grace(tmp_path: Path) -> None:
    """Its maker has 30 s; then the engine sends what a crash left behind, once."""
    relay, clock = Relay(), StillClock()
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        row = await kit.prepared()
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        clock.advance(29)
        assert await kit.submissions.send_once() == 0
        assert (await sent_by_engine(kit, row)).status == "accepted"
        for _ in range(5):
            clock.advance(600)
            await kit.submissions.send_once()
        assert len(relay.submitted) == 1


async def test_a_sending_orphan_becomes_unknown(tmp_path: Path) -> None:
    """A process that died during the request may have been charged: no second request, and a callback still counts."""
    relay, clock = Relay(), StillClock()

    async def never(request: httpx.Request) -> None:
        await asyncio.Event().wait()

    relay.on_submit = never
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        row = await kit.prepared()
        sending = asyncio.create_task(kit.submissions.send(row.id))
        await until(lambda: len(relay.submitted) == 1)
        await kit.submissions.drain(0)  # cut off without an answer, as a crash does
        with pytest.raises(asyncio.CancelledError):
            await sending
    async with engine(tmp_path, relay=relay, clock=clock) as kit:
        clock.advance(100)
        assert await kit.submissions.send_once() == 0  # the answer may still come: 75 s and a grace of 30
        clock.advance(6)
        assert await kit.submissions.send_once() == 1
        assert (await kit.row(row.id)).status == "unknown"
        assert await kit.submissions.send_once() == 0
        assert len(relay.submitted) == 1
        await kit.calls_back(row, "SUBMITTED", "17")
        assert (await kit.row(row.id)).status == "accepted"


async def test_two_processes_send_a_row_once(tmp_path: Path) -> None:
    """Of several that send the same row at once, one does; the others get the row as it is."""
    relay, clock = Relay(), StillClock()
    async with engine(tmp_path, relay=relay, clock=clock) as one, engine(tmp_path, relay=relay, clock=clock) as two:
        row = await one.prepared()
        clock.advance(31)
        await asyncio.gather(
            *(kit.submissions.send(row.id) for kit in (one, two) for _ in range(5)),
            one.submissions.send_once(),
            two.submissions.send_once(),
        )
        assert len(relay.submitted) == 1
        assert (await two.row(row.id)).task_id == "17"


async def test_an_answer_outlives_whoever_waited_for_it(tmp_path: Path) -> None:
    """A caller that is cancelled during the request leaves: the answer is journalled, because it may be paid for."""
    async with engine(tmp_path) as kit:
        reached, go = asyncio.Event(), asyncio.Event()

        async def slow(request: httpx.Request) -> None:
            reached.set()
            await go.wait()

        kit.relay.on_submit = slow
        row = await kit.prepared()
        sending = asyncio.create_task(kit.submissions.send(row.id))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        go.set()
        await kit.submissions.drain(5)
        assert (await kit.row(row.id)).task_id == "17"


async def test_draining_waits_no_longer_than_told(tmp_path: Path) -> None:
    """An answer that does not come is cut off, and the row is found again as `sending`."""
    async with engine(tmp_path) as kit:
        forever = asyncio.Event()

        async def hang(request: httpx.Request) -> None:
            await forever.wait()

        kit.relay.on_submit = hang
        row = await kit.prepared()
        sending = asyncio.create_task(kit.submissions.send(row.id))
        await until(lambda: len(kit.relay.submitted) == 1)
        await kit.submissions.drain(0.01)
        await asyncio.wait([sending])
        assert sending.cancelled()
        assert (await kit.row(row.id)).status == "sending"


@pytest.mark.parametrize(
    ("given", "status"), [(answer(1, "17"), "accepted"), (answer(23), "prepared"), (answer(24), "refused")]
)
async def test_an_answer_is_journalled_when_the_journal_can_be_written_again(
    tmp_path: Path, given: Answer, status: str
) -> None:
    """A journal that is locked for a moment loses no answer: the provider says it only once."""
    async with engine(tmp_path, relay=Relay(submits=[given]), faulty=True) as kit:
        journal: Any = kit.journal

        async def lock(request: httpx.Request) -> None:
            journal.failing["change"] = 3

        kit.relay.on_submit = lock
        row = await kit.prepared()
        sending = asyncio.create_task(kit.submissions.send(row.id))
        for count in range(3):
            await until(lambda count=count: len(kit.clock.slept) > count)  # type: ignore[misc]
            kit.clock.advance(10)
        await asyncio.wait([sending])
        assert isinstance(sending.exception(), Refused | None)
        assert (await kit.row(row.id)).status == status
        assert kit.clock.slept == [1, 2, 5]


async def test_a_journal_that_stays_broken_is_told(tmp_path: Path) -> None:
    """Then the caller hears of it, the log has the task id, and the row is not sent again."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal

        async def fill(request: httpx.Request) -> None:
            journal.failing["change"] = 5

        kit.relay.on_submit = fill
        row = await kit.prepared()
        with logged() as lines:
            sending = asyncio.create_task(kit.submissions.send(row.id))
            for count in range(4):
                await until(lambda count=count: len(kit.clock.slept) > count)  # type: ignore[misc]
                kit.clock.advance(10)
            with pytest.raises(JournalError):
                await sending
        assert all(line["task"] == "17" for line in lines if line["event"] == "submission.recording")
        assert len(lines) == 4
        kit.clock.advance(200)
        await kit.submissions.send_once()
        assert (await kit.row(row.id)).status == "unknown"
        assert len(kit.relay.submitted) == 1


async def test_a_picture_that_is_gone_refuses_its_request(tmp_path: Path) -> None:
    """Nothing goes out, and where nobody waits, `task.failed` says why."""
    async with engine(tmp_path) as kit:
        row = await kit.prepared(pictures=(data_uri(PNG, "image/png"),))
        for path in (tmp_path / "media").rglob("*.png"):
            path.unlink()
        row = await sent_by_engine(kit, row)
        (event,) = await kit.events(row.id)
        assert (row.status, event.type) == ("refused", "task.failed")
        assert "picture" in (event.reason or "")
        assert kit.relay.submitted == []


async def test_a_hook_that_has_grown_too_long_refuses_its_request(tmp_path: Path) -> None:
    """The public address was changed while a row was prepared: it is refused, and holds up no other."""
    clock = StillClock()
    async with engine(tmp_path, clock=clock) as kit:
        row = await kit.prepared()
    async with engine(tmp_path, clock=clock, public_url=f"https://{'a' * 450}.example") as kit:
        row = await sent_by_engine(kit, row)
        assert row.status == "refused"
        assert kit.relay.submitted == []


async def test_one_row_that_cannot_be_moved_holds_up_no_other(tmp_path: Path) -> None:
    """What fails on one row is told by the step; the rows behind it are sent in the same run."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        first, second = await kit.prepared(), await kit.prepared()
        kit.clock.advance(31)
        journal.failing["change"] = 1
        with pytest.raises(JournalError):
            await kit.submissions.send_once()
        assert {(await kit.row(row.id)).status for row in (first, second)} == {"prepared", "accepted"}
        await kit.submissions.send_once()
        assert len(kit.relay.submitted) == 2


async def test_sending_what_is_not_there_is_told(tmp_path: Path) -> None:
    """An unknown id raises NotFound and sends nothing."""
    async with engine(tmp_path) as kit:
        with pytest.raises(NotFound):
            await kit.submissions.send("01ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert kit.relay.submitted == []


async def test_sending_twice_sends_once(tmp_path: Path) -> None:
    """A row that is past `prepared` is handed back as it is."""
    async with engine(tmp_path) as kit:
        row = await kit.submit()
        assert await kit.submissions.send(row.id) == row
        assert len(kit.relay.submitted) == 1


@pytest.mark.parametrize("given", [given for given, _ in (*FINAL, *BUSY)] + UNCLEAR + [REFUSED_CONNECTION])
async def test_every_error_is_one_of_ours(tmp_path: Path, given: Answer) -> None:
    """Whatever the provider does, a caller sees a ReceiverError whose text is a sentence."""
    async with engine(tmp_path, relay=Relay(submits=[given])) as kit:
        with pytest.raises(ReceiverError, match=r"[.;]"):
            await kit.submit()
