"""One write, truncate or sync of the journal fails: the first, the second, … every one of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import apsw
from builds.seams import acknowledge_failures

from experiments.base import Experiment, Outcome
from experiments.connections import on_disk
from experiments.disks import Operation, watched
from experiments.servers import here
from experiments.stage import (
    Callback,
    Ledger,
    callbacks,
    delivered,
    doubled,
    http_client,
    lost,
    post,
    results,
    seed,
    send_all,
)
from receiver.errors import ReceiverError

TASKS = 4
Build = Callable[[], AbstractContextManager[None]]
CLIENTS = 4
FAILING = ("write", "truncate", "sync")
PATIENCE = 5.0
"""Seconds within which it must take new callbacks again. After a full disk it looks once a second."""
LASTING = 10**9
"""Operations in a row that fail, where the fault lasts until it is mended."""


class Fault:
    """Refuses the `first` operation and those after it, `length` in all; by turns as I/O error and full disk."""

    def __init__(self, first: int, length: int) -> None:
        self.first = first
        self.count = 0
        self.injected = 0
        self._range = range(first, first + length)
        self._errors = cycle((apsw.IOError, apsw.FullError) if first % 2 else (apsw.FullError, apsw.IOError))

    def mend(self) -> None:
        """Refuse nothing more."""
        self._range = range(0)

    def watch(self, operation: Operation) -> None:
        if operation.kind not in FAILING:
            return
        self.count += 1
        if self.count in self._range:
            self.injected += 1
            raise next(self._errors)(f"the experiment refuses the {operation.kind}")


@dataclass(frozen=True)
class Run:
    """The result of one fault."""

    fault: Fault
    ledger: Ledger
    lost: int
    doubled: int
    problem: str | None


class JournalErrors:
    """A real Receiver, callbacks over HTTP and deliveries into a folder, on a disk that refuses (see `connections`).

    Afterwards the same journal is opened again on a sound disk, and everything acknowledged must arrive.
    """

    name = "journal-errors"
    summary = (
        "an error at the Nth write, truncate or sync of the journal, for every N: 503, nothing lost, and it goes on"
    )
    promises = ("P2", "P3")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Each N once with a single error, and once with errors until the disk is mended."""
        return await self._each(folder, 4 if quick else None, (1, LASTING), nullcontext)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Acknowledge what the journal refused."""
        return await self._each(folder, 4 if quick else None, (1,), acknowledge_failures)

    async def _each(self, folder: Path, points: int | None, lengths: tuple[int, ...], build: Build) -> Outcome:
        begun = time.monotonic()
        total = (await self._one(folder / "sound", Fault(0, 0), nullcontext)).fault.count
        step = max(total // points, 1) if points else 1
        runs = [
            await self._one(folder / f"{first}-{length}", Fault(first, length), build)
            for length in lengths
            for first in range(1, total + 1, step)
        ]
        refused = sum(run.ledger.answers[503] for run in runs)
        return Outcome(
            injected=sum(run.fault.injected for run in runs),
            acknowledged=sum(len(run.ledger.acknowledged) for run in runs),
            lost=sum(run.lost for run in runs),
            doubled=sum(run.doubled for run in runs),
            seconds=time.monotonic() - begun,
            notes=f"{len(runs):,} runs of {total} operations; {refused:,} callbacks answered 503",
            problem=next((run.problem for run in runs if run.problem), None),
        )

    async def _one(self, folder: Path, fault: Fault, build: Build) -> Run:
        data, ledger = folder / "data", Ledger()
        items = callbacks(await seed(data, TASKS))
        went_on: bool | None = None
        with ExitStack() as stack:
            stack.enter_context(on_disk(stack.enter_context(watched(fault.watch))))
            stack.enter_context(build())
            try:
                async with here(folder) as place:
                    await send_all(place.url, islice(items, 11 * (TASKS - 1)), ledger, clients=CLIENTS)
                    fault.mend()
                    went_on = await goes_on(place.url, items, ledger)
            except ReceiverError:
                pass  # it reports that it cannot start, which breaks no promise
        async with here(folder) as place:
            await send_all(place.url, items, ledger, clients=CLIENTS)
            await delivered(data)
        there = results(folder / "outputs")
        missing = len(ledger.ended - there.keys())
        doubles = doubled(data) + sum(count - 1 for count in there.values())
        return Run(fault, ledger, lost(data, ledger) + missing, doubles, _problem(fault, ledger, went_on))


async def goes_on(url: str, items: Iterator[Callback], ledger: Ledger) -> bool:
    """Return True if a callback is acknowledged within some seconds, once the fault is over."""
    until = time.monotonic() + PATIENCE
    async with http_client(url) as http:
        for item in items:
            if await post(http, item, ledger) == 200:
                return True
            if time.monotonic() > until:
                break
            await asyncio.sleep(PATIENCE / 10)
    return False


def _problem(fault: Fault, ledger: Ledger, went_on: bool | None) -> str | None:
    if ledger.broken or ledger.answers.keys() - {200, 202, 503}:
        return f"with error {fault.first} clients got {dict(ledger.answers)} and {ledger.broken} broken connections"
    return f"after error {fault.first} it took nothing new for {PATIENCE:g} s" if went_on is False else None


EXPERIMENTS: tuple[Experiment, ...] = (JournalErrors(),)
