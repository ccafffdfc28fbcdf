"""kill -9 at random moments under load."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from pathlib import Path

from experiments.base import Experiment, Outcome
from experiments.servers import Server, server
from experiments.stage import CLIENTS, Ledger, callbacks, delivered, doubled, load, lost, results, seed

READY_SECONDS = 2.0
"""Limit of P8."""
BUSY = 2.0
"""On a busy machine, a start may take so many times as long as a start with nothing to recover."""


class Kill:
    """`receiver serve` is killed and started again, on the same journal, while clients call back."""

    name = "kill-9"
    summary = f"kill -9 at random moments under {CLIENTS} clients: no acknowledged callback is lost, ready again in 2 s"
    promises = ("P2", "P3", "P8")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """One kill in eight comes while the server starts."""
        return await self._kill(folder, 4 if quick else 40, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Acknowledge before the commit."""
        return await self._kill(folder, 2 if quick else 8, build="acknowledge-before-commit")

    async def _kill(self, folder: Path, kills: int, *, build: str | None) -> Outcome:
        begun, ledger, chance = time.monotonic(), Ledger(), random.Random(kills)  # noqa: S311 - moments, no secrets
        data = folder / "data"
        targets = await seed(data, 150 * kills)
        readiness = []
        plain = await plain_start(folder / "first")
        async with server(folder, build=build) as item:
            await item.start()
            async with load(item.url, callbacks(targets), ledger):
                for number in range(kills):
                    await self._live(item, ledger, chance, starting=number % 8 == 7)
                    await item.kill()
                    readiness.append(await item.start())
            await delivered(data)
            await item.stop()
        plain = max(plain, await plain_start(folder / "last"))
        there = results(folder / "outputs")
        missing = len(ledger.ended - there.keys())
        return Outcome(
            injected=kills,
            acknowledged=len(ledger.acknowledged),
            lost=lost(data, ledger) + missing,
            doubled=doubled(data) + sum(count - 1 for count in there.values()),
            seconds=time.monotonic() - begun,
            notes=f"ready again in {statistics.median(readiness):.2f} s, at most {max(readiness):.2f} s "
            f"({plain:.2f} s with nothing to recover); "
            f"{len(there):,} results in the folder",
            problem=_slow(readiness, max(READY_SECONDS, BUSY * plain)),
        )

    async def _live(self, item: Server, ledger: Ledger, chance: random.Random, *, starting: bool) -> None:
        """Let it work for a random while; `starting`: let it be killed by a moment, and killed again as it starts."""
        before = len(ledger.acknowledged)
        while len(ledger.acknowledged) == before:  # noqa: ASYNC110 - a ledger is no event
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0, 0.6))
        if starting:
            await item.kill()
            await item.spawn()
            await asyncio.sleep(chance.uniform(0, 0.8))


async def plain_start(folder: Path) -> float:
    """Seconds until `/readyz` says 200 where nothing has happened yet."""
    folder.mkdir()  # noqa: ASYNC240 - one folder
    async with server(folder) as item:
        return await item.start()


def _slow(readiness: list[float], limit: float) -> str | None:
    """By the median: one slow start among forty is another program's."""
    median = statistics.median(readiness)
    return f"it was ready {median:.2f} s after a kill, not within {limit:.2f} s" if median > limit else None


EXPERIMENTS: tuple[Experiment, ...] = (Kill(),)
