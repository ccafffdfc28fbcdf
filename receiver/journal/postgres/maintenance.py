"""The tables of a PostgreSQL journal as a whole: migrations, checks, compaction, copies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

from receiver.errors import InputError, JournalError
from receiver.journal.document import Document
from receiver.journal.postgres import documents
from receiver.journal.postgres.connections import ERRORS, Connection, Connections, translated
from receiver.journal.postgres.documents import SQL, fetch
from receiver.journal.rows import TABLES, migrations, read_document, request_row
from receiver.journal.store import EVERYTHING, Key, RowKind, StoredRow
from receiver.journal.transfer import COPIED_VALUES
from receiver.journal.transitions import CONTRADICTIONS, contradiction_sentences

LOCK = 0x5245434549564552
"""Key of the advisory lock under which the tables are changed: "RECEIVER"."""
LONG_SECONDS = 24 * 3600.0
"""Time for statements that read or write everything."""
_NAMES = ("submissions", "requests", "callbacks", "events", "deliveries", "attempts", "files", "leftovers")
_ALL = ", ".join(f"receiver.{name}" for name in _NAMES)


async def migrate(connections: Connections) -> None:
    """Bring the tables up to date in one transaction, one process at a time. Old and new processes run side by side
    during a deploy. Only after a script that begins with `-- breaking`, an older Receiver refuses to start."""
    scripts = migrations("postgres")

    async def run(db: Connection) -> None:
        await db.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        # Asked first, because a user that may not make a schema may use one that was made for it.
        if not await db.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'receiver')"):
            await db.execute("CREATE SCHEMA receiver")
        await db.execute(
            "CREATE TABLE IF NOT EXISTS receiver.migrations ("
            "number bigint PRIMARY KEY, breaking boolean NOT NULL, run_at timestamptz NOT NULL DEFAULT now())"
        )
        last = await _last(db)
        for number, script in scripts:
            if number > last:
                await db.execute(script)
                insert = "INSERT INTO receiver.migrations (number, breaking) VALUES ($1, $2)"
                await db.execute(insert, number, is_breaking(script))

    if await connections.read(_last) < scripts[-1][0]:
        await connections.write(run)


async def _last(db: Connection) -> int:
    """Return the number of the last script that was run here, 0 if there is none."""
    if await db.fetchval("SELECT to_regclass('receiver.migrations') IS NULL"):
        return 0
    return int(await db.fetchval("SELECT coalesce(max(number), 0) FROM receiver.migrations"))


def is_breaking(script: str) -> bool:
    """Return True if an older Receiver cannot go on after it."""
    return script.startswith("-- breaking")


async def check_schema(connections: Connections) -> None:
    """Raise JournalError where the tables are older than this Receiver, or too new for it."""
    newest, where = migrations("postgres")[-1][0], connections.where
    last = await connections.read(_last)
    if await connections.read(lambda db: db.fetchval(SQL["is_old_layout"])):
        raise JournalError(
            f"The journal at {where} was made by an earlier development version of Receiver. To start anew, name "
            "another database with RECEIVER_DATABASE, or run in this one: DROP SCHEMA receiver CASCADE",
            page="postgres",
        )
    if last < newest:
        state = f"of an older Receiver (schema {last}, this one needs {newest})" if last else "not there"
        raise JournalError(
            f"The tables of the journal at {where} are {state}. Run: receiver migrate", fault="older", page="postgres"
        )
    breaking = "SELECT max(number) FROM receiver.migrations WHERE number > $1 AND breaking"
    newer = await connections.read(lambda db: db.fetchval(breaking, newest)) if last > newest else None
    if newer is not None:
        raise JournalError(
            f"The journal at {where} was changed by a newer Receiver (schema {newer}, this one knows {newest}). "
            "Install that version, or name another database with RECEIVER_DATABASE.",
            fault="newer",
            page="postgres",
        )


async def problems(connections: Connections, owners: frozenset[str]) -> list[str]:
    """Return what is wrong, as sentences. Reads everything, all as of one moment, while others write."""
    async with connections.separate() as db, db.transaction(isolation="repeatable_read", readonly=True):
        # Our connections are set up for statements that each look at a few rows.
        await db.execute(
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; "
            "SET LOCAL plan_cache_mode = auto"
        )
        found = {
            name: [str(row["id"]) for row in await db.fetch(SQL[name], timeout=LONG_SECONDS)] for name in CONTRADICTIONS
        }
        left = [row["id"] for row in await fetch(db, "abandoned_deliveries", sorted(owners))]
        careless = [row["name"] for row in await fetch(db, "careless_settings")]
    return contradiction_sentences(found, left) + [
        f"The server has {name} = off: when its machine crashes, what was acknowledged may be gone, or the database "
        "damaged. Set it to on."
        for name in careless
    ]


async def compact(connections: Connections) -> tuple[int, int]:
    """Rewrite our tables while all others wait. Return the bytes before and after."""
    async with connections.separate() as db:
        before = await db.fetchval(SQL["bytes_used"])
        await db.execute(f"VACUUM FULL {_ALL}", timeout=LONG_SECONDS)
        return before, await db.fetchval(SQL["bytes_used"])


async def vacuum(connections: Connections) -> None:
    """Let new rows overwrite what was deleted. Nothing waits for it."""
    async with connections.separate() as db:
        await db.execute(f"VACUUM {_ALL}", timeout=LONG_SECONDS)


class HeldRows:
    """The rows of a database in a transaction that keeps others from writing. See `journal.store.Rows`."""

    def __init__(self, db: Connection, where: str) -> None:
        self._db, self._where = db, where

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[StoredRow]:
        with translated(self._where):
            read = read_document if kind == "submissions" else None
            return await documents.fetch_page(self._db, kind, EVERYTHING, after, limit, read=read)

    async def put(self, kind: RowKind, rows: Sequence[StoredRow]) -> None:
        table, keys = documents.TABLES[kind], ["number"] if kind in ("callbacks", "events") else []
        records = [(*(row.key if keys else ()), *table.write(row.record)) for row in rows]
        copies = [(TABLES[kind].name, [*keys, *table.columns], records)]
        if kind == "submissions":
            requests = [request_row(cast(Document, row.record).submission) for row in rows]
            copies.append(("requests", list(documents.TABLES["requests"].columns), requests))
        with translated(self._where):
            for name, columns, given in copies:
                await self._db.copy_records_to_table(name, schema_name="receiver", columns=columns, records=given)


@asynccontextmanager
async def transfer(connections: Connections, *, fill: bool) -> AsyncIterator[HeldRows]:
    """See `Store.transfer`."""
    where = connections.where
    async with connections.separate() as db:
        async with db.transaction():
            # Writers have 10 s to end. The other side of the copy may take its time.
            await db.execute("SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = 0")
            # Others read, and writers wait. Heartbeats, which are shared values, go on.
            await db.execute(f"LOCK TABLE {_ALL} IN SHARE ROW EXCLUSIVE MODE")
            await db.execute("SELECT FROM receiver.shared_values WHERE key = ANY ($1) FOR UPDATE", COPIED_VALUES)
            if fill:
                held = " OR ".join(f"EXISTS (SELECT FROM receiver.{name})" for name in _NAMES)
                if await db.fetchval(f"SELECT {held}"):
                    raise InputError(
                        f"The journal at {where} holds something already, and only an empty one takes a copy.",
                        page="backup",
                    )
                await db.execute("DELETE FROM receiver.shared_values WHERE key = ANY ($1)", COPIED_VALUES)
            yield HeldRows(db, where)
            if fill:
                await fetch(db, "number_on")
        if fill:
            with suppress(*ERRORS):  # all is kept, and the server counts its rows by itself in time
                await db.execute(f"ANALYZE {_ALL}")
