"""A SQLite journal's side of a copy (see `journal.copying`): all in one transaction, on a connection of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from receiver.disk import in_thread
from receiver.errors import InputError
from receiver.journal.copying import STANDING, Kept, Key, RowKind
from receiver.journal.sqlite.faults import sentence
from receiver.journal.sqlite.statements import SQL
from receiver.journal.tables import TABLES

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 10.0
"""How long we wait for somebody else who writes."""


class Transfer:
    """The rows of a file, within one transaction that keeps all others from writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[Kept]:
        return await self._run(self._page, kind, after, limit)

    async def put(self, kind: RowKind, rows: Sequence[Kept]) -> None:
        await self._run(self._put, kind, rows)

    async def begin(self, *, empty: bool) -> None:
        """`empty`: make sure that it is, and remove what a start leaves behind."""
        self._db = await self._run(_begin, self._path)
        if empty and (await self._run(self._db.execute, SQL["holds_rows"])).fetchone()[0]:
            raise InputError(f"{self._path} holds something already, and only an empty journal takes a copy.")
        for kind in STANDING if empty else ():
            await self._run(self._db.execute, SQL[f"clear_{kind}"])

    async def commit(self) -> None:
        """On disk when this returns."""
        await self._run(self._db.execute, "COMMIT")

    async def aclose(self) -> None:
        """What was not committed is undone."""
        if hasattr(self, "_db"):
            await in_thread(self._db.close)

    def _page(self, kind: RowKind, after: Key | None, limit: int) -> list[Kept]:
        table = TABLES[kind]
        values = {**dict(zip("ab", table.first if after is None else after, strict=False)), "limit": limit}
        return [table.kept(row) for row in self._db.execute(SQL[f"page_{kind}"], values)]

    def _put(self, kind: RowKind, rows: Sequence[Kept]) -> None:
        self._db.executemany(SQL[f"put_{kind}"], map(TABLES[kind].columns, rows))

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await in_thread(function, *args, **kwargs)
        except sqlite3.Error as exc:
            raise sentence(exc, self._path, BUSY_SECONDS) from exc


@asynccontextmanager
async def transfer(path: Path, *, empty: bool) -> AsyncIterator[Transfer]:
    """Committed when the block has ended well; undone if it fails, or the process dies."""
    rows = Transfer(path)
    try:
        await rows.begin(empty=empty)
        yield rows
        await rows.commit()
    finally:
        await rows.aclose()


def _begin(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
    except BaseException:
        db.close()
        raise
    return db
