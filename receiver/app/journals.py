"""The journal that the settings name. The only place that knows all stores. Each is imported when it is wanted, because
its library is an extra."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from receiver.errors import JournalError, SettingsError, require
from receiver.journal import Journal, sqlite
from receiver.journal.store import Store
from receiver.settings import Settings


@asynccontextmanager
async def journal_of(
    settings: Settings, *, existing: bool = False, migrate: bool | None = None, stays: bool = True
) -> AsyncIterator[Journal]:
    """The journal alone.

    Args:
        settings: as loaded.
        existing: do not make a new one, and leave its tables as they are: for commands that look at what is there,
            perhaps of a newer version than all that run.
        migrate: whether a database's tables are brought up to date; as the settings say if None.
        stays: whether this process goes on; what it has seen of a bucket is worth more then.

    Raises:
        SettingsError: what it needs is not installed.
        JournalError: it cannot be opened.
    """
    opened = settings if migrate is None else settings.model_copy(update={"database_migrate": migrate})
    journal = Journal(await _store_of(opened, existing=existing, stays=stays))
    try:
        yield journal
    finally:
        await journal.aclose()


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
        require("asyncpg", extra="postgres", why="A journal in PostgreSQL")
        from receiver.journal import postgres  # noqa: PLC0415 - an extra: asyncpg

        return await postgres.open_store(
            settings.database or "",
            connections=settings.database_connections,
            listen=settings.database_listen,
            statements=settings.database_statements,
            migrate=settings.database_migrate and not existing,
        )
    if kind == "bucket":
        require("obstore", extra="s3", why="A journal in a bucket")
        from receiver.journal import bucket  # noqa: PLC0415 - an extra: obstore

        look_seconds = bucket.LOOK_SECONDS if stays else 0.0
        return await bucket.open_store(settings.database or "", existing=existing, look_seconds=look_seconds)
    raise SettingsError(
        "RECEIVER_DATABASE is none, and this needs a journal. Set it to sqlite:PATH, postgresql://… or s3://…"
    )
