"""Deliveries on PostgreSQL: claims, completions, destinations."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord
from receiver.errors import JournalError
from receiver.journal import rules
from receiver.journal.base import Work
from receiver.journal.postgres import claims, completions
from receiver.journal.postgres.connections import Connections, Operation
from receiver.journal.postgres.driver import Connection, asyncpg
from receiver.journal.postgres.faults import translated
from receiver.journal.postgres.plumbing import Plumbing
from receiver.journal.postgres.statements import run
from receiver.journal.postgres.writer import Writer

CLAIMS = 3
"""How often a claim is tried that lost a race for another delivery of the same submission."""


class Deliveries(Plumbing):
    """The part of `PostgresJournal` for deliveries; see `journal.base.Journal`."""

    def __init__(self, connections: Connections, *, listen: bool) -> None:
        super().__init__(connections, listen=listen)
        self._completions: Writer[Completion] = Writer(self._complete_all)
        self._held: set[str] = set()
        """Deliveries that were claimed here and not completed yet."""
        self._strays: set[str] = set()
        """Owners for whom a claim may have been kept that nobody here has heard of."""

    async def deliveries(
        self,
        *,
        limit: int,
        submission_id: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
    ) -> list[Delivery]:
        name = "list_deliveries" if submission_id is None else "list_submission_deliveries"
        filters = {"submission_id": submission_id, "destination": destination, "status": status}
        return await self._select(Delivery, name, limit=limit, **filters)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        found = await self._select(Delivery, "get_delivery", id=delivery_id)
        return found[0] if found else None

    async def attempts(self, delivery_id: str) -> list[AttemptRecord]:
        return await self._select(AttemptRecord, "list_attempts", delivery_id=delivery_id)

    # Destinations

    async def register(self, destinations: Mapping[str, str]) -> None:
        named = dict(sorted(destinations.items()))
        values = {"names": list(named), "handlers": list(named.values())}
        await self._write(lambda db: run(db, "register_destination", **values))

    async def owed_destinations(self) -> list[str]:
        return [row["name"] for row in await self._rows("owed_destinations")]

    async def destinations(self) -> list[DestinationRecord]:
        return await self._select(DestinationRecord, "list_destinations")

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
        (seen,) = await self._rows("look", destination=destination, now_ms=now_ms)
        if not seen["due"] or (seen["paused_until_ms"] or 0) > now_ms:
            return []
        down = (seen["failures"] or 0) > 0
        claim = partial(claims.claim, destination=destination, owner=owner, limit=limit, now_ms=now_ms, down=down)
        return await self._claim(owner, claim)

    async def alone_due(self, destinations: Collection[str], now_ms: int) -> bool:
        return bool(await self._rows("alone_due", destinations=list(destinations), now_ms=now_ms))

    async def claim_alone(self, destinations: Collection[str], *, owner: str, now_ms: int) -> Work | None:
        claim = partial(claims.claim_alone, destinations=list(destinations), owner=owner, now_ms=now_ms)
        works = await self._claim(owner, claim)
        return works[0] if works else None

    async def _claim(self, owner: str, operation: Operation[list[Work]]) -> list[Work]:
        """A claim, after whatever became of an earlier one that nobody knows about."""
        if owner in self._strays:
            held = list(self._held)
            await self._write(lambda db: run(db, "give_back", owner=owner, held=held))
            self._strays.discard(owner)
        for _ in range(CLAIMS):
            try:
                works = await self._write(operation)
            except JournalError as exc:
                if exc.fault == "uncertain":
                    self._strays.add(owner)
                if not isinstance(exc.__cause__, asyncpg.UniqueViolationError):
                    raise
            else:
                self._held.update(work.delivery.id for work in works)
                return works
        return []

    async def complete(self, completion: Completion) -> bool:
        self._connections.check_open()
        with translated(self._connections.where):
            kept = await self._completions.put(completion)
        self._held.discard(completion.delivery_id)
        return bool(kept)

    async def _complete_all(self, all: Sequence[Completion]) -> list[bool]:
        return await self._connections.transact(lambda db: completions.complete(db, all))

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
