"""The same fact many times, facts in every order, several facts at once, and no callbacks at all."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from builds.seams import replaced
from starlette.types import Receive, Scope, Send

from experiments.base import Experiment, Outcome
from experiments.servers import here, served
from experiments.stage import Ledger, callbacks, seed, send_all
from experiments.witnesses import SQL, Witness, quiet, restated, view
from receiver.clock import Clock
from receiver.errors import Ambiguous, Refused
from receiver.events import EventType, Submission
from receiver.intake import decisions, facts
from receiver.intake.rules import Rules
from receiver.journal import operations
from receiver.journal.base import Change
from receiver.provider import requests
from receiver.reconciler import Reconciler
from receiver.runtime import Runtime
from receiver.simulator import Simulator, pictures
from receiver.testing import make_media

SETTLED = 60.0
"""Seconds in which everything owed is delivered, or it is lost."""


class DuplicateStorm:
    """Every callback many times, shuffled."""

    name = "duplicate-storm"
    summary = "200 ends called back 100 times each, shuffled, by 16 clients: each is one effect at each destination"
    promises = ("P2", "P3")
    tasks = 200

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._storm(folder, 8 if quick else 100)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Takes each callback for a new fact."""
        with _no_dedupe():
            return await self._storm(folder, 4 if quick else 20)

    async def _storm(self, folder: Path, times: int) -> Outcome:
        begun, ledger = time.monotonic(), Ledger()
        witnesses = [Witness("one"), Witness("two")]
        ends = [item for item in callbacks(await seed(folder / "data", self.tasks)) if item.final]
        flood = ends * times
        random.Random(times).shuffle(flood)  # noqa: S311 - an order, no secret
        async with here(folder, functions=[item.function() for item in witnesses]) as world:
            await send_all(world.url, iter(flood), ledger)
            settled = await quiet(world.receiver.journal, "one", "two", seconds=SETTLED)
        made = [len(item.seen) for item in witnesses]
        return Outcome(
            injected=len(flood) - len(ends),
            acknowledged=len(ledger.ended),
            lost=sum(len(ledger.ended) - count for count in made),
            doubled=sum(item.count - len(item.seen) for item in witnesses),
            seconds=time.monotonic() - begun,
            notes=f"{made[0]} and {made[1]} effects; {len(flood) / (time.monotonic() - begun):,.0f} callbacks/s",
            problem=_unless(settled and ledger.answers.total() == ledger.answers[200], f"answers: {ledger.answers}"),
        )


@contextmanager
def _no_dedupe() -> Iterator[None]:
    """An end is news each time, under another id."""
    numbers = itertools.count()

    def unique(submission_id: str, type: EventType, percent: int | None = None) -> str:
        return f"{submission_id}.{type}.{next(numbers)}"

    def always(ended: EventType | None, type: EventType) -> bool:
        return True

    with replaced(facts, "event_id", unique), replaced(facts, "supersedable", always):
        yield


class EveryOrder:
    """Five callbacks of a task in each of their orders, as fast as they come, and each delivered before the next."""

    name = "every-order"
    summary = "all 120 orders of a task's five callbacks: the same end, and no destination sees a status fall"
    promises = ("P4",)
    steps = (10, 30, 60, 90, None)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._orders(folder)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """The last callback is always right."""
        with replaced(facts, "merge", lambda old, new: new):
            return await self._orders(folder)

    async def _orders(self, folder: Path) -> Outcome:
        begun, witness = time.monotonic(), Witness("main")
        orders = list(itertools.permutations(self.steps))
        targets = await seed(folder / "data", 2 * len(orders))
        async with here(folder, functions=[witness.function()]) as world:
            receiver = world.receiver

            async def tell(number: int, percent: int | None) -> None:
                target = targets[number]
                await receiver.intake.received(target.id, view(target.task_id, percent), "{}", None)

            for place in range(len(self.steps)):  # each order at once, and each with time to be delivered between
                await asyncio.gather(*(tell(number, order[place]) for number, order in enumerate(orders)))
                await quiet(receiver.journal, "main", seconds=SETTLED)
            for number, order in enumerate(orders, len(orders)):
                await asyncio.gather(*(tell(number, percent) for percent in order))
            settled = await quiet(receiver.journal, "main", seconds=SETTLED)
            rows = [await receiver.journal.get(target.id) for target in targets]
        ends = {_end(row) for row in rows if row is not None}
        return Outcome(
            injected=len(targets),
            acknowledged=len(targets),
            lost=len(targets) - witness.ended,
            doubled=witness.repeated,
            seconds=time.monotonic() - begun,
            notes=f"{witness.count} events delivered",
            problem=_unless(
                settled and len(ends) == 1 and not witness.falling,
                f"{len(ends)} different ends; a status fell {witness.falling} times",
            ),
        )


def _end(row: Submission) -> tuple[object, ...]:
    return row.ended, row.task_status, row.task.progress if row.task else None


class OneAtATime:
    """Many events of a submission while its destination is still busy with one."""

    name = "one-at-a-time"
    summary = "events come faster than two slow destinations take them: never two of a submission at once, in order"
    promises = ("P4",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._press(folder, 30 if quick else 150)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Claims whatever is due."""
        greedy = re.sub(r"AND NOT EXISTS \(\s.*?'running'\)", "", SQL["claim"], flags=re.DOTALL)
        with restated("claim", greedy), replaced(operations, "_one_each", lambda db, claimed: claimed):
            return await self._press(folder, 30)

    async def _press(self, folder: Path, tasks: int) -> Outcome:
        begun, chance = time.monotonic(), random.Random(tasks)  # noqa: S311 - pauses, no secrets

        async def slowly(event: object) -> None:
            await asyncio.sleep(chance.uniform(0, 0.06))

        witnesses = [Witness(name, slowly, concurrency=64) for name in ("one", "two")]
        targets = await seed(folder / "data", tasks)
        async with here(folder, functions=[item.function() for item in witnesses]) as world:

            async def course(id: str, task_id: str) -> None:
                for percent in (*range(0, 100, 5), None):
                    await world.receiver.intake.received(id, view(task_id, percent), "{}", None)
                    await asyncio.sleep(chance.uniform(0, 0.06))

            await asyncio.gather(*(course(target.id, target.task_id) for target in targets))
            await quiet(world.receiver.journal, "one", "two", seconds=SETTLED)
        overlaps = sum(item.overlaps for item in witnesses)
        falling = sum(item.falling for item in witnesses)
        return Outcome(
            injected=tasks * 21,
            acknowledged=tasks * 2,
            lost=sum(tasks - item.ended for item in witnesses),
            doubled=sum(item.repeated for item in witnesses),
            seconds=time.monotonic() - begun,
            notes=f"{sum(item.count for item in witnesses):,} delivered, the rest gave way to newer ones",
            problem=_unless(not overlaps and not falling, f"{overlaps} at once, {falling} out of order"),
        )


# With the provider


SPEED = 10.0
POLL = 15.0
LATE = 6.0
"""Simulated seconds that this machine may add to the poll interval: 0.6 real ones."""
PROMPT = "a paper boat on calm water --v 6.1"


class NoCallbacks:
    """The relay drops the hook of every task."""

    name = "no-callbacks"
    summary = "500 tasks of which none is called back: 500 pictures, each known within a poll interval of its end"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._poll(folder, 100 if quick else 500, patience=120)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Never asks the provider."""

        async def nothing(self: Reconciler) -> int:
            return 0

        with replaced(Reconciler, "_poll", nothing):
            return await self._poll(folder, 10, patience=10)

    async def _poll(self, folder: Path, tasks: int, *, patience: float) -> Outcome:
        begun = time.monotonic()
        async with provided(folder, faults=["hook_stripped"], poll_interval=POLL) as (simulator, receiver):
            rows = await submit(receiver, tasks)
            await wait_for_pictures(folder, tasks, patience)
            lags = [lag async for lag in _lags(receiver, rows)]
        pictures = len(list((folder / "outputs").glob("*.png")))
        late = max(lags, default=0.0)
        return Outcome(
            injected=tasks,
            acknowledged=len(rows),
            lost=len(rows) - pictures,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=_told(lags),
            problem=_unless(
                not simulator.callbacks and late <= POLL + LATE,
                f"{len(simulator.callbacks)} callbacks came; a result was known {late:.1f} s after the provider's",
            ),
        )


def _told(lags: list[float]) -> str:
    if not lags:
        return "no result at all"
    return (
        f"known {statistics.median(lags):.1f} s after the provider's end, at most {max(lags):.1f} s (poll {POLL:g} s)"
    )


async def _lags(receiver: Runtime, rows: list[Submission]) -> AsyncIterator[float]:
    """Seconds between the provider's end of a task and ours."""
    for row in rows:
        for event in await receiver.journal.events(limit=10, submission_id=row.id):
            if event.type == "task.succeeded" and event.task is not None and event.task.finish_ms:
                yield (event.created_ms - event.task.finish_ms) / 1000


class ProviderOutage:
    """Every request to the provider fails for a while; its callbacks go on."""

    name = "provider-outage"
    summary = "the provider answers nothing for 90 s, and goes on calling back: afterwards every picture is there"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._outage(folder, 30 if quick else 150, patience=150)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """A picture that cannot be had at once is given up."""
        given_up = decisions.not_archived

        def at_once(row: Submission, problem: str, permanent: bool, rules: Rules) -> Change:
            return given_up(row, problem, True, rules)

        with replaced(decisions, "not_archived", at_once):
            return await self._outage(folder, 10, patience=30)

    async def _outage(self, folder: Path, tasks: int, *, patience: float) -> Outcome:
        begun, line = time.monotonic(), Line()
        async with provided(folder, line=line, poll_interval=POLL) as (simulator, receiver):
            rows = await submit(receiver, tasks)
            line.cut = True
            await receiver.clock.sleep(90)
            line.cut = False
            await wait_for_pictures(folder, tasks, patience)
            ends = [(await receiver.journal.find(row.id)).ended for row in rows]
        pictures = len(list((folder / "outputs").glob("*.png")))
        return Outcome(
            injected=line.refused,
            acknowledged=len(rows),
            lost=len(rows) - pictures,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{len(simulator.callbacks)} callbacks meanwhile and after",
            problem=_unless(set(ends) == {"task.succeeded"}, f"ends: {set(ends)}"),
        )


class Line:
    """The way to the provider. While it is `cut`, everything is answered 502 with a page, as a proxy does."""

    def __init__(self) -> None:
        self.cut = False
        self.refused = 0
        self.app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.cut or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.refused += 1
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 502, "headers": headers})
        await send({"type": "http.response.body", "body": b"<html>Bad gateway</html>"})


@asynccontextmanager
async def provided(
    folder: Path, *, faults: list[str] | None = None, line: Line | None = None, **settings: Any
) -> AsyncIterator[tuple[Simulator, Runtime]]:
    """A simulated provider and a Receiver that know each other, both ten times as fast as the world. Every picture is
    the same small one: drawing hundreds would take longer than everything else."""
    small = make_media(folder / "drawn")[0].path.read_bytes()
    simulator, line = Simulator(speed=SPEED, faults=faults or []), line or Line()
    line.app = simulator.app
    own: dict[str, Any] = {"confirm_within": 30.0, "deadline": 4200.0} | settings
    async with AsyncExitStack() as stack:
        stack.enter_context(replaced(pictures, "compose", lambda *picture: small))
        own["provider_url"] = await stack.enter_async_context(served(line))
        world = await stack.enter_async_context(here(folder, clock=Clock(SPEED), call_back=True, **own))
        yield simulator, world.receiver
        await world.receiver.stop_engine()  # before the provider goes


async def submit(receiver: Runtime, count: int) -> list[Submission]:
    """As the command line does, eight at a time. What the provider did not take now, the engine sends again."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> Submission:
        async with gate:
            row = await receiver.submissions.prepare(requests.imagine(f"{PROMPT} --seed {number}"))
            try:
                return await receiver.submissions.send(row.id)
            except (Refused, Ambiguous):
                return row

    return list(await asyncio.gather(*map(one, range(count))))


async def wait_for_pictures(folder: Path, count: int, seconds: float) -> None:
    """Until there are so many, or for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(list((folder / "outputs").glob("*.json"))) < count:  # noqa: ASYNC110 - files
        await asyncio.sleep(0.1)


def _unless(fine: bool, problem: str) -> str | None:
    return None if fine else problem


EXPERIMENTS: tuple[Experiment, ...] = (DuplicateStorm(), EveryOrder(), OneAtATime(), NoCallbacks(), ProviderOutage())
