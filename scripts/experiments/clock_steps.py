"""The machine's clock is set, forth and back, while work waits for its time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from builds import clocks, plugins

from experiments.base import Experiment, Outcome
from experiments.servers import Server, served, server
from experiments.stage import rows
from experiments.submits import settings, submit
from receiver.journal.transitions import LONGEST_MS
from receiver.simulator import Simulator

HOUR, DAY = 3600.0, 86400.0
STEPS = (-HOUR, HOUR, -2 * DAY, 2 * DAY)
PATIENCE = 40.0
"""Limit in seconds of each wait: 13 minutes of the faster clock. Due times are clamped every five minutes."""
DOUBT = 8.0
"""The same for a broken build."""
LONGEST = max(limit for kind, limit in LONGEST_MS.items() if kind != "pause by hand") / 1000
"""The longest wait in seconds, of any kind but a pause by hand, which none has here. After a step back, something may
be due so much later, and no more."""
POSTPONED = """
    SELECT DISTINCT body ->> '$.prompt' FROM attempts JOIN deliveries ON delivery_id = deliveries.id
    JOIN submissions ON submission_id = submissions.id WHERE attempts.outcome = 'postponed'
"""
STRANDED = """
    SELECT EXISTS (SELECT 1 FROM deliveries WHERE status = 'pending' AND due_ms > :reach)
        OR EXISTS (SELECT 1 FROM submissions WHERE max(coalesce(poll_due_ms, 0), coalesce(media_due_ms, 0)) > :reach)
"""


class ClockSteps:
    """A real `receiver serve` on a faster clock that is set while tasks run, polls are due later, and a destination has
    asked to be called again. The simulated provider has its own clock.

    After a step forward, every result must come soon. After a step back, every due time must soon be within the longest
    wait of its kind, and every result must come when that is over. Nothing may run twice.
    """

    name = "clock-steps"
    summary = (
        "the clock is set by ± 1 h and ± 2 d while work waits: nothing waits longer than the longest retry, nothing "
        "runs twice"
    )
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Quick: the longest step back, which strands most."""
        some = (STEPS[2:3], 2) if quick else (STEPS, 8)
        return await self._step(folder, *some, build="set-clock", patience=PATIENCE)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Leave due times where the wrong clock has put them."""
        return await self._step(folder, STEPS[2:3], 2, build="set-clock+unclamped", patience=DOUBT)

    async def _step(self, folder: Path, steps: tuple[float, ...], each: int, *, build: str, patience: float) -> Outcome:
        begun, provider = time.monotonic(), Simulator(profile="relay", speed=clocks.SPEED)
        plugins.install(folder)
        clocks.make(folder)
        slowest = 0.0
        async with (
            served(provider.app) as url,
            server(folder, build=build, **settings(url), RECEIVER_TO="later:any") as item,
        ):
            item.let_callbacks_come()
            await item.start()
            for number, step in enumerate(steps):
                waited = await self._round(folder, item, [f"{number}-{one}" for one in range(each)], step, patience)
                slowest = max(slowest, waited)
        asked = {f"{number}-{one}" for number in range(len(steps)) for one in range(each)}
        effects = plugins.effects(folder)
        sent = Counter(str(body["prompt"]) for body in provider.submits)
        return Outcome(
            injected=len(steps),
            acknowledged=len(asked),
            lost=len(asked - results(folder)),
            doubled=sum(
                count - 1 for count in [*sent.values(), *Counter(effect["key"] for effect in effects).values()]
            ),
            seconds=time.monotonic() - begun,
            notes=f"in reach or delivered {slowest:.1f} s after a step, {slowest * clocks.SPEED:.0f} s by its clock",
        )

    async def _round(self, folder: Path, item: Server, prompts: list[str], step: float, patience: float) -> float:
        """Submit some, wait until a half is postponed by the destination, and set the clock. Then wait for the results.

        Returns:
            The seconds until all results are there, or after a step back until all due times are in reach. At most
            `patience`.
        """
        half = len(prompts) // 2
        await asyncio.gather(*(submit(item, prompt) for prompt in prompts[:half]))
        await until_postponed(folder, prompts[:half])
        await asyncio.gather(*(submit(item, prompt) for prompt in prompts[half:]))
        clocks.step(folder, step)
        if step > 0:
            return await delivered(folder, prompts, patience)
        waited = await in_reach(folder, patience)
        clocks.step(folder, LONGEST)
        await delivered(folder, prompts, patience)
        return waited


async def delivered(folder: Path, prompts: list[str], patience: float) -> float:
    """Wait until all results have come, or for so long. Return the seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < patience and not set(prompts) <= results(folder):  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def in_reach(folder: Path, patience: float) -> float:
    """Wait until nothing is due later than the longest wait allows, or for so long. Return the seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < patience:
        reach = {"reach": int((clocks.now(folder) + LONGEST) * 1000)}
        if not rows(folder / "data", STRANDED, reach)[0][0]:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


def results(folder: Path) -> set[str]:
    """Return the prompts whose result has reached the destination."""
    return {effect["prompt"] for effect in plugins.effects(folder) if effect["type"] == "task.succeeded"}


async def until_postponed(folder: Path, prompts: list[str]) -> None:
    """Wait until the destination has asked to be called again for all of them."""
    async with asyncio.timeout(PATIENCE):
        while not set(prompts) <= {prompt for (prompt,) in rows(folder / "data", POSTPONED)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


EXPERIMENTS: tuple[Experiment, ...] = (ClockSteps(),)
