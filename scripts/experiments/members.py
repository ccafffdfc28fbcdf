"""Processes on one PostgreSQL are killed, or cut off from it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from experiments.base import Experiment, Outcome
from experiments.cluster import BROKEN, SETTLED, Cluster, Member, cluster, late, said
from experiments.stage import PATIENCE


class Kills:
    """Webs and workers are killed and started again, one after the other, while clients call back."""

    name = "postgres-kills"
    summary = "kill -9 of random webs and workers on one PostgreSQL: nothing acknowledged is lost, every result arrives"
    promises = ("P2", "P3", "P8")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """For two minutes; `quick`: three of each."""
        return await self._kill(folder, 3 if quick else 15, build="hasty" if quick else None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Answer callbacks before they are written."""
        return await self._kill(folder, 1, build="hasty+acknowledge-before-write", settling=BROKEN)

    async def _kill(self, folder: Path, each: int, *, build: str | None, settling: float = SETTLED) -> Outcome:
        begun, chance, slow = time.monotonic(), random.Random(each), []  # noqa: S311 - moments, no secrets
        async with cluster(folder, webs=2, workers=2, tasks=300 * each, build=build) as place:
            async with place.load():
                full = await place.warm_up()
                for number in range(2 * each):
                    victim = chance.choice(place.workers if number % 2 else place.webs)
                    await asyncio.sleep(chance.uniform(0.3, 1.0))
                    await victim.kill()
                    await victim.start()
                    slow.append(await place.recovered(full))
            await place.left(settling)
            again = sum(effect["number"] > 1 for effect in place.effects())
            return await place.count(
                begun,
                injected=2 * each,
                notes=f"{each} webs and {each} workers; {again} attempts made again; {said(place)}",
                problem=late(place, slow),
                settling=0,
            )


class CutOff:
    """A worker that is in the middle of deliveries is cut off from the database, and comes back."""

    name = "postgres-cut-off"
    summary = "a worker is cut off from PostgreSQL for 40 s: others make its deliveries, and its late word is refused"
    promises = ("P3", "P4")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._cut(folder, 14.0 if quick else 40.0, build="hasty" if quick else None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Finish and record every attempt, even if another engine has taken over the delivery."""
        return await self._cut(folder, 14.0, build="hasty+unfenced")

    async def _cut(self, folder: Path, seconds: float, *, build: str | None) -> Outcome:
        begun = time.monotonic()
        async with cluster(folder, webs=1, workers=1, far=True, tasks=80, build=build, **SLOW) as place:
            far = place.members[-1]
            await place.end(14)
            held = await _held(place, far)
            place.way.cut()
            await asyncio.sleep(seconds)
            place.way.mend()
            left = await place.left(SETTLED)
            worked = len(_of(place, far, "begun"))
            await place.end(8)
            back = await _until(lambda: len(_of(place, far, "begun")) > worked, seconds=SETTLED / 3)
            recorded = await place.there.ask(RECORDED, sorted(held))
            others = {effect["key"] for effect in place.effects() if effect["pid"] != far.pid}
            problems = [
                f"{left} deliveries were not made" if left else "",
                f"the late word about {len(recorded)} attempts was recorded" if recorded else "",
                "" if back else "the worker does not work any more",
            ]
            return await place.count(
                begun,
                injected=len(held),
                notes=f"{len(held & others)} of the {len(held)} deliveries it had were made by others; "
                f"{place.repeated()} effects came again under the same key",
                problem="; ".join(filter(None, problems)) or None,
                settling=BROKEN if "unfenced" in (build or "") else SETTLED,
            )


SLOW = {
    "KEEPER_SECONDS": "2",
    "RECEIVER_TO": "",
    "RECEIVER_DESTINATIONS__KEEPER__HANDLER": "keeper",
    "RECEIVER_DESTINATIONS__KEEPER__CONCURRENCY": "4",
}
"""So that one worker does not take all deliveries."""
SOME = 3
RECORDED = """
SELECT delivery_id FROM receiver.attempts
WHERE delivery_id = ANY ($1::text[]) AND number = 1 AND outcome IS DISTINCT FROM 'vanished'
"""
"""Of these deliveries, those whose first attempt is not recorded as vanished."""


def _of(place: Cluster, member: Member, what: str) -> set[str]:
    """Keys of deliveries that a member has begun, or done."""
    return {effect["key"] for effect in place.effects(what) if effect["pid"] == member.pid}


async def _held(place: Cluster, member: Member) -> set[str]:
    """Keys of deliveries that a member is in the middle of, as soon as there are some: they end one after the other."""
    await _until(lambda: len(_of(place, member, "begun") - _of(place, member, "done")) >= SOME, seconds=PATIENCE)
    return _of(place, member, "begun") - _of(place, member, "done")


async def _until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until something holds; False if it does not for so long."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.05)
    return True


class Leader:
    """Of two workers the one that leads is killed, again and again, while deadlines come."""

    name = "postgres-leader"
    summary = "the engine that leads is killed: another one leads within 30 s, and each deadline is told once"
    promises = ("P6",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """`quick`: with engines that expire sooner."""
        if quick:
            return await self._kill(folder, 2, within=10.0, build="hasty")
        return await self._kill(folder, 8, within=30.0, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Never replace a leader."""
        return await self._kill(folder, 1, within=10.0, build="hasty+leading-for-ever")

    async def _kill(self, folder: Path, kills: int, *, within: float, build: str | None) -> Outcome:
        begun, waits = time.monotonic(), []
        async with cluster(folder, webs=0, workers=2, tasks=40 * kills, build=build) as place:
            await place.there.ask(DEADLINES, int(time.time() * 1000), int(within * kills * 1000))
            for _ in range(kills):
                victim = await leader(place, seconds=PATIENCE)
                assert victim is not None, "no engine leads"
                await asyncio.sleep(1)
                await victim.kill()
                waits.append(await _replaced(place, most=within + SLACK))
                await victim.start()
            lost = await _untold(place, seconds=within + SLACK)
            (told,) = await place.there.ask("SELECT count(*), count(DISTINCT submission_id) FROM receiver.events")
            return Outcome(
                injected=kills,
                acknowledged=len(place.targets),
                lost=lost,
                doubled=told[0] - told[1],
                seconds=time.monotonic() - begun,
                notes=f"another one led after {max(waits):.1f} s at most",
                problem=f"no engine led for {max(waits):.1f} s" if max(waits) >= within + SLACK else None,
            )


DEADLINES = """
UPDATE receiver.submissions
SET deadline_due_ms = ranked.ms, body = jsonb_set(body::jsonb, '{deadline_ms}', to_jsonb(ranked.ms))::text
FROM (
    SELECT id, $1::bigint + $2::bigint * row_number() OVER (ORDER BY id) / count(*) OVER () AS ms
    FROM receiver.submissions
) AS ranked
WHERE submissions.id = ranked.id
"""
"""Spread the deadlines over some time."""
SLACK = 2.0
"""Seconds for a busy machine."""


async def leader(place: Cluster, *, seconds: float) -> Member | None:
    """Return the running member that leads. None: none does for so long."""
    until = time.monotonic() + seconds
    while True:
        found = await place.there.ask("SELECT data FROM receiver.shared_values WHERE key = 'leader'")
        pids = {int(row["data"].split("-")[-2]) for row in found}
        for member in place.members:
            if member.running and member.pid in pids:
                return member
        if time.monotonic() > until:
            return None
        await asyncio.sleep(0.05)


async def _replaced(place: Cluster, *, most: float) -> float:
    """Return the seconds until another one leads."""
    begun = time.monotonic()
    await leader(place, seconds=most)
    return time.monotonic() - begun


async def _untold(place: Cluster, *, seconds: float) -> int:
    """Return the number of submissions that have not ended after so many seconds."""
    until = time.monotonic() + seconds
    statement = "SELECT count(*) FROM receiver.submissions WHERE ended IS NULL"
    while left := int((await place.there.ask(statement))[0][0]):
        if time.monotonic() > until:
            return left
        await asyncio.sleep(0.1)
    return 0


EXPERIMENTS: tuple[Experiment, ...] = (Kills(), CutOff(), Leader())
