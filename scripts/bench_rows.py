"""Speed of a journal with many rows: listings by a rare value, counts, and a purge beside callbacks.

usage: .venv/bin/python scripts/bench_rows.py [--submissions N] [--database sqlite|postgres] [--rounds N]
           [--folder FOLDER] [--keep FILE-OR-URL] [--parts lists,purge]

One of each thousand submissions has the values that are looked for. `--keep` is a file, or the URL of a database, that
is used again where it has rows. The purge deletes some of them. CPU time is of all processes that take part.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import many_rows
from journals import submission
from msgspec.structs import replace

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.events import Callback, Submission
from receiver.journal import Journal
from receiver.journal.document import Change
from receiver.journal.store import Filter
from receiver.maintenance.retention import Keep, Retention

Cpu = Callable[[], tuple[float, float]]
AT_ONCE = 64
SOME, MOST = 200.0, math.inf
"""Callbacks a second: those of a busy day, and all that can be kept."""
LOOKS = 5

LISTS: dict[str, tuple[str, Filter]] = {
    "submissions, newest": ("submissions", Filter()),
    "submissions by status": ("submissions", Filter(status="lost")),
    "submissions by status, common": ("submissions", Filter(status="succeeded")),
    "submissions by kind": ("submissions", Filter(kind="describe")),
    "submissions by kind, common": ("submissions", Filter(kind="imagine")),
    "submissions by label": ("submissions", Filter(labels=(("order", "rare"),))),
    "submissions by label, common": ("submissions", Filter(labels=(("team", "art"),))),
    "submissions by words": ("submissions", Filter(words=("zeppelin",))),
    "submissions by words, none": ("submissions", Filter(words=("zeppelin", "submarine"))),
    "submissions by words, common": ("submissions", Filter(words=("BOAT",))),
    "events by type": ("events", Filter(type="task.lost")),
    "events by type, none": ("events", Filter(type="task.input_required")),
    "events by type, common": ("events", Filter(type="task.succeeded")),
    "events by kind": ("events", Filter(kind="describe")),
    "events by kind, common": ("events", Filter(kind="imagine")),
    "events by label": ("events", Filter(labels=(("order", "rare"),))),
    "events by words": ("events", Filter(words=("zeppelin",))),
    "deliveries by destination": ("deliveries", Filter(destination="rare")),
    "deliveries by destination and status": ("deliveries", Filter(destination="rare", status="succeeded")),
    "deliveries by status": ("deliveries", Filter(status="dead")),
    "deliveries by status, none": ("deliveries", Filter(status="cancelled")),
    "deliveries pending": ("deliveries", Filter(status="pending")),
    "deliveries dead at one": ("deliveries", Filter(destination="rare", status="dead")),
    "deliveries by status, common": ("deliveries", Filter(status="succeeded")),
    "deliveries by kind": ("deliveries", Filter(kind="describe")),
    "deliveries by kind, common": ("deliveries", Filter(kind="imagine")),
    "deliveries by words": ("deliveries", Filter(words=("zeppelin",))),
}


async def lists(journal: Journal, cpu: Cpu) -> None:
    """Print the time of a page of each listing, and of the counts."""
    for name, (kind, wanted) in LISTS.items():
        await timed(name, cpu, lambda kind=kind, wanted=wanted: getattr(journal, kind)(wanted, limit=60))
    await timed("counts", cpu, journal.counts)
    await timed("counts of submissions", cpu, lambda: journal.counts(submissions=True))


async def timed(name: str, cpu: Cpu, read: Callable[[], Awaitable[Any]]) -> None:
    seconds, before = [], cpu()
    for _ in range(LOOKS):
        began = time.perf_counter()
        found = await read()
        seconds.append(time.perf_counter() - began)
    rows = f"{len(found):3} rows" if isinstance(found, list) else ""
    spent = sum(cpu()) - sum(before)
    print(
        f"{name:40} {rows:8}, median {statistics.median(seconds) * 1000:8.1f} ms, first {seconds[0] * 1000:8.1f} ms, "
        f"CPU {spent / LOOKS * 1000:8.1f} ms",
        flush=True,
    )


async def purge(runtime: Runtime, cpu: Cpu, seconds: float, rounds: int) -> None:
    """Print the speed at which settled submissions are deleted: alone, beside some callbacks, and beside as many as the
    journal takes, with the callbacks kept in a CPU second of all, compared with those without a purge."""
    ratios = []
    for number in range(rounds):
        alone, _, spent = await beside(runtime, cpu, seconds, callbacks=0, purging=True)
        some, kept, _ = await beside(runtime, cpu, seconds, callbacks=SOME, purging=True)
        _, without, spent_without = await beside(runtime, cpu, seconds, callbacks=MOST, purging=False)
        gone, most, spent_most = await beside(runtime, cpu, seconds, callbacks=MOST, purging=True)
        ratios.append(round(most / spent_most / (without / spent_without), 2))
        print(
            f"purge, round {number + 1}: {alone:,.0f} submissions a second ({alone / spent:,.0f} a CPU second), "
            f"{some:,.0f} beside {kept:,.0f} callbacks a second, {gone:,.0f} beside {most:,.0f}, which are "
            f"{most / without:.2f} of those without a purge",
            flush=True,
        )
    if ratios:
        print(f"callbacks per CPU second, with a purge to without: {statistics.median(ratios):.2f}, in rounds {ratios}")


async def beside(
    runtime: Runtime, cpu: Cpu, seconds: float, *, callbacks: float, purging: bool
) -> tuple[float, float, float]:
    """Return the submissions deleted, the callbacks kept, and the CPU seconds, in a second, with at most so many
    callbacks a second."""
    journal = runtime.journal
    made = [submission(status="accepted", **many_rows.fresh()) for _ in range(AT_ONCE)]
    await asyncio.gather(*(journal.add(row) for row in made))
    keep = Keep(callbacks=0, media=0, submissions=3600.0)
    retention = Retention(journal=journal, store=runtime.store, clock=runtime.clock, keep=keep)
    kept = 0

    async def send(row: Submission) -> None:
        nonlocal kept
        body = many_rows.PAYLOAD.read_bytes()
        heard = Callback(submission_id=row.id, received_ms=row.created_ms, cause=None, body=body)
        while True:
            if callbacks < MOST:
                await asyncio.sleep(random.expovariate(callbacks / AT_ONCE))
            await journal.change(row.id, lambda now: Change(submission=replace(now, polls=now.polls + 1)), heard)
            kept += 1

    before, spent, began = await count(journal), sum(cpu()), time.perf_counter()
    working = [asyncio.create_task(send(row)) for row in made] if callbacks else []
    working += [asyncio.create_task(retention.purge(keep))] if purging else []  # type: ignore[list-item]
    await asyncio.sleep(seconds)
    took, took_kept, spent = time.perf_counter() - began, kept, sum(cpu()) - spent
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    return (before - await count(journal)) / took, took_kept / took, spent / took


async def count(journal: Journal) -> int:
    return sum((await journal.counts(submissions=True)).submissions.values())


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as name:
        async with many_rows.database(options.database, Path(name), options.keep) as settings:
            await many_rows.fill(settings, options.submissions)
            async with open_runtime(settings) as runtime:
                cpu = await many_rows.cpu_clock(settings)
                if "lists" in options.parts:
                    await lists(runtime.journal, cpu)
                if "purge" in options.parts:
                    await purge(runtime, cpu, options.seconds, options.rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--submissions", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--rounds", type=int, default=3, help="of the purge")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of the purge")
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    parser.add_argument("--keep")
    parser.add_argument("--parts", default="lists,purge")
    asyncio.run(main(parser.parse_args()))
