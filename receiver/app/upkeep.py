"""Replay and retention on a journal, for commands that need neither the provider nor an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from receiver.app.functions import FunctionHandler
from receiver.clock import Clock
from receiver.errors import MediaError
from receiver.journal import Journal
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Keep, Retention
from receiver.media import Store, open_store
from receiver.settings import Settings

log = structlog.get_logger("receiver.media")


async def replay_of(settings: Settings, journal: Journal) -> Replay:
    """Replay to the destinations of the settings, and to functions that an engine has registered by name."""
    registered = await journal.registered()
    functions = [name for name, handler in registered.items() if handler == FunctionHandler.name]
    names = {*functions, *(item.name for item in settings.resolved_destinations())}
    return Replay(journal=journal, destinations=names, clock=Clock())


def retention_of(
    settings: Settings, journal: Journal, clock: Clock | None = None, *, store: Store | None = None
) -> Retention:
    """Retention with the ages of the settings, and with their media store if none is given."""
    return Retention(journal=journal, store=store or store_of(settings), clock=clock or Clock(), keep=keep_of(settings))


def store_of(settings: Settings) -> Store:
    """The media store. Raises SettingsError where its URL makes none."""
    return open_store(settings.media_place, cache=settings.media_cache_folder, cache_bytes=settings.media_cache_bytes)


async def check_to_start(check: Callable[[], Awaitable[None]], store: Store) -> None:
    """Check a media store before work begins. One that is merely away comes back by itself, and callbacks are kept
    without it: that is told, and keeps nobody from starting.

    Raises:
        MediaError: somebody has to mend something.
    """
    try:
        await check()
    except MediaError as exc:
        if not exc.away:
            raise
        log.error("media.away", store=store.place, problem=str(exc))


async def check_same_store(journal: Journal, store: Store) -> None:
    """Check that the engines of a journal that several processes share have this media store.

    Raises:
        MediaError: one has another.
    """
    mine = await store.identity()
    for item in await journal.engines():
        if item.store not in ("", mine):  # a copy or a compaction has none
            raise MediaError(
                f"The media store here, {store.place} ({mine}), is another than that of `receiver {item.role}` on "
                f"{item.host} ({item.store}): neither would find the other's pictures. Give all of them the same one "
                "with RECEIVER_MEDIA: a bucket, or one folder that all of them see."
            )


def keep_of(settings: Settings) -> Keep:
    """The ages of the settings."""
    return Keep(callbacks=settings.keep_callbacks, media=settings.keep_media, submissions=settings.keep_submissions)
