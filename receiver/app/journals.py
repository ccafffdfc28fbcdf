"""The journal of the settings. The only place that knows all stores.

Each store is imported only when it is used, because its library is an extra.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from msgspec.structs import replace

from receiver.errors import JournalError, SettingsError, require
from receiver.journal import Journal, sqlite
from receiver.journal.store import Store
from receiver.settings import Settings


@asynccontextmanager
async def journal_of(
    settings: Settings, *, existing: bool = False, migrate: bool | None = None, stays: bool = True
) -> AsyncIterator[Journal]:
    """Open the journal alone.

    Args:
        existing: neither make a journal nor change its tables. For commands that only read, perhaps with a newer
            version than the running processes.
        migrate: True updates a database's tables. None does as the settings say.
        stays: True if this process goes on, so that it may cache what it reads of a bucket.

    Raises:
        SettingsError: a library is not installed.
        JournalError: it cannot be opened.
    """
    opened = settings if migrate is None else replace(settings, database_migrate=migrate)
    async with aclosing(Journal(await _store_of(opened, existing=existing, stays=stays))) as journal:
        yield journal


async def _store_of(settings: Settings, *, existing: bool, stays: bool) -> Store:
    kind = settings.database_kind
    if kind == "sqlite":
        path = settings.database_path
        if existing and not path.exists():
            raise JournalError(
                f"There is no journal at {path} yet. Submit something first, or name the right one with "
                "RECEIVER_DATABASE."
            )
        return await sqlite.open_store(path, ballast=not existing, anywhere=settings.disk == "network")
    if kind == "postgres":
        require("asyncpg", extra="postgres", why="A journal in PostgreSQL", page="postgres")
        from receiver.journal import postgres  # noqa: PLC0415 - an extra: asyncpg

        return await postgres.open_store(
            settings.database or "",
            connections=settings.database_connections,
            listen=settings.database_listen,
            statements=settings.database_statements,
            migrate=settings.database_migrate and not existing,
        )
    if kind == "bucket":
        require("obstore", extra="s3", why="A journal in a bucket", page="bucket")
        from receiver.journal import bucket  # noqa: PLC0415 - an extra: obstore

        look_seconds = bucket.LOOK_SECONDS if stays else 0.0
        return await bucket.open_store(settings.database or "", existing=existing, look_seconds=look_seconds)
    raise SettingsError(
        "RECEIVER_DATABASE is none, and this needs a journal. Set it to sqlite:PATH, postgresql://… or s3://…",
        page="functions",
    )
