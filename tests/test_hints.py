"""The answer to a submit was lost, and callbacks carry one token only: the provider's own answer decides, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import Answer, Kit, engine, wire_task

from receiver.engine.reconciler import CANDIDATES
from receiver.errors import Ambiguous
from receiver.events import Submission
from receiver.intake import transitions
from receiver.intake.transitions import IDENTIFY
from receiver.tasks import Task


async def unknown(kit: Kit) -> Submission:
    """A submission whose answer was lost."""
    row = await kit.prepared()
    kit.relay.submits = [httpx.ReadTimeout("lost")]
    with pytest.raises(Ambiguous):
        await kit.submissions.send(row.id)
    return await kit.row(row.id)


async def hinted(kit: Kit, row: Submission, task_id: str = "t0", cause: str = "no_state", **other: Any) -> None:
    """A half-signed callback that names a task."""
    view = Task(id=task_id, status=other.get("status", "IN_PROGRESS"))
    body = json.dumps({"id": task_id, "status": view.status}).encode()
    assert not await kit.intake.received(row.id, view, body, cause)


async def reconcile(kit: Kit, seconds: float = 0) -> Submission:
    kit.clock.advance(seconds)
    await kit.reconciler.reconcile_once()
    [row] = await kit.journal.submissions(limit=1)
    return row


def ours(kit: Kit, row: Submission) -> str:
    return kit.tokens.state_token(row.id)


@pytest.mark.parametrize("cause", ["no_url_token", "no_state", "bad_state", "other_state"])
async def test_the_providers_own_answer_binds(tmp_path: Path, cause: str) -> None:
    """A fetched task that holds our state token is ours, whatever the callback lacked; its result comes like any."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", state=ours(kit, row))
        await hinted(kit, row, cause=cause)
        after = await reconcile(kit)
        assert (after.status, after.task_id, after.ended) == ("accepted", "t0", "task.succeeded")
        assert await kit.types(row.id) == ["task.accepted", "task.succeeded"]
        (*_, event) = await kit.events(row.id)
        assert (event.source, event.confirmed) == ("poll", True)
        assert after.task is not None
        assert after.task.state == "", "our token stays out of what is kept"


@pytest.mark.parametrize("state", ["", "somebody else's", "ours but another's", "the URL token"])
async def test_no_other_state_binds(tmp_path: Path, state: str) -> None:
    """A task that holds no token of ours, or another submission's, is nobody's word; not even when callbacks insist."""
    async with engine(tmp_path) as kit:
        other = await kit.prepared()
        row = await unknown(kit)
        tokens = {
            "ours but another's": kit.tokens.state_token(other.id),
            "the URL token": kit.tokens.url_token(row.id),
        }
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", state=tokens.get(state, state))
        for _ in range(20):
            await hinted(kit, row, status="SUCCESS")
            await reconcile(kit, 15)
        after = await kit.row(row.id)
        assert (after.status, after.task_id, after.ended) == ("unknown", None, None)
        assert await kit.types(row.id) == []


async def test_a_relay_that_shows_state_late_is_asked_again(tmp_path: Path) -> None:
    """`state` is empty until the relay's own first poll."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        kit.relay.tasks["t0"] = wire_task("t0", "", state="")
        await hinted(kit, row)
        for seconds in (0, 5.1, 15.1):
            assert (await reconcile(kit, seconds)).task_id is None
        kit.relay.tasks["t0"] = wire_task("t0", state=ours(kit, row))
        after = await reconcile(kit, 15.1)
        assert (after.status, after.task_id, after.misses, after.task_status) == ("accepted", "t0", 0, "IN_PROGRESS")


@pytest.mark.parametrize(
    "silence", [None, httpx.Response(200), httpx.Response(200, text="{cut"), httpx.ReadTimeout("hang")]
)
async def test_asking_ends(tmp_path: Path, silence: Answer | None) -> None:
    """A task that nobody knows is asked about for some minutes, on a slowing pace; then the deadline tells the end."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        if silence is not None:
            kit.relay.fetches["t0"] = silence
        await hinted(kit, row)
        for _ in range(240):
            await reconcile(kit, 5)
        assert len([path for path in kit.relay.paths if path.endswith("/fetch")]) == 1 + len(IDENTIFY)
        assert (await kit.row(row.id)).poll_due_ms is None
        after = await reconcile(kit, 4200)
        assert (after.ended, after.status) == ("task.lost", "unknown")


async def test_a_hint_after_the_loss_is_followed(tmp_path: Path) -> None:
    """The deadline has passed when the first callback comes: the result still arrives, and supersedes the loss."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        assert (await reconcile(kit, 4300)).ended == "task.lost"
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", state=ours(kit, row))
        await hinted(kit, row, status="SUCCESS")
        assert (await reconcile(kit)).ended == "task.succeeded"
        (*_, event) = await kit.events(row.id)
        assert event.supersedes == f"{row.id}.task.lost"


async def test_the_right_one_of_several_is_found(tmp_path: Path) -> None:
    """Callbacks name several tasks: whose state is ours is ours."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        kit.relay.tasks["a"] = wire_task("a", "FAILURE")
        kit.relay.tasks["b"] = wire_task("b", state=ours(kit, row))
        kit.relay.tasks["c"] = wire_task("c", "SUCCESS", state="other")
        for task_id in ("a", "b", "c"):
            await hinted(kit, row, task_id)
        assert (await reconcile(kit)).task_id == "b"


async def test_a_flood_of_hints_costs_few_questions(tmp_path: Path) -> None:
    """Whoever knows a callback URL can make us ask about five tasks a round, not about thousands."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        for number in range(200):
            await hinted(kit, row, f"x{number}")
        await reconcile(kit)
        assert sorted(set(kit.relay.asked)) == [f"x{number}" for number in range(200 - CANDIDATES, 200)]


async def test_an_outage_uses_up_no_question(tmp_path: Path) -> None:
    """While nobody can be asked the hint waits; when it is over it is followed at once."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        kit.relay.down = httpx.Response(429, headers={"Retry-After": "900"})
        await hinted(kit, row)
        assert (await reconcile(kit)).misses == 0
        kit.relay.down = None
        kit.relay.tasks["t0"] = wire_task("t0", state=ours(kit, row))
        assert (await reconcile(kit, 901)).task_id == "t0"


async def test_the_answer_that_is_faster_wins(tmp_path: Path) -> None:
    """A doubly signed callback binds while the provider is being asked: what the question finds changes nothing."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        await hinted(kit, row, "t1")
        assert await kit.calls_back(row, "IN_PROGRESS", "t0")
        after = await kit.intake.identified(row.id, Task(id="t1", status="SUCCESS"))
        assert (after.task_id, after.ended) == ("t0", None)
        after = await kit.intake.take(row.id, transitions.unidentified)
        assert after.poll_due_ms is not None


async def test_a_body_nobody_can_read_is_no_hint(tmp_path: Path) -> None:
    """What is kept of a callback may be no JSON any more; the others still count."""
    async with engine(tmp_path) as kit:
        row = await unknown(kit)
        kit.relay.tasks["t0"] = wire_task("t0", state=ours(kit, row))
        await kit.intake.received(row.id, Task(id="x"), b"no JSON", "no_state")
        await hinted(kit, row)
        assert (await reconcile(kit)).task_id == "t0"
