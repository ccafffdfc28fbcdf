"""Every way a provider can be in trouble, on real servers: what the reconciler does, what it trusts, what it says."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from engine import Kit, engine, logged, wire_task
from ports import free_port
from test_provider import BROKEN, Behaviour, hang, says, serving, trickle

from receiver.clock import Clock
from receiver.engine.health import IN_VAIN
from receiver.engine.reconciler import FETCHES
from receiver.events import Submission
from receiver.intake import transitions
from receiver.provider import Provider

NOON = 1_800_000_000
OTHER = wire_task("other", "SUCCESS", imageUrl="https://cdn.test/a.png")


def http(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    lines = [f"HTTP/1.1 {status} As-Told", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return says("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def tells(*tasks: dict[str, Any]) -> Behaviour:
    """Lists these tasks, and answers each fetch with the first."""

    async def behave(request: bytes, writer: asyncio.StreamWriter) -> None:
        said: Any = list(tasks) if b"list-by-condition" in request else tasks[0]
        await http(200, json.dumps(said).encode())(request, writer)

    return behave


BACKS_OFF: dict[str, tuple[Behaviour, float, str]] = {
    "429 for 300 s": (http(429, Retry_After="300"), 300, "try again later"),
    "429 until a date": (
        http(429, Retry_After=formatdate(NOON + 300, usegmt=True), Date=formatdate(NOON, usegmt=True)),
        300,
        "try again later",
    ),
    "429 until nonsense": (http(429, Retry_After="soon"), 5, "try again later"),
    "429 for a year": (http(429, Retry_After="31536000"), 3600, "try again later"),
    "403 without a body": (http(403, Retry_After="60"), 60, "try again later"),
    "500": (http(500, b'{"error":{"message":"boom","type":"comet_api_error"}}'), 5, "HTTP 500"),
    "502 with HTML": (http(502, b"<html>bad gateway</html>"), 5, "HTTP 502"),
    "503 without a body": (http(503), 5, "HTTP 503"),
    "200 with HTML": (http(200, b"<!doctype html><title>Welcome</title>"), 5, "HTTP 200, html"),
    "truncated JSON": (http(200, b'[{"id":"t0","status":"SUCC'), 5, "unreadable"),
    "a wrong key": (http(401, b'{"error":{"message":"invalid token"}}'), 5, "check COMETAPI_KEY"),
    "no money": (http(402, b"{}"), 5, "top up at the provider"),
    "a redirect": (http(301, Location="https://elsewhere.test/"), 5, "check RECEIVER_PROVIDER_URL"),
    "404 with HTML": (http(404, b"<html>"), 5, "check RECEIVER_PROVIDER_URL"),
    "a hang": (hang, 5, "check the network and RECEIVER_PROVIDER_URL"),
    "a slow drip": (trickle, 5, "check the network and RECEIVER_PROVIDER_URL"),
    "a huge answer": (BROKEN["answers without end"], 5, "longer than"),
    "a packed answer": (BROKEN["compresses unasked"], 5, "compressed"),
    "a connection closed": (BROKEN["closes without an answer"], 5, "closed the connection early"),
    "a body cut short": (BROKEN["cuts the body"], 5, "closed the connection early"),
    "no HTTP": (BROKEN["no HTTP"], 5, "no valid HTTP"),
}
"""Trouble of the whole account → (what is answered, seconds nothing is asked, what the operator is told)."""

MISSES: dict[str, Behaviour] = {
    "200 and nothing": http(200),
    "200 and null": http(200, b"null"),
    "another task's object": tells(OTHER),
    "a task without an id": tells({"status": "SUCCESS", "imageUrl": "https://cdn.test/a.png"}),
}
"""Answers that count as no word of the task asked about, and hold nobody up."""


@dataclass
class Switch:
    """A server's behaviour that a test can change; counts requests."""

    behave: Behaviour
    requests: int = 0

    async def __call__(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        await self.behave(request, writer)


async def running(kit: Kit, task_id: str = "t0") -> Submission:
    """A submission whose task the provider has taken."""
    row = await kit.prepared()
    return await kit.intake.take(row.id, transitions.answered, (task_id,), "accepted")


async def reconcile(kit: Kit, seconds: float = 15.1) -> int:
    kit.clock.advance(seconds)
    return await kit.reconciler.reconcile_once()


@pytest.mark.parametrize("name", BACKS_OFF)
async def test_trouble_of_the_account_is_left_alone_and_told_once(tmp_path: Path, name: str) -> None:
    """Nothing is believed, nothing ends, nothing is asked for a while; one warning that says what to do, one line when
    it is over, and in between the journal tells everybody."""
    behave, seconds, words = BACKS_OFF[name]
    server = Switch(behave)
    patience = 2 if behave in (hang, trickle) else 30  # a quarter of it is for connecting
    async with serving(server, ask_timeout=patience) as provider, engine(tmp_path, provider=provider) as kit:
        row = await running(kit)
        with logged() as lines:
            assert await reconcile(kit) == 0
            asked = server.requests
            assert await reconcile(kit, seconds * 0.89) == 0
            assert server.requests == asked, "it was asked although it is to be left alone"
            assert await reconcile(kit, seconds * 0.22) == 0
            assert server.requests > asked
            [trouble] = await kit.journal.troubles()
            after = await kit.row(row.id)
            assert (after.task_id, after.task_status, after.ended, after.misses) == ("t0", "NOT_START", None, 0)
            assert await kit.types(row.id) == ["task.accepted"]
            server.behave = tells(wire_task("t0", "SUCCESS"))
            for _ in range(2):
                await reconcile(kit, 3700)  # an hour's pause is longer than the deadline: lost, and then superseded
        told = [line for line in lines if line["event"].startswith("provider.") and line["log_level"] != "debug"]
        assert [line["event"] for line in told] == ["provider.unavailable", "provider.recovered"]
        assert words in told[0]["problem"]
        assert words in trouble.text
        assert await kit.journal.troubles() == []
        assert (await kit.row(row.id)).ended == "task.succeeded"


@pytest.mark.parametrize("name", MISSES)
async def test_no_word_of_a_task_is_a_miss(tmp_path: Path, name: str) -> None:
    """It is counted and asked again at the usual pace; the third round without a word of any task is told, once."""
    server = Switch(MISSES[name])
    async with serving(server, ask_timeout=30) as provider, engine(tmp_path, provider=provider) as kit:
        row = await running(kit)
        with logged() as lines:
            for count in range(1, IN_VAIN + 3):
                assert await reconcile(kit) == 1
                after = await kit.row(row.id)
                assert (after.task_id, after.ended, after.misses) == ("t0", None, count)
            server.behave = tells(wire_task("t0", "SUCCESS"))
            await reconcile(kit)
        told = [line for line in lines if line["event"].startswith("provider.")]
        assert [line["event"] for line in told] == ["provider.knows_nothing", "provider.knows_again"]
        assert told[0]["problem"]
        assert (await kit.row(row.id)).ended == "task.succeeded"


# --- no connection -----------------------------------------------------------------------------------------------


async def told_once(folder: Path, provider: Provider) -> str:
    """What the operator is told while nothing can be asked, over three rounds."""
    async with aclosing(provider), engine(folder, provider=provider) as kit:
        row = await running(kit)
        with logged() as lines:
            for _ in range(3):
                assert await reconcile(kit, 70) == 0
        [line] = [line for line in lines if line["log_level"] == "warning"]
        assert line["event"] == "provider.unavailable"
        after = await kit.row(row.id)
        assert (after.ended, after.misses) == (None, 0)
        [trouble] = await kit.journal.troubles()
        assert (trouble.name, trouble.since_ms) == ("provider", int((kit.clock.time - 140) * 1000))
        return trouble.text


async def test_nobody_listens(tmp_path: Path) -> None:
    """Connection refused: the account backs off, and the text names the address and the reason."""
    port = free_port()
    text = await told_once(tmp_path, Provider(base_url=f"http://127.0.0.1:{port}", key="sk-01234567", clock=Clock()))
    assert f"http://127.0.0.1:{port} cannot be reached (Connection refused)" in text


async def test_a_certificate_nobody_signed(tmp_path: Path) -> None:
    """TLS that cannot be trusted is no answer, whatever would come behind it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        text = await told_once(
            tmp_path, Provider(base_url=f"https://127.0.0.1:{port}", key="sk-01234567", clock=Clock())
        )
    assert "its certificate is not trusted: " in text


# --- how much is asked while there is trouble --------------------------------------------------------------------


async def test_an_outage_costs_few_requests(tmp_path: Path) -> None:
    """50 tasks are due and every answer is 500: one list and eight fetches, not 51 requests, and no task is counted."""
    async with engine(tmp_path) as kit:
        rows = [await running(kit, f"t{number}") for number in range(50)]
        kit.relay.down = httpx.Response(500, text="<html>")
        assert await reconcile(kit) == 0
        assert len(kit.relay.paths) == 1 + FETCHES
        assert [(await kit.row(row.id)).misses for row in rows] == [0] * 50


async def test_tasks_that_spoil_the_list_starve_nobody(tmp_path: Path) -> None:
    """No list can be read, and more tasks than one wave of fetches cannot be either: the others still get their word
    within a few rounds, because waves are drawn by lot."""
    async with engine(tmp_path) as kit:
        for number in range(2 * FETCHES):
            await running(kit, f"bad{number}")
            kit.relay.fetches[f"bad{number}"] = httpx.Response(200, text="{cut sho")
        good = await running(kit, "good")
        kit.relay.listing = httpx.Response(200, text="[{cut sho")
        kit.relay.tasks["good"] = wire_task("good", "SUCCESS")
        for _ in range(60):
            await reconcile(kit, 70)
            if (await kit.row(good.id)).ended:
                break
        assert (await kit.row(good.id)).ended == "task.succeeded"


async def test_fetches_that_hang_hold_up_no_listed_result(tmp_path: Path) -> None:
    """The list brings a result and leaves out 40 tasks whose fetches hang: one wave is waited for, the rest is asked in
    later rounds, and each of them in its turn. (The budget, which has tests of its own, allows them all at once.)"""
    async with engine(tmp_path, per_minute=6000) as kit:
        slow = [await running(kit, f"slow{number}") for number in range(40)]
        listed = await running(kit, "listed")
        kit.relay.fetches = {f"slow{number}": httpx.ReadTimeout("it hangs") for number in range(40)}
        kit.relay.tasks["listed"] = wire_task("listed", "SUCCESS")
        assert await reconcile(kit) == 1 + FETCHES
        assert (await kit.row(listed.id)).ended == "task.succeeded"
        assert len([path for path in kit.relay.paths if path.endswith("/fetch")]) == FETCHES
        for _ in range(4):
            assert await reconcile(kit, 0) == FETCHES
        assert [(await kit.row(row.id)).misses for row in slow] == [1] * 40


async def test_a_refusal_behind_a_working_list_is_one_outage(tmp_path: Path) -> None:
    """The list works and every fetch is 429, round after round: the pause grows, and it is told once, not each time."""
    async with engine(tmp_path) as kit:
        await running(kit, "refused")
        await running(kit, "listed")
        kit.relay.tasks["listed"] = wire_task("listed")
        kit.relay.fetches["refused"] = httpx.Response(429)
        with logged() as lines:
            for _ in range(6):
                await reconcile(kit, 70)
        pauses = [line["again_in"] for line in lines if line["event"] == "provider.unavailable"]
        assert pauses == pytest.approx([5, 10, 20, 40, 60, 60], rel=0.15)
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["provider.unavailable"]
        assert "provider.recovered" not in [line["event"] for line in lines]


async def test_a_task_that_is_forbidden_to_us_harms_no_other(tmp_path: Path) -> None:
    """The key is good for one task and is refused for another: that is the other one's miss, and no outage."""
    async with engine(tmp_path) as kit:
        bad, good = await running(kit, "bad"), await running(kit, "good")
        kit.relay.tasks["good"] = wire_task("good")
        kit.relay.fetches["bad"] = httpx.Response(403, text="not yours")
        for count in (1, 2, 3):
            assert await reconcile(kit) == 2
            assert ((await kit.row(bad.id)).misses, (await kit.row(good.id)).misses) == (count, 0)
        assert await kit.journal.troubles() == []


async def test_a_relay_without_a_list_lets_one_hanging_task_harm_no_other(tmp_path: Path) -> None:
    """Everything is fetched alone; the one that hangs is a miss, and the account goes on."""
    async with engine(tmp_path) as kit:
        bad, good = await running(kit, "bad"), await running(kit, "good")
        kit.relay.listing = httpx.Response(404)
        kit.relay.fetches["bad"] = httpx.ReadTimeout("it hangs")
        kit.relay.tasks["good"] = wire_task("good", "SUCCESS")
        assert await reconcile(kit) == 2
        assert ((await kit.row(good.id)).ended, (await kit.row(bad.id)).misses) == ("task.succeeded", 1)
        assert await kit.journal.troubles() == []


async def test_an_outage_over_a_restart_is_over_when_it_is_over(tmp_path: Path) -> None:
    """The process ends during an outage. The next one, which finds all well, says since when it was not."""
    async with engine(tmp_path) as kit:
        await running(kit)
        kit.relay.down = httpx.ConnectError("refused")
        await reconcile(kit)
        time = kit.clock.time
        assert len(await kit.journal.troubles()) == 1
    async with engine(tmp_path) as kit:
        kit.clock.time = time + 100
        kit.relay.tasks["t0"] = wire_task("t0")
        with logged() as lines:
            await kit.reconciler.reconcile_once()
        [line] = [line for line in lines if line["event"] == "provider.recovered"]
        assert line["after"] == 100
        assert await kit.journal.troubles() == []
