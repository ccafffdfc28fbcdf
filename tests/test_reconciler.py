"""Reconciling: the provider's own view is the truth, its absence is nobody's end, and one bad task harms no other."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import DEADLINE, PNG, Answer, Kit, answer, engine, logged, until, wire_task
from waiting import PATIENCE

from receiver.backoff import PROVISIONAL
from receiver.engine.reconciler import BATCH
from receiver.errors import JournalError
from receiver.events import Submission
from receiver.intake import Policy

DOWN = httpx.ConnectError("connection refused")
HTML = httpx.Response(502, text="<html>bad gateway</html>")


async def submitted(kit: Kit, count: int) -> list[Submission]:
    """Running tasks t0, t1 …, all known to the provider."""
    rows = []
    for number in range(count):
        kit.relay.submits = [answer(1, f"t{number}")]
        kit.relay.tasks[f"t{number}"] = wire_task(f"t{number}")
        rows.append(await kit.submit())
    return rows


async def reconcile(kit: Kit, seconds: float = 15) -> int:
    kit.clock.advance(seconds)
    return await kit.reconciler.reconcile_once()


# --- asking ------------------------------------------------------------------------------------------------------


async def test_silent_tasks_are_asked_about_in_one_request(tmp_path: Path) -> None:
    """After 15 s of silence all that are due share one list; before that nobody is asked."""
    async with engine(tmp_path) as kit:
        rows = await submitted(kit, 3)
        assert await reconcile(kit, 14.9) == 0
        assert kit.relay.asked == []
        assert await reconcile(kit, 0.2) == 3
        assert sorted(kit.relay.asked) == ["t0", "t1", "t2"]
        assert kit.relay.paths[3:] == ["/mj/task/list-by-condition"]
        assert {(await kit.row(row.id)).task_status for row in rows} == {"IN_PROGRESS"}
        assert await reconcile(kit, 10.7) == 0
        assert await reconcile(kit, 0.1) == 3  # half of 54 % of 40 s


async def test_a_question_takes_along_what_is_due_soon(tmp_path: Path) -> None:
    """Within a second. Nobody is asked for the sake of those alone."""
    async with engine(tmp_path) as kit:
        for number, seconds in enumerate((0.9, 0.2, 0)):
            kit.relay.submits = [answer(1, f"t{number}")]
            kit.relay.tasks[f"t{number}"] = wire_task(f"t{number}")
            await kit.submit()
            kit.clock.advance(seconds)
        assert await reconcile(kit, 13.8) == 0
        assert await reconcile(kit, 0.1) == 2
        assert sorted(kit.relay.asked) == ["t0", "t1"]


async def test_the_budget_postpones_a_question(tmp_path: Path) -> None:
    """At six a minute the second round waits 12 s, and asks about all that is due by then."""
    async with engine(tmp_path, per_minute=6) as kit:
        first, second = await submitted(kit, 2)
        await kit.calls_back(first, "SUCCESS")
        assert await reconcile(kit, 0) == 1
        await kit.calls_back(second, "SUCCESS")
        round = asyncio.create_task(reconcile(kit, 0))
        await until(lambda: bool(kit.clock.slept))
        assert kit.relay.asked == ["t0"]
        kit.clock.advance(12)
        assert await round == 2
        assert sorted(kit.relay.asked) == ["t0", "t0", "t1"]


async def test_many_tasks_take_several_rounds(tmp_path: Path) -> None:
    """50 at once; the step says that there is more, so its loop goes on without a pause."""
    async with engine(tmp_path) as kit:
        await submitted(kit, 60)
        assert [await reconcile(kit), await reconcile(kit, 0), await reconcile(kit, 0)] == [50, 10, 0]


async def test_a_callback_puts_the_question_off(tmp_path: Path) -> None:
    """Who has been heard of just now is not asked about."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.clock.advance(10)
        await kit.calls_back(row, "IN_PROGRESS", progress=20)
        assert await reconcile(kit, 10) == 0
        assert await reconcile(kit, 6) == 1


async def test_a_result_comes_without_any_callback(tmp_path: Path) -> None:
    """Within one poll interval of the provider's own view, confirmed, and the task is asked about no more."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", imageUrl="https://x.test/a.png")
        await reconcile(kit)
        _, event = await kit.events(row.id)
        assert (event.type, event.source, event.confirmed) == ("task.succeeded", "poll", True)
        asked = len(kit.relay.asked)
        for _ in range(10):
            await reconcile(kit, 600)
        assert len(kit.relay.asked) == asked


async def test_what_a_list_leaves_out_is_fetched_alone(tmp_path: Path) -> None:
    """A relay may forget a task in its list and know it by its id."""
    async with engine(tmp_path) as kit:
        _, second = await submitted(kit, 2)
        kit.relay.unlisted = {"t1"}
        kit.relay.tasks["t1"] = wire_task("t1", "SUCCESS")
        assert await reconcile(kit) == 2
        assert kit.relay.paths[2:] == ["/mj/task/list-by-condition", "/mj/task/t1/fetch"]
        assert (await kit.row(second.id)).ended == "task.succeeded"


async def test_two_submissions_of_one_task_share_the_question(tmp_path: Path) -> None:
    """Code 21 can hand out a task that exists: one id is asked about, both rows learn."""
    async with engine(tmp_path) as kit:
        rows = [await kit.submit(), await kit.submit()]
        kit.relay.tasks["17"] = wire_task("17", "SUCCESS")
        assert await reconcile(kit) == 2
        assert kit.relay.asked == ["17"]
        assert {(await kit.row(row.id)).ended for row in rows} == {"task.succeeded"}


async def test_another_tasks_object_is_ignored(tmp_path: Path) -> None:
    """What was not asked for changes nothing, in a list and in a fetch."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.listing = httpx.Response(200, json=[wire_task("other", "SUCCESS")])
        kit.relay.fetches["t0"] = httpx.Response(200, json=wire_task("other", "SUCCESS"))
        assert await reconcile(kit) == 1
        after = await kit.row(row.id)
        assert (after.task_id, after.ended, after.misses) == ("t0", None, 1)


@pytest.mark.parametrize(
    "seen", [wire_task("t0", ""), wire_task("t0", "WHO_KNOWS"), wire_task("t0", "NOT_START"), {"id": "t0"}, None]
)
async def test_a_relay_that_lags_ends_nothing(tmp_path: Path, seen: dict[str, Any] | None) -> None:
    """Empty, unknown or older status, or no word at all, changes neither status nor progress nor the end."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        await reconcile(kit)
        if seen is None:
            del kit.relay.tasks["t0"]
        else:
            kit.relay.tasks["t0"] = seen
        for _ in range(20):
            assert await reconcile(kit) == 1
        after = await kit.row(row.id)
        assert after.task is not None
        assert (after.task_status, after.task.progress, after.ended) == ("IN_PROGRESS", 46, None)
        assert await kit.types(row.id) == ["task.accepted"]


# --- trouble with one task ---------------------------------------------------------------------------------------

TROUBLE: list[Answer] = [
    httpx.Response(200, text="{cut sho"),
    httpx.Response(500, text="<html>"),
    httpx.Response(200, json={"id": "another"}),
    httpx.ReadTimeout("it hangs"),
    httpx.RemoteProtocolError("cut off"),
]


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_one_unreadable_task_starves_no_other(tmp_path: Path, trouble: Answer) -> None:
    """Its own misses are counted; the others keep their pace, and nobody calls the provider down."""
    async with engine(tmp_path) as kit:
        bad, good = await submitted(kit, 2)
        kit.relay.unlisted = {"t0"}
        kit.relay.fetches["t0"] = trouble
        with logged() as lines:
            for _ in range(4):
                assert await reconcile(kit) == 2
            kit.relay.tasks["t1"] = wire_task("t1", "SUCCESS")
            assert await reconcile(kit) == 2
        assert (await kit.row(good.id)).ended == "task.succeeded"
        assert (await kit.row(bad.id)).misses == 5
        assert "provider.unavailable" not in [line["event"] for line in lines]


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_one_unreadable_task_alone_is_asked_about_again(tmp_path: Path, trouble: Answer) -> None:
    """And as soon as it can be read, it is."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.unlisted = {"t0"}
        kit.relay.fetches["t0"] = trouble
        for _ in range(3):
            await reconcile(kit)
        kit.relay.fetches.clear()
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS")
        await reconcile(kit)
        assert (await kit.row(row.id)).ended == "task.succeeded"


async def test_a_list_spoilt_by_one_task_is_asked_for_one_by_one(tmp_path: Path) -> None:
    """No list can be read as long as one task is in it; each is fetched instead."""
    async with engine(tmp_path) as kit:
        bad, good = await submitted(kit, 2)
        kit.relay.listing = httpx.Response(200, text="[{cut sho")
        kit.relay.fetches["t0"] = httpx.Response(200, text="{cut sho")
        kit.relay.tasks["t1"] = wire_task("t1", "SUCCESS")
        await reconcile(kit)
        assert (await kit.row(good.id)).ended == "task.succeeded"
        assert (await kit.row(bad.id)).ended is None


async def test_an_unknown_task_is_lost_at_the_deadline_only(tmp_path: Path) -> None:
    """The provider does not know the id: asked again at the usual pace, and the end says how often in vain."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.tasks.clear()
        for _ in range(DEADLINE // 15 - 1):
            await reconcile(kit)
        assert (await kit.row(row.id)).ended is None
        await reconcile(kit, 31)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.source) == ("task.lost", "deadline")
        assert "nothing of task t0 in its last 2" in (event.reason or "")


async def test_what_nobody_asked_about_for_a_day_is_asked_before_it_is_lost(tmp_path: Path) -> None:
    """A function may sleep past the deadline; what has ended meanwhile is no loss, however many there are."""
    async with engine(tmp_path) as kit:
        rows = await submitted(kit, BATCH + 10)
        for row in rows:
            kit.relay.tasks[row.task_id or ""] = wire_task(row.task_id or "", "SUCCESS")
        kit.clock.advance(86400)
        for _ in range(2):
            await kit.reconciler.reconcile_once()
        assert {(await kit.row(row.id)).ended for row in rows} == {"task.succeeded"}
        assert {type for row in rows for type in await kit.types(row.id)} == {"task.accepted", "task.succeeded"}


async def test_one_row_that_cannot_be_moved_holds_up_no_other(tmp_path: Path) -> None:
    """The step tells what failed, after all the others were taken."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        rows = await submitted(kit, 3)
        for row in rows:
            kit.relay.tasks[row.task_id or ""] = wire_task(row.task_id or "", "SUCCESS")
        journal.failing["change"] = 1
        with pytest.raises(JournalError):
            await reconcile(kit)
        assert [(await kit.row(row.id)).ended for row in rows].count("task.succeeded") == 2
        assert await reconcile(kit, 0) == 1


# --- trouble with the provider -----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [DOWN, HTML, httpx.ReadTimeout("slow"), httpx.Response(401, json={}), answer(23)])
async def test_a_provider_that_is_down_is_left_alone_for_a_while(tmp_path: Path, down: Answer) -> None:
    """The whole account backs off from 5 to 60 s; one warning when it begins, one line when it is over."""
    async with engine(tmp_path) as kit:
        rows = await submitted(kit, 2)
        kit.relay.down = down
        with logged() as lines:
            await reconcile(kit)
            asked: list[float] = []
            for _ in range(300):
                before = len(kit.relay.paths)
                await reconcile(kit, 1)
                if len(kit.relay.paths) > before:
                    asked.append(kit.clock.time)
            gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
            assert all(9 <= gap <= 67 for gap in gaps)
            assert min(gaps[-3:]) >= 54
            assert 6 <= len(asked) <= 10
            kit.relay.down = None
            await reconcile(kit, 67)
        told = [
            line["event"] for line in lines if line["event"].startswith("provider.") and line["log_level"] != "debug"
        ]
        assert told == ["provider.unavailable", "provider.recovered"]
        for row in rows:
            assert (await kit.row(row.id)).task_status == "IN_PROGRESS"


async def test_each_outage_begins_anew(tmp_path: Path) -> None:
    """A second outage warns again, and its first pause is the short one."""
    async with engine(tmp_path) as kit:
        await submitted(kit, 1)
        with logged() as lines:
            for _ in range(2):
                kit.relay.down = DOWN
                for _ in range(3):
                    await reconcile(kit, 70)
                kit.relay.down = None
                await reconcile(kit, 70)
            kit.relay.down = DOWN
            await reconcile(kit, 70)
        warned = [line for line in lines if line["event"] == "provider.unavailable" and line["log_level"] == "warning"]
        assert [line["again_in"] for line in warned] == [pytest.approx(5, abs=1)] * 3


async def test_retry_after_of_a_question_is_honoured(tmp_path: Path) -> None:
    """A 429 with 300 s keeps all questions back for 300 s."""
    async with engine(tmp_path) as kit:
        await submitted(kit, 1)
        kit.relay.down = httpx.Response(429, headers={"Retry-After": "300"})
        await reconcile(kit)
        kit.relay.down = None
        asked = len(kit.relay.paths)
        assert await reconcile(kit, 299) == 0
        assert len(kit.relay.paths) == asked
        assert await reconcile(kit, 1.1) == 1


async def test_a_rate_limit_between_two_questions_loses_no_answer(tmp_path: Path) -> None:
    """The list has answered and the fetch behind it is refused: what is known counts, the rest stays due."""
    async with engine(tmp_path) as kit:
        left, listed = await submitted(kit, 2)
        kit.relay.unlisted = {"t0"}
        kit.relay.fetches["t0"] = httpx.Response(429, headers={"Retry-After": "120"})
        kit.relay.tasks["t1"] = wire_task("t1", "SUCCESS")
        assert await reconcile(kit) == 1
        assert (await kit.row(listed.id)).ended == "task.succeeded"
        assert (await kit.row(left.id)).misses == 0
        kit.relay.fetches.clear()
        assert await reconcile(kit, 119) == 0
        assert await reconcile(kit, 1.1) == 1


async def test_a_clock_set_back_does_not_prolong_a_pause(tmp_path: Path) -> None:
    """Two days back, while the account backs off: the next look asks again, as soon as rows are due."""
    async with engine(tmp_path) as kit:
        kit.clock.advance(2 * 86400)
        await submitted(kit, 1)
        kit.relay.down = DOWN
        await reconcile(kit)
        kit.relay.down = None
        kit.clock.advance(-2 * 86400)
        await submitted(kit, 1)
        assert await reconcile(kit) == 1


async def test_overdue_tasks_end_while_the_provider_is_down(tmp_path: Path) -> None:
    """Our own deadline needs nobody's answer."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.down = DOWN
        assert await reconcile(kit, DEADLINE) == 1
        assert (await kit.row(row.id)).ended == "task.lost"
        assert await kit.reconciler.reconcile_once() == 0


# --- claims ------------------------------------------------------------------------------------------------------


async def test_a_terminal_callback_is_asked_about_at_once_and_then_by_schedule(tmp_path: Path) -> None:
    """At 0, 2, 5, 10, 16 and 30 s; a relay that lags until then is no contradiction, and the callback is believed."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        await kit.calls_back(row, "SUCCESS", image_url="https://x.test/a.png")
        start, asked = kit.clock.time, []
        for _ in range(310):
            if await kit.reconciler.reconcile_once():
                asked.append(round(kit.clock.time - start, 1))
            if (await kit.row(row.id)).ended:
                break
            kit.clock.advance(0.1)
        assert asked == pytest.approx([0, 2, 5, 10, 16, 30], abs=0.11)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.source, event.confirmed) == ("task.succeeded", "callback", False)


async def test_agreement_ends_a_claim_at_once(tmp_path: Path) -> None:
    """The provider's own SUCCESS makes the event `confirmed`, with its links first and the callback's second."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", imageUrl="https://relay.test/a")
        await kit.calls_back(row, "SUCCESS", image_url="https://cdn.test/a")
        await kit.reconciler.reconcile_once()
        after = await kit.row(row.id)
        (*_, event) = await kit.events(row.id)
        assert (event.confirmed, after.claim) == (True, None)
        assert [item.links for item in after.files] == [("https://relay.test/a", "https://cdn.test/a")]


async def test_claims_are_settled_while_the_provider_is_down(tmp_path: Path) -> None:
    """When the time for confirming is over, the doubly signed callback counts, unconfirmed."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.down = DOWN
        await kit.calls_back(row, "SUCCESS", image_url="https://cdn.test/a")
        for _ in range(29):
            await reconcile(kit, 1)
        assert (await kit.row(row.id)).ended is None
        await reconcile(kit, 1.1)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.confirmed) == ("task.succeeded", False)


async def test_claims_are_settled_behind_a_crowd_that_waits(tmp_path: Path) -> None:
    """The provider is down and more tasks are due than one batch holds: the claim behind them still gets its end."""
    async with engine(tmp_path) as kit:
        *_, last = await submitted(kit, 60)
        kit.relay.down = DOWN
        await reconcile(kit)
        await kit.calls_back(last, "SUCCESS", image_url="https://cdn.test/a")
        for _ in range(4):
            await reconcile(kit, 10)
        assert (await kit.row(last.id)).ended == "task.succeeded"


async def test_a_downloaded_picture_proves_the_provider_wrong(tmp_path: Path) -> None:
    """FAILURE by the relay's own clock against a doubly signed SUCCESS whose picture is really there: succeeded."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a"] = PNG
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "FAILURE", failReason="上游任务超时（超过1小时）")
        await kit.calls_back(row, "SUCCESS", image_url=f"{kit.origin.url}/a")
        await kit.reconciler.reconcile_once()
        after = await kit.row(row.id)
        assert (after.ended, after.media_due_ms) == ("task.succeeded", kit.clock.now_ms())
        assert await kit.types(row.id) == ["task.accepted", "task.succeeded"]
        assert kit.origin.requests == ["/a"]


async def test_a_picture_is_no_proof_against_the_providers_own_failure(tmp_path: Path) -> None:
    """Only a relay's time-out is doubted. With both tokens stolen, any picture of an allowed host would do."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a"] = PNG
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "FAILURE", failReason="可能包含敏感词")
        await kit.calls_back(row, "SUCCESS", image_url=f"{kit.origin.url}/a")
        for _ in range(7):
            await reconcile(kit, 5)
        assert await kit.types(row.id) == ["task.accepted", "task.failed"]
        assert kit.origin.requests == []


async def test_a_claim_waits_while_the_provider_shows_our_state_and_another_status(tmp_path: Path) -> None:
    """A forged SUCCESS is not delivered while the task runs, and the real one is."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        state = kit.relay.submitted[0]["state"]
        kit.relay.tasks["t0"] = wire_task("t0", "IN_PROGRESS", state=state)
        await kit.calls_back(row, "SUCCESS", image_url="https://x.test/forged.png")
        for _ in range(12):
            await reconcile(kit, 10)
        assert (await kit.row(row.id)).ended is None
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS", state=state, imageUrl="https://relay.test/a")
        await reconcile(kit, 15)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.confirmed) == ("task.succeeded", True)
        assert event.task is not None
        assert event.task.result_urls == ("https://relay.test/a",)


@pytest.mark.parametrize("link", ["/missing", "https://not-on-the-list.test/a.png", ""])
async def test_an_unproven_contradiction_ends_as_the_provider_says(tmp_path: Path, link: str) -> None:
    """No picture, no proof: it is asked again until the time is over, then it failed."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "FAILURE", failReason="timed out")
        await kit.calls_back(row, "SUCCESS", image_url=kit.origin.url + link if link.startswith("/") else link)
        await kit.reconciler.reconcile_once()
        assert (await kit.row(row.id)).ended is None
        for _ in range(7):
            await reconcile(kit, 5)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.reason, event.confirmed) == ("task.failed", "timed out", True)


async def test_a_claimed_failure_agrees_with_any_bad_end(tmp_path: Path) -> None:
    """FAILURE called back and fetched makes one event, at once."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        kit.relay.tasks["t0"] = wire_task("t0", "FAILURE", failReason="banned")
        await kit.calls_back(row, "FAILURE", fail_reason="banned")
        await kit.reconciler.reconcile_once()
        assert await kit.types(row.id) == ["task.accepted", "task.failed"]


async def test_a_proof_being_downloaded_keeps_no_other_back(tmp_path: Path) -> None:
    """The rows polled beside it are taken while the picture is still on its way."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a"] = PNG
        kit.origin.hanging["/a"] = asyncio.Event()
        claimed, other = await submitted(kit, 2)
        kit.relay.tasks = {
            "t0": wire_task("t0", "FAILURE", failReason="上游任务超时（超过1小时）"),
            "t1": wire_task("t1", "SUCCESS"),
        }
        await kit.calls_back(claimed, "SUCCESS", image_url=f"{kit.origin.url}/a")
        step = asyncio.create_task(reconcile(kit))
        await until(lambda: kit.origin.requests == ["/a"])
        async with asyncio.timeout(PATIENCE):
            while not (await kit.row(other.id)).ended:  # noqa: ASYNC110 - the journal has no event of its own
                await asyncio.sleep(0)
        assert not step.done()
        kit.origin.hanging["/a"].set()
        await step
        assert (await kit.row(claimed.id)).ended == "task.succeeded"


async def test_a_mistrusted_callback_makes_us_ask_now(tmp_path: Path) -> None:
    """It is kept and believed in nothing; the provider's own word decides."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        from_other = await kit.calls_back(row, "SUCCESS", "stranger")
        assert not from_other
        assert await kit.reconciler.reconcile_once() == 1
        after = await kit.row(row.id)
        assert (after.task_id, after.ended, after.callbacks) == ("t0", None, 1)


# --- after an end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["task.failed", "task.lost"])
async def test_a_bad_end_is_looked_at_a_while_longer(tmp_path: Path, end: str) -> None:
    """At a slower and slower pace, and then no more."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        if end == "task.failed":
            kit.relay.tasks["t0"] = wire_task("t0", "FAILURE")
        await reconcile(kit, 15 if end == "task.failed" else DEADLINE)
        assert (await kit.row(row.id)).ended == end
        kit.relay.asked.clear()
        gaps, since = [], kit.clock.time
        for _ in range(int(sum(PROVISIONAL)) + 700):
            await reconcile(kit, 1)
            if kit.relay.asked:
                gaps.append(kit.clock.time - since)
                since = kit.clock.time
                kit.relay.asked.clear()
        assert len(gaps) == len(PROVISIONAL)
        assert gaps == pytest.approx(list(PROVISIONAL), abs=1.01)
        assert (await kit.row(row.id)).poll_due_ms is None


@pytest.mark.parametrize("end", ["task.failed", "task.lost"])
async def test_a_later_success_supersedes_a_bad_end(tmp_path: Path, end: str) -> None:
    """A FAILURE may be false: the success names what it corrects, and is owed like any other."""
    async with engine(tmp_path) as kit:
        (row,) = await submitted(kit, 1)
        if end == "task.failed":
            kit.relay.tasks["t0"] = wire_task("t0", "FAILURE")
        await reconcile(kit, 15 if end == "task.failed" else DEADLINE)
        kit.relay.tasks["t0"] = wire_task("t0", "SUCCESS")
        await reconcile(kit, 31)
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.supersedes) == ("task.succeeded", f"{row.id}.{end}")
        assert [item.status for item in await kit.deliveries(row.id)] == ["cancelled", "pending"]


async def test_confirming_can_be_switched_off(tmp_path: Path) -> None:
    """With `confirm_within` 0 a doubly signed callback ends the task by itself, and nobody is asked."""
    async with engine(tmp_path, policy=Policy(confirm_ms=0)) as kit:
        (row,) = await submitted(kit, 1)
        await kit.calls_back(row, "SUCCESS", image_url="https://cdn.test/a")
        (*_, event) = await kit.events(row.id)
        assert (event.type, event.confirmed) == ("task.succeeded", False)
        assert kit.relay.asked == []
