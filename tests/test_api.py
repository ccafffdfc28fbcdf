"""Receiver for Python users, against the simulated provider over real HTTP on fast clocks."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from engine import KEYS, PNG, logged, until
from fastapi import FastAPI
from flows import PROMPT, SIDE, SPEED, served
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.routing import Route as WebRoute
from starlette.types import Message
from test_webhook import SECRET, place
from uvicorn.logging import AccessFormatter
from waiting import PATIENCE

from receiver import (
    Conflict,
    Event,
    InputError,
    InputRequired,
    JournalError,
    MediaError,
    NotATask,
    NotFound,
    NotJSON,
    NotStarted,
    PayloadError,
    Receipt,
    Receiver,
    Refused,
    Rejected,
    RetryLater,
    SettingsError,
    TaskFailed,
    TaskHandle,
    TaskLost,
    TokenError,
    Unreachable,
)
from receiver.cli.servers import address, bind
from receiver.clock import Clock
from receiver.settings import Settings
from receiver.simulator import Simulator
from receiver.tokens import Tokens

LONG = 4200.0
"""Seconds of the fast clock: what never takes so long must not be waited for longer."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A simulator, and Receivers that use it, all on one journal."""

    simulator: Simulator
    url: str
    folder: Path
    speed: float

    def settings(self, **other: Any) -> Settings:
        plain = {
            "provider_url": self.url,
            "provider_key": "simulator",
            "keys": KEYS,
            "data": self.folder / "data",
            "to": f"file:{self.folder / 'outputs'}",
        }
        return Settings(**(plain | other))

    def receiver(self, *, engine: bool = True, **other: Any) -> Receiver:
        return Receiver(self.settings(**other), engine=engine, clock=Clock(self.speed))


@asynccontextmanager
async def provider(folder: Path, *, faults: Iterable[str] = (), speed: float = SPEED) -> AsyncIterator[Provider]:
    simulator = Simulator(profile="relay", speed=speed, faults=faults, side=SIDE)
    with bind("127.0.0.1", 0) as listener:
        async with served(simulator.app, listener):
            yield Provider(simulator, address(listener), folder, speed)


def picture(folder: Path) -> str:
    path = folder / "boat.png"
    path.write_bytes(PNG)
    return str(path)


async def suffixes(task: Any) -> set[str]:
    """Kinds of the files of a result. On a busy machine they may come later than the result."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await task.files(LONG)):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)
    return {path.suffix for path in found}


# --- results -----------------------------------------------------------------------------------------------------


async def test_from_a_prompt_to_a_grid_an_upscale_a_zoom_and_a_video(tmp_path: Path) -> None:
    """The whole way in Python: each step is a task of its own, with events, files and its parent."""
    async with provider(tmp_path) as world, world.receiver() as receiver:
        grid = await receiver.imagine(PROMPT, labels={"order": "17"}, state="mine")
        event = await grid.result(LONG)
        assert (event.type, event.labels, event.state) == ("task.succeeded", {"order": "17"}, "mine")
        assert grid.task_id == event.task_id

        large = await grid.action("U2")
        assert (await large.result(LONG)).parent_id == grid.id
        assert (await large.status()).labels == {"order": "17"}

        wide = await large.action("Custom Zoom")
        with pytest.raises(InputRequired, match=r"asks for input; answer with `await task.modal") as asked:
            await wide.result(LONG)
        assert asked.value.event.type == "task.input_required"
        await wide.modal(prompt=f"{PROMPT} --zoom 2")
        assert (await wide.result(LONG)).task_id == asked.value.event.task_id

        again = await large.action("Custom Zoom", prompt=f"{PROMPT} --zoom 2", again=True)
        await again.result(LONG)
        assert again.id != wide.id

        film = await large.action("Animate")
        assert await suffixes(film) == {".mp4"}
        assert await suffixes(large) == {".png"}


async def test_events_come_in_order_to_the_last_word(tmp_path: Path) -> None:
    """Every journalled event once, from the first, also for who comes when all is over."""
    slow = SPEED / 5  # so that a busy machine looks at least once before the task ends
    async with provider(tmp_path, speed=slow) as world:
        receiver = world.receiver()

        @receiver.on("task.progressed", name="progress")
        async def ignore(event: Event) -> None:
            pass

        async with receiver:
            task = await receiver.imagine(PROMPT)
            events = [event async for event in task.events()]
            assert [event async for event in (await receiver.task(task.id)).events()] == events
    assert (events[0].type, events[-1].type) == ("task.accepted", "task.succeeded")
    assert {event.type for event in events[1:-1]} == {"task.progressed"}
    percentages = [event.progress for event in events[1:-1]]
    assert percentages == sorted(percentages, key=lambda value: value or 0)


async def test_a_success_that_supersedes_comes_while_the_caller_stays(tmp_path: Path) -> None:
    """`events` ends at a failure, unless a success came before the caller asked on; `result` gives it then."""
    slow = SPEED / 10  # the failure lasts for 30 seconds, within which all of this must have seen it
    async with provider(tmp_path, faults=["false_failure"], speed=slow) as world, world.receiver() as receiver:
        task = await receiver.imagine(PROMPT)
        with pytest.raises(TaskFailed, match=f"Task {task.task_id} failed: ") as failed:
            await task.result(LONG)
        assert [event.type async for event in task.events()][-1] == "task.failed"
        types = []
        async for event in task.events():
            types.append(event.type)
            if event.type == "task.failed":
                while (await task.status()).ended == "task.failed":  # noqa: ASYNC110 - nothing tells us
                    await asyncio.sleep(0.01)
        assert types == ["task.accepted", "task.failed", "task.succeeded"]
        assert (await task.result(LONG)).supersedes == failed.value.event.id


async def test_a_task_without_an_end_is_lost(tmp_path: Path) -> None:
    """Our own deadline raises TaskLost, with the event as evidence."""
    async with provider(tmp_path, faults=["unknown_to_fetch"]) as world, world.receiver(deadline=60.0) as receiver:
        task = await receiver.imagine(PROMPT)
        with pytest.raises(TaskLost, match="was lost: ") as lost:
            await task.result(LONG)
        assert lost.value.event.type == "task.lost"
        with pytest.raises(TaskLost):
            await task.files(LONG)


async def test_a_result_survives_restarts(tmp_path: Path) -> None:
    """Submitted in one life, followed in the next, and read in a third: one picture, delivered once."""
    async with provider(tmp_path, speed=20.0) as world:
        async with world.receiver() as receiver:
            task = await receiver.imagine(PROMPT)
            with pytest.raises(TimeoutError, match=r"has not come to its end within 0 s\."):
                await task.result(0)
        with pytest.raises(NotStarted, match="async with Receiver"):
            await task.status()
        async with world.receiver() as receiver:
            found = await receiver.task(task.task_id or "")
            assert found.id == task.id
            event = await found.result(LONG)
            [path] = await found.files(LONG)
        async with world.receiver(engine=False) as receiver:
            assert await (await receiver.task(task.id[-8:])).result(0) == event
            assert await (await receiver.task(task.id)).files(0) == [path]
            assert path.read_bytes().startswith(b"\x89PNG")
        assert len(world.simulator.submits) == 1


def replies(to: str) -> dict[str, Any]:
    return {"destinations": {"reply": {"handler": "webhook", "hosts": to, "secret": SECRET}}}


async def test_a_reply_survives_a_restart_and_is_replayed(tmp_path: Path) -> None:
    """One URL gets the events of one submission, beside its destinations."""
    async with provider(tmp_path) as world, place() as there:
        settings = replies(there.url.partition("/hooks")[0])
        async with world.receiver(**settings) as receiver:
            await (await receiver.imagine(PROMPT)).result(LONG)
            task = await receiver.imagine(PROMPT, reply_to=there.url, to="file")
        async with world.receiver(**settings) as receiver:
            await (await receiver.task(task.id)).files(LONG)
            await until(lambda: bool(there.arrived))
        async with world.receiver(**settings) as receiver:
            (done,) = await receiver.replay(task=task.id, destination="reply")
            await until(lambda: len(there.arrived) == 2)
    first, second = there.arrived
    for got in there.arrived:
        Webhook(SECRET).verify(got.body, got.headers)
        assert got.path == "/hooks/s3cret-path?a=1"
    event = json.loads(first.body)
    assert (event["type"], event["subject"]) == ("task.succeeded", task.id)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == done.delivery_id


@pytest.mark.parametrize(
    ("reply_to", "to", "problem"),
    [
        (
            "https://evil.example/s3cret",
            None,
            r"reply_to is at https://evil\.example, .* at https://n8n\.example\.com\.$",
        ),
        ("https://n8n.example.com:8443/s3cret", None, r"at https://n8n\.example\.com:8443, which is not allowed\."),
        ("https://n8n.example.com@evil.example/s3cret", None, "no http or https URL, or holds a user name"),
        ("https://n8n.example.com\\@evil.example/s3cret", None, "no http or https URL"),
        ("http://n8n.example.com/s3cret", None, "which is not allowed"),
        ("file:///s3cret", None, "no http or https URL"),
        ("", None, "no http or https URL"),
        (None, "reply", "The destination reply needs the URL reply_to of the submission"),
    ],
)
async def test_a_reply_to_elsewhere_is_refused(tmp_path: Path, reply_to: str, to: str, problem: str) -> None:
    """Before anything is sent, and without the secret path."""
    async with provider(tmp_path) as world:
        async with world.receiver(engine=False, **replies("n8n.example.com")) as receiver:
            with pytest.raises(InputError, match=problem) as caught:
                await receiver.imagine(PROMPT, reply_to=reply_to, to=to)
            assert "s3cret" not in str(caught.value)
        async with world.receiver(engine=False) as receiver:
            with pytest.raises(InputError, match="No destination has the option hosts"):
                await receiver.imagine(PROMPT, reply_to="https://n8n.example.com/1")
        assert world.simulator.submits == []


async def test_a_result_that_came_while_nobody_ran_is_there(tmp_path: Path) -> None:
    """The task ends between two lives; the second one asks the provider."""
    async with provider(tmp_path) as world:
        async with world.receiver() as receiver:
            task = await receiver.imagine(PROMPT)
        await asyncio.sleep(60 / SPEED)
        async with world.receiver() as receiver:
            assert (await (await receiver.task(task.id)).result(LONG)).type == "task.succeeded"


async def test_files_that_cannot_be_downloaded_raise_with_the_reason(tmp_path: Path) -> None:
    """A result is a result, also when its picture is gone for good."""
    async with provider(tmp_path, faults=["expired_for_good"], speed=500.0) as world, world.receiver() as receiver:
        task = await receiver.imagine(PROMPT)
        assert (await task.result(LONG)).type == "task.succeeded"
        with pytest.raises(MediaError, match="are not here: "):
            await task.files(LONG)


# --- requests ----------------------------------------------------------------------------------------------------


async def test_every_kind_of_request_gives_its_result(tmp_path: Path) -> None:
    """Blend, describe, shorten, video, edits and swap are as good as imagine; upload gives links."""
    boat = picture(tmp_path)
    async with provider(tmp_path) as world, world.receiver() as receiver:
        tasks = [
            await receiver.imagine(PROMPT, pictures=[boat], bot_type="NIJI_JOURNEY", speed="fast"),
            await receiver.blend([boat, boat], dimensions="SQUARE"),
            await receiver.describe(boat),
            await receiver.shorten(PROMPT),
            await receiver.video(boat, prompt="it sails away", motion="high"),
            await receiver.edits("a red boat", boat),
            await receiver.swap(boat, boat),
        ]
        events = await asyncio.gather(*(task.result(LONG) for task in tasks))
        assert [event.type for event in events] == ["task.succeeded"] * len(tasks)
        assert [event.kind for event in events] == ["imagine", "blend", "describe", "shorten", "video", "edits", "swap"]
        for event in events[2:4]:
            assert event.task is not None
            assert event.task.texts
        [link] = await receiver.upload([boat])
        assert link.startswith("http")
        assert len(await receiver.tasks(limit=100)) == len(tasks)


async def test_a_foreign_task_is_taken_over(tmp_path: Path) -> None:
    """`watch` follows and delivers what something else submitted, and twice is once."""
    async with provider(tmp_path) as world, world.receiver() as receiver:
        async with httpx.AsyncClient(base_url=world.url) as other:
            answer = await other.post("/mj/submit/imagine", json={"prompt": PROMPT})
        task_id = str(answer.json()["result"])
        task = await receiver.watch(task_id, labels={"from": "n8n"})
        assert (await task.result(LONG)).labels == {"from": "n8n"}
        assert (await receiver.watch(task_id)).id == task.id
        with pytest.raises(NotFound, match="does not know task"):
            await receiver.watch("404")


async def test_a_busy_provider_is_no_error(tmp_path: Path) -> None:
    """The submission is kept, and the engine sends it again."""
    async with provider(tmp_path, faults=["queue_full"]) as world, world.receiver() as receiver:
        task = await receiver.imagine(PROMPT)
        assert (task.task_id, task.submission.status) == (None, "prepared")
        with pytest.raises(InputError, match="has no task yet"):
            await task.seed()
        assert (await task.result(LONG)).type == "task.succeeded"


async def test_what_cannot_be_is_said_with_a_typed_error(tmp_path: Path) -> None:
    """Each wrong value is a sentence before anything is sent."""
    async with provider(tmp_path) as world, world.receiver() as receiver:
        for wrong, words in [
            (receiver.imagine(""), "prompt"),
            (receiver.imagine(PROMPT, to=["carrier-pigeon"]), "no destination 'carrier-pigeon'"),
            (receiver.imagine(PROMPT, to="carrier-pigeon"), "no destination 'carrier-pigeon'"),
            (receiver.imagine(PROMPT, labels={"order": 17}), "label 'order' must be text"),  # type: ignore[dict-item]
            (receiver.imagine(PROMPT, speed="warp"), "warp"),
            (receiver.blend(["only-one.png"]), "2 to 5 pictures"),
            (receiver.describe(str(tmp_path / "no.png")), "cannot be read"),
            (receiver.video(prompt="it sails"), "picture for image is missing"),
            (receiver.watch("no/task\x00"), "task id"),
        ]:
            with pytest.raises(InputError, match=words):
                await wrong
        with pytest.raises(TypeError, match=r"There is no argument 'label'\."):
            await receiver.imagine(PROMPT, label={})  # type: ignore[call-arg]
        with pytest.raises(NotFound, match="no submission or task 'nowhere'"):
            await receiver.task("nowhere")
        assert world.simulator.submits == []
        task = await receiver.imagine(PROMPT)
        with pytest.raises(InputError, match="has not succeeded"):
            await task.action("U1")
        with pytest.raises(InputError, match="does not ask for input"):
            await task.modal(prompt="now")
        await task.result(LONG)
        with pytest.raises(InputError, match=r"No button .* Its buttons: U1, U2"):
            await task.action("sideways")
        assert (await task.seed()).isdigit()


async def test_a_refusal_is_raised_and_stays_known(tmp_path: Path) -> None:
    """The provider's no is Refused, now and whenever the result is asked for."""
    async with provider(tmp_path, faults=["banned_word"]) as world, world.receiver() as receiver:
        with pytest.raises(Refused) as refused:
            await receiver.imagine(PROMPT)
        assert (refused.value.outcome, refused.value.retry) == ("banned_word", False)
        [task] = await receiver.tasks(status="refused")
        with pytest.raises(Refused, match=str(refused.value)[:20]) as later:
            await task.result(1)
        assert later.value.outcome == "banned_word"
        assert [event async for event in task.events()] == []


async def test_a_provider_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """Nothing was sent, and that is what the error says."""
    wanted = Settings(provider_url="http://127.0.0.1:9", provider_key="x", keys=KEYS, data=tmp_path / "data")
    async with Receiver(wanted) as receiver:
        with pytest.raises(Unreachable):
            await receiver.imagine(PROMPT)


async def test_the_same_name_is_the_same_task(tmp_path: Path) -> None:
    """`once` makes a request exist once, also after a restart; another request under it is a conflict."""
    async with provider(tmp_path) as world:
        async with world.receiver() as receiver:
            task = await receiver.imagine(PROMPT, once="order 17", labels={"a": "1", "b": "2"})
        async with world.receiver() as receiver:
            again = await receiver.imagine(PROMPT, once="order 17", labels={"b": "2", "a": "1"})
            with pytest.raises(Conflict, match=task.id):
                await receiver.imagine("another boat", once="order 17")
        assert again.id == task.id
        assert len(world.simulator.submits) == 1


async def test_auto_starts_follow_ups_by_itself(tmp_path: Path) -> None:
    """`auto` presses buttons when the task has succeeded, once each."""
    async with provider(tmp_path) as world, world.receiver() as receiver:
        task = await receiver.imagine(PROMPT, auto=["U1"])
        await task.result(LONG)
        one = await task.action("U1")
        assert one.submission.parent_id == task.id
        await one.result(LONG)
        assert len(await receiver.tasks()) == 2


async def test_a_cancelled_task_fails(tmp_path: Path) -> None:
    """Where a relay cancels at all, the end is a failure like any other."""
    async with provider(tmp_path, speed=20.0) as world, world.receiver() as receiver:
        task = await receiver.imagine(PROMPT)
        try:
            await task.cancel()
        except Refused as exc:
            assert exc.outcome == "unsupported"  # noqa: PT017 - both are right, as the profile goes
        else:
            with pytest.raises(TaskFailed):
                await task.result(LONG)


# --- start and end -----------------------------------------------------------------------------------------------


async def test_nothing_works_before_the_start_and_after_the_end(tmp_path: Path) -> None:
    """Constructing touches nothing; each method says what was forgotten."""
    receiver = Receiver(Settings(data=tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: receiver.imagine(PROMPT),
        lambda: receiver.upload([picture(tmp_path)]),
        lambda: receiver.watch("17"),
        lambda: receiver.task("17"),
        receiver.tasks,
        lambda: receiver.receive(b"{}", None),
    ]
    for call in calls:
        with pytest.raises(NotStarted, match=r"`async with Receiver\(\) as receiver:`.*`lifespan=receiver.lifespan`"):
            await call()
    with pytest.raises(NotStarted):
        receiver.unwrap(b"{}", None)


async def test_a_start_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    """A missing key stops the start with a sentence; one Receiver can live several times, but not twice at once."""
    with pytest.raises(SettingsError, match="COMETAPI_KEY"):
        async with Receiver(Settings(data=tmp_path / "data")):
            pass
    async with provider(tmp_path) as world:
        receiver = world.receiver()
        for _ in range(2):
            async with receiver:
                assert await receiver.tasks() == []
                with pytest.raises(RuntimeError, match="started already"):
                    await receiver.__aenter__()
        with pytest.raises(NotStarted):
            await receiver.tasks()


def test_settings_and_single_values_exclude_each_other() -> None:
    """A name that is no setting is found at once."""
    with pytest.raises(TypeError, match="not both"):
        Receiver(Settings(), deadline=60.0)
    with pytest.raises(TypeError, match="There is no setting 'dead_line'"):
        Receiver(dead_line=60.0)


async def test_a_start_that_fails_is_a_sentence_in_the_servers_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server prints what the app says, and a traceback would hide the sentence."""
    monkeypatch.setenv("RECEIVER_TO", "file:$NOWHERE")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(SettingsError):
        await Receiver().app({"type": "lifespan", "state": {}}, receive, send)
    (failed,) = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert failed["message"].startswith("Error: RECEIVER_TO: the variable NOWHERE is not set. Set it, ")


async def test_without_settings_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line does; single values win."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMETAPI_KEY", "simulator")
    monkeypatch.setenv("RECEIVER_DATA", str(tmp_path / "elsewhere"))
    async with provider(tmp_path) as world, Receiver(provider_url=world.url, clock=Clock(SPEED)) as receiver:
        await (await receiver.imagine(PROMPT)).result(LONG)
    assert (tmp_path / "elsewhere" / "journal.db").exists()
    assert len(world.simulator.submits) == 1


async def test_the_next_process_becomes_the_engine(tmp_path: Path) -> None:
    """Beside an engine nothing is run twice; when that ends, the next one takes over."""
    async with provider(tmp_path) as world, AsyncExitStack() as first:
        runtime = (await first.enter_async_context(world.receiver()))._started()
        await until(lambda: runtime.engine_running)
        async with world.receiver() as other:
            task = await other.imagine(PROMPT)
            assert (await task.result(LONG)).type == "task.succeeded"
            assert not other._started().engine_running
            await first.aclose()
            await (await other.imagine(PROMPT)).result(LONG)
            assert other._started().engine_running


async def test_an_engine_that_cannot_start_is_raised_where_one_waits(tmp_path: Path) -> None:
    """The failure is logged once and raised by `result` and `events`; what needs no engine goes on."""
    async with provider(tmp_path) as world:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "media").write_text("no folder")
        with logged() as lines:
            async with world.receiver() as receiver:
                task = await receiver.imagine(PROMPT)
                for _ in range(2):
                    with pytest.raises(MediaError):
                        await task.result(LONG)
                with pytest.raises(MediaError):
                    [event async for event in task.events()]
                assert (await task.status()).status == "accepted"
        assert [line["log_level"] for line in lines if line["event"] == "engine.not_started"] == ["error"]


# --- functions ---------------------------------------------------------------------------------------------------


async def test_a_function_is_a_destination(tmp_path: Path) -> None:
    """It gets the types it named with their files, beside every other destination, and its receipt is journalled."""
    seen: list[Event] = []
    read: list[tuple[str, int, bytes]] = []
    async with provider(tmp_path) as world:
        receiver = world.receiver()

        @receiver.on("task.succeeded", "task.failed", name="catalogue", concurrency=2, timeout=30)
        async def add(event: Event) -> Receipt | None:
            seen.append(event)
            [file] = event.files
            read.append((file.type, file.size, file.path.read_bytes()))
            return Receipt(ref="17", data={"row": 1})

        async with receiver:
            task = await receiver.imagine(PROMPT)
            event = await task.result(LONG)
            await until(lambda: bool(seen) and any((tmp_path / "outputs").glob("*.png")))
            only = await receiver.imagine(PROMPT, to=["catalogue"])
            await only.result(LONG)
            await until(lambda: len(seen) == 2)
            deliveries = await receiver._started().journal.deliveries(limit=10, destination="catalogue")
            [path] = await task.files()
            assert read[0] == ("image/png", path.stat().st_size, path.read_bytes())
        assert seen[0] == event
        assert event.files == ()
        assert deliveries[-1].receipt == Receipt(ref="17", data={"row": 1})
    assert len(list((tmp_path / "outputs").glob("*.png"))) == 1


async def settled(receiver: Receiver, id: str) -> None:
    """Wait until the end of each delivery is journalled: a function returns before that."""
    journal = receiver._started().journal
    async with asyncio.timeout(PATIENCE):
        while await journal.outstanding(id):  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.01)


async def test_a_replay_calls_a_function_again(tmp_path: Path) -> None:
    """With the same event, as often as it is asked for; what is still owed is not lost by asking twice."""
    seen: list[str] = []
    async with provider(tmp_path) as world:
        receiver = world.receiver()

        @receiver.on("task.succeeded", name="catalogue")
        async def add(event: Event) -> None:
            seen.append(event.id)

        async with receiver:
            task = await receiver.imagine(PROMPT, to=["catalogue"])
            await task.result(LONG)
            await settled(receiver, task.id)
            before = datetime.now(UTC) - timedelta(days=1)
            [done] = await receiver.replay(task=task.id, destination="catalogue", since=before)
            await until(lambda: len(seen) == 2)
            await settled(receiver, task.id)
            again = await receiver.replay(done.delivery_id or "", as_new=True)
            await until(lambda: len(seen) == 3)
            assert (done.outcome, again[0].outcome) == ("again", "new")
            with pytest.raises(InputError, match="refused"):
                await receiver.replay()
            with pytest.raises(InputError, match="There are: catalogue, file"):
                await receiver.replay(task=task.id, to="nope")
        assert len(set(seen)) == 1


async def test_a_function_may_wait_reject_and_fail(tmp_path: Path) -> None:
    """The same rules as for any handler."""
    calls: list[str] = []
    async with provider(tmp_path) as world:
        receiver = world.receiver()

        @receiver.on("task.succeeded", name="later")
        async def later(event: Event) -> None:
            calls.append(event.id)
            if len(calls) == 1:
                raise RetryLater(2)

        @receiver.on("task.succeeded", name="never")
        async def never(event: Event) -> None:
            raise Rejected("the catalogue is full")

        async with receiver:
            task = await receiver.imagine(PROMPT)
            await task.result(LONG)
            await until(lambda: len(calls) == 2)
            journal = receiver._started().journal
            while (await journal.deliveries(limit=1, destination="later"))[0].status != "succeeded":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            [dead] = await journal.deliveries(limit=5, destination="never")
        assert (dead.status, dead.detail) == ("dead", "the catalogue is full")
        assert calls[0] == calls[1]


async def test_pending_deliveries_of_a_function_run_after_a_restart(tmp_path: Path) -> None:
    """Deliveries outlive functions: they wait while nobody has the name, and the start says so once."""
    seen: list[str] = []

    async def busy(event: Event) -> None:
        raise RetryLater(3600)

    async def add(event: Event) -> None:
        seen.append(event.submission_id)

    async with provider(tmp_path) as world:
        first = world.receiver()
        first.on("task.succeeded", name="catalogue")(busy)
        async with first:
            task = await first.imagine(PROMPT)
            await task.result(LONG)
            while not await owed(first):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        with logged() as lines:
            async with world.receiver() as receiver:
                await until(lambda: receiver._started().engine_running)
                assert await owed(receiver) == ["pending"]
        assert [line["unknown"] for line in lines if line["event"] == "engine.started"] == [["catalogue"]]
        later = Receiver(world.settings(), clock=Later(world.speed))
        later.on("task.succeeded", name="catalogue")(add)
        async with later:
            await until(lambda: bool(seen))
        assert seen == [task.id]


class Later(Clock):
    """An hour and a bit ahead."""

    def now(self) -> float:
        return super().now() + 4000


async def owed(receiver: Receiver) -> list[str]:
    """How deliveries to `catalogue` stand that have been tried."""
    deliveries = await receiver._started().journal.deliveries(limit=5, destination="catalogue")
    return [item.status for item in deliveries if item.attempt and item.status == "pending"]


def test_what_cannot_be_registered_is_said() -> None:
    """A missing name, a wrong type, a plain function, a name that is taken."""
    receiver = Receiver(Settings())

    async def good(event: Event) -> None: ...
    def plain(event: Event) -> None: ...

    with pytest.raises(TypeError, match=r'needs a name, as in @receiver.on\("task.succeeded", name="catalogue"\)'):
        receiver.on("task.succeeded")
    with pytest.raises(TypeError, match="The decorator is called"):
        receiver.on(good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no events of type 'task.done'. There are: task.accepted"):
        receiver.on("task.done", name="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 40 characters"):
        receiver.on("task.succeeded", name="My Catalogue")
    with pytest.raises(ValueError, match="concurrency must be from 1 to 64, not 0"):
        receiver.on("task.succeeded", name="x", concurrency=0)
    with pytest.raises(ValueError, match="timeout must be more than 0"):
        receiver.on("task.succeeded", name="x", timeout=float("nan"))
    with pytest.raises(TypeError, match="plain must be `async def`"):
        receiver.on("task.succeeded", name="x")(plain)  # type: ignore[type-var]
    assert receiver.on(name="catalogue")(good) is good
    with pytest.raises(ValueError, match="registered as 'catalogue' already"):
        receiver.on("task.failed", name="catalogue")(good)


async def test_registration_ends_with_the_start(tmp_path: Path) -> None:
    """Later, and under the name of a configured destination, is refused."""

    async def add(event: Event) -> None: ...

    async with provider(tmp_path) as world:
        async with world.receiver() as receiver:
            with pytest.raises(RuntimeError, match="register 'catalogue' before that"):
                receiver.on("task.succeeded", name="catalogue")(add)
        same = world.receiver()
        same.on("task.succeeded", name="file")(add)
        with pytest.raises(SettingsError, match="'file' is in the settings and registered in code"):
            await same.__aenter__()


# --- web ---------------------------------------------------------------------------------------------------------


def in_starlette(receiver: Receiver, *, forgotten: bool = False) -> Starlette:
    routes = [WebRoute("/", _hello), Mount("/receiver", app=receiver.app)]
    return Starlette(routes=routes, lifespan=None if forgotten else receiver.lifespan)


def in_fastapi(receiver: Receiver, *, forgotten: bool = False) -> FastAPI:
    app = FastAPI() if forgotten else FastAPI(lifespan=receiver.lifespan)
    app.get("/")(_ok)
    app.mount("/receiver", receiver.app)
    return app


def in_a_tenant(receiver: Receiver, *, forgotten: bool = False) -> Starlette:
    """Under a path whose parameter has a name that ours have too."""
    inner = Starlette(routes=[Mount("/receiver", app=receiver.app)])
    return Starlette(
        routes=[WebRoute("/", _hello), Mount("/{token}", app=inner)], lifespan=None if forgotten else receiver.lifespan
    )


async def _ok() -> dict[str, str]:
    return {"hello": "you"}


async def _hello(request: object) -> PlainTextResponse:
    return PlainTextResponse("hello")


FRAMEWORKS = [
    pytest.param(in_starlette, "/receiver", id="starlette"),
    pytest.param(in_fastapi, "/receiver", id="fastapi"),
    pytest.param(in_a_tenant, "/acme/receiver", id="nested"),
]


@pytest.mark.parametrize(("mounted", "path"), FRAMEWORKS)
async def test_mounted_into_another_application(tmp_path: Path, mounted: Any, path: str) -> None:
    """Callbacks reach the mounted app, which lives and ends with the application."""
    async with provider(tmp_path) as world:
        with bind("127.0.0.1", 0) as listener:
            base = address(listener)
            receiver = world.receiver(public_url=f"{base}{path}", poll_interval=3600.0)
            async with served(mounted(receiver), listener), httpx.AsyncClient(base_url=base) as client:
                assert (await client.get("/")).status_code == 200
                assert (await client.get(f"{path}/readyz")).json()["ready"] is True
                assert (await client.get(f"{path}/livez")).text == "ok"
                assert (await client.post(f"{path}/callbacks/wrong", json={})).status_code == 401
                unsigned = await client.post(f"{path}/callbacks", json={"id": "1"})
                assert unsigned.status_code == 401
                assert (await client.get(f"{path}/nothing")).status_code == 404
                assert (await client.get(f"{path}/callbacks")).status_code == 405
                task = await receiver.imagine(PROMPT)
                await task.result(LONG)
                assert (await task.status()).callbacks > 0
    with pytest.raises(NotStarted):
        await receiver.tasks()


@pytest.mark.parametrize(("mounted", "path"), FRAMEWORKS)
async def test_a_forgotten_lifespan_is_said(tmp_path: Path, mounted: Any, path: str) -> None:
    """Every route but /livez answers 503 and names the argument; the log says it once."""
    receiver = Receiver(Settings(data=tmp_path / "data"))
    app = mounted(receiver, forgotten=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client:
        with logged() as lines:
            for method, route in [("POST", "/callbacks/token"), ("GET", "/readyz"), ("GET", "/"), ("GET", "/x")]:
                answer = await client.request(method, f"{path}{route}")
                assert answer.status_code == 503
                assert answer.headers["content-type"] == "application/problem+json"
                assert "`lifespan=receiver.lifespan`" in answer.json()["detail"]
        assert (await client.get(f"{path}/livez")).status_code == 200
        assert (await client.get("/")).status_code == 200
    assert [line["log_level"] for line in lines if line["event"] == "receiver.not_started"] == ["error"]


async def test_the_access_log_of_its_host_holds_no_token(tmp_path: Path) -> None:
    """A callback is in uvicorn's access log without its token, and every line keeps its form."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(AccessFormatter('"%(request_line)s" %(status_code)s', use_colors=False))
    access = logging.getLogger("uvicorn.access")
    async with provider(tmp_path) as world:
        with bind("127.0.0.1", 0) as listener:
            base = address(listener)
            receiver = world.receiver(public_url=f"{base}/receiver", poll_interval=3600.0)
            access.addHandler(handler)
            access.setLevel(logging.INFO)
            running = uvicorn.Server(uvicorn.Config(in_fastapi(receiver), log_config=None))
            serving = asyncio.create_task(running.serve(sockets=[listener]))
            try:
                await until(lambda: running.started)
                await (await receiver.imagine(PROMPT)).result(LONG)
            finally:
                running.should_exit = True
                await serving
                access.removeHandler(handler)
    called = {line for line in written.getvalue().splitlines() if "callbacks" in line}
    assert called == {'"POST /receiver/callbacks/[redacted] HTTP/1.1" 200 OK'}


async def test_the_app_can_be_served_by_itself(tmp_path: Path) -> None:
    """`uvicorn module:receiver.app` needs no application around it."""
    async with provider(tmp_path) as world:
        receiver = world.receiver()
        with bind("127.0.0.1", 0) as listener:
            async with served(receiver.app, listener), httpx.AsyncClient(base_url=address(listener)) as client:
                assert (await client.get("/readyz")).json()["ready"] is True
                assert await receiver.tasks() == []


# --- callbacks for other frameworks ------------------------------------------------------------------------------


def body(task_id: str | None, state: str, **other: Any) -> bytes:
    return json.dumps({"id": task_id, "status": "IN_PROGRESS", "progress": "50%", "state": state} | other).encode()


@asynccontextmanager
async def submitted(folder: Path) -> AsyncIterator[tuple[Receiver, TaskHandle, Tokens]]:
    """A Receiver with one task, and what its callbacks are signed with."""
    async with provider(folder) as world, world.receiver(engine=False) as receiver:
        yield receiver, await receiver.imagine(PROMPT), receiver._started().tokens


async def test_unwrap_verifies_and_keeps_nothing(tmp_path: Path) -> None:
    """Both tokens: trusted. One: whose it is, and the cause. None: TokenError."""
    async with submitted(tmp_path) as (receiver, task, tokens):
        url, state, foreign = tokens.url_token(task.id), tokens.state_token(task.id), tokens.state_token("Z" * 26)
        table = [
            (url, state, None),
            (url, "", "no_state"),
            (url, "mangled", "bad_state"),
            (url, foreign, "other_state"),
            (None, state, "no_url_token"),
        ]
        for token, sent, cause in table:
            callback = receiver.unwrap(body(task.task_id, sent), token)
            assert (callback.submission_id, callback.cause) == (task.id, cause)
            assert callback.trusted is (cause is None)
            assert callback.task.progress == 50
        for token, sent in [("mangled", state), (None, ""), (None, "mangled"), (state, state)]:
            with pytest.raises(TokenError):
                receiver.unwrap(body(task.task_id, sent), token)
        with pytest.raises(NotJSON):
            receiver.unwrap(b"{", url)
        with pytest.raises(NotATask):
            receiver.unwrap(b"[]", url)
        assert (await task.status()).callbacks == 0


async def test_receive_journals_as_the_endpoint_does(tmp_path: Path) -> None:
    """Believed with both tokens, kept with one, refused with none, with another task, or without a submission."""
    async with submitted(tmp_path) as (receiver, task, tokens):
        url, state = tokens.url_token(task.id), tokens.state_token(task.id)
        assert await receiver.receive(body(task.task_id, state), url) is True
        assert await receiver.receive(body(task.task_id, ""), url) is False
        assert await receiver.receive(body("another", state), url) is False
        row = await task.status()
        assert (row.callbacks, row.task and row.task.progress) == (3, 50)
        callbacks = await receiver._started().journal.callbacks(task.id)
        assert [item.cause for item in callbacks] == [None, "no_state", "other_task"]
        with pytest.raises(TokenError):
            await receiver.receive(body(task.task_id, state), "mangled")
        with pytest.raises(NotFound):
            await receiver.receive(body("17", tokens.state_token("Z" * 26)), tokens.url_token("Z" * 26))
        with pytest.raises(PayloadError, match="256 KiB at most"):
            await receiver.receive(body("17", state, pad="x" * 300_000), url)
        assert len(await receiver._started().journal.callbacks(task.id)) == 3


async def test_troubles_are_told(tmp_path: Path) -> None:
    """What the engine could not do, for whoever shows it; nothing while all is well."""
    async with provider(tmp_path, faults=["provider_500"]) as world, world.receiver() as receiver:
        assert await receiver.troubles() == []
        task = await receiver.imagine(PROMPT)
        async with asyncio.timeout(PATIENCE):
            while not (found := await receiver.troubles()):  # noqa: ASYNC110 - the engine's doing has no event of ours
                await asyncio.sleep(0.01)
            assert [trouble.name for trouble in found] == ["provider"]
            assert "HTTP 500" in found[0].text
            await task.result()
            assert await receiver.troubles() == []


async def test_waiting_ends_when_the_receiver_does(tmp_path: Path) -> None:
    """Who still waits at the end gets an error, not silence."""
    async with provider(tmp_path, speed=1.0) as world:
        async with world.receiver() as receiver:
            task = await receiver.imagine(PROMPT)
            waiting = asyncio.create_task(task.result())
            await asyncio.sleep(0.05)
        with pytest.raises((JournalError, NotStarted)):
            await asyncio.wait_for(waiting, PATIENCE)
