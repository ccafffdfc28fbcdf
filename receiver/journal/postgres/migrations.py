"""Bring the tables up to date: numbered scripts, one process at a time.

A script leaves everything an older Receiver uses as it is, so that old and new processes run side by side during a
deploy. After one that cannot, which begins with `-- breaking`, an older Receiver refuses to start.
"""

from __future__ import annotations

from receiver.errors import JournalError
from receiver.journal.postgres.connections import Connections
from receiver.journal.postgres.driver import Connection
from receiver.journal.statements import migrations

LOCK = 0x5245434549564552
"""Key of the advisory lock under which the tables are changed: "RECEIVER"."""

_LEDGER = """
CREATE TABLE IF NOT EXISTS receiver.migrations (
    number         bigint PRIMARY KEY,
    breaking       boolean NOT NULL,
    run_at         timestamptz NOT NULL DEFAULT now()
)
"""


async def migrate(connections: Connections) -> list[int]:
    """Run what is missing, all in one transaction; the numbers of what was run.

    Raises:
        JournalError: the database's user may not make tables.
    """
    available = migrations("postgres")
    if await connections.read(_last) >= available[-1][0]:
        return []
    return await connections.write(lambda db: _run(db, available))


async def _run(db: Connection, available: list[tuple[int, str]]) -> list[int]:
    await db.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    # Asked first: whoever may not make a schema may still use one that was made for it.
    if not await db.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'receiver')"):
        await db.execute("CREATE SCHEMA receiver")
    await db.execute(_LEDGER)
    last = await _last(db)
    missing = [(number, script) for number, script in available if number > last]
    for number, script in missing:
        await db.execute(script)
        await db.execute(
            "INSERT INTO receiver.migrations (number, breaking) VALUES ($1, $2)", number, is_breaking(script)
        )
    return [number for number, _ in missing]


async def _last(db: Connection) -> int:
    """Number of the last script that was run here; 0: none."""
    if await db.fetchval("SELECT to_regclass('receiver.migrations') IS NULL"):
        return 0
    return int(await db.fetchval("SELECT coalesce(max(number), 0) FROM receiver.migrations"))


def is_breaking(script: str) -> bool:
    """Whether an older Receiver cannot go on after it."""
    return script.startswith("-- breaking")


async def check_schema(connections: Connections) -> None:
    """Raises JournalError where the tables are older than this Receiver, or too new for it."""
    newest = migrations("postgres")[-1][0]
    last = await connections.read(_last)
    if last < newest:
        raise JournalError(
            f"The tables of the journal at {connections.where} are "
            f"{f'of an older Receiver (schema {last}, this one needs {newest})' if last else 'not there'}. "
            "Run: receiver migrate",
            fault="older",
        )
    breaking = "SELECT max(number) FROM receiver.migrations WHERE number > $1 AND breaking"
    newer = await connections.read(lambda db: db.fetchval(breaking, newest)) if last > newest else None
    if newer is not None:
        raise JournalError(
            f"The journal at {connections.where} was changed by a newer Receiver (schema {newer}, this one knows "
            f"{newest}). Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
        )
