"""Memory and rates of a journal with many rows, compared with a small journal."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from experiments.backlog import DESTINATIONS, backlog, claim_and_complete, intake
from experiments.base import Experiment, Outcome
from experiments.plugins import plug_in
from experiments.servers import server
from experiments.stage import accepted, rows
from experiments.witnesses import view
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

GROWTH = 50.0
"""MB that a backlog may cost in memory."""
GROWTH = 100.0
"""MB that an attack may cost in memory."""
SLOWER = 0.15
SLOWER_QUICK = 0.6
"""The share of its rates that a large journal may lose; with rounds as short as the quick ones, noise is larger."""
AT_ONCE = 64
TASKS = 512
PLUGIN = """
from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions


class Plugin:
    name, summary, schemes = "noop", "Does nothing.", ("noop",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url):
        return {}

    def __init__(self, options): ...

    async def deliver(self, attempt):
        return Receipt()

    async def aclose(self): ...
"""


class MillionPending:
    """`receiver serve` works on a backlog, and nothing of it is in memory but what runs."""

    name = "million-pending"
    summary = "a backlog of 1,000,000 deliveries costs `receiver serve` less than 50 MB of memory"
    promises = ("P5",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._grow(folder, 20_000 if quick else 1_000_000, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Claim everything that is due at once."""
        return await self._grow(folder, 40_000, build="greedy")

    async def _grow(self, folder: Path, pending: int, *, build: str | None) -> Outcome:
        begun = time.monotonic()
        small = await _peak(folder / "small", 1000, None, seconds=3)
        large = await _peak(
            folder / "large", pending, build, seconds=60 if pending >= 10**6 else 5 if build is None else 20
        )
        growth = large.megabytes - small.megabytes
        fine = growth < GROWTH and large.made
        return Outcome(
            injected=pending,
            acknowledged=pending,
            lost=pending + 2 - large.made - large.left,  # the two that were copied
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{small.megabytes:.0f} MB with 1,000 pending, {large.megabytes:.0f} MB with {pending:,}; "
            f"{large.made:,} delivered meanwhile",
            problem=None if fine else f"it grew by {growth:.0f} MB and delivered {large.made}",
        )


@dataclass(frozen=True)
class Peak:
    """A process at work on a backlog: the most memory it had, and the deliveries it made and left."""

    megabytes: float
    made: int
    left: int


async def _peak(folder: Path, pending: int, build: str | None, *, seconds: float) -> Peak:
    plug_in(folder, "noop", PLUGIN)
    await backlog(folder / "data" / "journal.db", pending // len(DESTINATIONS), owed=True)
    handlers = {f"RECEIVER_DESTINATIONS__{name.upper()}__HANDLER": "noop" for name in DESTINATIONS}
    async with server(folder, build=build, **handlers) as item:
        await (item.start() if build is None else item.spawn())  # a broken build may be busy for long
        await asyncio.sleep(seconds)
        megabytes = peak_memory(item.pid)
    made = rows(folder / "data", "SELECT count(*) FROM deliveries WHERE status = 'succeeded'")[0][0]
    left = rows(folder / "data", "SELECT count(*) FROM deliveries WHERE status IN ('pending', 'running')")[0][0]
    return Peak(megabytes, made, left)


class Memory:
    """Growth of this process, in which `servers.here` runs Receiver, from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks: proc_pid_clear_refs(5)
        self._before = peak_memory(os.getpid())

    @property
    def grown(self) -> float:
        """MB of its peak beyond the start."""
        return peak_memory(os.getpid()) - self._before

    @property
    def fault(self) -> str:
        """A few words if it is too much, else nothing."""
        return f"memory grew by {self.grown:.0f} MB" if self.grown > GROWTH else ""


def peak_memory(pid: int) -> float:
    """The most a process had in memory, in MB (proc_pid_status(5): VmHWM, in KB)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class RowCounts:
    """The same work on a small and on a large journal, in turns, so that both meet the machine in the same mood."""

    name = "row-counts"
    summary = (
        "callbacks and deliveries per CPU second with 2,000,000 deliveries there: within 15 % of those with 10,000"
    )
    promises = ("P5",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        rounds, allowed = (2, SLOWER_QUICK) if quick else (9, SLOWER)
        return await self._compare(folder, 100_000 if quick else 2_000_000, rounds, allowed)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Run without an index."""
        return await self._compare(folder, 200_000, 1, SLOWER_QUICK, lost="deliveries_due")

    async def _compare(self, folder: Path, many: int, rounds: int, allowed: float, lost: str | None = None) -> Outcome:
        begun = time.monotonic()
        few = 10_000
        paths = [folder / "small.db", folder / "large.db"]
        for path, count in zip(paths, (few, many), strict=True):
            await backlog(path, count // 10, events=5, owed=False)
        if lost is not None:
            with closing(sqlite3.connect(paths[1])) as db:
                db.execute(f"DROP INDEX {lost}")
        rates = [Rates(), Rates()]
        journals = [Journal(await open_store(path)) for path in paths]
        try:
            for _ in range(rounds):
                for journal, mine in zip(journals, rates, strict=True):
                    await _round(journal, mine)
        finally:
            for journal in journals:
                await journal.aclose()
        shares = {what: _best(rates[1], what) / _best(rates[0], what) for what in rates[0].seen}
        slow = {what: share for what, share in shares.items() if share < 1 - allowed}
        told = [
            f"{_best(rates[1], what):,.0f} {what} per CPU second, {shares[what]:.2f} of the small" for what in shares
        ]
        return Outcome(
            injected=many,
            acknowledged=0,
            lost=0,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes="; ".join(told),
            problem=f"slower by more than {allowed:.0%}: {', '.join(slow)}" if slow else None,
        )


@dataclass
class Rates:
    """Rates of each round per CPU second of this process, all threads together. Other programs change the rates per
    wall-clock second threefold, and these hardly."""

    seen: dict[str, list[float]] = field(default_factory=dict)

    async def measure(self, what: str, work: Callable[[], Awaitable[int]]) -> None:
        begun = time.process_time()
        count = await work()
        self.seen.setdefault(what, []).append(count / (time.process_time() - begun))


def _best(rates: Rates, what: str) -> float:
    """The round that other programs disturbed least."""
    return max(rates.seen[what])


async def _round(journal: Journal, rates: Rates) -> None:
    """Measure callbacks that make an event and two deliveries each, then these deliveries."""
    targets = await asyncio.gather(*(journal.add(row) for row in map(accepted, range(TASKS))))
    door = intake(journal)

    async def call_back() -> int:
        left = iter(targets)

        async def client() -> None:
            for row in left:
                await door.received(row.id, view(row.task_id or "", 50), b"{}", None)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        return len(targets)

    async def deliver() -> int:
        count = 0
        for name in itertools.cycle(DESTINATIONS):
            made = await claim_and_complete(journal, name, AT_ONCE)
            count += made
            if not made:
                return count
        return count

    await rates.measure("callbacks", call_back)
    await rates.measure("deliveries", deliver)


EXPERIMENTS: tuple[Experiment, ...] = (MillionPending(), RowCounts())
