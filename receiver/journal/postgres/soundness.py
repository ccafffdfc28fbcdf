"""Is a journal on PostgreSQL sound: rows that say what cannot be, and settings under which a crash takes back what was
committed. Whether the server's own files are whole is its own business (checksums, `pg_amcheck`)."""

from __future__ import annotations

from receiver.journal import DEAD_SECONDS
from receiver.journal.contradictions import CONTRADICTIONS, sentences
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import SQL, rows

LONG_SECONDS = 24 * 3600.0
"""What reads or writes everything may take its time."""
_READ_ALL = """
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;
SET LOCAL plan_cache_mode = auto;
"""
"""Our connections are set up for statements that each look at a few rows."""


async def problems(db: Connection) -> list[str]:
    """What is wrong, as sentences. Reads everything, all as of one moment; others go on writing."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        await db.execute(_READ_ALL)
        found = {name: await _ids(db, name) for name in CONTRADICTIONS if name in SQL}
        return [*sentences(found), *await _abandoned(db), *await _careless(db)]


async def _ids(db: Connection, name: str) -> list[str]:
    return [str(row["id"]) for row in await db.fetch(SQL[name].text, timeout=LONG_SECONDS)]


async def _abandoned(db: Connection) -> list[str]:
    left = [row["id"] for row in await rows(db, "abandoned_deliveries", dead_seconds=DEAD_SECONDS)]
    if not left:
        return []
    return [
        f"{len(left):,} deliveries were under way when the engine died: {left[0]}, for one. "
        "They are delivered as soon as an engine starts: receiver serve, or receiver worker."
    ]


async def _careless(db: Connection) -> list[str]:
    return [
        f"The server has {row['name']} = off: when its machine crashes, what was acknowledged may be gone, or the "
        "database damaged. Set it to on."
        for row in await rows(db, "careless_settings")
    ]
