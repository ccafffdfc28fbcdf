"""Deliveries on PostgreSQL: claims, completions, destinations."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from receiver.deliveries import Completion
from receiver.errors import JournalError
from receiver.journal import Work, rules
from receiver.journal.postgres import claims, completions
from receiver.journal.postgres.connections import Connections, Marking
from receiver.journal.postgres.driver import Connection, asyncpg
from receiver.journal.postgres.faults import translated
from receiver.journal.postgres.plumbing import Plumbing
from receiver.journal.postgres.statements import run
from receiver.journal.postgres.writer import Writer

CLAIMS = 3
"""How often a claim is tried that lost a race for another delivery of the same submission."""


async def _unheard(db: Connection) -> claims.Taken:
    """A claim was kept, and its answer lost."""
    raise JournalError("A claim was lost on the way. What it took is given back.", fault="uncertain")


class Deliveries(Plumbing):
    """The part of `PostgresJournal` for deliveries; see `journal.base.Journal`."""

    def __init__(self, connections: Connections, *, listen: bool) -> None:
        super().__init__(connections, listen=listen)
        self._completions: Writer[Completion] = Writer(self._complete_all)
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        """By owner, deliveries that were claimed here and not completed yet. Whoever was taken for dead completes
        nothing: what it held is no reason to keep what its successor claims of the same."""
        self._strays: set[str] = set()
        """Owners for whom a claim may have been kept that nobody here has heard of."""
        self._flowing: set[str] = set()
        """Destinations whose last claim got all it asked for: there is more, so the next one need not look first."""
        self._claiming = 0
        self._gate = asyncio.Lock()

    # Destinations

    async def register(self, destinations: Mapping[str, str]) -> None:
        named = dict(sorted(destinations.items()))
        values = {"names": list(named), "handlers": list(named.values())}
        await self._write(lambda db: run(db, "register_destination", **values))

    async def pause(self, destination: str, until_ms: int, reason: str) -> None:
        values = {"name": destination, "until_ms": until_ms, "reason": reason}
        await self._write(lambda db: run(db, "pause_destination", **values))

    async def resume(self, destination: str) -> bool:
        async def write(db: Connection) -> bool:
            await run(db, "end_wait", name=destination)
            return await run(db, "resume_destination", name=destination) == 1

        return await self._write(write)

    # Claims and completions

    async def claim(self, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        take: Any = {"destination": destination, "owner": owner, "limit": limit, "now_ms": now_ms}
        await self.give_back(owner)
        if destination in self._flowing:
            works = await self._claim(owner, now_ms, partial(claims.claim, **take), one=True)
            if len(works) < limit:
                self._flowing.discard(destination)
            if works:
                return works
        (seen,) = await self._rows("look", destination=destination, now_ms=now_ms)
        if not seen["due"] or (seen["paused_until_ms"] or 0) > now_ms:
            return []
        if seen["failures"]:
            return await self._claim(owner, now_ms, partial(claims.probe, **take), one=False)
        works = await self._claim(owner, now_ms, partial(claims.claim, **take), one=True)
        if len(works) == limit:
            self._flowing.add(destination)
        return works

    async def alone_due(self, destinations: Collection[str], now_ms: int) -> bool:
        return bool(await self._rows("alone_due", destinations=list(destinations), now_ms=now_ms))

    async def claim_alone(self, destinations: Collection[str], *, owner: str, now_ms: int) -> Work | None:
        await self.give_back(owner)
        due = await self._rows("alone_due", destinations=list(destinations), now_ms=now_ms)
        if not due:
            return None
        claim = partial(claims.claim_alone, id=due[0]["id"], owner=owner, now_ms=now_ms)
        works = await self._claim(owner, now_ms, claim, one=True)
        return works[0] if works else None

    async def _claim(self, owner: str, now_ms: int, claim: Marking[claims.Taken], *, one: bool) -> list[Work]:
        """Carry out a claim. Whatever it takes is either returned or given back later, or ended, where it cannot be
        read. `one`: it is one statement."""
        async with self._gate:
            self._claiming += 1
        try:
            with translated(self._connections.where):
                works, unreadable = claims.works(await self._taken(claim, one=one))
            for delivery, problem in unreadable:
                await self.complete(rules.unreadable(delivery, now_ms, problem))
            self._held[owner].update(work.delivery.id for work in works)
        except BaseException:
            self._strays.add(owner)
            raise
        finally:
            self._claiming -= 1
        return works

    async def give_back(self, owner: str) -> None:
        """Make pending again what was claimed for an engine that has not heard of it; as if it had not been tried."""
        async with self._gate:
            if owner not in self._strays or self._claiming:
                return
            held = list(self._held[owner])
            await self._write(lambda db: completions.give_back(db, owner, held))
            self._strays.discard(owner)

    async def _taken(self, claim: Marking[claims.Taken], *, one: bool) -> claims.Taken:
        for _ in range(CLAIMS):
            with suppress(asyncpg.UniqueViolationError):  # another delivery of the submission runs there by now
                return await (self._connections.state(claim, _unheard) if one else self._connections.transact(claim))
        return []

    async def complete(self, completion: Completion) -> bool:
        self._connections.check_open()
        with translated(self._connections.where):
            kept = await self._completions.put(completion)
        self._held[completion.owner].discard(completion.delivery_id)
        return bool(kept)

    async def _complete_all(self, all: Sequence[Completion]) -> list[bool]:
        if not completions.simple(all):
            return await self._connections.transact(lambda db, mark: completions.complete(db, all, mark))
        outcomes, news = await self._connections.state(
            lambda db, mark: completions.succeed(db, all, mark), lambda db: completions.succeeded(db, all)
        )
        if news:
            with suppress(JournalError):  # the attempts have been recorded; the next one says the same
                await self._write(lambda db: completions.tell(db, news))
        return outcomes

    def accuse(self, delivery_id: str) -> None:
        async def write() -> None:
            db = await self._connections.lone()
            try:
                await run(db, "accuse", id=delivery_id)
            finally:
                await db.close()

        # In a thread of its own: the caller's may have a loop, and that one may stand still.
        with translated(self._connections.where), ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(write())).result()

    async def advance(self, now_ms: int, *, step_ms: int = 0) -> int:
        async def write(db: Connection) -> int:
            moved = [await run(db, name, **rules.reach(name, now_ms, step_ms)) for name in rules.LONGEST]
            return sum(moved)

        return await self._write(write)
