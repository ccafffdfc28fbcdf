"""An engine among others on a journal that several share: what it does about life, lead and death, its own included.

The journal is a real one whose part about engines a test speaks: what a database says of that, its own tests prove.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine import Kit, destination, engine, logged, until
from receiver.app.display_status import GAP_SECONDS, Standing
from test_dispatcher import Hanging, only, outcomes, owed

from receiver.engine.dispatcher import Dispatcher
from receiver.errors import EngineRunning, JournalError
from receiver.journal import BEAT_SECONDS, DEAD_SECONDS, LEASE_SECONDS, Journal


@dataclass
class Shared:
    """Says of engines what the test wants, and keeps what it was asked."""

    journal: Journal
    shared: bool = True
    living: bool = True
    leading: bool = True
    problem: Exception | None = None
    entered: list[tuple[str, str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.problem is not None:
            raise self.problem

    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        self._ask("become_engine")
        self.entered.append((role, owner, store))

    async def beat(self, owner: str) -> bool:
        self._ask("beat")
        return self.living

    async def lead(self, owner: str) -> bool:
        self._ask("lead")
        return self.leading

    async def resign(self, owner: str) -> None:
        self._ask("resign")


@dataclass
class Member:
    """An engine that has entered."""

    kit: Kit
    journal: Shared
    handler: Hanging
    dispatcher: Dispatcher
    standing: Standing
    told: list[str]

    async def step(self, name: str) -> None:
        await self.display_status.steps()[name]()

    async def settle(self) -> None:
        """Give signs of life, without a gap, for as long as all others need to give theirs."""
        for _ in range(round(GAP_SECONDS / BEAT_SECONDS)):
            self.kit.clock.advance(BEAT_SECONDS)
            await self.step("beat")


@asynccontextmanager
async def member(folder: Path, **says: Any) -> AsyncIterator[Member]:
    async with engine(folder) as kit:
        journal: Any = Shared(kit.journal, **says)
        handler = Hanging()
        dispatcher = kit.dispatcher(destination("main", handler))
        told: list[str] = []
        standing = Standing(
            journal=journal, dispatcher=dispatcher, clock=kit.clock,
            led=lambda: told.append("led"), freed=lambda: told.append("freed"),
        )  # fmt: skip
        await standing.enter("worker", store="here")
        yield Member(kit, journal, handler, dispatcher, standing, told)
        await dispatcher.drain(0)


async def test_where_one_engine_may_run_it_lives_and_leads(tmp_path: Path) -> None:
    """Without a sign of life, from entering to leaving; there is nothing to repeat."""
    async with member(tmp_path, shared=False) as one:
        one.kit.clock.advance(10**6)
        assert (one.display_status.lives, one.display_status.leads) == (True, True)
        assert one.display_status.steps() == {}
        await one.display_status.leave()
        assert (one.display_status.lives, one.display_status.leads) == (False, False)


async def test_an_engine_that_enters_lives_and_does_not_lead(tmp_path: Path) -> None:
    """Its claims are signed as it entered, and each time it enters it is another."""
    async with member(tmp_path) as one:
        ((role, owner, store),) = one.journal.entered
        assert (role, store, one.dispatcher.owner) == ("worker", "here", owner)
        assert (one.display_status.lives, one.display_status.leads) == (True, False)
        await one.display_status.leave()
        await one.display_status.enter("worker", store="here")
        assert one.journal.entered[1][1] != owner


async def test_without_a_sign_of_life_it_claims_no_more(tmp_path: Path) -> None:
    """Others may have taken it for dead by then; a sign that is heard lets it go on."""
    async with member(tmp_path) as one:
        one.kit.clock.advance(DEAD_SECONDS - 0.1)
        assert one.display_status.lives
        one.kit.clock.advance(0.2)
        assert not one.display_status.lives
        await one.step("beat")
        assert one.display_status.lives


async def test_an_engine_that_was_asleep_claims_nothing_before_its_next_sign_of_life(tmp_path: Path) -> None:
    """A machine was suspended for longer than engines may be silent, and its clock that only goes forward stood still
    meanwhile: others may have taken it for dead, and another one may lead."""
    async with member(tmp_path) as one:
        await one.step("beat")
        await one.step("lead")
        one.kit.clock.step(LEASE_SECONDS)
        assert (one.display_status.lives, one.display_status.leads) == (True, False)
        one.kit.clock.step(DEAD_SECONDS - LEASE_SECONDS)
        assert (one.display_status.lives, one.display_status.leads) == (False, False)
        one.kit.clock.advance(BEAT_SECONDS)
        await one.step("beat")
        await one.step("lead")
        assert (one.display_status.lives, one.display_status.leads) == (True, True)


async def test_a_wall_clock_that_is_set_back_takes_no_lead_away(tmp_path: Path) -> None:
    """Nor does it prolong any: the leader has to mend what waits for a time."""
    async with member(tmp_path) as one:
        await one.step("lead")
        one.kit.clock.step(-3600)
        assert (one.display_status.lives, one.display_status.leads) == (True, True)
        one.kit.clock.advance(DEAD_SECONDS)
        assert (one.display_status.lives, one.display_status.leads) == (False, False)


async def test_signs_of_life_are_given_in_time_and_not_oftener(tmp_path: Path) -> None:
    """However often the loop looks; one that failed is given again at the next look."""
    async with member(tmp_path) as one:
        beat = one.display_status.steps()["beat"]
        for _ in range(3):
            await beat()
        assert one.journal.asked.count("beat") == 1
        one.kit.clock.advance(BEAT_SECONDS)
        one.journal.problem = JournalError("The database is away.")
        for _ in range(2):
            with pytest.raises(JournalError):
                await beat()
        assert one.journal.asked.count("beat") == 3


async def test_the_leader_says_so_again_before_its_lease_ends(tmp_path: Path) -> None:
    """It is told once that it leads, and asks no oftener than it gives signs of life."""
    async with member(tmp_path) as one:
        lead = one.display_status.steps()["lead"]
        for _ in range(3):
            await lead()
        assert one.display_status.leads
        assert one.journal.asked.count("lead") == 1
        one.kit.clock.advance(BEAT_SECONDS)
        await lead()
        assert one.journal.asked.count("lead") == 2
        assert one.told == ["led"]


async def test_a_leader_that_is_not_heard_leads_no_longer_than_its_lease(tmp_path: Path) -> None:
    """Another one may lead from then on, whatever this one hears."""
    async with member(tmp_path) as one:
        await one.step("lead")
        one.journal.problem = JournalError("The database is away.")
        one.kit.clock.advance(LEASE_SECONDS - 0.1)
        with pytest.raises(JournalError):
            await one.step("lead")
        assert one.display_status.leads
        one.kit.clock.advance(0.2)
        assert not one.display_status.leads


async def test_who_does_not_lead_asks_at_each_look(tmp_path: Path) -> None:
    """So that a dead leader's lease is taken over as soon as it ends."""
    async with member(tmp_path, leading=False) as one:
        lead = one.display_status.steps()["lead"]
        for _ in range(3):
            await lead()
        assert (one.display_status.leads, one.journal.asked.count("lead")) == (False, 3)
        one.journal.leading = True
        await lead()
        assert (one.display_status.leads, one.told) == (True, ["led"])


async def test_a_leader_that_lost_its_lease_stops(tmp_path: Path) -> None:
    """As soon as it hears that another one leads."""
    async with member(tmp_path) as one:
        await one.step("lead")
        one.journal.leading = False
        one.kit.clock.advance(BEAT_SECONDS)
        await one.step("lead")
        assert not one.display_status.leads


async def test_the_leader_frees_what_the_dead_left(tmp_path: Path) -> None:
    """Nobody else does; what is due again is told at once."""
    async with member(tmp_path, leading=False) as one:
        await owed(one.kit)
        (work,) = await one.kit.journal.claim("main", owner="vanished", limit=1, now_ms=one.kit.clock.now_ms())
        await one.step("beat")
        await one.settle()
        await one.step("free")
        assert one.told == []
        one.journal.leading = True
        await one.step("lead")
        await one.step("free")
        assert one.told == ["led", "freed"]
        delivery = await only(one.kit, work.delivery.submission_id)
        assert (delivery.status, delivery.failures) == ("pending", 1)


async def test_after_an_outage_everybody_has_his_turn_before_anybody_is_freed(tmp_path: Path) -> None:
    """The database was away for longer than engines may be silent, so all seem dead when it is back: the leader waits
    until the others had time to say that they are not."""
    async with member(tmp_path) as one:
        await owed(one.kit)
        await one.kit.journal.claim("main", owner="silent, too", limit=1, now_ms=one.kit.clock.now_ms())
        await one.step("beat")
        await one.settle()
        one.journal.problem = JournalError("The database is away.")
        one.kit.clock.advance(DEAD_SECONDS * 2)
        with pytest.raises(JournalError):
            await one.step("beat")
        one.journal.problem = None
        await one.step("beat")
        await one.step("lead")
        assert (one.display_status.lives, one.display_status.leads) == (True, True)
        await one.step("free")
        assert one.told == ["led"]
        await one.settle()
        await one.step("lead")
        await one.step("free")
        assert one.told == ["led", "freed"]


async def test_taken_for_dead_it_drops_what_runs_and_goes_on_as_another(tmp_path: Path) -> None:
    """Others have freed and claimed it: the handler is ended, its end is refused, and new claims have a new owner."""
    async with member(tmp_path) as one:
        submission = await owed(one.kit)
        assert await one.dispatcher.dispatch_once() == 1
        await until(lambda: one.handler.running == 1)
        before = one.dispatcher.owner
        await one.kit.journal.free_running("another", one.kit.clock.now_ms())  # what the leader did
        one.journal.living = False
        with logged() as lines:
            await one.step("beat")
        assert one.handler.running == 0
        assert [(line["owner"], line["dropped"]) for line in lines if line["event"] == "engine.taken_for_dead"] == [
            (before, 1)
        ]
        delivery = await only(one.kit, submission)
        assert (delivery.status, delivery.failures, await outcomes(one.kit, delivery)) == ("pending", 1, ["vanished"])
        assert one.display_status.lives
        assert one.dispatcher.owner not in {"", before}
        assert one.journal.entered[-1][1] == one.dispatcher.owner


async def test_a_dead_leader_leads_no_more(tmp_path: Path) -> None:
    """It has to become an engine again before it may lead again."""
    async with member(tmp_path) as one:
        await one.step("lead")
        one.journal.living = False
        one.kit.clock.advance(BEAT_SECONDS)
        await one.step("beat")
        assert (one.display_status.lives, one.display_status.leads) == (True, False)


async def test_one_that_only_steps_in_stays_out_while_others_live(tmp_path: Path) -> None:
    """Taken for dead, and another engine has come: it claims nothing, and enters again when that one has gone."""
    async with member(tmp_path) as one:
        one.journal.living = False
        beat = one.display_status.steps()["beat"]

        async def refuse(role: str, owner: str, *, store: str) -> None:
            raise EngineRunning("Another engine lives.", holder="serve")

        entering, one.journal.become_engine = one.journal.become_engine, refuse  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(EngineRunning):
                await beat()
            assert not one.display_status.lives
        assert one.journal.asked.count("beat") == 1
        one.journal.become_engine = entering  # type: ignore[method-assign]
        await beat()
        assert one.display_status.lives


async def test_a_claim_that_outlived_its_owner_is_not_begun(tmp_path: Path) -> None:
    """It was under way when the engine was taken for dead: whoever leads frees it, and nobody runs it twice."""
    async with member(tmp_path) as one:
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


@pytest.mark.parametrize("problem", [JournalError("The database is away."), TimeoutError()])
async def test_leaving_is_not_held_up_by_a_journal_that_is_away(tmp_path: Path, problem: Exception) -> None:
    """Others learn it by our silence; the log says so."""
    async with member(tmp_path) as one:
        one.journal.problem = problem
        with logged() as lines:
            await one.display_status.leave()
        assert [line["event"] for line in lines] == ["engine.not_resigned"]
        assert not one.display_status.lives


async def test_who_has_not_entered_has_nothing_to_leave(tmp_path: Path) -> None:
    """A process that only submits asks a database for nothing at its end."""
    async with member(tmp_path) as one:
        await one.display_status.leave()
        await one.display_status.leave()
        assert one.journal.asked.count("resign") == 1
