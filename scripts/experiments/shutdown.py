"""SIGTERM under load, with deliveries under way and a body half sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from builds import plugins

from experiments.base import Experiment, Outcome
from experiments.servers import Server, server
from experiments.stage import (
    CLIENTS,
    PATIENCE,
    Ledger,
    Target,
    callbacks,
    doubled,
    load,
    lost,
    rows,
    seed,
)

DRAIN_SECONDS = 10.0
"""Limit of P8."""
RUNNING = "SELECT count(*) FROM deliveries WHERE status = 'running'"
FAILED = "SELECT coalesce(sum(failures), 0) FROM deliveries"
INTERRUPTED = "SELECT count(*) FROM attempts WHERE outcome = 'interrupted'"


class Shutdown:
    """`receiver serve` gets SIGTERM while clients call back, one of them stops in the middle of a body, and a handler
    runs that will not be done in time. Then it is started once more, and frees what the first one left."""

    name = "sigterm"
    summary = f"SIGTERM under {CLIENTS} clients: ends in 10 s, nothing acknowledged is lost, no failure is used up"
    promises = ("P2", "P8")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._stop(folder, 1 if quick else 5, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Leave running attempts as they are."""
        return await self._stop(folder, 1, build="end-without-drain")

    async def _stop(self, folder: Path, times: int, *, build: str | None) -> Outcome:
        begun, ledger, data = time.monotonic(), Ledger(), folder / "data"
        targets = await seed(data, 1000 * times)
        plugins.install(folder)
        items = callbacks(targets)
        seconds = []
        async with server(folder, build=build, RECEIVER_TO="slow:any") as item:
            for _ in range(times):
                await item.start()
                async with half_sent(item, targets[-1]), load(item.url, items, ledger):
                    await until_running(data)
                    await asyncio.sleep(0.5)
                    seconds.append(await item.stop())
            await item.start()
            failures = rows(data, FAILED)[0][0]
        interrupted = rows(data, INTERRUPTED)[0][0]
        return Outcome(
            injected=times,
            acknowledged=len(ledger.acknowledged),
            lost=lost(data, ledger),
            doubled=doubled(data),
            seconds=time.monotonic() - begun,
            notes=f"ended in {max(seconds):.1f} s at most; {interrupted} attempts interrupted, {failures} failures",
            problem=_problem(max(seconds), interrupted, failures),
        )


def _problem(seconds: float, interrupted: int, failures: int) -> str | None:
    if seconds > DRAIN_SECONDS:
        return f"it took {seconds:.1f} s to end"
    if failures:
        return f"{failures} attempts that were under way count as failures"
    return None if interrupted else "no attempt was under way, so nothing is proven"


async def until_running(data: Path) -> None:
    """Until handlers are at work."""
    until = time.monotonic() + PATIENCE
    while not rows(data, RUNNING)[0][0]:
        if time.monotonic() > until:
            raise RuntimeError("No delivery has begun.")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def half_sent(item: Server, target: Target) -> AsyncIterator[None]:
    """A client that has sent half of a callback, and says no more."""
    _, writer = await asyncio.open_connection("127.0.0.1", item.port)
    head = f"POST /callbacks/{target.url_token} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Content-Length: 5000\r\n\r\n{{"id": '.encode())
    await writer.drain()
    try:
        yield
    finally:
        writer.close()


EXPERIMENTS: tuple[Experiment, ...] = (Shutdown(),)
