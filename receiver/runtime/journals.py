"""Which journal the settings name. The only place that knows them all; each is imported when it is wanted, because what
it needs is an extra."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from receiver.errors import JournalError, SettingsError, require
from receiver.journal.base import Journal
from receiver.journal.sqlite import open_journal
from receiver.settings import Settings


class How(NamedTuple):
    """See `journal_of`."""

    existing: bool
    stays: bool


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
    journal = await _OPENERS[settings.database_kind](opened, How(existing=existing, stays=stays))
    try:
        yield journal
    finally:
        await journal.aclose()


async def _sqlite(settings: Settings, how: How) -> Journal:
    path = settings.database_path
    if how.existing and not path.exists():
        raise JournalError(
            f"There is no journal at {path} yet. Submit something first, or name the right one with RECEIVER_DATABASE."
        )
    return await open_journal(path, ballast=not how.existing, anywhere=settings.disk == "network")


async def _postgres(settings: Settings, how: How) -> Journal:
    require("asyncpg", extra="postgres", why="A journal in PostgreSQL")
    from receiver.journal.postgres import open_postgres  # noqa: PLC0415 - an extra: asyncpg

    return await open_postgres(
        settings.database or "",
        connections=settings.database_connections,
        listen=settings.database_listen,
        statements=settings.database_statements,
        migrate=settings.database_migrate and not how.existing,
    )


async def _bucket(settings: Settings, how: How) -> Journal:
    require("obstore", extra="s3", why="A journal in a bucket")
    from receiver.journal.bucket import LOOK_SECONDS, open_bucket  # noqa: PLC0415 - an extra: obstore

    look_seconds = LOOK_SECONDS if how.stays else 0.0
    return await open_bucket(settings.database or "", existing=how.existing, look_seconds=look_seconds)


async def _none(settings: Settings, how: How) -> Journal:
    raise SettingsError(
        "RECEIVER_DATABASE is none, and this needs a journal. Set it to sqlite:PATH, postgresql://… or s3://…"
    )


_OPENERS: Mapping[str, Callable[[Settings, How], Awaitable[Journal]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "bucket": _bucket,
    "none": _none,
}
