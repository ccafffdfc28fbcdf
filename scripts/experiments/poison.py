"""Handlers that end the process, block the event loop, or want more memory than there is."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from experiments.base import Experiment, Outcome
from experiments.kills import BUSY, plain_start
from experiments.plugins import plug_in
from experiments.servers import Server, server
from experiments.stage import Callback, Ledger, callbacks, http_client, post, rows, seed

HELD_UP = 10.0
"""One stall of the event loop, and what is due after it. A handler that blocks it is tried again a little later."""
RESTART = 5.0
"""Seconds a restart may take on a machine that is busy with other things, too; on a busier one, `kills.BUSY` times as
long as with nothing to recover."""
PACE = 0.25
"""Seconds between two results."""
FIRST = 4
"""Results before the poison."""
PLUGIN = """
import asyncio, os, resource

from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions

LIMIT = 1536 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))


class Plugin:
    name, summary, schemes = "poison", "Does what the prompt says.", ("poison",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url):
        return {}

    def __init__(self, options): ...

    async def deliver(self, attempt):
        does = attempt.event.prompt
        if does in ("exit", "loop", "memory"):
            with open("poisoned", "a") as file:
                file.write(does + "\\n")
        if does == "exit":
            os._exit(1)
        while does == "loop":
            pass
        if does == "memory":
            bytearray(2 << 30)
        await asyncio.sleep(0.1)
        return Receipt()

    async def aclose(self): ...
"""


POISONS: Mapping[str, float] = {"memory": 2.0, "exit": 6.0, "loop": 16.0}
"""Actions of the handler, and the seconds for which results come in afterwards."""


@dataclass(frozen=True)
class Harm:
    """The harm that one poison has done to others.

    Attributes:
        attempts: at the poison.
        restarts: exit statuses of processes it ended.
        acknowledged, lost: ends of others that were answered 2xx; their deliveries that were never made.
        silence: the longest time without an answer to a callback, in seconds.
        slowest: the longest time from callback to receipt of another delivery, in seconds.
    """

    attempts: int
    restarts: list[int]
    acknowledged: int
    lost: int
    silence: float
    slowest: float

    @property
    def longest(self) -> float:
        """The longest time it held up another delivery or callback."""
        return max(self.silence, self.slowest)


class PoisonHandlers:
    """One poison at a time, in a stream of results for the same handler and for a healthy one."""

    name = "poison-handlers"
    summary = "a handler exits, loops for ever, wants 2 GB: no other delivery waits for more than 10 s and a restart"
    promises = ("P3", "P9")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._each(
            folder, POISONS if quick else {does: 3 * at for does, at in POISONS.items()}, build=None
        )

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Run without the watchdog, for longer than another delivery may be held up."""
        return await self._each(folder, {"loop": 0.0}, build="unwatched")

    async def _each(self, folder: Path, poisons: Mapping[str, float], *, build: str | None) -> Outcome:
        begun = time.monotonic()
        limit = HELD_UP + max(RESTART, BUSY * await plain_start(folder / "plain"))
        harms = {
            does: await _poisoned(folder / does, does, seconds or limit + 2, build) for does, seconds in poisons.items()
        }
        late = [does for does, harm in harms.items() if harm.longest > limit or not harm.attempts]
        told = [
            f"{does}: {harm.attempts} attempts, {len(harm.restarts)} restarts, others held up {harm.longest:.1f} s"
            for does, harm in harms.items()
        ]
        return Outcome(
            injected=sum(harm.attempts for harm in harms.values()),
            acknowledged=sum(harm.acknowledged for harm in harms.values()),
            lost=sum(harm.lost for harm in harms.values()),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes="; ".join(told),
            problem=f"longer than {HELD_UP:g} s and a restart: {', '.join(late)}" if late else None,
        )


async def _poisoned(folder: Path, does: str, seconds: float, build: str | None) -> Harm:
    ledger, data = Ledger(), folder / "data"
    plug_in(folder, "poison", PLUGIN)
    targets = await seed(data, FIRST + int(seconds / PACE), prompts={FIRST: does})
    poison = targets[FIRST].id
    ends = [item for item in callbacks(targets, steps=1) if item.final]
    there = {"RECEIVER_DESTINATIONS__POISON__HANDLER": "poison"}
    async with server(folder, build=build, **there) as item, _supervised(item) as restarts:
        silence = await _stream(item.url, ends, ledger)
        await _settled(data, poison, HELD_UP + RESTART)
    waits, healthy = _waits(data, poison), ledger.ended - {poison}
    made = Counter(submission for submission, _ in waits)
    poisoned = folder / "poisoned"
    return Harm(
        attempts=len(poisoned.read_text().split()) if poisoned.exists() else 0,
        restarts=restarts,
        acknowledged=len(healthy),
        lost=sum(2 - made[submission] for submission in healthy),
        silence=silence,
        slowest=max((seconds for _, seconds in waits), default=0.0),
    )


@asynccontextmanager
async def _supervised(item: Server) -> AsyncIterator[list[int]]:
    """Start the server again when it ends, as any supervisor does. Yield the exit statuses."""
    await item.start()
    restarts: list[int] = []

    async def supervise() -> None:
        while True:
            restarts.append(await item.ended())
            await item.spawn()

    supervising = asyncio.create_task(supervise())
    try:
        yield restarts
    finally:
        supervising.cancel()
        await asyncio.wait([supervising])


async def _stream(url: str, ends: Iterable[Callback], ledger: Ledger) -> float:
    """Send callbacks at a fixed pace, without waiting for answers. Return the longest time without an answer."""
    answers = [time.monotonic()]

    async def send(http: httpx.AsyncClient, end: Callback) -> None:
        if await post(http, end, ledger) is not None:
            answers.append(time.monotonic())

    async with http_client(url) as http:
        sending = []
        for end in ends:
            sending.append(asyncio.create_task(send(http, end)))
            await asyncio.sleep(PACE)
        answers.append(time.monotonic())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return max(later - earlier for earlier, later in itertools.pairwise(sorted(answers)))


async def _settled(data: Path, poison: str, seconds: float) -> None:
    """Wait until nothing healthy is owed, or for so long."""
    until = time.monotonic() + seconds
    statement = "SELECT 1 FROM deliveries WHERE status IN ('pending', 'running') AND submission_id <> :poison"
    while time.monotonic() < until and rows(data, statement, {"poison": poison}):  # noqa: ASYNC110 - another's rows
        await asyncio.sleep(0.2)


def _waits(data: Path, poison: str) -> list[tuple[str, float]]:
    """Return, of each healthy delivery that was made, its submission and the seconds from callback to receipt."""
    statement = (
        "SELECT submission_id, finished_ms - created_ms FROM deliveries "
        "WHERE status = 'succeeded' AND submission_id <> :poison"
    )
    return [(submission, ms / 1000) for submission, ms in rows(data, statement, {"poison": poison})]


EXPERIMENTS: tuple[Experiment, ...] = (PoisonHandlers(),)
