"""The promises, under any order of submits, callbacks, polls, failing handlers, crashes, restarts and clock steps.

Real journal, intake, submissions, reconciler and dispatcher; only the network's ends are played. The last tests break
the build on purpose, each in another place, and the same checks must find every one.

RECEIVER_PROMISES=2000 looks at that many lives instead of the usual few.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from engine import logged, wire_task
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from promises import RANKS, Process, Seam, World

from receiver.deliveries import Completion
from receiver.events import Callback, Event, Submission
from receiver.journal import Change, Changed, Decide
from receiver.journal.store import DueKind

EXAMPLES = int(os.environ.get("RECEIVER_PROMISES", "20"))
PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    derandomize="RECEIVER_PROMISES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SETTLING = (16, 70, 70, 310, 4300, *[11 * 3600] * 8)
"""Seconds between the last looks: everything that is owed has its turn, the longest waits included."""

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - kill -9 loses no written page, so none is synced
PROGRESS = "task.progressed"
KINDS = ["signed"] * 5 + ["no state", "no url", "other state", "other task", "forged"]
BEHAVIOURS = ["take", "fail", "later", "pause", "reject", "crash"]
PERCENTS = st.sampled_from([0, 15, 46, 93, 100])
Action = Callable[[Process], Awaitable[None]]
WHICH = st.integers(0, 5)
STATUSES = st.sampled_from(["SUBMITTED", "IN_PROGRESS", "IN_PROGRESS", "SUCCESS", "FAILURE", "MODAL", "", "NOT_START"])
TROUBLES = (
    None,
    None,
    httpx.ConnectError("refused"),
    httpx.Response(200, text="<html>"),
    httpx.Response(200, text='[{"id": "t0", "sta'),
    httpx.Response(500),
    httpx.Response(200),
    httpx.Response(429, headers={"Retry-After": "60"}),
    httpx.Response(200, json={"id": "other", "status": "SUCCESS"}),
)


TWICE = """SELECT submission_id, destination FROM deliveries WHERE status = ?
GROUP BY submission_id, destination HAVING count(*) > 1"""


OPEN = """SELECT id FROM deliveries WHERE status IN ('pending', 'running')
UNION ALL SELECT id FROM submissions WHERE ended IS NULL AND status <> 'refused' """


ACCEPTED = """SELECT id, task_id, deadline_due_ms AS deadline_ms FROM submissions
WHERE status = 'accepted' AND ended IS NULL"""


class Promises(RuleBasedStateMachine):
    """One installation, with several processes one after the other."""

    seam: Seam = staticmethod(lambda journal: journal)

    def __init__(self) -> None:
        super().__init__()
        self.logs = logged()
        self.logs.__enter__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)  # what a dead process leaves is nobody's
        self.world = World(Path(self.folder.name), type(self).seam)
        self.events: dict[str, str] = {}
        self.calls = 0
        self.stepped = False
        self.hours = 0

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.loop.run_until_complete(self.world.crash())
            self.loop.run_until_complete(self.world.fetcher.aclose())
            self.loop.close()
            self.folder.cleanup()
            self.logs.__exit__(None, None, None)

    def do(self, action: Action) -> None:
        self.loop.run_until_complete(self.world.act(action))

    def chosen(self, which: int) -> str:
        return self.world.submitted[which % len(self.world.submitted)] if self.world.submitted else "nobody"

    # What people and the provider do

    @initialize()
    def first(self) -> None:
        self.do(Process.submit)

    @rule(how=st.sampled_from(["accepted"] * 2 + ["lost but made", "lost", "busy", "refused", "unreachable", "crash"]))
    def submit(self, how: str) -> None:
        self.world.upstream.answers = [how]
        self.do(Process.submit)

    @rule(which=WHICH, status=STATUSES, percent=PERCENTS)
    def task_moves(self, which: int, status: str, percent: int) -> None:
        """In any direction: relays fail tasks falsely, and lag."""
        tasks = list(self.world.upstream.tasks.values())
        if tasks:
            tasks[which % len(tasks)] |= {"status": status, "progress": f"{percent}%"}

    @rule(which=st.integers(0, len(TROUBLES) - 1))
    def provider_in_trouble(self, which: int) -> None:
        self.world.upstream.trouble = TROUBLES[which]

    @rule(which=WHICH, status=STATUSES, percent=PERCENTS, kind=st.sampled_from(KINDS), times=st.integers(1, 2))
    def calls_back(self, which: int, status: str, percent: int, kind: str, times: int) -> None:
        """Also what never happened: who has seen both tokens can say anything."""
        id, other = self.chosen(which), self.chosen(which + 1)
        tokens, made = self.world.tokens, self.world.upstream.made
        task_id = made.get(other if kind == "other task" else id, "stranger")
        state = {"no state": "", "other state": tokens.state_token(other), "forged": "forged"}
        url = {"no url": None, "forged": "forged"}
        body = wire_task(task_id, status, progress=f"{percent}%", state=state.get(kind, tokens.state_token(id)))
        for _ in range(times):
            self.calls += 1
            said, token = body | {"number": self.calls}, url.get(kind, tokens.url_token(id))
            self.do(partial(Process.receive, body=said, url_token=token))

    # What destinations do

    @rule(name=st.sampled_from(["plain", "once"]), what=st.sampled_from(BEHAVIOURS), times=st.integers(1, 3))
    def destination_will(self, name: str, what: str, times: int) -> None:
        self.world.places[name].plan += [what] * times

    @rule(name=st.sampled_from(["plain", "once"]))
    def destination_hangs(self, name: str) -> None:
        self.world.places[name].hangs = True

    @rule()
    def what_hangs_goes_on(self) -> None:
        for place in self.world.places.values():
            place.release()
        self.do(Process.rest)

    # What our process does, and what becomes of it

    @rule(seconds=st.sampled_from([0, 1, 5, 16, 31, 70, 330, 2000, 7300]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds)
        self.do(Process.turn)

    @rule(hours=st.sampled_from([-48, -1, 1, 48]))
    def clock_steps(self, hours: int) -> None:
        """By two days in all, because deadlines go by the clock, and what settles takes four."""
        if abs(self.hours + hours) <= 48:
            self.hours += hours
            self.stepped = True
            self.world.clock.step(hours * 3600)

    @rule()
    def engine_turns(self) -> None:
        self.do(Process.turn)

    @rule(writes=st.integers(1, 6), when=st.sampled_from(["before", "after"]))
    def will_die_at_a_write(self, writes: int, when: str) -> None:
        async def light(process: Process) -> None:
            process.mortal.light(writes, when)

        self.do(light)

    @rule()
    def dies(self) -> None:
        self.loop.run_until_complete(self.world.crash())

    @rule()
    def is_restarted(self) -> None:
        self.loop.run_until_complete(self.world.stop())

    @rule()
    def engine_starts_anew_in_the_process(self) -> None:
        """What a handler that will not end was left with is taken from it, and begins again."""
        self.do(Process.start_engine)
        self.do(Process.turn)

    # What must hold, always

    @invariant()
    def promises_hold(self) -> None:
        wrong = list(self.world.wrong)
        assert not wrong, wrong
        with self.reading() as db:
            self.check(db)

    def reading(self) -> contextlib.closing[sqlite3.Connection]:
        """Of the journal's file, without writing: what a crash left is left to the next process."""
        return contextlib.closing(sqlite3.connect(f"file:{self.world.path}?mode=ro", uri=True))

    def check(self, db: sqlite3.Connection) -> None:
        submissions = {row[0] for row in db.execute("SELECT id FROM submissions")}
        assert submissions >= set(self.world.submitted), "P1: a submission is forgotten"
        kept = Counter(row[0] for row in db.execute("SELECT body FROM callbacks"))
        lost = Counter(self.world.acknowledged) - kept
        assert not lost, f"P2: acknowledged, and not on disk: {lost}"
        events = dict(db.execute("SELECT id, body FROM events ORDER BY number"))
        assert self.events.items() <= events.items(), "an event was changed or lost"
        self.events = events
        found = [msgspec.json.decode(body, type=Event) for body in events.values()]
        facts = Counter((event.submission_id, event.type, event.progress if event.type == PROGRESS else None)
                        for event in found)  # fmt: skip
        assert not [fact for fact, count in facts.items() if count > 1], "a fact is two events"
        for status in ("running", "pending"):
            twice = db.execute(TWICE, (status,)).fetchall()
            assert not twice, f"P4: two deliveries of {twice} are {status} at once"

    # What must hold in the end

    def settle(self) -> None:
        """All is well outside, and time passes: whatever is owed comes, however wrong the clock is."""
        world = self.world
        world.upstream.trouble = None
        for task in world.upstream.tasks.values():
            if task["status"] != "FAILURE":
                task |= {"status": "SUCCESS", "progress": "100%"}
        for place in world.places.values():
            place.plan = []
            place.release()
        self.do(Process.rest)
        awaited = self.awaited()
        for number, seconds in enumerate(SETTLING):
            world.clock.advance(seconds)
            for _ in range(2):
                self.do(Process.turn)
            if number == (3 if self.stepped else 1):
                self.results_came(awaited)
            self.promises_hold()
            if not self.rows(OPEN):
                break
        self.nothing_is_owed()

    def rows(self, query: str) -> list[Any]:
        with self.reading() as db:
            db.row_factory = sqlite3.Row
            return db.execute(query).fetchall()

    def awaited(self) -> list[str]:
        """Submissions under way whose task the provider says has succeeded."""
        soon_ms = self.world.clock.now_ms() + 600_000
        tasks = self.world.upstream.tasks
        return [
            row["id"]
            for row in self.rows(ACCEPTED)
            if row["deadline_ms"] > soon_ms and tasks.get(row["task_id"], {}).get("status") == "SUCCESS"
        ]

    def results_came(self, awaited: list[str]) -> None:
        """Within one poll interval and the pause an outage leaves; where nobody saw the clock set back, in minutes."""
        ended = {row["id"]: row["ended"] for row in self.rows("SELECT id, ended FROM submissions")}
        late = {id: ended[id] for id in awaited if ended[id] != "task.succeeded"}
        assert not late, f"P6: no callback came, and no result either: {late}"

    def nothing_is_owed(self) -> None:
        last = {}
        for row in self.rows("SELECT * FROM events ORDER BY number"):
            if RANKS[row["type"]] >= 4:
                last[row["submission_id"]] = row["id"]
        for name, place in self.world.places.items():
            missing = set(last.values()) - set(place.effects) - place.rejected
            assert not missing, f"P3: {missing} never came to {name}"
        assert not self.rows(OPEN), "P3: something is still owed"


Promises.TestCase.settings = PROFILE
TestPromises = Promises.TestCase


# --- broken builds: each breaks one promise at a seam, and the machine must find it -------------------------------


class Broken:
    """A journal that is as it should be, but for what a subclass changes."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


class AcknowledgesBeforeTheCommit(Broken):
    """Keeps a callback in memory, says that it is kept, and writes it with the next write."""

    def __init__(self, journal: Any) -> None:
        super().__init__(journal)
        self._waiting: list[tuple[str, Decide, Callback]] = []

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        if callback is not None and (row := await self._journal.get(submission_id)) is not None:
            self._waiting.append((submission_id, decide, callback))
            return Changed(submission=row)
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            await self._journal.change(*item)
        changed: Changed | None = await self._journal.change(submission_id, decide, callback)
        return changed


class IgnoresTheFence(Broken):
    """Lets whoever comes complete the attempt that runs now."""

    async def complete(self, completion: Completion) -> bool:
        row = await self._journal.delivery(completion.delivery_id)
        taken = msgspec.structs.replace(completion, attempt=row.attempt, owner=row.owner or completion.owner)
        done: bool = await self._journal.complete(taken)
        return done


class ForgetsWhatItKnew(Broken):
    """Decides on the row as it was submitted, outside the transaction, and numbers its events: no dedupe at all."""

    def __init__(self, journal: Any) -> None:
        super().__init__(journal)
        self._count = 0

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        def forgetful(row: Submission) -> Change | None:
            change = decide(msgspec.structs.replace(row, ended=None))
            return change and self._renamed(change)

        changed: Changed | None = await self._journal.change(submission_id, forgetful, callback)
        return changed

    def _renamed(self, change: Change) -> Change:
        self._count += 1
        names = {event.id: f"{event.id}#{self._count}-{id(self)}" for event in change.events}
        return Change(
            submission=change.submission,
            events=tuple(msgspec.structs.replace(event, id=names[event.id]) for event in change.events),
            deliveries=tuple(
                msgspec.structs.replace(item, event_id=names[item.event_id]) for item in change.deliveries
            ),
        )


class SendsAgain(Broken):
    """Takes what a crash left under way for something that was never sent."""

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        again = []
        for row in await self._journal.due(kind, now_ms, limit):
            if kind != "send":
                again.append(row)
                continue
            change = Change(submission=msgspec.structs.replace(row, status="prepared"))
            changed = await self._journal.change(row.id, lambda row, change=change: change)
            again.append(changed.submission)
        return again


class FreesNothing(Broken):
    """Leaves running what a dead engine left running."""

    async def free_running(self, owner: str, now_ms: int) -> int:
        return 0


def called_back(life: Promises, status: str) -> None:
    life.calls_back(which=0, status=status, percent=46, kind="signed", times=1)


def hangs(life: Promises) -> None:
    """Leave an attempt at "plain" that does not end."""
    life.destination_hangs(name="plain")
    life.engine_turns()


LIVES: tuple[tuple[Seam, str, tuple[Callable[[Promises], None], ...]], ...] = (
    (AcknowledgesBeforeTheCommit, "P2", (lambda life: called_back(life, "IN_PROGRESS"),)),
    (
        IgnoresTheFence,
        "taken over",
        (hangs, Promises.engine_starts_anew_in_the_process, lambda life: life.time_passes(seconds=5),
         Promises.what_hangs_goes_on),
    ),
    (
        ForgetsWhatItKnew,
        "a fact is two events",
        (lambda life: life.task_moves(which=0, status="FAILURE", percent=46), lambda life: called_back(life, "FAILURE"),
         lambda life: life.time_passes(seconds=31)) * 2,
    ),
    (SendsAgain, "was sent again", (lambda life: life.submit(how="crash"), lambda life: life.time_passes(seconds=330))),
    (FreesNothing, "P3", (hangs, Promises.dies)),
)  # fmt: skip


@pytest.mark.parametrize(("seam", "broken", "steps"), LIVES)
def test_a_broken_build_is_found(seam: Seam, broken: str, steps: tuple[Callable[[Promises], None], ...]) -> None:
    """A check that cannot fail proves nothing. These few steps break no promise of the build as it is."""

    def live(machine: type[Promises]) -> None:
        life = machine()
        try:
            life.first()
            for step in steps:
                step(life)
                life.promises_hold()
        finally:
            life.teardown()

    live(Promises)
    with pytest.raises(AssertionError, match=broken):
        live(type("BrokenPromises", (Promises,), {"seam": staticmethod(seam)}))
