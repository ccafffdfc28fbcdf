"""Who runs deliveries, and which of them leads: rows with a time of the database's own, the one clock all share."""

from __future__ import annotations

import socket
from importlib.metadata import version

from receiver.errors import EngineRunning, JournalError
from receiver.journal import BEAT_SECONDS, DEAD_SECONDS, LASTING_ROLES, LEASE_SECONDS, EngineRecord, rules
from receiver.journal.postgres import completions
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.plumbing import Plumbing
from receiver.journal.postgres.statements import rows, run, select
from receiver.journal.rows import delivery_from_row

TRUCE_SECONDS = 2 * BEAT_SECONDS
"""How long nobody is buried after a sign of life that was late, so that each other engine can give one."""
LATE_SECONDS = DEAD_SECONDS - TRUCE_SECONDS
"""Between two signs of life, by the database's clock. Where it was set so that any engine seems dead, all are late."""
_TRUCE = {"late_seconds": LATE_SECONDS, "truce_seconds": TRUCE_SECONDS}


class Engines(Plumbing):
    """The part of `PostgresJournal` for engines; see `journal.base.Journal`."""

    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        mine = {
            "owner": owner,
            "role": role,
            "host": socket.gethostname(),
            "version": version("imagine-receiver"),
            "store": store,
        }

        async def enter(db: Connection) -> None:
            await rows(db, "lock_engines")
            living = [one for one in await _living(db) if one.owner != owner]
            for one in living:
                if role not in LASTING_ROLES or rules.runs_alone(one.role, one.store):
                    raise self._running(one)
                if one.store != store:
                    raise self._other_store(one, store)
            await run(db, "enter", **mine)

        await self._write(enter)

    def _running(self, other: EngineRecord) -> EngineRunning:
        return EngineRunning(
            f"An engine runs on the journal at {self._connections.where}: `receiver {other.role}` on {other.host}. "
            "It does the work; this command need not.",
            holder=other.role,
        )

    def _other_store(self, other: EngineRecord, store: str) -> JournalError:
        return JournalError(
            f"`receiver {other.role}` on {other.host} keeps pictures in another place ({other.store}) than this "
            f"process ({store}), so neither would find the other's. Give all of them one place with RECEIVER_MEDIA: "
            "an object store's URL, or a folder that all machines share."
        )

    async def beat(self, owner: str) -> bool:
        return await self._write(lambda db: run(db, "beat", owner=owner, **_TRUCE)) == 1

    async def lead(self, owner: str) -> bool:
        found = await self._rows("who_leads", lease_seconds=LEASE_SECONDS)
        if found and found[0]["owner"] != owner:
            return False
        return await self._write(lambda db: run(db, "lead", owner=owner, lease_seconds=LEASE_SECONDS)) == 1

    async def resign(self, owner: str) -> None:
        async def leave(db: Connection) -> None:
            await run(db, "lead_no_more", owner=owner)
            await run(db, "leave", owner=owner)

        await self._write(leave)

    async def engines(self) -> list[EngineRecord]:
        return await self._read(_living)

    async def free_running(self, owner: str, now_ms: int) -> int:
        who = {"owner": owner, "dead_seconds": DEAD_SECONDS}
        if not (await self._rows("any_left", **who))[0]["any_left"]:
            return 0
        return await self._write(lambda db: _free(db, owner, now_ms))


async def _living(db: Connection) -> list[EngineRecord]:
    seconds = {"dead_seconds": DEAD_SECONDS, "lease_seconds": LEASE_SECONDS}
    return await select(db, EngineRecord, "list_engines", **seconds)


async def _free(db: Connection, owner: str, now_ms: int) -> int:
    await run(db, "bury_engines", owner=owner, dead_seconds=DEAD_SECONDS, **_TRUCE)
    left = [delivery_from_row(found) for found in await rows(db, "lock_left", owner=owner)]
    if left:
        await completions.finish(db, rules.charge(left, now_ms))
        await run(db, "run_alone", ids=[delivery.id for delivery in left])
    return len(left)
