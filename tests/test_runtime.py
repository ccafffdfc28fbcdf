"""A Receiver for one process: how it opens, becomes the engine, tells of changes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import KEYS, PNG, Origin, StillClock, logged, serving, until, wire_task
from waiting import PATIENCE

from receiver.app.container import RetryOutage, Runtime
from receiver.app.factory import open_runtime
from receiver.app.journals import journal_of
from receiver.app.web import web_app
from receiver.cli.session import report, until_settled
from receiver.cli.submit import submit_one
from receiver.deliveries import AttemptOutcome, Completion, Delivery, Receipt
from receiver.errors import EngineRunning, JournalError, MediaError, NotFound, ReceiverError, Refused, SettingsError
from receiver.intake import transitions
from receiver.journal.transitions import FREED_AFTER
from receiver.requests import build
from receiver.settings import Settings
from receiver.submissions import Options
from receiver.tasks import Task

PLUGIN = """
import asyncio
from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions

made = []

class Plugin:
    name, summary, schemes = "plugin", "For tests.", ("plugin",)
    class Options(HandlerOptions):
        closing: str = "well"

    @staticmethod
    def options_from_url(url):
        return {"closing": url.partition(":")[2] or "well"}

    def __init__(self, options):
        self.options, self.attempts, self.closed = options, [], 0
        self.go = asyncio.Event()
        made.append(self)

    async def deliver(self, attempt):
        self.attempts.append(attempt)
        if self.options.closing == "gated":
            await self.go.wait()
        return Receipt(ref="plugged")

    async def aclose(self):
        self.closed += 1
        if self.options.closing == "fails":
            raise RuntimeError("cannot close")
        if self.options.closing == "hangs":
            await asyncio.Event().wait()
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[list[Any]]:
    """An installed third-party handler `plugin:`; the list holds every instance made."""
    site = tmp_path / "site"
    info = site / "receiver_plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: receiver-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[receiver.handlers]\nplugin = receiver_plugin_for_tests:Plugin\n")
    (site / "receiver_plugin_for_tests.py").write_text(PLUGIN)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("receiver_plugin_for_tests").made
    finally:
        sys.path.remove(str(site))
        sys.modules.pop("receiver_plugin_for_tests", None)
        importlib.invalidate_caches()


def settings(tmp_path: Path, **other: Any) -> Settings:
    plain: dict[str, Any] = {
        "provider_url": "http://127.0.0.1:9",
        "provider_key": "sk-0123456789",
        "keys": KEYS,
        "data": tmp_path / "data",
        "to": f"file:{tmp_path / 'outputs'}",
    }
    return Settings(**(plain | other))


@asynccontextmanager
async def provider() -> AsyncIterator[Origin]:
    """A provider on real HTTP that takes every request as task 17."""
    async with serving(Origin()) as origin:
        origin.files["/mj/submit/imagine"] = json.dumps({"code": 1, "result": "17"}).encode()
        origin.files["/mj/task/list-by-condition"] = json.dumps([wire_task("17")]).encode()
        yield origin


async def submitted(receiver: Runtime) -> str:
    row = await receiver.submissions.prepare(build("imagine", prompt="a boat"))
    return (await receiver.submissions.send(row.id)).id


@asynccontextmanager
async def taken(folder: Path) -> AsyncIterator[tuple[Runtime, str, StillClock]]:
    """A Receiver that delivers to a plug-in, a submission whose task the provider has taken, and the clock."""
    async with provider() as origin:
        clock = StillClock()
        wanted = settings(folder, provider_url=origin.url, to="plugin:well")
        async with open_runtime(wanted, clock=clock) as receiver:
            yield receiver, await submitted(receiver), clock


async def vanished(receiver: Runtime, clock: StillClock) -> None:
    """An engine ends in the middle of the attempt at what is owed."""
    await receiver.journal.claim("plugin", owner="vanished", limit=1, now_ms=clock.now_ms())
    await receiver.journal.free_running("another", clock.now_ms())


async def attempted(handler: Any, clock: StillClock) -> None:
    """Let time pass until the engine has freed what another left running, and has tried it again."""
    async with asyncio.timeout(PATIENCE):
        while not handler.attempts:
            clock.advance(0.1)
            await asyncio.sleep(0.001)


async def ended(receiver: Runtime, submission_id: str) -> None:
    """End it by a result without a picture, so that one event is owed."""
    row = await receiver.journal.get(submission_id)
    assert row is not None
    await receiver.intake.polled(submission_id, Task(id=row.task_id or "", status="FAILURE"))


def completion(delivery: Delivery, outcome: AttemptOutcome, now_ms: int, *, counts: bool) -> Completion:
    """An attempt's end after which the delivery is owed again, in 5 s."""
    return Completion(
        delivery_id=delivery.id,
        submission_id=delivery.submission_id,
        destination=delivery.destination,
        attempt=delivery.attempt,
        owner=delivery.owner or "",
        outcome=outcome,
        status="pending",
        finished_ms=now_ms,
        due_ms=now_ms + 5000,
        counts=counts,
        detail="no route",
    )


def failing(error: Exception) -> Any:
    """A method of a journal that is in no state for it."""

    async def method(*args: Any, **kwargs: Any) -> Any:
        raise error

    return method


# --- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"provider_key": None}, SettingsError, "COMETAPI_KEY is not set"),
        ({"provider_key": "sk-\u00e4"}, SettingsError, "COMETAPI_KEY"),
        ({"keys": ("short",)}, SettingsError, "32"),
        ({"to": "carrier-pigeon:home"}, SettingsError, "carrier-pigeon"),
        ({"destinations": {"main": {}}}, SettingsError, "main"),
        ({"destinations": {"main": {"handler": "file", "colour": "red"}}}, SettingsError, "colour"),
        ({"provider_url": "http://user:pw@relay.test"}, SettingsError, "RECEIVER_PROVIDER_URL"),
        ({"database": "sqlite:/proc/nowhere/journal.db"}, JournalError, "RECEIVER_DATABASE"),
        ({"database": "sqlite:/"}, JournalError, "RECEIVER_DATABASE"),
    ],
)
async def test_bad_settings_stop_the_start_with_sentences(
    tmp_path: Path, plugins: list[Any], wrong: dict[str, Any], error: type[ReceiverError], words: str
) -> None:
    """The error names the setting and ends as a sentence; handlers that were open are closed again."""
    tables = {"opened": {"handler": "plugin"}} | wrong.pop("destinations", {})
    with pytest.raises(error) as caught:
        async with open_runtime(settings(tmp_path, destinations=tables, **wrong)):
            pass
    assert words in str(caught.value)
    assert str(caught.value).rstrip().endswith((".", "32", "hex 32", "?"))
    assert all(plugin.closed == 1 for plugin in plugins)


async def test_a_file_that_is_no_journal_is_not_touched(tmp_path: Path) -> None:
    """Somebody's letter under the journal's name stops the start and stays as it was."""
    path = tmp_path / "letter.db"
    path.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(JournalError, match="not a database"):
        async with open_runtime(settings(tmp_path, database=f"sqlite:{path}")):
            pass
    assert path.read_text() == "Dear Sir or Madam, " * 100


async def test_commands_that_only_read_make_no_journal(tmp_path: Path) -> None:
    """`existing` refuses where there is none, and leaves none behind."""
    with pytest.raises(JournalError, match="no journal"):
        async with journal_of(settings(tmp_path), existing=True):
            pass
    assert not (tmp_path / "data").exists()


async def test_opening_starts_no_engine(tmp_path: Path) -> None:
    """A command that only submits neither takes the lock nor delivers."""
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path)) as two:
        assert not one.engine_running
        await two.start_engine("serve")
        assert two.engine_running


# --- the engine --------------------------------------------------------------------------------------------------


async def test_the_engine_brings_a_result_to_its_destination(tmp_path: Path) -> None:
    """Submit, poll, archive, deliver: the picture lies in the folder, and no callback ever came."""
    async with provider() as origin:
        origin.files["/a.png"] = PNG
        done = wire_task("17", "SUCCESS", imageUrl=f"{origin.url}/a.png")
        origin.files["/mj/task/list-by-condition"] = json.dumps([done]).encode()
        clock = StillClock()
        async with open_runtime(settings(tmp_path, provider_url=origin.url), clock=clock) as receiver:
            submission = await submitted(receiver)
            await receiver.start_engine("serve")

            def is_there() -> bool:
                clock.advance(0.1)
                return list((tmp_path / "outputs").glob("*.png")) != []

            await until(is_there)
            (picture,) = (tmp_path / "outputs").glob("*.png")
            assert picture.read_bytes() == PNG
            assert submission in picture.name


async def test_a_second_engine_is_refused(tmp_path: Path) -> None:
    """The error says who holds the lock; starting again in the same process is no error."""
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path)) as two:
        await one.start_engine("serve")
        await one.start_engine("serve")
        with pytest.raises(EngineRunning, match="receiver serve") as caught:
            await two.start_engine("worker")
        assert caught.value.holder == "serve"
        assert (one.engine_running, two.engine_running) == (True, False)


async def test_a_waiting_engine_takes_over(tmp_path: Path) -> None:
    """Told once that it waits, it is the engine within a second of the other's end."""
    clock = StillClock()
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path), clock=clock) as two:
        await one.start_engine("submit --wait")
        with logged() as lines:
            waiting = asyncio.create_task(two.start_engine_when_free("serve"))
            for count in (1, 2, 3):
                await until(lambda count=count: len(clock.slept) == count)  # type: ignore[misc]
                clock.advance(1)
            await until(lambda: len(clock.slept) == 4)
            assert not waiting.done()
            await one.stop_engine()
            clock.advance(1)
            await waiting
        assert two.engine_running
        assert [line["event"] for line in lines].count("engine.waiting") == 1


@pytest.mark.parametrize("role", ["python", "submit --wait"])
async def test_a_waiting_engine_survives_a_journal_that_is_away(tmp_path: Path, role: str) -> None:
    """The disk fills up just when it may take over: that is told once, and it is the engine as soon as that is over.
    One that only waits for a result gives up after a minute, one that stays never does."""
    clock = StillClock()
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path), clock=clock) as two:
        journal: Any = two.journal
        register, full = journal.register, JournalError("The disk is full.", fault="full")
        journal.register = failing(full)
        await one.start_engine("serve")
        with logged() as lines:
            waiting = asyncio.create_task(two.start_engine_when_free(role))
            await until(lambda: len(clock.slept) == 1)
            await one.stop_engine()
            for seconds in (1, 30, 29, 1):
                slept = len(clock.slept)
                clock.advance(seconds)
                await until(lambda slept=slept: waiting.done() or len(clock.slept) > slept)  # type: ignore[misc]
                assert waiting.done() == (seconds == 1 and clock.passed > 60 and role != "python")
            if role != "python":
                with pytest.raises(JournalError, match="full"):
                    await waiting
                await one.start_engine("worker")  # nothing of us keeps others away
                return
            journal.register = register
            clock.advance(1)
            await waiting
        assert two.engine_running
        assert [line["event"] for line in lines].count("journal.away") == 1


async def test_an_outage_is_told_once_to_all_who_wait() -> None:
    """Thirty prompts of one command wait for the same database; the next outage is told anew."""
    clock = StillClock()
    patiently = RetryOutage(clock)
    away = JournalError("Nothing listens there.", fault="unreachable")

    async def outage() -> list[str]:
        problem: JournalError | None = away

        async def call() -> int:
            if problem is not None:
                raise problem
            return 17

        slept = len(clock.slept)
        with logged() as lines:
            waiting = [asyncio.create_task(patiently(call)) for _ in range(3)]
            await until(lambda: len(clock.slept) == slept + 3)
            problem = None
            clock.advance(1)
            assert await asyncio.gather(*waiting) == [17] * 3
        return [line["event"] for line in lines]

    assert await outage() == await outage() == ["journal.away"]


async def test_an_engine_that_starts_beside_is_one_in_the_end(tmp_path: Path, plugins: list[Any]) -> None:
    """A failure in the moment in which it takes over is not the end of it: it delivers what comes later."""
    async with provider() as origin:
        clock = StillClock()
        wanted = settings(tmp_path, provider_url=origin.url, to="plugin:well")
        async with open_runtime(wanted, clock=clock) as receiver:
            journal: Any = receiver.journal
            register = journal.register
            journal.register = failing(JournalError("Restarting.", fault="unreachable"))
            receiver.start_engine_beside("python")
            await until(lambda: len(clock.slept) == 1)
            journal.register = register
            clock.advance(1)
            await ended(receiver, await submitted(receiver))
            await until(lambda: len(plugins[0].attempts) == 1)


@pytest.mark.parametrize("fault", ["", "newer", "closed", "damaged", "denied"])
async def test_what_somebody_has_to_mend_is_not_waited_for(tmp_path: Path, fault: str) -> None:
    """Another media store than the others', a journal of a newer version: the engine's start fails at once."""
    async with open_runtime(settings(tmp_path)) as receiver:
        journal: Any = receiver.journal
        journal.membership.join = failing(JournalError("Mend this.", fault=fault))
        with pytest.raises(JournalError, match="Mend"):
            await receiver.start_engine_when_free("python")


async def test_an_engine_may_refuse_to_wait_for_its_like(tmp_path: Path) -> None:
    """`unless` names the roles that do not end by themselves."""
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path)) as two:
        await one.start_engine("serve")
        with pytest.raises(EngineRunning):
            await two.start_engine_when_free("worker", unless=frozenset({"serve"}))


async def test_an_engine_that_cannot_start_gives_the_lock_back(tmp_path: Path) -> None:
    """The media folder cannot be made: the next try, or another process, is not refused for that."""
    async with open_runtime(settings(tmp_path)) as one, open_runtime(settings(tmp_path)) as two:
        (tmp_path / "data" / "media").write_text("in the way")
        with pytest.raises(MediaError):
            await one.start_engine("serve")
        assert not one.engine_running
        (tmp_path / "data" / "media").unlink()
        await two.start_engine("worker")
        assert two.engine_running


async def test_a_restarted_engine_frees_what_it_left_running(tmp_path: Path, plugins: list[Any]) -> None:
    """The same process stops and starts again: a row it could not record is freed like a stranger's, and delivered."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await receiver.start_engine("serve")
        await receiver.stop_engine()
        await ended(receiver, submission)  # nobody is there to claim it but the engine that has stopped:
        owner = receiver.engine._dispatcher.owner
        await receiver.journal.claim("plugin", owner=owner, limit=1, now_ms=clock.now_ms())
        await receiver.start_engine("serve")
        await attempted(plugins[0], clock)


async def test_stopping_lets_a_delivery_finish(tmp_path: Path, plugins: list[Any]) -> None:
    """SIGTERM in the middle of an attempt: it ends, is recorded, and the lock is free afterwards."""
    async with provider() as origin:
        wanted = settings(tmp_path, provider_url=origin.url, to="plugin:gated")
        async with open_runtime(wanted) as receiver, open_runtime(wanted) as other:
            submission = await submitted(receiver)
            await ended(receiver, submission)
            await receiver.start_engine("serve")
            handler = plugins[0]
            await until(lambda: len(handler.attempts) == 1)
            stopping = asyncio.create_task(receiver.stop_engine())
            await asyncio.sleep(0)
            handler.go.set()
            await stopping
            (delivery,) = await receiver.journal.deliveries(limit=5)
            assert (delivery.status, delivery.receipt) == ("succeeded", Receipt(ref="plugged"))
            assert not receiver.engine_running
            await receiver.stop_engine()
            await other.start_engine("worker")


@pytest.mark.parametrize("turns", range(1, 6))
async def test_stopping_that_is_cancelled_gives_deliveries_back(tmp_path: Path, plugins: list[Any], turns: int) -> None:
    """A second Ctrl-C, wherever it finds us: the delivery is due again at once, and nobody is charged a failure."""
    async with provider() as origin:
        wanted = settings(tmp_path, provider_url=origin.url, to="plugin:gated")
        async with open_runtime(wanted) as receiver, open_runtime(wanted) as other:
            submission = await submitted(receiver)
            await ended(receiver, submission)
            receiver.start_engine_beside("python")
            await until(lambda: len(plugins[0].attempts) == 1)
            stopping = asyncio.create_task(receiver.stop_engine())
            for _ in range(turns):
                await asyncio.sleep(0)
            stopping.cancel()
            await asyncio.wait([stopping])
            (delivery,) = await receiver.journal.deliveries(limit=5)
            assert (delivery.status, delivery.failures) == ("pending", 0)
            await receiver.stop_engine()
            await other.start_engine("worker")
            for plugin in plugins:
                plugin.go.set()


async def test_closing_waits_for_an_answer_under_way(tmp_path: Path) -> None:
    """Interrupted in the middle of a submit, a command still keeps the answer it has paid for."""
    async with provider() as origin:
        origin.hanging["/mj/submit/imagine"] = asyncio.Event()
        wanted = settings(tmp_path, provider_url=origin.url)
        async with open_runtime(wanted) as receiver:
            row = await receiver.submissions.prepare(build("imagine", prompt="a boat"))
            sending = asyncio.create_task(receiver.submissions.send(row.id))
            await until(lambda: origin.requests == ["/mj/submit/imagine"])
            sending.cancel()
            await asyncio.wait([sending])
            asyncio.get_running_loop().call_later(0.02, origin.hanging["/mj/submit/imagine"].set)
        async with journal_of(wanted) as journal:
            after = await journal.get(row.id)
            assert after is not None
            assert (after.status, after.task_id) == ("accepted", "17")


# --- watching ----------------------------------------------------------------------------------------------------


async def test_watching_yields_the_row_and_then_each_change(tmp_path: Path) -> None:
    """Changes made here are told at once, without time passing, and nothing is told twice."""
    async with provider() as origin:
        wanted = settings(tmp_path, provider_url=origin.url)
        async with open_runtime(wanted, clock=StillClock()) as receiver:
            row = await receiver.submissions.prepare(build("imagine", prompt="a boat"))
            async with aclosing(receiver.watch(row.id)) as seen:
                assert (await anext(seen)).status == "prepared"
                await receiver.submissions.send(row.id)
                assert (await anext(seen)).status == "accepted"
                upcoming = asyncio.ensure_future(anext(seen))
                await receiver.intake.take(row.id, transitions.unanswered, "changes nothing")
                for _ in range(20):
                    await asyncio.sleep(0.001)
                await receiver.intake.polled(row.id, Task(id="17", status="FAILURE", fail_reason="gone"))
                assert (await upcoming).reason == "gone"


async def test_watching_sees_what_another_process_changes(tmp_path: Path) -> None:
    """Within half a second, because nobody wakes us."""
    clock = StillClock()
    async with open_runtime(settings(tmp_path), clock=clock) as one, open_runtime(settings(tmp_path)) as two:
        row = await one.submissions.prepare(build("imagine", prompt="a boat"))
        async with aclosing(one.watch(row.id)) as seen:
            await anext(seen)
            upcoming = asyncio.ensure_future(anext(seen))
            await asyncio.sleep(0)
            with pytest.raises(Exception, match=r"cannot be reached"):
                await two.submissions.send(row.id)
            while not upcoming.done():
                clock.advance(0.5)
                await asyncio.sleep(0.001)
            assert (await upcoming).status in ("sending", "refused")


async def test_watching_bears_a_journal_that_is_away(tmp_path: Path) -> None:
    """A server that is restarted: whoever waits learns nothing of it for a minute. Then, or at once where somebody has
    to mend something, it is raised."""
    clock = StillClock()
    away = JournalError("The journal cannot be reached.", fault="unreachable")
    async with provider() as origin, open_runtime(settings(tmp_path, provider_url=origin.url), clock=clock) as receiver:
        journal: Any = receiver.journal
        submission = await submitted(receiver)
        async with aclosing(receiver.watch(submission)) as seen:
            assert (await anext(seen)).ended is None
            await ended(receiver, submission)
            get, journal.get = journal.get, failing(away)
            with logged() as lines:
                changed = asyncio.ensure_future(anext(seen))
                for seconds in range(1, 60):
                    await until(lambda seconds=seconds: len(clock.slept) == seconds)  # type: ignore[misc]
                    clock.advance(1)
                journal.get = get
                assert (await changed).ended == "task.failed"
            assert [line["event"] for line in lines] == ["journal.away"]
        for error, seconds in ((away, 60), (JournalError("It is closed.", fault="closed"), 0)):
            journal.get, slept = failing(error), len(clock.slept)
            watching = asyncio.ensure_future(anext(receiver.watch(submission)))
            for count in range(1, seconds + 1):
                await until(lambda wanted=slept + count: len(clock.slept) == wanted)  # type: ignore[misc]
                clock.advance(1)
            with pytest.raises(JournalError, match=str(error)):
                await watching


async def test_watching_nothing_is_told(tmp_path: Path) -> None:
    """An id that is not there raises NotFound instead of waiting for ever."""
    async with open_runtime(settings(tmp_path)) as receiver:
        with pytest.raises(NotFound):
            await anext(receiver.watch("01ARZ3NDEKTSV4RRFFQ69G5FAV"))


# --- health ------------------------------------------------------------------------------------------------------


def client(receiver: Runtime) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(web_app(receiver)), base_url="http://receiver")


async def test_readiness_is_checked_and_reasoned(tmp_path: Path) -> None:
    """Ready while journal and media can be written; else 503 with a sentence for each, and live all along."""
    async with open_runtime(settings(tmp_path)) as receiver, client(receiver) as web:
        answer = await web.get("/readyz")
        parts = dict.fromkeys(("journal", "disk", "media", "engine", "troubles"), "ok")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, **parts})
        media = tmp_path / "data" / "media"
        media.rmdir()
        media.write_text("in the way")
        answer = await web.get("/readyz")
        assert (answer.status_code, answer.json()["journal"]) == (503, "ok")
        assert answer.json()["media"].endswith(".")
        with sqlite3.connect(tmp_path / "data" / "journal.db") as db:
            db.execute("DROP TABLE leftovers")
        db.close()
        answer = await web.get("/readyz")
        assert answer.status_code == 503
        assert "cannot be used" in answer.json()["journal"]
        assert (await web.get("/livez")).status_code == 200


# --- closing -----------------------------------------------------------------------------------------------------


async def test_closing_is_idempotent_and_ends_the_engine(tmp_path: Path, plugins: list[Any]) -> None:
    """A second `aclose` does nothing; each handler is closed once, after the engine."""
    async with open_runtime(settings(tmp_path, to="plugin:well")) as receiver:
        await receiver.start_engine("serve")
        await receiver.aclose()
        assert not receiver.engine_running
        await receiver.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await receiver.provider.fetch("17")
    assert plugins[0].closed == 1


@pytest.mark.parametrize("closing", ["fails", "hangs"])
async def test_a_handler_that_cannot_close_stops_no_other(tmp_path: Path, plugins: list[Any], closing: str) -> None:
    """It is logged; the others are closed, and the end comes within a second or so."""
    with logged() as lines:
        async with asyncio.timeout(PATIENCE), open_runtime(settings(tmp_path, to=f"plugin:{closing} plugin:well")):
            pass
    assert [plugin.closed for plugin in plugins] == [1, 1]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["destination.not_closed"]


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No task, thread or open file survives a Receiver that submitted, ran its engine and was closed in between."""

    async def life() -> None:
        async with provider() as origin:
            wanted = settings(tmp_path, provider_url=origin.url)
            async with open_runtime(wanted) as receiver:
                await receiver.start_engine("serve")
                submission = await submitted(receiver)
                await ended(receiver, submission)
                await until(lambda: any((tmp_path / "outputs").glob("*.json")))
                origin.files["/mj/submit/imagine"] = json.dumps({"code": 24}).encode()
                with pytest.raises(Refused):
                    await submitted(receiver)
        await asyncio.sleep(0.01)
        gc.collect()

    await life()  # pools of threads and the like come into being once
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    await life()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() <= threads + 1  # the loop's own pool may grow by one
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("journal")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_change_of_ours_wakes_the_engine(tmp_path: Path, plugins: list[Any]) -> None:
    """What is owed is delivered at once: the clock stands still, so only the wake can have done it."""
    async with taken(tmp_path) as (receiver, submission, _):
        await receiver.start_engine("serve")
        await ended(receiver, submission)
        await until(lambda: len(plugins[0].attempts) == 1)
        assert plugins[0].attempts[0].event.type == "task.failed"


async def test_rows_that_another_process_frees_are_delivered_once(tmp_path: Path, plugins: list[Any]) -> None:
    """An engine that vanished left a row running: the next one delivers it, and counts the attempt that vanished."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await ended(receiver, submission)
        await receiver.journal.claim("plugin", owner="vanished", limit=1, now_ms=receiver.clock.now_ms())
        assert (await receiver.journal.deliveries(limit=5))[0].status == "running"
        await receiver.start_engine("serve")
        await attempted(plugins[0], clock)
        await receiver.stop_engine()
        (delivery,) = await receiver.journal.deliveries(limit=5)
        assert (delivery.status, delivery.attempt, delivery.failures) == ("succeeded", 2, 1)


async def test_an_engine_that_vanished_is_not_what_a_destination_said(tmp_path: Path, plugins: list[Any]) -> None:
    """Its attempt counts, but whoever waits for the result waits for the next one, which is due soon."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await ended(receiver, submission)
        await vanished(receiver, clock)
        (delivery,) = await receiver.journal.deliveries(limit=5)
        assert (delivery.status, delivery.failures) == ("pending", 1)
        waiting = asyncio.create_task(until_settled(receiver, submission, lambda row: None))
        await until(lambda: waiting.done() or len(clock.slept) > 0)
        assert not waiting.done()
        clock.advance(FREED_AFTER)
        await receiver.start_engine("serve")
        await until(lambda: len(plugins[0].attempts) == 1)
        await receiver.stop_engine()
        clock.advance(1)
        await waiting
        (delivery,) = await receiver.journal.deliveries(limit=5)
        assert delivery.status == "succeeded"


@pytest.mark.parametrize(("outcome", "settled"), [("postponed", False), ("interrupted", False), ("failed", True)])
async def test_a_destination_that_asks_to_wait_after_an_engine_vanished_still_has_to_speak(
    tmp_path: Path, plugins: list[Any], outcome: AttemptOutcome, *, settled: bool
) -> None:
    """The failure on record is the engine's. Another engine's stop says nothing of the destination either."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await ended(receiver, submission)
        await vanished(receiver, clock)
        clock.advance(6)
        (work,) = await receiver.journal.claim("plugin", owner="second", limit=1, now_ms=clock.now_ms())
        end = completion(work.delivery, outcome, clock.now_ms(), counts=outcome == "failed")
        assert await receiver.journal.complete(end)
        waiting = asyncio.create_task(until_settled(receiver, submission, lambda row: None))
        await until(lambda: waiting.done() or len(clock.slept) > 0)
        assert waiting.done() == settled
        waiting.cancel()
        await asyncio.wait([waiting])


@pytest.mark.parametrize(("seconds", "times"), [(60, 1), (5, 0)])
async def test_whoever_waits_for_a_paused_destination_is_told_why(
    tmp_path: Path, plugins: list[Any], capsys: pytest.CaptureFixture[str], seconds: int, times: int
) -> None:
    """Once, and only where it takes long."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await receiver.journal.register({"plugin": "plugin"})
        await receiver.journal.pause("plugin", clock.now_ms() + seconds * 1000, "nobody wants these events")
        await ended(receiver, submission)
        waiting = asyncio.create_task(until_settled(receiver, submission, lambda row: None))
        for looks in (1, 2, 3):
            await until(lambda looks=looks: len(clock.slept) == looks)  # type: ignore[misc]
            clock.advance(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert capsys.readouterr().err.count(" UTC: nobody wants these events\n") == times


TEXTS = Task(id="17", status="SUCCESS", action="SHORTEN", final_prompt="a boat")
"""A result without files, so that it is delivered at once."""


async def test_a_late_success_is_what_whoever_waits_is_told(tmp_path: Path, plugins: list[Any]) -> None:
    """It takes the failure's place while the failure is still owed: waiting goes on, until the success has arrived."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await ended(receiver, submission)
        waiting = asyncio.create_task(until_settled(receiver, submission, lambda row: None))
        await until(lambda: waiting.done() or len(clock.slept) > 0)
        assert not waiting.done()
        await receiver.intake.polled(submission, TEXTS)
        await receiver.start_engine("serve")
        await until(lambda: len(plugins[0].attempts) == 1)
        await receiver.stop_engine()
        clock.advance(1)
        row, deliveries = await waiting
        assert row.ended == "task.succeeded"
        assert [item.event_id for item in deliveries] == [f"{submission}.task.succeeded"]
        assert [item.status for item in deliveries] == ["succeeded"]


async def test_whoever_waits_waits_for_every_destination(tmp_path: Path, plugins: list[Any]) -> None:
    """However many there are."""
    async with provider() as origin:
        clock = StillClock()
        tables = {f"plugin{number:03}": {"handler": "plugin"} for number in range(120)}
        wanted = settings(tmp_path, provider_url=origin.url, to="", destinations=tables)
        async with open_runtime(wanted, clock=clock) as receiver:
            submission = await submitted(receiver)
            await ended(receiver, submission)
            await receiver.start_engine("serve")
            await until(lambda: sum(len(plugin.attempts) for plugin in plugins) == len(tables))
            await receiver.stop_engine()
            _, deliveries = await until_settled(receiver, submission, lambda row: None)
            assert [item.destination for item in deliveries] == sorted(tables)


async def test_a_retry_that_begins_as_the_end_is_told_hides_nothing(
    tmp_path: Path, plugins: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is told is what was waited for: the first try failed, whatever runs now."""
    async with taken(tmp_path) as (receiver, submission, clock):
        await receiver.intake.polled(submission, TEXTS)
        (work,) = await receiver.journal.claim("plugin", owner="one", limit=1, now_ms=clock.now_ms())
        await receiver.journal.complete(completion(work.delivery, "failed", clock.now_ms(), counts=True))
        settled = await until_settled(receiver, submission, lambda row: None)
        clock.advance(6)
        assert len(await receiver.journal.claim("plugin", owner="one", limit=1, now_ms=clock.now_ms())) == 1
        assert report(*settled, as_json=False) == 1
        told = "did not reach plugin: no route. `receiver serve` or `worker` goes on trying."
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "fault", "words"),
    [
        ("get", "closed", " Resume with: receiver wait {}"),
        ("add", "closed", " It was not submitted."),
        ("add", "uncertain", ""),  # it may have been
    ],
)
async def test_who_submits_a_file_is_told_what_was_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, fault: str, words: str
) -> None:
    """Of each prompt whose result could not be waited for: who submits the rest again pays for nothing twice."""
    async with provider() as origin, open_runtime(settings(tmp_path, provider_url=origin.url)) as receiver:
        setattr(receiver.journal, method, failing(JournalError("The disk is gone.", fault=fault)))
        assert await submit_one(receiver, build("imagine", prompt="a boat"), Options(), as_json=False) == 1
        found = [row.id for row in await receiver.journal.submissions(limit=5)]
        assert capsys.readouterr().err == f"Error: a boat: The disk is gone.{words.format(*found)}\n"


async def test_the_engine_deletes_what_is_old(tmp_path: Path) -> None:
    """By itself, once a day, with the ages of the settings, and only when nothing is owed or polled any more."""
    async with provider() as origin:
        clock = StillClock()
        wanted = settings(tmp_path, provider_url=origin.url)
        async with open_runtime(wanted, clock=clock) as receiver:
            submission = await submitted(receiver)
            await receiver.start_engine("serve")
            await ended(receiver, submission)
            clock.advance(91 * 86400)
            with logged() as lines:
                async with asyncio.timeout(PATIENCE):
                    while not any(line["event"] == "journal.purged" for line in lines):
                        clock.advance(3600)
                        await asyncio.sleep(0.005)  # the engine's steps and its requests take real time
            assert await receiver.journal.get(submission) is None
            assert await receiver.journal.problems() == []
