"""Replay: what a person asks for once more, on a real journal with real handlers."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import Kit, Recording, StillClock, destination, engine
from journals import Store

from receiver.deliveries import Delivery, Receipt
from receiver.errors import InputError, NotFound
from receiver.events import Submission, first_id
from receiver.handlers.base import Rejected
from receiver.journal.selection import Order
from receiver.journal.store import Filter
from receiver.maintenance.replay import Replay

PICTURE = "/1.png"


def replaying(kit: Kit, *names: str) -> Replay:
    return Replay(
        journal=kit.journal,
        destinations=names or ("main",),
        clock=kit.clock,
        changed=lambda: kit.woken.append(kit.clock.time),
    )


async def delivered(kit: Kit, handler: Recording) -> tuple[Submission, Delivery]:
    """A result without a picture, brought to `main`."""
    row = await kit.succeeded()
    kit.clock.advance(121)
    await run(kit, handler)
    [delivery] = await kit.deliveries(row.id)
    return row, delivery


async def run(kit: Kit, handler: Recording, name: str = "main") -> None:
    dispatcher = kit.dispatcher(destination(name, handler))
    while await dispatcher.dispatch_once():
        await dispatcher.settle()


async def replay(kit: Kit, delivery: Delivery, *names: str, to: str | None = None, as_new: bool = False) -> list[str]:
    """The outcomes."""
    verb = replaying(kit, *names)
    orders = await verb.of_deliveries(Filter(ids=(delivery.id,)), to=to, as_new=as_new)
    return [done.outcome for done in await verb.carry_out(orders)]


async def test_a_replay_keeps_the_key_and_goes_on_counting(tmp_path: Path, store: Store) -> None:
    """The same delivery runs again: same id, attempts numbered on, and each says whether a person asked for it."""
    async with engine(tmp_path, at=store) as kit:
        handler = Recording()
        _, delivery = await delivered(kit, handler)
        assert await replay(kit, delivery) == ["again"]
        await run(kit, handler)
        first, second = handler.attempts
        assert first.idempotency_key == second.idempotency_key == delivery.id
        assert [attempt.number for attempt in handler.attempts] == [1, 2]
        assert [item.manual for item in await kit.journal.attempts(delivery.id)] == [False, True]
        assert second.previous == Receipt(ref="made")


async def test_replayed_twice_it_runs_twice(tmp_path: Path) -> None:
    """One after the other makes two attempts; while the first is still owed the second says so and adds nothing."""
    async with engine(tmp_path) as kit:
        handler = Recording()
        _, delivery = await delivered(kit, handler)
        for _ in range(2):
            assert await replay(kit, delivery) == ["again"]
            assert await replay(kit, delivery) == ["owed"]
            await run(kit, handler)
        assert len(handler.attempts) == 3


async def test_a_replay_of_what_runs_changes_nothing(tmp_path: Path) -> None:
    """Its row belongs to the attempt under way; the person is told."""
    async with engine(tmp_path) as kit:
        told: list[list[str]] = []

        async def ask(attempt: object) -> Receipt:
            [item] = await kit.journal.deliveries(limit=1, status="running")
            told.append(await replay(kit, item))
            return Receipt()

        handler = Recording(ask)
        _, delivery = await delivered(kit, handler)
        assert told == [["running"]]
        assert delivery.status == "succeeded"
        assert len(handler.attempts) == 1


async def test_a_dead_delivery_has_all_its_tries_again(tmp_path: Path) -> None:
    """The failures start afresh, and after the person's attempt the automatic ones go on by themselves."""
    async with engine(tmp_path) as kit:
        handler = Recording(Rejected("no such folder"), RuntimeError("still not"), Receipt(ref="now"))
        _, dead = await delivered(kit, handler)
        assert dead.status == "dead"
        assert await replay(kit, dead) == ["again"]
        await run(kit, handler)
        waiting = await kit.journal.delivery(dead.id)
        assert waiting is not None
        assert (waiting.status, waiting.failures) == ("pending", 1)
        kit.clock.advance(10)
        await run(kit, handler)
        attempts = await kit.journal.attempts(dead.id)
        assert [(item.outcome, item.manual) for item in attempts] == [
            ("rejected", False),
            ("failed", True),
            ("succeeded", False),
        ]


async def test_what_waits_for_its_retry_is_tried_now(tmp_path: Path) -> None:
    """A person need not wait for the backoff."""
    async with engine(tmp_path) as kit:
        handler = Recording(RuntimeError("busy"), Receipt())
        _, delivery = await delivered(kit, handler)
        assert delivery.status == "pending"
        assert await replay(kit, delivery) == ["sooner"]
        await run(kit, handler)
        assert len(handler.attempts) == 2


async def test_what_waits_for_its_picture_goes_on_waiting(tmp_path: Path) -> None:
    """Its first attempt is still to come, with the picture."""
    async with engine(tmp_path) as kit:
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}{PICTURE}")
        [delivery] = await kit.deliveries(row.id)
        assert delivery.due_ms > kit.clock.now_ms()
        assert await replay(kit, delivery) == ["owed"]
        [after] = await kit.deliveries(row.id)
        assert after == delivery


async def test_as_new_mints_a_key(tmp_path: Path) -> None:
    """A destination that remembers keys takes it for something new."""
    async with engine(tmp_path) as kit:
        handler = Recording()
        row, delivery = await delivered(kit, handler)
        assert await replay(kit, delivery, as_new=True) == ["new"]
        await run(kit, handler)
        assert len({attempt.idempotency_key for attempt in handler.attempts}) == 2
        assert [item.manual for item in await kit.deliveries(row.id)] == [False, True]


async def test_to_another_destination(tmp_path: Path) -> None:
    """Also one configured since: a new delivery there at first, the same one when it is replayed again."""
    async with engine(tmp_path) as kit:
        row, delivery = await delivered(kit, Recording())
        assert await replay(kit, delivery, "main", "archive", to="archive") == ["new"]
        archive = Recording()
        await run(kit, archive, "archive")
        assert await replay(kit, delivery, "main", "archive", to="archive") == ["again"]
        await run(kit, archive, "archive")
        assert len({attempt.idempotency_key for attempt in archive.attempts}) == 1
        assert [attempt.number for attempt in archive.attempts] == [1, 2]
        assert [item.destination for item in await kit.deliveries(row.id)] == ["main", "archive"]


async def test_an_unknown_destination_is_refused(tmp_path: Path) -> None:
    """With the names there are; also for a delivery whose own destination has gone from the settings."""
    async with engine(tmp_path) as kit:
        _, delivery = await delivered(kit, Recording())
        with pytest.raises(InputError, match=r"no destination 'nope' in the settings\. There are: main"):
            await replay(kit, delivery, to="nope")
        with pytest.raises(InputError, match=r"no destination 'main' in the settings\. There are: other"):
            await replay(kit, delivery, "other")


async def test_everything_at_once_is_refused(tmp_path: Path) -> None:
    """A selection that selects nothing would be everything."""
    async with engine(tmp_path) as kit:
        with pytest.raises(InputError, match="refused"):
            await replaying(kit).of_deliveries(Filter())
        with pytest.raises(InputError, match="refused"):
            await replaying(kit).of_events(Filter())


async def test_what_is_not_there(tmp_path: Path) -> None:
    """An id that nothing has is an error; a selection that nothing fits is an empty one."""
    async with engine(tmp_path) as kit:
        verb = replaying(kit)
        with pytest.raises(NotFound, match="no delivery 'nope'"):
            await verb.of_deliveries(Filter(ids=("nope",)))
        with pytest.raises(NotFound, match="no event 'nope'"):
            await verb.of_events(Filter(ids=("nope",)))
        assert await verb.of_deliveries(Filter(status="dead")) == []


async def test_a_selection_narrows_by_everything_given(tmp_path: Path, store: Store) -> None:
    """Submission, destination, status and time, of deliveries and of events, however many pages that are."""
    async with engine(tmp_path, at=store, routes=("main", "side")) as kit:
        rows = []
        for _ in range(3):
            rows.append(await kit.succeeded())
            kit.clock.advance(1000)
        await run(kit, Recording())
        verb = replaying(kit, "main", "side")

        async def found(**fields: object) -> list[tuple[int, str]]:
            orders = await verb.of_deliveries(Filter(**fields))  # type: ignore[arg-type]
            return [([row.id for row in rows].index(order.submission_id), order.destination) for order in orders]

        middle = (await kit.deliveries(rows[1].id))[0].created_ms
        assert sorted(await found(submission_id=rows[1].id)) == [(1, "main"), (1, "side")]
        assert await found(destination="side") == [(0, "side"), (1, "side"), (2, "side")]
        assert await found(status="succeeded") == [(0, "main"), (1, "main"), (2, "main")]
        assert sorted(await found(since_ms=middle)) == [(1, "main"), (1, "side"), (2, "main"), (2, "side")]
        assert sorted(await found(until_ms=middle)) == [(0, "main"), (0, "side")]
        assert await found(since_ms=middle, destination="main", status="succeeded") == [(1, "main"), (2, "main")]
        events = await verb.of_events(Filter(type="task.succeeded", since_ms=middle, destination="main"))
        assert [order.submission_id for order in events] == [rows[1].id, rows[2].id]


async def test_more_than_a_page(tmp_path: Path, store: Store) -> None:
    """Nothing of a large selection is left out or taken twice, and what it makes does not join it."""
    async with engine(tmp_path, at=store) as kit:
        row = await kit.succeeded()
        [delivery] = await kit.deliveries(row.id)
        order = Order(event_id=delivery.event_id, submission_id=row.id, destination="main", as_new=True)
        verb = replaying(kit)
        await verb.carry_out([order] * 450)
        orders = await verb.of_deliveries(Filter(destination="main"), as_new=False)
        assert len(orders) == len({item.delivery_id for item in orders}) == 451
        again = await verb.of_deliveries(Filter(destination="main"), as_new=True)
        assert len(again) == 1  # all of one event: one new delivery, not hundreds


async def test_foreseen_is_what_then_happens(tmp_path: Path) -> None:
    """A dry run writes nothing and says the same."""
    async with engine(tmp_path) as kit:
        row, _ = await delivered(kit, Recording())
        verb = replaying(kit, "main", "archive")
        before = await kit.deliveries(row.id)
        orders = await verb.of_events(Filter(submission_id=row.id), to="archive")
        foreseen = await verb.foresee(orders)
        assert await kit.deliveries(row.id) == before
        done = await verb.carry_out(orders)
        assert [item.outcome for item in foreseen] == [item.outcome for item in done] == ["new"]
        assert done[0].delivery_id is not None


async def test_events_go_where_they_went(tmp_path: Path) -> None:
    """To each of their destinations once, by the newest delivery there; to another one only what is decisive."""
    async with engine(tmp_path, routes=("main", "side"), progress=True) as kit:
        row = await kit.succeeded()
        kit.clock.advance(121)
        await run(kit, Recording())
        await run(kit, Recording(), "side")
        verb = replaying(kit, "main", "side", "archive")
        event = Filter(ids=(f"{row.id}.task.succeeded",))
        await verb.carry_out(await verb.of_events(event, as_new=True))
        again = await verb.of_events(event)
        newest = {item.destination: item.id for item in await kit.deliveries(row.id)}
        assert {order.destination: order.delivery_id for order in again} == newest
        everything = await verb.of_events(Filter(submission_id=row.id))
        assert {order.event_id.partition(".")[2] for order in everything} == {"task.accepted", "task.succeeded"}
        there = await verb.of_events(Filter(submission_id=row.id), to="archive")
        assert [order.event_id for order in there] == [f"{row.id}.task.succeeded"]
        named = await verb.of_events(Filter(submission_id=row.id, type="task.accepted"), to="archive")
        assert [order.event_id for order in named] == [f"{row.id}.task.accepted"]


async def test_what_went_to_one_destination_goes_to_another(tmp_path: Path) -> None:
    """`destination` chooses the events, `to` is where they go."""
    async with engine(tmp_path, routes=("main",)) as kit:
        row = await kit.succeeded()
        verb = replaying(kit, "main", "side", "archive")
        there = await verb.of_events(Filter(destination="main"), to="archive")
        assert [(order.submission_id, order.destination) for order in there] == [(row.id, "archive")]
        assert await verb.of_events(Filter(destination="side"), to="archive") == []


async def test_ids_are_not_narrowed(tmp_path: Path) -> None:
    """Who names one by one means these; a filter beside them would be a mistake that nobody sees."""
    async with engine(tmp_path) as kit:
        row, delivery = await delivered(kit, Recording())
        for selection in (
            Filter(ids=(delivery.id,), status="dead"),
            Filter(ids=(delivery.id,), destination="main"),
            Filter(ids=(delivery.id,), submission_id=row.id),
        ):
            with pytest.raises(InputError, match="not both"):
                await replaying(kit).of_deliveries(selection)
        with pytest.raises(InputError, match="not both"):
            await replaying(kit).of_events(Filter(ids=(delivery.event_id,), type="task.failed"))
        assert len(await replaying(kit).of_events(Filter(ids=(delivery.event_id,), destination="main"))) == 1


async def test_events_nobody_was_owed(tmp_path: Path) -> None:
    """They went nowhere, so a destination must be named."""
    async with engine(tmp_path, routes=()) as kit:
        row = await kit.succeeded()
        verb = replaying(kit)
        with pytest.raises(InputError, match="Name one with --to"):
            await verb.of_events(Filter(submission_id=row.id))
        assert len(await verb.of_events(Filter(submission_id=row.id), to="main")) == 1


async def test_a_newer_event_leaves_a_replay_alone(tmp_path: Path) -> None:
    """A replayed failure is still delivered when the task has succeeded after all, and takes nothing's place."""
    async with engine(tmp_path) as kit:
        row = await kit.submit()
        await kit.intake.polled(row.id, None)
        await kit.calls_back(row, "FAILURE", fail_reason="timeout")
        kit.clock.advance(31)
        await kit.reconciler.reconcile_once()
        handler = Recording()
        await run(kit, handler)
        [failed] = await kit.deliveries(row.id)
        assert await replay(kit, failed) == ["again"]
        await kit.calls_back(row, "SUCCESS", action="SHORTEN", final_prompt="a boat")
        kit.clock.advance(31)
        await kit.reconciler.reconcile_once()
        owed = await kit.deliveries(row.id)
        assert [item.status for item in owed] == ["pending", "pending"]
        kit.clock.advance(121)
        await run(kit, handler)
        assert [attempt.event.type for attempt in handler.attempts] == ["task.failed", "task.failed", "task.succeeded"]


async def test_of_a_deleted_event_nothing_is_replayed(tmp_path: Path, store: Store) -> None:
    """Should its submission be deleted between the look and the replay, that is told."""
    async with engine(tmp_path, at=store) as kit:
        row, delivery = await delivered(kit, Recording())
        orders = await replaying(kit).of_deliveries(Filter(ids=(delivery.id,)))
        assert await kit.journal.erase(row.id, force=True)
        assert [item.outcome for item in await replaying(kit).carry_out(orders)] == ["gone"]
        assert await kit.deliveries(row.id) == []


async def test_a_running_engine_is_woken(tmp_path: Path) -> None:
    """In the same process nobody waits for the next look at the journal."""
    async with engine(tmp_path) as kit:
        _, delivery = await delivered(kit, Recording())
        kit.woken.clear()
        await replay(kit, delivery)
        assert kit.woken


def test_the_first_id_of_a_time() -> None:
    """No id made then is smaller, none made before is larger."""
    assert first_id(1_800_000_000_000) < first_id(1_800_000_000_001)
    assert len(first_id(StillClock().now_ms())) == 26
