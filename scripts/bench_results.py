"""Seconds from a task's SUCCESS at the provider to its file on disk, and polls. Part of `scripts/bench`.

usage: .venv/bin/python scripts/bench_results.py [--tasks N] [--json FILE] [--folder FOLDER]

The simulated provider has its real pace, and its tasks take 20 to 60 s. A task alone has a new Receiver of its own, so
nothing is learnt from others. Every picture is the same small one, because drawing it would take longer than all else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from builds.replacing import replaced
from starlette.types import Receive, Scope, Send

from receiver.app.container import Runtime
from receiver.cli.process import run
from receiver.requests import build
from receiver.simulator import Simulator, pictures, timeline
from receiver.telemetry import configure
from receiver.testing import make_media

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from experiments.servers import here, served

UNDER_WAY = 50
SHORTEST, LONGEST = 20.0, 60.0
"""Seconds that tasks take."""
SUBMITTING = asyncio.Lock()
DEFAULTS = {"confirm_within": 30.0, "poll_interval": 15.0}
"""Settings that `here` has otherwise."""


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon a result is on disk, and how often the provider is asked.")
    parser.add_argument("--tasks", type=int, default=20, help="measured alone (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the usual temporary one)")
    options = parser.parse_args()
    configure(level="error")
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as name:
        rows = run(measured(Path(name), options.tasks))
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


async def measured(folder: Path, tasks: int) -> list[dict[str, Any]]:
    small = make_media(folder / "drawn")[0].path.read_bytes()
    rows = []
    with replaced(pictures, "compose", lambda *picture: small):
        for callbacks in (False, True):
            for under_way, worlds in ((1, tasks), (UNDER_WAY, 1)):
                places = [folder / f"{callbacks}-{under_way}-{number}" for number in range(worlds)]
                found = await asyncio.gather(
                    *(world(place, number, worlds, under_way, callbacks) for number, place in enumerate(places))
                )
                seconds = sorted(late for lates, _ in found for late in lates)
                rows.append(
                    {
                        "callbacks": callbacks,
                        "under_way": under_way,
                        "median_s": statistics.median(seconds),
                        "p95_s": seconds[int(0.95 * (len(seconds) - 1))],
                        "requests_per_task": sum(asked for _, asked in found) / len(seconds),
                    }
                )
    return rows


async def world(folder: Path, number: int, worlds: int, under_way: int, callbacks: bool) -> tuple[list[float], int]:
    """Return the seconds of each task of one Receiver, and how often it asked its provider about them."""
    simulator, asked = Simulator(faults=[] if callbacks else ["hook_stripped"]), 0

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += scope["type"] == "http" and "/task/" in scope["path"]
        await simulator.app(scope, receive, send)

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(counted))
        receiver = (
            await stack.enter_async_context(here(folder, call_back=True, provider_url=url, **DEFAULTS))
        ).receiver
        ids = []
        for place in range(number, under_way * worlds, worlds):
            row = await receiver.submissions.prepare(build("imagine", prompt=f"a paper boat {place}"))
            async with SUBMITTING:  # the simulator decides a task's time then
                timeline.DURATIONS["fast"] = SHORTEST + (LONGEST - SHORTEST) * place / (under_way * worlds - 1)
                ids.append((await receiver.submissions.send(row.id)).id)
        lates = await asyncio.gather(*(late(receiver, folder / "outputs", id) for id in ids))
        await receiver.stop_engine()  # before its provider goes
    return list(lates), asked


async def late(receiver: Runtime, outputs: Path, id: str) -> float:
    """Return the seconds from the provider's own end of a task to its last file on disk."""
    while not (found := list(outputs.glob(f"*{id}*.json"))):  # noqa: ASYNC110, ASYNC240 - files
        await asyncio.sleep(0.1)
    events = await receiver.journal.events(limit=10, submission_id=id)
    finish_ms = next(event.task.finish_ms or 0 for event in events if event.type == "task.succeeded" and event.task)
    return found[0].stat().st_mtime - finish_ms / 1000


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'SUCCESS TO FILE':40}{'median s':>10}{'p95 s':>8}{'requests per task':>20}")
    for row in rows:
        kind = f"{'with' if row['callbacks'] else 'without'} callbacks, "
        kind += "a task alone" if row["under_way"] == 1 else f"{row['under_way']} under way"
        print(f"{kind:40}{row['median_s']:10.2f}{row['p95_s']:8.2f}{row['requests_per_task']:20.2f}")


if __name__ == "__main__":
    main()
