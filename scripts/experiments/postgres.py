"""PostgreSQL crashes, refuses connections, lets all statements wait, or gets rows that it cannot keep."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import msgspec
from builds.postgres import all_for_one

from experiments.base import Experiment, Outcome
from experiments.cluster import BROKEN, SETTLED, Cluster, cluster, late, said
from experiments.databases import database
from experiments.stage import Target, sow
from receiver.events import Callback, Submission
from receiver.journal import Change, Changed, Journal
from receiver.journal.postgres import open_store


class Crashes:
    """The server is crashed and started again while clients call back."""

    name = "postgres-crashes"
    summary = "PostgreSQL crashes every 3 to 8 s under load: nothing acknowledged is lost, and it goes on within 5 s"
    promises = ("P2", "P3")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """For two minutes."""
        return await self._crash(folder, 2 if quick else 22, (1, 3) if quick else (3, 8), build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Answer callbacks before they are written."""
        return await self._crash(folder, 2, (1, 2), build="acknowledge-before-write")

    async def _crash(self, folder: Path, crashes: int, pause: tuple[float, float], *, build: str | None) -> Outcome:
        begun, chance, slow = time.monotonic(), random.Random(crashes), []  # noqa: S311 - moments, no secrets
        async with cluster(folder, webs=2, workers=1, tasks=250 * crashes, build=build) as place:
            async with place.load():
                full = await place.warm_up()
                for _ in range(crashes):
                    await asyncio.sleep(chance.uniform(*pause))
                    await place.there.crash()
                    await place.there.start()
                    slow.append(await place.recovered(full))
            return await place.count(
                begun,
                injected=crashes,
                notes=f"as fast as before after {max(slow):.1f} s at most; {said(place)}",
                problem=late(place, slow),
                settling=BROKEN if build else SETTLED,
            )


class Refused:
    """For a while the server refuses new connections and has cut the old ones."""

    name = "postgres-crowded"
    summary = "PostgreSQL's connection limit is reached, and ours are cut: 503, nothing lost, and it goes on within 5 s"
    promises = ("P2", "P7")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await _troubled(folder, 1 if quick else 10, 2.0 if quick else 10.0, crowd, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Acknowledge what the journal refused."""
        return await _troubled(folder, 1, 2.0, crowd, build="acknowledge-failures")


class Slow:
    """For a while every statement waits for another session's lock. The operator has set a lock_timeout."""

    name = "postgres-slow"
    summary = "all statements wait until they are given up: late 200 or 503, nothing lost, and it goes on within 5 s"
    promises = ("P2", "P7")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await _troubled(folder, 1 if quick else 10, 3.0 if quick else 12.0, hold_up, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Acknowledge what the journal refused."""
        return await _troubled(folder, 1, 3.0, hold_up, build="acknowledge-failures")


Trouble = Callable[[Cluster], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def crowd(place: Cluster) -> AsyncIterator[None]:
    """Refuse new connections, and cut those that are open."""
    await place.there.ask("ALTER ROLE receiver CONNECTION LIMIT 0")
    await place.there.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'receiver'")
    yield
    await place.there.ask("ALTER ROLE receiver CONNECTION LIMIT -1")


@asynccontextmanager
async def hold_up(place: Cluster) -> AsyncIterator[None]:
    """Hold locks, so that every statement waits for a second."""
    db = await asyncpg.connect(place.there.url)
    async with db.transaction():
        await db.execute("SET LOCAL lock_timeout = '10s'")
        await db.execute("LOCK TABLE receiver.submissions, receiver.callbacks, receiver.deliveries")
        yield
    await db.close()


async def _troubled(folder: Path, times: int, seconds: float, trouble: Trouble, *, build: str | None) -> Outcome:
    begun, slow = time.monotonic(), []
    async with cluster(folder, webs=1, workers=1, tasks=300 * times, build=build) as place:
        await place.there.ask("ALTER ROLE receiver SET lock_timeout = '1s'")
        await place.there.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'receiver'")
        async with place.load():
            full = await place.warm_up()
            for _ in range(times):
                async with trouble(place):
                    await asyncio.sleep(seconds)
                slow.append(await place.recovered(full))
                await asyncio.sleep(1)
        odd = {status: count for status, count in place.ledger.answers.items() if status not in (200, 202, 503)}
        return await place.count(
            begun,
            injected=times,
            notes=f"as fast as before after {max(slow):.1f} s at most; {said(place)}, "
            f"after {place.ledger.slowest.get(503, 0):.1f} s at most",
            problem=f"clients were answered {odd}" if odd else late(place, slow),
            settling=BROKEN if build else SETTLED,
        )


class PoisonRows:
    """Rows that no database keeps, among many that any would, all in the same moment."""

    name = "postgres-poison-rows"
    summary = "a NUL, half characters, a number too large, a fault of ours, in one batch: only the guilty are refused"
    promises = ("P9",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._mix(200 if quick else 5000)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Refuse a whole batch if one of its operations fails."""
        with all_for_one():
            return await self._mix(200)

    async def _mix(self, sound: int) -> Outcome:
        begun = time.monotonic()
        async with database() as there:
            targets = await sow(Journal(await open_store(there.url, listen=False)), sound + len(POISONS))
            journal = Journal(await open_store(there.url, listen=False))
            told = await asyncio.gather(
                *(_keep(journal, target, number) for number, target in enumerate(targets)), return_exceptions=True
            )
            await journal.aclose()
            kept = {row[0] for row in await there.ask("SELECT DISTINCT submission_id FROM receiver.callbacks")}
        refused = [number for number, answer in enumerate(told) if not _sound(answer)]
        innocent = [number for number in refused if number >= len(POISONS)]
        acknowledged = {target.id for target, answer in zip(targets, told, strict=True) if isinstance(answer, Changed)}
        return Outcome(
            injected=len(POISONS),
            acknowledged=len(acknowledged),
            lost=len(acknowledged - kept),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"{len(refused)} of {len(POISONS)} were refused, the others cleaned; each callback is kept",
            problem=f"{len(innocent)} sound ones were refused" if innocent else None,
        )


def _sound(answer: Changed | BaseException | None) -> bool:
    return isinstance(answer, Changed) and answer.problem is None


def _fault(row: Submission) -> Submission:
    raise ZeroDivisionError("a fault of ours")


POISONS: tuple[Callable[[Submission], Submission], ...] = (
    lambda row: msgspec.structs.replace(row, detail="a NUL \0 in it"),
    lambda row: msgspec.structs.replace(row, detail="half a \ud800 character"),
    lambda row: msgspec.structs.replace(row, poll_due_ms=2**63),
    lambda row: msgspec.structs.replace(row, detail="\0\udfff"),
    _fault,
)
"""Changes of the first rows of a batch."""


async def _keep(journal: Journal, target: Target, number: int) -> Changed | None:
    """Change a row as a callback does; the first ones to something poisonous."""
    callback = Callback(submission_id=target.id, received_ms=number, cause=None, body=b'{"number":%d}' % number)
    change = POISONS[number] if number < len(POISONS) else (lambda row: msgspec.structs.replace(row, callbacks=1))
    return await journal.change(target.id, lambda row: Change(submission=change(row)), callback)


EXPERIMENTS: tuple[Experiment, ...] = (Crashes(), Refused(), Slow(), PoisonRows())
