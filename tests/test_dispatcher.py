"""Dispatching: slots, outcomes, what a handler is given, and that nothing stays `running` in a living engine."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from engine import JPEG, PNG, Kit, Recording, answer, destination, engine, logged, until, wire_task
from waiting import PATIENCE

from receiver.backoff import DELIVERY, DOWN_AFTER
from receiver.deliveries import Completion, Delivery, Receipt
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.handlers.file import FileHandler
from receiver.handlers.webhook import WebhookFailed
from receiver.journal.transitions import FREED_AFTER


async def owed(kit: Kit, prompt: str = "a boat") -> str:
    """A submission that failed at the provider, so that one event is owed without a picture to wait for."""
    task_id = f"t{len(kit.relay.submitted)}"
    kit.relay.submits = [answer(1, task_id)]
    row = await kit.submit(prompt)
    kit.relay.tasks[task_id] = wire_task(task_id, "FAILURE", failReason="the bow broke")
    kit.clock.advance(16)
    await kit.reconciler.reconcile_once()
    return row.id


async def only(kit: Kit, submission_id: str) -> Delivery:
    (delivery,) = await kit.deliveries(submission_id)
    return delivery


async def outcomes(kit: Kit, delivery: Delivery) -> list[str | None]:
    return [record.outcome for record in await kit.journal.attempts(delivery.id)]


class Hanging:
    """A handler that waits until told, and notes how it was ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.most = 0

    async def deliver(self, attempt: Attempt) -> Receipt:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return Receipt(ref="late")

    async def aclose(self) -> None: ...


# --- slots -------------------------------------------------------------------------------------------------------


async def test_a_destination_runs_no_more_than_its_slots(tmp_path: Path) -> None:
    """Five due, two slots: two run, the next are claimed as slots become free."""
    async with engine(tmp_path) as kit:
        for _ in range(5):
            await owed(kit)
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler, concurrency=2))
        assert await dispatcher.dispatch_once() == 2
        assert await dispatcher.dispatch_once() == 0
        running = await kit.journal.deliveries(limit=10, status="running")
        assert len(running) == 2
        handler.go.set()
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 2
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        assert handler.most == 2


async def test_a_hanging_destination_holds_up_no_other(tmp_path: Path) -> None:
    """While every slot of one hangs, the other gets all it is owed."""
    async with engine(tmp_path, routes=("hangs", "works")) as kit:
        for _ in range(3):
            await owed(kit)
        hanging, works = Hanging(), Recording()
        dispatcher = kit.dispatcher(destination("hangs", hanging, concurrency=1), destination("works", works))
        assert await dispatcher.dispatch_once() == 4
        await until(lambda: len(works.attempts) == 3)
        await dispatcher.drain(0)


async def test_a_free_slot_is_told(tmp_path: Path) -> None:
    """The end of an attempt wakes the engine, because there may be more to claim."""
    async with engine(tmp_path) as kit:
        await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording()))
        kit.woken.clear()
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        await until(lambda: bool(kit.woken))


async def test_a_destination_whose_claim_fails_holds_up_no_other(tmp_path: Path) -> None:
    """One destination's poisoned row is told once, and the others are served; recovery is told once too."""
    async with engine(tmp_path, routes=("a", "b"), faulty=True) as kit:
        journal: Any = kit.journal
        await owed(kit)
        works, other = Recording(), Recording()
        dispatcher = kit.dispatcher(destination("a", works), destination("b", other))
        journal.failing["claim"] = 1  # the first of the two
        with logged() as lines:
            assert await dispatcher.dispatch_once() == 1
            await dispatcher.settle()
            assert await dispatcher.dispatch_once() == 1
            await dispatcher.settle()
        assert (len(works.attempts), len(other.attempts)) == (1, 1)
        told = [line["event"] for line in lines if line["event"].startswith("destination.")]
        assert told == ["destination.claim_failed", "destination.claim_recovered"]


# --- outcomes ----------------------------------------------------------------------------------------------------


async def test_a_delivery_that_returns_has_succeeded(tmp_path: Path) -> None:
    """Its receipt is journalled, and it is never run again."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Recording(Receipt(ref="a.png", url="https://x.test/a.png", data={"ts": "1.2"}))
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures, delivery.owner) == ("succeeded", 0, None)
        assert delivery.receipt == Receipt(ref="a.png", url="https://x.test/a.png", data={"ts": "1.2"})
        assert delivery.finished_ms == kit.clock.now_ms()
        kit.clock.advance(86400)
        assert await dispatcher.dispatch_once() == 0
        assert await outcomes(kit, delivery) == ["succeeded"]


async def test_a_failure_is_tried_again_by_schedule_until_dead(tmp_path: Path) -> None:
    """Seven waits of 5 s to 10 h, ± 10 %, then `dead`; the key stays, the number rises."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Recording(RuntimeError("no route"))
        dispatcher = kit.dispatcher(destination("main", handler))
        for number, seconds in enumerate(DELIVERY, start=1):
            assert await dispatcher.dispatch_once() == 1
            await dispatcher.settle()
            delivery = await only(kit, submission)
            assert (delivery.status, delivery.failures, delivery.detail) == ("pending", number, "no route")
            wait = (delivery.due_ms - kit.clock.now_ms()) / 1000
            assert 0.9 * seconds - 1 <= wait <= 1.1 * seconds + 1
            assert await dispatcher.dispatch_once() == 0
            kit.clock.advance(wait + 0.001)
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("dead", len(DELIVERY) + 1)
        assert "used up" in (delivery.detail or "")
        assert {attempt.idempotency_key for attempt in handler.attempts} == {delivery.id}
        assert [attempt.number for attempt in handler.attempts] == list(range(1, len(DELIVERY) + 2))


async def test_rejected_is_dead_at_once(tmp_path: Path) -> None:
    """Trying again cannot help, so nobody does; the reason stays."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(Rejected("the channel is gone"))))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.detail, delivery.failures) == ("dead", "the channel is gone", 0)
        assert await outcomes(kit, delivery) == ["rejected"]


async def test_retry_later_is_free_and_punctual(tmp_path: Path) -> None:
    """Postponed as often as it likes, it uses up nothing and runs again just when it asked to."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Recording(*[RetryLater(60)] * 20, Receipt(ref="made"))
        dispatcher = kit.dispatcher(destination("main", handler))
        for _ in range(20):
            assert await dispatcher.dispatch_once() == 1
            await dispatcher.settle()
            kit.clock.advance(59.9)
            assert await dispatcher.dispatch_once() == 0
            kit.clock.advance(0.11)
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures, delivery.attempt) == ("succeeded", 0, 21)


@pytest.mark.parametrize(
    ("after", "least", "most"),
    [(0, 1, 1), (-5, 1, 1), (float("nan"), 1, 1), (float("inf"), 36000, 36000), (1e12, 36000, 36000)],
)
async def test_no_wait_is_endless_or_a_spin(tmp_path: Path, after: float, least: float, most: float) -> None:
    """A handler may ask for nonsense: it is called again after a second at the earliest, ten hours at the latest."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(RetryLater(after, pause=True))))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("pending", 0)
        assert least <= (delivery.due_ms - kit.clock.now_ms()) / 1000 <= most


async def test_a_pause_holds_back_the_whole_destination(tmp_path: Path) -> None:
    """Other deliveries of that destination wait too; other destinations do not."""
    async with engine(tmp_path, routes=("paused", "other")) as kit:
        await owed(kit)
        paused, other = Recording(RetryLater(300, pause=True), Receipt()), Recording()
        dispatcher = kit.dispatcher(destination("paused", paused), destination("other", other))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        await owed(kit)
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        assert (len(paused.attempts), len(other.attempts)) == (1, 2)
        kit.clock.advance(300)
        assert await dispatcher.dispatch_once() == 2
        await dispatcher.settle()


async def test_an_attempt_has_a_total_deadline(tmp_path: Path) -> None:
    """A handler that hangs is ended after its time-out, and that counts as a failure."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler, timeout=0.02))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("pending", 1)
        assert delivery.detail == "the attempt took longer than 0.02 s"
        assert handler.running == 0


async def test_a_handlers_own_timeout_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A TimeoutError that the handler raises by itself keeps its own words."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(TimeoutError("the pool is full"))))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert (await only(kit, submission)).detail == "the pool is full"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(BaseException):
    """What some libraries raise past `except Exception`."""


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError(), "ValueError"),
        (Unprintable(), "Unprintable"),
        (ValueError("half \ud800 and \0"), "half � and �"),
        (ValueError("x" * 10_000), "x" * 500),
        (SystemExit(3), "3"),
        (Odd("odd"), "odd"),
        (GeneratorExit(), "GeneratorExit"),
        (ExceptionGroup("both", [ValueError("a"), KeyError("b")]), "both (2 sub-exceptions)"),
        (asyncio.CancelledError(), "the handler was cancelled by its own code"),
    ],
)
async def test_whatever_a_handler_raises_is_a_failure(tmp_path: Path, error: BaseException, detail: str) -> None:
    """No exception ends the engine, escapes being recorded, or is free by calling itself a cancellation."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(error)))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures, delivery.detail) == ("pending", 1, detail)
        assert delivery.due_ms > kit.clock.now_ms() + 4000


async def test_a_refusal_of_one_event_does_not_count_against_the_destination(tmp_path: Path) -> None:
    """The exception says so. The delivery is tried again all the same."""
    refusal = WebhookFailed("answered 422")
    refusal.about_event = True
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(refusal)))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, submission)
        (state,) = await kit.journal.destinations()
        assert (delivery.status, delivery.failures, state.failures, state.last_error) == (
            "pending", 1, 0, "answered 422",
        )  # fmt: skip


async def test_a_fault_in_a_handlers_code_is_shown_with_its_traceback(tmp_path: Path) -> None:
    """At level error in the log, and with the attempt: type, message and the failing line, bounded."""

    async def buggy(attempt: Attempt) -> Receipt:
        names: dict[str, str] = {}
        if attempt.number == 1:
            return Receipt(ref=names["order"])
        raise RuntimeError("x" * 9000 + "the end")

    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(buggy)))
        with logged() as lines:
            await dispatcher.dispatch_once()
            await dispatcher.settle()
        delivery = await only(kit, submission)
        (line,) = [line for line in lines if line["event"] == "delivery.failed"]
        (record,) = await kit.journal.attempts(delivery.id)
        assert delivery.detail == "KeyError: 'order'"
        assert (line["log_level"], line["exception"]) == ("error", record.traceback)
        assert 'return Receipt(ref=names["order"])' in (record.traceback or "")
        assert (record.traceback or "").endswith("KeyError: 'order'\n")
        kit.clock.advance(10)
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        _, second = await kit.journal.attempts(delivery.id)
        assert len(second.traceback or "") == 2000
        assert (second.traceback or "").endswith("the end\n")


async def test_a_refusal_is_a_warning_without_a_traceback(tmp_path: Path) -> None:
    """A sentence of our handlers is no fault in their code. The pause after it is logged once, and a death as error."""
    (tmp_path / "file").touch()
    handler = FileHandler(FileHandler.Options(path=tmp_path / "file"))
    async with engine(tmp_path) as kit:
        await kit.journal.register({"main": "file"})
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", handler))
        with logged() as lines:
            for _ in range(len(DELIVERY) + 1):
                await dispatcher.dispatch_once()
                await dispatcher.settle()
                kit.clock.advance(40_000)
        delivery = await only(kit, submission)
        assert all(record.traceback is None for record in await kit.journal.attempts(delivery.id))
        levels = [(line["event"], line["log_level"]) for line in lines]
        failed = [level for event, level in levels if event == "delivery.failed"]
        assert failed == [*["warning"] * len(DELIVERY), "error"]
        assert levels.count(("destination.paused", "warning")) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError, Rejected, lambda text: RetryLater(60, text), lambda text: RetryLater(60, text, pause=True)]
)
async def test_secrets_are_left_out_of_what_is_kept(tmp_path: Path, error: Any) -> None:
    """The text of an error may hold a chat's whole URL or a key; neither journal nor attempts get it."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        secret = "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
        dispatcher = kit.dispatcher(
            destination("main", Recording(error(f"404 for {secret} with Bearer abcdef0123456")))
        )
        with logged() as lines:
            await dispatcher.dispatch_once()
            await dispatcher.settle()
        delivery = await only(kit, submission)
        (record,) = await kit.journal.attempts(delivery.id)
        for text in (delivery.detail, record.detail, str(lines)):
            assert text
            assert "XXXXXXXX" not in text
            assert "abcdef0123456" not in text
    assert b"XXXXXXXX" not in (tmp_path / "journal.db").read_bytes()


@pytest.mark.parametrize(
    "receipt",
    [
        "made",
        42,
        Receipt(data={"x": object()}),
        Receipt(ref="\ud800"),
        Receipt(data=[1]),  # type: ignore[arg-type]
        Receipt(ref=7),  # type: ignore[arg-type]
    ],
)
async def test_a_receipt_nobody_can_keep_spoils_nothing(tmp_path: Path, receipt: Any) -> None:
    """What the handler did is done: the delivery succeeded, without a receipt, and later claims still work."""

    async def strange(attempt: Attempt) -> Any:
        return receipt

    async with engine(tmp_path, routes=("main", "other")) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(strange)))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        other = Recording()
        dispatcher = kit.dispatcher(destination("other", other))
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        main, _ = sorted(await kit.deliveries(submission), key=lambda item: item.destination)
        assert (main.status, main.receipt) == ("succeeded", None)
        assert other.attempts[0].receipts == {}


# --- shutdown ----------------------------------------------------------------------------------------------------


async def test_draining_lets_what_runs_finish(tmp_path: Path) -> None:
    """An attempt that ends within the grace ends as ever."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        draining = asyncio.create_task(dispatcher.drain(5))
        await until(lambda: handler.running == 1)
        handler.go.set()
        await draining
        assert (await only(kit, submission)).status == "succeeded"


async def test_draining_interrupts_what_is_late(tmp_path: Path) -> None:
    """An interrupted attempt uses up nothing and is due at once."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Hanging()))
        await dispatcher.dispatch_once()
        await dispatcher.drain(0.01)
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures, delivery.due_ms) == ("pending", 0, kit.clock.now_ms())
        assert await outcomes(kit, delivery) == ["interrupted"]
        again = Recording()
        dispatcher = kit.dispatcher(destination("main", again), owner="engine-2")
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert (again.attempts[0].number, again.attempts[0].idempotency_key) == (2, delivery.id)


@pytest.mark.parametrize("claiming", [True, False])
async def test_draining_that_is_cancelled_interrupts_what_runs(tmp_path: Path, *, claiming: bool) -> None:
    """A person presses Ctrl-C again: that is no reason to leave a row `running`, or to try for ever to record it."""

    async def away(*args: Any) -> bool:
        return await asyncio.Event().wait()

    async with engine(tmp_path) as kit:
        journal: Any = kit.journal
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Hanging()))
        await dispatcher.dispatch_once()
        if claiming:
            journal.claim = away
            step = asyncio.create_task(dispatcher.dispatch_once())
            await asyncio.sleep(0)
            step.cancel()
        draining = asyncio.create_task(dispatcher.drain(60))
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("pending", 0)
        assert await outcomes(kit, delivery) == ["interrupted"]


async def test_an_attempt_that_is_being_interrupted_is_not_interrupted_again(tmp_path: Path) -> None:
    """The end of an event loop cancels all tasks, draining among them: it leaves clean-up and record their second."""
    cut, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(attempt: Attempt) -> Receipt:
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()
            await cleaned.wait()
        raise AssertionError

    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(tidy)))
        await dispatcher.dispatch_once()
        draining = asyncio.create_task(dispatcher.drain(60))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await cut.wait()
        await asyncio.sleep(0)
        cleaned.set()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert await outcomes(kit, await only(kit, submission)) == ["interrupted"]


async def test_draining_says_how_many_it_has_left_behind(tmp_path: Path) -> None:
    """Whoever goes on afterwards must know whether the rows of this owner are at rest."""
    go = asyncio.Event()

    async def deaf(attempt: Attempt) -> Receipt:
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()
        return Receipt()

    async with engine(tmp_path, routes=("deaf", "well")) as kit:
        await owed(kit)
        dispatcher = kit.dispatcher(destination("deaf", Recording(deaf)), destination("well", Hanging()))
        await dispatcher.dispatch_once()
        assert await dispatcher.drain(0.01) == 1
        go.set()
        await dispatcher.settle()
        assert await dispatcher.drain(0.01) == 0


async def test_an_error_made_of_our_interruption_is_free(tmp_path: Path) -> None:
    """A handler that turns the cancellation into an error of its own pays nothing for our shutdown."""

    async def grumbling(attempt: Attempt) -> Receipt:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            raise ConnectionError("cut off") from exc
        raise AssertionError

    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(grumbling)))
        await dispatcher.dispatch_once()
        await dispatcher.drain(0.01)
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("pending", 0)
        assert await outcomes(kit, delivery) == ["interrupted"]


@pytest.mark.parametrize("ended_by", ["deadline", "drain"])
async def test_a_handler_that_finishes_in_spite_of_being_cancelled_has_succeeded(tmp_path: Path, ended_by: str) -> None:
    """It returned, so the effect is there; to repeat it would be wrong."""

    async def stubborn(attempt: Attempt) -> Receipt:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return Receipt(ref="made all the same")

    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        timeout = 0.02 if ended_by == "deadline" else 5
        dispatcher = kit.dispatcher(destination("main", Recording(stubborn), timeout=timeout))
        await dispatcher.dispatch_once()
        await (dispatcher.settle() if ended_by == "deadline" else dispatcher.drain(0.01))
        assert (await only(kit, submission)).status == "succeeded"


async def test_a_handler_that_never_ends_stops_no_shutdown(tmp_path: Path) -> None:
    """Draining leaves it behind after a second; the next engine frees the row, and the late end is refused."""
    go = asyncio.Event()

    async def deaf(attempt: Attempt) -> Receipt:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        return Receipt(ref="too late")

    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(deaf)))
        await dispatcher.dispatch_once()
        with logged() as lines:
            async with asyncio.timeout(PATIENCE):
                await dispatcher.drain(0.01)
            assert [line["event"] for line in lines] == ["delivery.stuck"]
            assert await kit.journal.free_running("engine-2", kit.clock.now_ms()) == 1
            go.set()
            await dispatcher.settle()
        assert lines[-1]["event"] == "delivery.refused"
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures, delivery.receipt) == ("pending", 1, None)


async def test_what_a_cancelled_step_had_claimed_still_runs(tmp_path: Path) -> None:
    """The engine stops in the middle of a claim: what the journal gave away is run and drained, not forgotten."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        step = asyncio.create_task(dispatcher.dispatch_once())
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await dispatcher.drain(5)
        assert (await only(kit, submission)).status == "succeeded"
        assert len(handler.attempts) == 1


async def test_a_claim_under_way_is_waited_for_even_without_grace(tmp_path: Path) -> None:
    """A function ends its work at once; what it had just claimed must be given back, or it would stay `running`."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)

        async def hang(attempt: Attempt) -> Receipt:
            await asyncio.Event().wait()
            return Receipt()

        dispatcher = kit.dispatcher(destination("main", Recording(hang)))
        step = asyncio.create_task(dispatcher.dispatch_once())
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await dispatcher.drain(0)
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.failures) == ("pending", 0)


async def test_what_was_left_behind_does_not_wait_for_the_journal(tmp_path: Path) -> None:
    """It ends after the shutdown and the journal is closed by then: it gives up instead of trying for ever."""
    go = asyncio.Event()

    async def deaf(attempt: Attempt) -> Receipt:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        return Receipt(ref="too late")

    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording(deaf)))
        await dispatcher.dispatch_once()
        await dispatcher.drain(0.01)
        journal.failing["complete"] = 10**6
        go.set()
        async with asyncio.timeout(PATIENCE):
            await dispatcher.settle()


# --- recording ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", [Receipt(ref="made"), RuntimeError("no"), RetryLater(60, pause=True), Rejected("no")])
async def test_an_end_is_recorded_when_the_journal_can_be_written_again(tmp_path: Path, does: Any) -> None:
    """A full disk holds the slot and is told once; no row stays `running`, and the handler is not called again."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        submission = await owed(kit)
        handler = Recording(does)
        dispatcher = kit.dispatcher(destination("main", handler, concurrency=1))
        journal.failing |= {"complete": 4, "pause": 2}
        with logged() as lines:
            await dispatcher.dispatch_once()
            expected = 6 if isinstance(does, RetryLater) else 4
            for count in range(expected):
                await until(lambda count=count: len(kit.clock.slept) > count)  # type: ignore[misc]
                assert await dispatcher.dispatch_once() == 0
                kit.clock.advance(12)
            await dispatcher.settle()
        assert (await only(kit, submission)).status in ("succeeded", "pending", "dead")
        assert len(handler.attempts) == 1
        errors = [line for line in lines if line["event"] == "delivery.recording" and line["log_level"] == "error"]
        assert len(errors) == (2 if isinstance(does, RetryLater) else 1)


@pytest.mark.parametrize(("does", "more"), [(Receipt(ref="made"), 1), (RuntimeError("no"), 0)])
async def test_a_success_frees_its_slot_while_it_is_recorded(tmp_path: Path, does: Any, more: int) -> None:
    """The next claim need not wait for its commit. A failure keeps its slot, because it may pause the destination."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        await owed(kit)
        await owed(kit)
        recording, go, complete = asyncio.Event(), asyncio.Event(), journal.complete

        async def held(completion: Completion) -> bool:
            recording.set()
            await go.wait()
            return bool(await complete(completion))

        journal.complete = held
        dispatcher = kit.dispatcher(destination("main", Recording(does), concurrency=1))
        assert await dispatcher.dispatch_once() == 1
        async with asyncio.timeout(PATIENCE):
            await recording.wait()
            assert await dispatcher.dispatch_once() == more
            go.set()
            await dispatcher.settle()


async def test_draining_gives_up_on_a_broken_journal(tmp_path: Path) -> None:
    """Shutting down does not wait for a disk; the next engine frees the row."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Recording()))
        journal.failing["complete"] = 10**6
        await dispatcher.dispatch_once()
        await until(lambda: len(kit.clock.slept) > 0)
        async with asyncio.timeout(PATIENCE):
            await dispatcher.drain(0.01)
        assert (await only(kit, submission)).status == "running"
        assert await kit.journal.free_running("engine-2", kit.clock.now_ms()) == 1


async def test_the_fence_refuses_who_was_taken_over(tmp_path: Path) -> None:
    """An attempt whose row was freed and claimed anew by another engine ends without effect, and that is logged."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        slow = Hanging()
        old = kit.dispatcher(destination("main", slow), owner="engine-1")
        await old.dispatch_once()
        await until(lambda: slow.running == 1)
        await kit.journal.free_running("engine-2", kit.clock.now_ms())
        kit.clock.advance(FREED_AFTER)
        new = kit.dispatcher(destination("main", Recording(Receipt(ref="by the second"))), owner="engine-2")
        await new.dispatch_once()
        await new.settle()
        with logged() as lines:
            slow.go.set()
            await old.settle()
        assert [line["event"] for line in lines] == ["delivery.refused"]
        delivery = await only(kit, submission)
        assert (delivery.status, delivery.receipt) == ("succeeded", Receipt(ref="by the second"))
        assert await outcomes(kit, delivery) == ["vanished", "succeeded"]


async def test_the_fence_counts_attempts_too(tmp_path: Path) -> None:
    """The same owner's earlier attempt cannot end a later one."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        dispatcher = kit.dispatcher(destination("main", Hanging()))
        await dispatcher.dispatch_once()
        delivery = await only(kit, submission)
        stale = Completion(
            delivery_id=delivery.id, submission_id=submission, destination="main", attempt=0, owner="engine-1",
            outcome="succeeded", status="succeeded", finished_ms=0, due_ms=0, counts=False,
        )  # fmt: skip
        assert not await kit.journal.complete(stale)
        await dispatcher.drain(0)


# --- what a handler is given -------------------------------------------------------------------------------------


async def test_an_attempt_holds_event_media_and_receipts(tmp_path: Path) -> None:
    """The result's files, the last receipt here, those of other destinations, the deadline and the key."""
    async with engine(tmp_path, routes=("main", "other"), progress=True) as kit:
        main, other = Recording(Receipt(ref="post 1")), Recording(Receipt(ref="copy"))
        dispatcher = kit.dispatcher(destination("main", main, timeout=7), destination("other", other))
        kit.origin.files["/a.png"] = PNG
        row = await kit.submit(labels={"album": "7"}, state="mine")
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        kit.relay.tasks["17"] = wire_task("17", "SUCCESS", imageUrl=f"{kit.origin.url}/a.png")
        kit.clock.advance(16)
        await kit.reconciler.reconcile_once()
        assert await dispatcher.dispatch_once() == 0  # the picture is not there yet
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        first, last = main.attempts
        assert (first.event.type, first.previous, dict(first.receipts), first.media) == ("task.accepted", None, {}, ())
        assert (last.event.type, last.destination, last.number, last.deadline) == ("task.succeeded", "main", 1, 7)
        assert (last.event.labels, last.event.state) == ({"album": "7"}, "mine")
        assert (last.previous, dict(last.receipts)) == (Receipt(ref="post 1"), {"other": Receipt(ref="copy")})
        assert [item.path.read_bytes() for item in last.media] == [PNG]
        assert (last.media_problem, last.media_pending, last.parent) == (None, False, None)
        deliveries = {item.id for item in await kit.deliveries(row.id)}
        assert {first.idempotency_key, last.idempotency_key} <= deliveries
        assert first.idempotency_key != last.idempotency_key


async def test_a_file_that_is_gone_keeps_nothing_back(tmp_path: Path) -> None:
    """Somebody removed it from the folder: the handler is told, and does what it can without."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a.png"] = PNG
        other = await kit.store.put_bytes(JPEG, url="")
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/a.png")
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        (media,) = (await kit.row(row.id)).media
        kit.store.path(media).unlink()
        assert kit.store.path(other).exists()  # the folder is there, the file is not
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (attempt,) = handler.attempts
        assert (attempt.media, attempt.media_pending) == ((), False)
        assert f"{media.digest}.png is gone" in (attempt.media_problem or "")


async def test_a_volume_that_is_not_mounted_puts_deliveries_off(tmp_path: Path) -> None:
    """No destination has failed: postponed, with a sentence, until the folder is there again."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a.png"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/a.png")
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        (tmp_path / "media").rename(tmp_path / "unmounted")
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        delivery = await only(kit, row.id)
        assert (delivery.status, delivery.failures, handler.attempts) == ("pending", 0, [])
        assert "is empty. Mount its volume" in (delivery.detail or "")
        assert await outcomes(kit, delivery) == ["postponed"]
        (tmp_path / "unmounted").rename(tmp_path / "media")
        kit.clock.advance(6)
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert [item.path.read_bytes() for item in handler.attempts[0].media] == [PNG]


async def test_a_picture_that_is_late_does_not_hold_up_for_ever(tmp_path: Path) -> None:
    """After two minutes the result is delivered without it; the attempt says why, and that it is still being tried."""
    async with engine(tmp_path) as kit:
        await kit.succeeded(imageUrl=f"{kit.origin.url}/missing.png")
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        kit.clock.advance(119)
        assert await dispatcher.dispatch_once() == 0
        kit.clock.advance(1.001)
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        (attempt,) = handler.attempts
        assert (attempt.media, attempt.media_pending) == ((), True)
        assert "404" in (attempt.media_problem or "")


async def test_a_failure_has_no_media_and_no_problem(tmp_path: Path) -> None:
    """Nothing is missing where nothing was promised."""
    async with engine(tmp_path) as kit:
        await owed(kit)
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (attempt,) = handler.attempts
        assert (attempt.media, attempt.media_problem, attempt.media_pending) == ((), None, False)
        assert attempt.event.reason == "the bow broke"


async def test_the_parents_receipt_is_given_along(tmp_path: Path) -> None:
    """What a reply threads under: the parent's last receipt at the same destination, not at another."""
    async with engine(tmp_path, routes=("main", "other")) as kit:
        handler, other = Recording(Receipt(ref="thread")), Recording(Receipt(ref="elsewhere"))
        dispatcher = kit.dispatcher(destination("main", handler), destination("other", other))
        parent = await owed(kit)
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        plain = await kit.prepared()
        child = type(plain)(**{name: getattr(plain, name) for name in plain.__struct_fields__} | {
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "parent_id": parent,
        })  # fmt: skip
        await kit.journal.add(child)
        kit.relay.submits = [answer(1, "child")]
        await kit.submissions.send(child.id)
        kit.relay.tasks["child"] = wire_task("child", "FAILURE")
        kit.clock.advance(16)
        await kit.reconciler.reconcile_once()
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert handler.attempts[-1].parent == Receipt(ref="thread")
        assert handler.attempts[-1].previous is None
        assert other.attempts[-1].parent == Receipt(ref="elsewhere")


async def test_only_the_last_word_is_delivered(tmp_path: Path) -> None:
    """A destination that was down gets the result, not yesterday's percentages; a running one is not overtaken."""
    async with engine(tmp_path, progress=True) as kit:
        row = await kit.submit()
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()  # task.accepted is running
        for percent in (10, 40):
            await kit.calls_back(row, "IN_PROGRESS", progress=percent)
        kit.relay.tasks["17"] = wire_task("17", "FAILURE")
        kit.clock.advance(16)
        await kit.reconciler.reconcile_once()
        assert await dispatcher.dispatch_once() == 0  # one at a time
        assert [item.status for item in await kit.deliveries(row.id)] == [
            "running",
            "cancelled",
            "cancelled",
            "pending",
        ]
        handler.go.set()
        await dispatcher.settle()
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        assert [item.status for item in await kit.deliveries(row.id)][-1] == "succeeded"


# --- a destination that is down ----------------------------------------------------------------------------------


async def test_a_destination_that_is_down_is_left_alone(tmp_path: Path) -> None:
    """Of fifty deliveries a handful pays for the outage; one probes, and when it works all are made."""
    async with engine(tmp_path) as kit:
        for _ in range(50):
            await owed(kit)
        down = OSError("connection refused")
        handler = Recording(*[down] * (DOWN_AFTER + 2), Receipt(ref="made"))
        dispatcher = kit.dispatcher(destination("main", handler, concurrency=DOWN_AFTER))
        while await dispatcher.dispatch_once():
            await dispatcher.settle()
        assert len(handler.attempts) == DOWN_AFTER
        for seconds in (12, 35):  # two probes fail
            kit.clock.advance(seconds)
            assert await dispatcher.dispatch_once() == 1
            assert await dispatcher.dispatch_once() == 0
            await dispatcher.settle()
            assert await dispatcher.dispatch_once() == 0
        kit.clock.advance(70)
        while await dispatcher.dispatch_once():
            await dispatcher.settle()
        kit.clock.advance(600)
        while await dispatcher.dispatch_once():
            await dispatcher.settle()
        deliveries = await kit.journal.deliveries(limit=100)
        assert {one.status for one in deliveries} == {"succeeded"}
        assert sorted(one.failures for one in deliveries) == [0] * 43 + [1] * 7


async def test_a_rate_limit_is_kept_in_the_destinations_row(tmp_path: Path) -> None:
    """`RetryLater(pause=True)` says why and until when; nobody is charged, and no failure is counted."""
    async with engine(tmp_path) as kit:
        await owed(kit)
        later = RetryLater.from_headers({"Retry-After": "300"}, otherwise=1, reason="429 from the webhook")
        dispatcher = kit.dispatcher(destination("main", Recording(later)))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (row,) = await kit.journal.destinations()
        assert (row.failures, row.paused_reason) == (0, "429 from the webhook")
        assert row.paused_until_ms == kit.clock.now_ms() + 300_000


# --- handlers that do not end ------------------------------------------------------------------------------------


async def test_a_handler_that_ignores_its_end_is_recorded_without_it(tmp_path: Path) -> None:
    """Its delivery has failed and comes again; what it still does is refused; its slot stays taken until it ends."""
    async with engine(tmp_path) as kit:
        submission = await owed(kit)
        go = asyncio.Event()

        async def stubborn(attempt: Attempt) -> Receipt:
            while not go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go.wait()
            return Receipt(ref="too late")

        handler = Recording(stubborn)
        dispatcher = kit.dispatcher(destination("main", handler, timeout=0.02, concurrency=1), stuck_seconds=0.02)
        with logged() as lines:
            await dispatcher.dispatch_once()
            async with asyncio.timeout(PATIENCE):
                while (await only(kit, submission)).status == "running":  # noqa: ASYNC110 - the journal has no event
                    await asyncio.sleep(0.01)
            delivery = await only(kit, submission)
            assert (delivery.status, delivery.failures, delivery.receipt) == ("pending", 1, None)
            assert delivery.detail is not None
            assert "ignores that it was cancelled" in delivery.detail
            await owed(kit)
            assert await dispatcher.dispatch_once() == 0  # the slot
            go.set()
            await dispatcher.settle()
            assert await dispatcher.dispatch_once() == 1
            await dispatcher.settle()
        names = [line["event"] for line in lines if line["event"].startswith("delivery.")]
        assert names[:3] == ["delivery.stuck", "delivery.failed", "delivery.refused"]
        assert await outcomes(kit, delivery) == ["failed", "succeeded"]
