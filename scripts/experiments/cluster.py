"""Many processes on one PostgreSQL: webs and workers that can be killed, and callbacks to any of the webs.

What was acknowledged is compared with the rows in the database and with what destinations got.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from experiments.base import Outcome
from experiments.databases import Database, Way, database, way_to
from experiments.kills import BUSY
from experiments.plugins import plug_in
from experiments.servers import Server
from experiments.stage import PATIENCE, START, Ledger, Target, callbacks, http_client, post, sow
from receiver.journal import Journal
from receiver.journal.postgres import open_store as open_postgres

CLIENTS = 8
PAUSE = 0.03
"""Seconds between two callbacks of a client: the load is the same all the time, so that its full rate is known."""
FULL = 0.8
"""The part of the rate before a fault that counts as the full one again; the rest is noise."""
RECOVERY = 5.0
"""Seconds within which it must be reached once the fault is over. On a busy machine, `kills.BUSY` times as long as the
slowest start."""
WINDOW = 0.5
SETTLED = 60.0
"""Seconds in which all that is owed is delivered, once the faults are over."""
BROKEN = 3.0
"""The same for a control: it need not get anything right."""
KEEPER = """
import asyncio, json, os, random, time

from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions


class Plugin:
    name, summary, schemes = "keeper", "Writes down what it is given, and takes its time.", ("keeper",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url):
        return {}

    def __init__(self, options): ...

    async def deliver(self, attempt):
        self._note("begun", attempt)
        await asyncio.sleep(float(os.environ.get("KEEPER_SECONDS", "0.01")) * random.uniform(0.7, 1.3))
        self._note("done", attempt)
        return Receipt(ref=attempt.event.id)

    def _note(self, what, attempt):
        event = attempt.event
        line = {"what": what, "key": attempt.idempotency_key, "event": event.id, "submission": event.submission_id,
                "number": attempt.number, "pid": os.getpid(), "at": time.time()}
        with open("effects", "a") as file:
            file.write(json.dumps(line) + "\\n")

    async def aclose(self): ...
"""
"""A destination for all events that remembers idempotency keys, as one that allows effects once would."""


class Member(Server):
    """A process on the database."""

    def __init__(self, folder: Path, there: Database, url: str, *command: str, build: str | None, **more: str) -> None:
        settings = {
            "RECEIVER_DATABASE": url.replace("postgres@", "receiver@"),
            "RECEIVER_TO": "keeper://here",
            "RECEIVER_MEDIA": str(folder / "media"),
            **more,
        }
        super().__init__(folder, build=build, command=command, **settings)
        self.web = command[0] == "serve"
        self._there = there

    async def ready(self) -> None:
        """Wait until `/readyz` says 200. A worker is ready when it is a member of the engines."""
        if self.web:
            return await super().ready()
        until = time.monotonic() + START
        statement = "SELECT 1 FROM receiver.shared_values WHERE key LIKE $1"
        while time.monotonic() < until and self.running:
            if await self._there.ask(statement, f"members/worker-{self.pid}-%"):
                return None
            await asyncio.sleep(0.05)
        raise RuntimeError(f"`receiver worker` did not become ready. It said: {self.log()[-2000:]}")


class Cluster:
    """Members on one database.

    Attributes:
        ledger: what was said to the clients.
        limit: of a recovery, in seconds.
        way: by which the last one comes, if it is far.
    """

    def __init__(
        self,
        folder: Path,
        there: Database,
        targets: Sequence[Target],
        members: Sequence[Member],
        way: Way,
        *,
        limit: float,
    ) -> None:
        self.there = there
        self.limit = limit
        self.way = way
        self.targets = targets
        self.members = list(members)
        self.ledger = Ledger()
        self._folder = folder
        self._items = callbacks(targets)

    @property
    def webs(self) -> list[Member]:
        return [item for item in self.members if item.web]

    @property
    def workers(self) -> list[Member]:
        return [item for item in self.members if not item.web]

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients that call back while the block runs, each time at any of the webs."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(random.Random(number), stop))  # noqa: S311 - a choice, no secret
            try:
                yield
            finally:
                stop.set()
        if next(self._items, None) is None:
            raise RuntimeError("There were too few callbacks for this experiment.")

    async def end(self, count: int) -> None:
        """Call back with the ends of so many tasks at once, and with nothing else."""
        ends = (item for item in self._items if item.final)
        async with http_client(self.webs[0].url) as http:
            await asyncio.gather(*(post(http, item, self.ledger) for item in itertools.islice(ends, count)))

    async def _client(self, chance: random.Random, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            https = [await stack.enter_async_context(http_client(item.url)) for item in self.webs]
            for item in self._items:
                await post(chance.choice(https), item, self.ledger)
                await asyncio.sleep(PAUSE)
                if stop.is_set():
                    return

    async def warm_up(self, seconds: float = 1.5) -> float:
        """Let it work a while. Returns the callbacks acknowledged a second."""
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        return rate(self.ledger, begun, begun + seconds)

    async def recovered(self, full: float) -> float:
        """Seconds from now until callbacks are acknowledged as fast as before. Raises RuntimeError if that never is."""
        begun = time.monotonic()
        while time.monotonic() < begun + PATIENCE:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if now - WINDOW >= begun and rate(self.ledger, now - WINDOW, now) >= FULL * full:
                return now - WINDOW - begun
        raise RuntimeError(f"After {PATIENCE:g} s it does not work as fast as before.")

    async def left(self, seconds: float) -> int:
        """Wait until nothing is owed. Returns how many deliveries still are after that time."""
        until = time.monotonic() + seconds
        statement = "SELECT count(*) FROM receiver.deliveries WHERE status IN ('pending', 'running')"
        while left := int((await self.there.ask(statement))[0][0]):
            if time.monotonic() > until:
                return left
            await asyncio.sleep(0.1)
        return 0

    def effects(self, what: str = "done") -> list[dict[str, Any]]:
        """Return what the destination has recorded."""
        path = self._folder / "effects"
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return [line for line in lines if line["what"] == what]

    def repeated(self) -> int:
        """Return the number of effects that came again under the same key, which a destination may drop."""
        done = self.effects()
        return len(done) - len({effect["key"] for effect in done})

    async def count(
        self, begun: float, *, injected: int, notes: str, problem: str | None, settling: float = SETTLED
    ) -> Outcome:
        """Compare what was acknowledged with what is there when nothing is owed any more, or after `settling`
        seconds."""
        if (left := await self.left(settling)) and problem is None:
            counted = await self.there.ask("SELECT status, count(*) FROM receiver.deliveries GROUP BY status")
            statuses = ", ".join(f"{row['count']} {row['status']}" for row in counted)
            problem = f"{left} deliveries were not made within {settling:g} s ({statuses})"
        bodies = await self.there.ask("SELECT body FROM receiver.callbacks")
        kept = Counter(json.loads(row["body"]).get("number") for row in bodies)
        keys: defaultdict[str, set[str]] = defaultdict(set)
        for effect in self.effects():
            keys[effect["event"]].add(effect["key"])
        arrived = {event.partition(".")[0] for event in keys if event.endswith(".task.succeeded")}
        twice = sum(count - 1 for count in kept.values()) + sum(len(found) - 1 for found in keys.values())
        return Outcome(
            injected=injected,
            acknowledged=len(self.ledger.acknowledged),
            lost=len(self.ledger.acknowledged - kept.keys()) + len(self.ledger.ended - arrived),
            doubled=twice,
            seconds=time.monotonic() - begun,
            notes=notes,
            problem=problem,
        )


def rate(ledger: Ledger, begun: float, ended: float) -> float:
    """Callbacks acknowledged a second between two times."""
    return sum(begun <= at < ended for at in reversed(ledger.times)) / (ended - begun)


@asynccontextmanager
async def cluster(
    folder: Path, *, webs: int, workers: int, tasks: int, build: str | None = None, far: bool = False, **more: str
) -> AsyncIterator[Cluster]:
    """Webs and workers that run, on a server of their own; all gone at the end of the block.

    Args:
        tasks: submissions that are called back 11 times each.
        build: of every member.
        far: let one worker more come by a way that can be cut.
        more: variables of every member.
    """
    plug_in(folder, "keeper", KEEPER)
    async with database() as there, way_to(there) as way:
        targets = await sow(Journal(await open_postgres(there.url, listen=False)), tasks)
        for statement in ROLE:
            await there.ask(statement)
        commands = [("serve", "--no-engine")] * webs + [("worker",)] * workers
        members = [Member(folder, there, there.url, *command, build=build, **more) for command in commands]
        if far:
            members.append(Member(folder, there, way.url, "worker", build=build, **more))
        try:
            starts = await asyncio.gather(*(item.start() for item in members))
            yield Cluster(folder, there, targets, members, way, limit=max(RECOVERY, BUSY * max(starts)))
        finally:
            await asyncio.gather(*(item.kill() for item in members))


ROLE = ("CREATE ROLE receiver LOGIN", "GRANT pg_read_all_data, pg_write_all_data TO receiver")
"""The database user of the members. A superuser would be let in beyond the connection limit."""


def late(place: Cluster, seconds: Sequence[float]) -> str | None:
    """A complaint where it did not go on in time; by the median: one that is slow is another program's doing."""
    median = statistics.median(seconds)
    return (
        f"it worked as before only {median:.1f} s after a fault, not within {place.limit:.1f} s"
        if median > place.limit
        else None
    )


def said(place: Cluster) -> str:
    """Return the answers that were no 200, in a few words."""
    others = sum(count for status, count in place.ledger.answers.items() if status != 200)
    return f"{others} callbacks were refused, {place.ledger.broken} were not answered"
