"""A PostgreSQL journal's side of a copy (see `journal.copying`): all in one transaction, on a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from receiver.errors import InputError
from receiver.events import Submission
from receiver.journal.copying import STANDING, Kept, Key, RowKind
from receiver.journal.postgres.connections import Connections
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.faults import ERRORS, translated
from receiver.journal.postgres.statements import SQL, rows, run
from receiver.journal.tables import TABLES

PATIENCE = """
SET LOCAL lock_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = 0;
"""
"""Who writes now has so long to end; and the other side may take its time."""


class Transfer:
    """The rows of a database, within one transaction that keeps all others from writing."""

    def __init__(self, db: Connection, where: str) -> None:
        self._db = db
        self._where = where

    async def begin(self, *, empty: bool) -> None:
        """`empty`: make sure that it is, and remove what a start leaves behind."""
        with translated(self._where):
            await self._db.execute(PATIENCE)
            await self._db.execute(SQL["hold_still"].text)
            if empty and (await rows(self._db, "holds_rows"))[0]["held"]:
                raise InputError(
                    f"The journal at {self._where} holds something already, and only an empty one takes a copy."
                )
            for kind in STANDING if empty else ():
                await run(self._db, f"clear_{kind}")

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[Kept]:
        table = TABLES[kind]
        start = dict(zip("ab", table.first if after is None else after, strict=False))
        with translated(self._where):
            return [table.kept(row) for row in await rows(self._db, f"page_{kind}", **start, limit=limit)]

    async def put(self, kind: RowKind, rows: Sequence[Kept]) -> None:
        written = [_columns(kind, item) for item in rows]
        with translated(self._where):
            await self._db.copy_records_to_table(
                kind,
                schema_name="receiver",
                columns=list(written[0]),
                records=[tuple(row.values()) for row in written],
            )


def _columns(kind: RowKind, item: Kept) -> dict[str, Any]:
    columns = TABLES[kind].columns(item)
    if isinstance(item.record, Submission):
        columns["task_status"] = item.record.task_status
    if isinstance(body := columns.get("body"), bytes):
        columns["body"] = body.decode()
    return columns


@asynccontextmanager
async def transfer(connections: Connections, *, empty: bool) -> AsyncIterator[Transfer]:
    """Committed when the block has ended well; undone if it fails, or the process dies."""
    where = connections.where
    with translated(where):
        db = await connections.lone()
    try:
        transaction = db.transaction()
        with translated(where):
            await transaction.start()
        held = Transfer(db, where)
        await held.begin(empty=empty)
        yield held
        with translated(where):
            if empty:
                await run(db, "begin_running")
                await rows(db, "number_on")
            await transaction.commit()
        if empty:
            with suppress(*ERRORS):  # all is kept, and the server counts it by itself in time
                await db.execute(SQL["analyze_copied"].text)
    finally:
        with suppress(*ERRORS):
            await db.close()
