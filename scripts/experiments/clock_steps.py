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
from receiver.simulator import Simulator

HOUR, DAY = 3600.0, 86400.0
STEPS = (-HOUR, HOUR, -2 * DAY, 2 * DAY)
PATIENCE = 30.0
"""Seconds (ten minutes of the faster clock) within which everything must have its end, whatever the clock was set to.
What is stranded waits for an hour, or for days."""
DOUBT = 8.0
"""Seconds after which nobody waits for a broken build any longer."""


POSTPONED = """
    SELECT DISTINCT prompt FROM attempts JOIN deliveries ON delivery_id = deliveries.id
    JOIN submissions ON submission_id = submissions.id WHERE attempts.outcome = 'postponed'
"""


class ClockSteps:
    """A real `receiver serve` by a faster clock that is set while tasks run, polls are due later, and a destination has
    asked to be called again; the simulated provider has a clock of its own. Every result must come soon, and once."""

    name = "clock-steps"
    summary = "the clock is set by ± 1 h and ± 2 d while work waits: nothing is stranded, nothing runs twice"
    promises = ("P3", "P6")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Quick: the longest step back, which strands most."""
        some = (STEPS[2:3], 2) if quick else (STEPS, 8)
        return await self._step(folder, *some, build="set-clock", patience=PATIENCE)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Does not notice that the clock was set back."""
        return await self._step(folder, STEPS[2:3], 2, build="set-clock+ignore-clock-steps", patience=DOUBT)

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
            notes=f"all results within {slowest:.1f} s of a step, {slowest * clocks.SPEED:.0f} s by the faster clock",
        )

    async def _round(self, folder: Path, item: Server, prompts: list[str], step: float, patience: float) -> float:
        """Submit some, let one half come as far as to wait for their destination, and set the clock. Returns the
        seconds until all have their results, or until that is given up."""
        half = len(prompts) // 2
        await asyncio.gather(*(submit(item, prompt) for prompt in prompts[:half]))
        await until_postponed(folder, prompts[:half])
        await asyncio.gather(*(submit(item, prompt) for prompt in prompts[half:]))
        clocks.step(folder, step)
        begun = time.monotonic()
        while time.monotonic() - begun < patience:
            if set(prompts) <= results(folder):
                break
            await asyncio.sleep(0.05)
        return time.monotonic() - begun


def results(folder: Path) -> set[str]:
    """Prompts whose result has reached the destination."""
    return {effect["prompt"] for effect in plugins.effects(folder) if effect["type"] == "task.succeeded"}


async def until_postponed(folder: Path, prompts: list[str]) -> None:
    """Until their destination has asked for all of them to come again later."""
    async with asyncio.timeout(PATIENCE):
        while not set(prompts) <= {prompt for (prompt,) in rows(folder / "data", POSTPONED)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


EXPERIMENTS: tuple[Experiment, ...] = (ClockSteps(),)
