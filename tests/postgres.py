"""PostgreSQL for tests: one server for each test process, started when it is first needed; one database on it that is
emptied between tests, and fresh ones for those that need them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from postgres_server import Server

from receiver.journal import Journal
from receiver.journal.postgres import PostgresStore as Opened
from receiver.journal.postgres import open_store

_running: list[Server] = []
_restarted: list[Server] = []
_made: list[str] = []
"""Databases we made on a server that is not ours."""


@cache
def server_url() -> str:
    """Where the server is: the one of `RECEIVER_TEST_DATABASE_URL`, or our own."""
    given = os.environ.get("RECEIVER_TEST_DATABASE_URL")
    if given:
        return given
    _running.append(Server())
    return _running[0].url()


def stop() -> None:
    """At the end of the test run."""
    for name in _made:
        asyncio.run(_run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    for server in _running + _restarted:
        server.close()


async def _run(statement: str, url: str | None = None) -> None:
    db = await asyncpg.connect(url or server_url())
    try:
        await db.execute(statement)
    finally:
        await db.close()


def own_server() -> Server:
    """A server that the test may restart, or crowd; shared by those that do."""
    if not _restarted:
        _restarted.append(Server(max_connections="20"))
    return _restarted[0]


async def new_database(name: str = "fresh", *, encoding: str = "UTF8", server: Server | None = None) -> str:
    """URL of a database without any tables."""
    where = server.url() if server else server_url()
    name = f"receiver_test_{os.getpid()}_{name}"
    await _run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", where)
    await _run(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0", where)
    if server is None and not _running and name not in _made:
        _made.append(name)
    return urlsplit(where)._replace(path=f"/{name}").geturl()


TABLES = (
    "submissions", "requests", "callbacks", "events", "deliveries", "attempts", "files", "leftovers", "shared_values",
)  # fmt: skip
_shared: list[str] = []


async def empty_database() -> str:
    """URL of the database that all tests of this process use, one after the other."""
    if not _shared:
        _shared.append(await new_database("shared"))
        await (await open_store(_shared[0])).aclose()
    # A TRUNCATE makes new files, and costs ten times as much where there are few rows.
    await _run(";".join(f"DELETE FROM receiver.{table}" for table in TABLES), _shared[0])  # noqa: S608
    return _shared[0]


async def open_journal(url: str, **options: Any) -> Journal:
    return Journal(await open_store(url, **options))


def store_of(journal: Journal) -> Opened:
    assert isinstance(journal.store, Opened)
    return journal.store


async def asked(journal: Journal, statement: str, *values: object) -> Any:
    """Return what a statement finds on one of the journal's own connections."""
    return await store_of(journal)._connections.read(lambda db: db.fetchval(statement, *values))


class PostgresStore:
    """A database for journals; see `journals.Store`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> Journal:
        return Journal(await open_store(self.url))

    async def execute(self, statement: str, *values: object) -> None:
        """What another program does to it."""
        db = await asyncpg.connect(self.url)
        try:
            await db.execute(statement, *values)
        finally:
            await db.close()

    async def spoil(self, statement: str) -> None:
        await self.execute(f"SET search_path = receiver; {statement}")

    async def lose_event(self, event_id: str) -> None:
        await self.execute("DELETE FROM receiver.events WHERE id = $1", event_id)
        # Each of our writes gives a document a new version.
        await self.execute(
            "UPDATE receiver.submissions SET version = version + 1 WHERE id = split_part($1, '.', 1)", event_id
        )


@asynccontextmanager
async def postgres_store(folder: Path) -> AsyncIterator[PostgresStore]:
    yield PostgresStore(await new_database("copy") if folder.name == "copy" else await empty_database())
