"""Engines of one journal: joining, heartbeats, expiry, the leader. And an engine that finds itself expired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine import Kit, destination, engine, logged, until
from journals import STORES
from test_dispatcher import Hanging, only, outcomes, owed
from test_run_until_idle import Members, Shared

from receiver.engine.dispatcher import Dispatcher
from receiver.engine.engine import Engine
from receiver.errors import EngineRunning, JournalError
from receiver.journal.membership import EXPIRE_SECONDS, HEARTBEAT_SECONDS, SharedMembership
from receiver.journal.store import SharedValue


@dataclass
class Values:
    """Shared values in memory, as every store keeps them."""

    place: str = "the test's journal"
    kept: dict[str, SharedValue] = field(default_factory=dict)
    count: int = 0

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        return {key: item for key, item in self.kept.items() if key.startswith(prefix)}

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        now = self.kept.get(key)
        if (now.version if now else None) != version:
            return None
        self.count += 1
        if data is None:
            del self.kept[key]
            return ""
        self.kept[key] = SharedValue(key=key, data=data, version=str(self.count))
        return str(self.count)


class Observers:
    """Processes that share a journal, and a monotonic clock that tests move."""

    def __init__(self) -> None:
        self.values: Any = Values()
        self.now = 0.0

    def process(self) -> SharedMembership:
        return SharedMembership(self.values, lambda: self.now)


async def test_a_member_without_a_heartbeat_expires(tmp_path: Path) -> None:
    """Each observer counts on its own clock from when it last saw a change; a late heartbeat is refused."""
    world = Observers()
    alive, gone = world.process(), world.process()
    await alive.join("worker", "alive", store="here")
    await gone.join("worker", "gone", store="here")
    for _ in range(3):
        world.now += HEARTBEAT_SECONDS
        assert await alive.heartbeat("alive")
        assert await alive.expire("alive") == []
    world.now += HEARTBEAT_SECONDS
    assert await alive.expire("alive") == []  # 12 s since it was first seen
    world.now += HEARTBEAT_SECONDS
    assert await alive.expire("alive") == ["gone"]
    assert await alive.owners() == {"alive"}
    assert not await gone.heartbeat("gone")


async def test_members_with_heartbeats_never_expire() -> None:
    """However long they run, and whatever their wall clocks say."""
    world = Observers()
    one, two = world.process(), world.process()
    await one.join("worker", "one", store="here")
    await two.join("worker", "two", store="here")
    for _ in range(30):
        world.now += HEARTBEAT_SECONDS
        assert await one.heartbeat("one")
        assert await two.heartbeat("two")
        assert await one.expire("one") == await two.expire("two") == []


async def test_after_an_outage_counting_starts_again() -> None:
    """Nobody could show a heartbeat meanwhile, so nobody has expired."""
    world = Observers()
    one, two = world.process(), world.process()
    await one.join("worker", "one", store="here")
    await two.join("worker", "two", store="here")
    await one.expire("one")
    world.now += 10 * EXPIRE_SECONDS
    assert await one.expire("one") == []
    assert await two.heartbeat("two")


async def test_the_leader_leads_until_its_record_is_gone() -> None:
    """One at a time; the next one follows when it left or has expired."""
    world = Observers()
    one, two = world.process(), world.process()
    await one.join("worker", "one", store="here")
    await two.join("worker", "two", store="here")
    assert await one.lead("one")
    assert not await two.lead("two")
    assert await one.lead("one")
    assert [item.owner for item in await two.engines() if item.leads] == ["one"]
    await one.leave("one")
    assert await two.lead("two")
    assert not await one.heartbeat("one")


async def test_two_that_lead_at_once_are_one() -> None:
    """The value is swapped by comparison."""
    world = Observers()
    processes = [world.process() for _ in range(5)]
    for number, process in enumerate(processes):
        await process.join("worker", f"w{number}", store="here")
    led = await asyncio.gather(*(process.lead(f"w{number}") for number, process in enumerate(processes)))
    assert sum(led) == 1


async def test_a_command_that_runs_alone_waits_for_nothing_that_is_alive() -> None:
    """`submit --wait` leaves the work to the server; a copy is refused while an engine runs, and refuses others."""
    world = Observers()
    server = world.process()
    await server.join("serve", "server", store="here")
    for role, store in (("submit --wait", "here"), ("journal copy", "")):
        with pytest.raises(EngineRunning, match="already is an engine") as caught:
            await world.process().join(role, "other", store=store)
        assert caught.value.holder == "serve"
    assert await server.owners() == {"server"}
    await server.leave("server")
    await world.process().join("journal copy", "copy", store="")
    with pytest.raises(EngineRunning):
        await world.process().join("serve", "server", store="here")


async def test_another_media_store_is_refused() -> None:
    """Neither would find the other's pictures."""
    world = Observers()
    await world.process().join("serve", "one", store="here")
    with pytest.raises(JournalError, match="another media store"):
        await world.process().join("serve", "two", store="there")


async def test_a_killed_engine_is_waited_for_until_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record looks old, so the newcomer watches it for as long as an engine may be silent."""
    world = Observers()
    killed, new = world.process(), world.process()
    await killed.join("serve", "killed", store="here")
    new.heartbeat_seconds = 0.004  # it looks that often
    monkeypatch.setattr(new, "_fresh", lambda member: False)

    async def pass_time() -> None:
        while True:
            world.now += 1
            await asyncio.sleep(0.001)

    passing = asyncio.create_task(pass_time())
    await new.join("submit --wait", "new", store="here")
    passing.cancel()
    assert world.now >= EXPIRE_SECONDS
    assert await new.owners() == {"new"}


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "sqlite"])
async def test_membership_works_on_every_shared_store(kind: str, tmp_path: Path) -> None:
    """Two processes see each other, one leads, and a deleted record refuses a heartbeat."""
    async with STORES[kind](tmp_path) as store:
        one, two = await store.open(), await store.open()
        await one.membership.join("worker", "one", store="here")
        await two.membership.join("worker", "two", store="here")
        assert await one.membership.owners() == await two.membership.owners() == {"one", "two"}
        assert await one.membership.lead("one")
        assert not await two.membership.lead("two")
        assert await one.membership.heartbeat("one")
        assert [item.owner for item in await two.engines()] == ["one", "two"]
        assert isinstance(one.membership, SharedMembership)
        one.membership.expire_seconds = 0.0
        assert await one.membership.expire("one") == ["two"]
        assert not await two.membership.heartbeat("two")
        await one.membership.leave("one")
        for journal in (one, two):
            await journal.aclose()


# The engine


@dataclass
class Joined:
    """An engine that has joined others, and its steps."""

    kit: Kit
    members: Members
    handler: Hanging
    dispatcher: Dispatcher
    engine: Engine

    async def step(self, seconds: float = HEARTBEAT_SECONDS) -> None:
        self.kit.clock.advance(seconds)
        await self.engine._keep_membership()


class Leading(Members):
    """Members of which ours leads if the test says so."""

    leading = True
    gone: tuple[str, ...] = ()

    async def lead(self, owner: str) -> bool:
        return self.leading

    async def expire(self, owner: str) -> list[str]:
        return list(self.gone)


@asynccontextmanager
async def joined(folder: Path) -> AsyncIterator[Joined]:
    async with engine(folder) as kit:
        journal: Any = Shared(kit.journal)
        members = journal.membership = Leading()
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler), journal=journal)
        made = Engine(
            function=True,
            journal=journal, dispatcher=dispatcher, archiver=kit.archiver, submissions=kit.submissions,
            waiting=lambda: 0, store=kit.store, leading={}, destinations={"main": "recording"}, clock=kit.clock,
        )  # fmt: skip
        await made._join("worker")
        yield Joined(kit, members, handler, dispatcher, made)
        await dispatcher.drain(0)


async def test_without_a_heartbeat_it_claims_no_more(tmp_path: Path) -> None:
    """Others may have found it expired by then. The next heartbeat lets it go on."""
    async with joined(tmp_path) as one:
        assert one.engine.is_member
        one.kit.clock.advance(EXPIRE_SECONDS - HEARTBEAT_SECONDS + 0.1)
        assert not one.engine.is_member
        await one.step(0)
        assert one.engine.is_member


async def test_after_a_sleep_it_claims_nothing_before_its_next_heartbeat(tmp_path: Path) -> None:
    """The monotonic clock of a suspended machine stands still, its wall clock does not."""
    async with joined(tmp_path) as one:
        one.kit.clock.step(3600)
        assert not one.engine.is_member
        await one.step(0)
        assert one.engine.is_member


async def test_a_wall_clock_that_is_set_back_ends_no_membership(tmp_path: Path) -> None:
    """Nor does it prolong any."""
    async with joined(tmp_path) as one:
        one.kit.clock.step(-3600)
        assert one.engine.is_member
        one.kit.clock.advance(EXPIRE_SECONDS)
        assert not one.engine.is_member


async def test_the_leader_frees_what_expired_engines_left(tmp_path: Path) -> None:
    """No other does."""
    async with joined(tmp_path) as one:
        await owed(one.kit)
        (work,) = await one.kit.journal.claim("main", owner="gone", limit=1, now_ms=one.kit.clock.now_ms())
        one.members.leading = False
        await one.step()
        assert (await only(one.kit, work.delivery.submission_id)).status == "running"
        one.members.leading = True
        await one.step()
        delivery = await only(one.kit, work.delivery.submission_id)
        assert (delivery.status, delivery.failures) == ("pending", 1)


async def test_expired_it_drops_what_runs_and_goes_on_as_another(tmp_path: Path) -> None:
    """Others have freed and claimed it: the handler is ended, its end is refused, and new claims have a new owner."""
    async with joined(tmp_path) as one:
        submission = await owed(one.kit)
        assert await one.dispatcher.dispatch_once() == 1
        await until(lambda: one.handler.running == 1)
        before = one.dispatcher.owner
        await one.kit.journal.free_running("another", one.kit.clock.now_ms())  # by the leader
        one.members.alive = [False, True]
        with logged() as lines:
            await one.step()
        assert one.handler.running == 0
        assert [(line["owner"], line["dropped"]) for line in lines if line["event"] == "engine.expired"] == [
            (before, 1)
        ]
        delivery = await only(one.kit, submission)
        assert (delivery.status, delivery.failures, await outcomes(one.kit, delivery)) == ("pending", 1, ["vanished"])
        assert one.engine.is_member
        assert one.dispatcher.owner not in {"", before}


async def test_a_claim_that_outlived_its_owner_is_not_started(tmp_path: Path) -> None:
    """It was under way when the engine expired. The leader frees it, and it does not run twice."""
    async with joined(tmp_path) as one:
        submission = await owed(one.kit)
        asked, gate, claim = asyncio.Event(), asyncio.Event(), one.kit.journal.claim

        class Slow(Shared):
            async def claim(self, *args: Any, **more: Any) -> Any:
                asked.set()
                found = await claim(*args, **more)
                await gate.wait()
                return found

        journal: Any = Slow(one.kit.journal)
        dispatcher = Dispatcher(
            journal=journal, destinations={"main": destination("main", one.handler)}, store=one.kit.store,
            clock=one.kit.clock, owner="old", changed=lambda: None,
        )  # fmt: skip
        claiming = asyncio.create_task(dispatcher.dispatch_once())
        await asked.wait()
        assert await dispatcher.abandon() == 0
        dispatcher.owner = "new"
        gate.set()
        assert await claiming == 0
        assert one.handler.running == 0
        assert (await only(one.kit, submission)).owner == "old"


async def test_leaving_is_not_held_up_by_a_journal_that_is_away(tmp_path: Path) -> None:
    """The others find it expired. The log says so."""
    async with joined(tmp_path) as one:

        async def away(owner: str) -> None:
            raise JournalError("The database is away.")

        one.members.leave = away  # type: ignore[method-assign]
        with logged() as lines:
            await one.engine.stop()
            await one.engine.stop()
        assert [line["event"] for line in lines] == ["engine.not_left"]
        assert not one.engine.is_member
