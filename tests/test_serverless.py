"""Receiver in a function: what a request begins is done before its answer, and nothing goes on after it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import StillClock, logged
from functions import CRON, bearer, deployed
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from waiting import PATIENCE

from receiver import serverless
from receiver.app.journals import journal_of
from receiver.app.stateless import open_stateless_receive
from receiver.app.stateless_submit import open_stateless_submit
from receiver.errors import SettingsError
from receiver.requests import build
from receiver.serverless import asgi, aws
from receiver.settings import Settings
from receiver.submissions import Options


async def test_a_result_reaches_its_places_within_the_callbacks_request(tmp_path: Path) -> None:
    """No engine, no tick: the last callback is answered when everything is delivered."""
    async with deployed(tmp_path, destinations={"second": {"url": f"file:{tmp_path / 'second'}"}}) as function:
        id = await function.submit(labels={"order": "17"})
        await function.until(1)
        assert await function.delivered(id) == ["file succeeded", "second succeeded"]
        row = await function.row(id)
        assert (row.ended, row.claim, row.labels) == ("task.succeeded", None, {"order": "17"})
        assert function.pictures("second") == [".json", ".png"]


async def test_nothing_goes_on_after_the_answer(tmp_path: Path) -> None:
    """The platform takes the processor away: whatever still ran would stand still, or never end."""
    async with deployed(tmp_path) as function:
        await function.submit()
        await function.until(1)
        await function.clock.sleep(20)
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not {name for name in names if name.startswith(("run", "delivery", "archive", "dispatch", "engine"))}


async def test_the_tick_brings_what_no_callback_announced(tmp_path: Path) -> None:
    """The relay strips the hook: the tick polls, downloads and delivers."""
    async with deployed(tmp_path, faults=["hook_stripped"]) as function:
        id = await function.submit()
        async with asyncio.timeout(PATIENCE):
            while not function.pictures():
                await function.clock.sleep(16)
                found = await function.tick()
        assert found["reconcile"] == found["archive"] == found["dispatch"] == 1
        assert (await function.row(id)).ended == "task.succeeded"
        assert await function.tick() == {}


async def test_every_request_does_a_little_of_what_is_overdue(tmp_path: Path) -> None:
    """Without any tick: the next task's requests carry the last one's result along, so a daily tick is enough."""
    async with deployed(tmp_path, faults=["hook_stripped"], speed=30) as function:
        first = await function.submit()
        await function.clock.sleep(70)
        assert function.pictures() == []
        await function.submit("another boat")
        assert (await function.row(first)).ended == "task.succeeded"
        assert function.pictures() == [".json", ".png"]


async def test_what_does_not_end_in_time_waits_for_the_tick(tmp_path: Path) -> None:
    """The budget ends the wait, and the interrupted delivery uses up nothing."""
    command = (
        "import sys, time, pathlib; p = pathlib.Path('gate'); sys.stdin.read(); time.sleep(0 if p.exists() else 9)"
    )
    table = {"handler": "command", "command": ["python3", "-c", command], "folder": str(tmp_path)}
    async with deployed(tmp_path, budget=200.0, limit=400.0, destinations={"slow": table}) as function:
        id = await function.submit()
        await function.until(1)
        async with asyncio.timeout(PATIENCE):
            while "slow pending" not in await function.delivered(id):  # noqa: ASYNC110 - the function's journal
                await asyncio.sleep(0.05)
        (tmp_path / "gate").touch()
        await function.clock.sleep(10)
        await function.tick()
        assert await function.delivered(id) == ["file succeeded", "slow succeeded"]
        async with journal_of(function.settings, existing=True) as journal:
            [slow] = await journal.deliveries(limit=5, submission_id=id, destination="slow")
            outcomes = [item.outcome for item in await journal.attempts(slow.id)]
        assert (slow.failures, outcomes[-1]) == (0, "succeeded")
        assert set(outcomes[:-1]) == {"interrupted"}


async def test_a_destination_that_fails_once_gets_it_within_the_same_request(tmp_path: Path) -> None:
    """Its retry is due in seconds, and the request still has some."""
    command = (
        "import sys, pathlib; sys.stdin.read(); p = pathlib.Path('tried'); old = p.exists(); p.touch(); "
        "sys.exit(0 if old else 1)"
    )
    table = {"handler": "command", "command": ["python3", "-c", command], "folder": str(tmp_path)}
    async with deployed(tmp_path, destinations={"flaky": table}) as function:
        id = await function.submit()
        await function.until(1)
        async with asyncio.timeout(PATIENCE):
            while "flaky succeeded" not in await function.delivered(id):  # noqa: ASYNC110 - the function's journal
                await asyncio.sleep(0.05)


async def test_ticks_may_overlap(tmp_path: Path) -> None:
    """Several at once, of one process: each result once, nothing left over."""
    async with deployed(tmp_path, faults=["hook_stripped"]) as function:
        ids = [await function.submit(f"boat {number}") for number in range(3)]
        await function.clock.sleep(120)
        await asyncio.gather(*(function.tick() for _ in range(4)))
        for id in ids:
            async with journal_of(function.settings, existing=True) as journal:
                deliveries = await journal.deliveries(limit=5, submission_id=id)
                # On so fast a clock an event without its picture may have come first, or given way to its successor.
                sent = [item for item in deliveries if item.status != "cancelled"]
                assert {item.status for item in sent} == {"succeeded"}
                assert len({(item.event_id, item.destination) for item in sent}) == len(sent)
                for delivery in sent:
                    outcomes = [item.outcome for item in await journal.attempts(delivery.id)]
                    assert outcomes.count("succeeded") == 1


async def test_a_tick_needs_its_secret(tmp_path: Path) -> None:
    """A tick costs money, so it needs the secret. Without a secret in the settings there is no tick."""
    async with deployed(tmp_path) as function:
        assert (await function.http.post("/tick")).status_code == 401
        assert (await function.http.post("/tick", headers=bearer("wrong"))).status_code == 401
        assert (await function.http.put("/tick", headers=bearer(CRON))).status_code == 405
        assert (await function.http.get("/tick", headers=bearer(CRON))).status_code == 200
        assert (await function.http.get("/livez")).text == "ok"
        assert (await function.http.get("/readyz")).json()["ready"]
    async with deployed(tmp_path, cron_secret=None) as function:
        assert (await function.http.post("/tick", headers=bearer(CRON))).status_code == 404


async def test_an_unsigned_request_makes_no_work(tmp_path: Path) -> None:
    """Else anyone could keep the function busy."""
    async with deployed(tmp_path, faults=["hook_stripped"]) as function:
        id = await function.submit()
        await function.clock.sleep(120)
        assert (await function.http.post("/callbacks/nonsense", json={"id": "1"})).status_code == 401
        assert (await function.row(id)).ended is None


async def test_a_queue_that_was_full_is_tried_again_only_where_its_answer_can_be_waited_for(tmp_path: Path) -> None:
    """A request whose answer is cut off is never sent again, so it does not begin without the time for it."""
    async with deployed(tmp_path, faults=["queue_full"]) as function:
        id = await function.submit()
        assert (await function.row(id)).status == "prepared"
        await function.clock.sleep(60)
        assert "send" not in await function.application.tick(60)
        assert (await function.row(id)).sends == 1
        found = await function.application.tick(1000)
        assert found["send"] == 1
        assert (await function.row(id)).sends == 2


async def test_the_time_a_request_has_taken_counts(tmp_path: Path) -> None:
    """Something is sent only if the time left is enough to wait for its answer."""
    clock, takes, sends = StillClock(), [1950, 0], []
    async with deployed(tmp_path) as function:
        assert (await function.http.get("/livez")).status_code == 200
        engine = function.application._engine
        assert engine is not None
        function.application._clock = clock

        async def work(seconds: float, **other: Any) -> None:
            sends.append(engine.sends)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            clock.advance(takes.pop())  # the provider's time
            await Response()(scope, receive, send)

        engine.run_until_idle, function.application._app = work, app  # type: ignore[method-assign]
        for _ in range(2):
            assert (await function.http.post("/submissions")).status_code == 200
        assert sends == [True, False]


async def test_without_a_journal_it_is_delivered_in_the_request(tmp_path: Path) -> None:
    """The submitter shares the key with the function and nothing else."""
    async with deployed(tmp_path, database="none") as function:
        async with open_stateless_submit(function.settings, clock=function.clock) as stateless:
            row = await stateless.submit(build("imagine", prompt="a boat"), Options(labels={"order": "17"}))
        await function.until(1)
        assert function.pictures() == [".json", ".png"]
        [page] = (tmp_path / "outputs").glob("*.json")
        assert (row.id in page.name, '"order": "17"' in page.read_text()) == (True, True)
        assert not (tmp_path / "data").exists()
        assert (await function.tick()) == {}


async def test_another_program_submits_with_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_stateless` opens no destination, because only the function delivers."""
    monkeypatch.chdir(tmp_path)
    async with deployed(tmp_path, database="none") as function:
        async with serverless.open_stateless(
            database="none",
            keys="k" * 32,
            provider_url=function.settings.provider_url,
            provider_key="simulator",
            public_url=function.settings.public_url,
            to="slack://C0123",  # which would need a token
        ) as stateless:
            row = await stateless.submit(build("imagine", prompt="a boat"), Options(to=("file",)))
        await function.until(1)
        assert row.id in next((tmp_path / "outputs").glob("*.json")).name


async def test_without_a_journal_a_result_that_is_not_delivered_is_an_error(tmp_path: Path) -> None:
    """The sender gets 500. The log says which destination failed and why."""
    table = {"handler": "command", "command": ["false"]}
    with logged() as lines:
        async with deployed(tmp_path, database="none", destinations={"broken": table}) as function:
            async with open_stateless_submit(function.settings, clock=function.clock) as stateless:
                await stateless.submit(build("imagine", prompt="a boat"))
            async with asyncio.timeout(PATIENCE):
                while not (told := [line for line in lines if line.get("status") == 500]):  # noqa: ASYNC110 - log lines
                    await asyncio.sleep(0.01)
    assert told[0]["event"] == "callback.refused"
    assert "broken:" in told[0]["cause"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"database": "none"}, "RECEIVER_KEYS is not set"),
        ({"database": "s3://acme/receiver"}, "RECEIVER_KEYS is not set"),
        ({"database": "mysql:x"}, "--database is wrong: it does not begin with sqlite:"),
    ],
)
async def test_what_is_wrong_stops_the_start(
    settings: dict[str, object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sentence, without a traceback. A platform that runs no start gets 503, and Lambda the error."""
    monkeypatch.chdir("/")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    application = asgi(**settings)
    await application({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"].startswith(f"Error: {text}")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test") as client:
        assert (await client.post("/tick")).status_code == 503
    with pytest.raises(SettingsError, match=text):
        aws(**settings)


async def test_without_a_journal_progress_is_refused_at_the_start(tmp_path: Path) -> None:
    """Nothing remembers what was shown before."""
    settings = Settings(
        database="none",
        keys=("k" * 32,),
        provider_key="k",
        destinations={"album": {"url": f"file:{tmp_path}", "progress": True}},
    )
    with pytest.raises(SettingsError, match="progress needs a journal"):
        async with open_stateless_receive(settings):
            pass
