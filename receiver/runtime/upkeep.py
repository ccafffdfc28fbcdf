"""Replay and retention on a journal, for commands that need neither the provider nor an engine."""

from __future__ import annotations

import platform

from receiver.clock import Clock
from receiver.journal.base import Journal
from receiver.media import MediaStore
from receiver.replay import Replay
from receiver.retention import Keep, Retention
from receiver.runtime.functions import FunctionHandler
from receiver.settings import Settings


async def replay_of(settings: Settings, journal: Journal) -> Replay:
    """Replay to the destinations of the settings, and to functions that an engine has registered by name."""
    registered = await journal.registered()
    functions = [name for name, handler in registered.items() if handler == FunctionHandler.name]
    names = {*functions, *(item.name for item in settings.resolved_destinations())}
    return Replay(journal=journal, destinations=names, clock=Clock())


def retention_of(settings: Settings, journal: Journal, clock: Clock | None = None) -> Retention:
    """Retention with the ages of the settings."""
    return Retention(journal=journal, store=store_of(settings), clock=clock or Clock(), keep=keep_of(settings))


def store_of(settings: Settings) -> MediaStore:
    """The media store."""
    return MediaStore(settings.data / "media")


def identity_of(store: MediaStore) -> str:
    """What tells this media store from others: two machines' folders are two."""
    return f"{platform.node()}:{store.folder}"


def keep_of(settings: Settings) -> Keep:
    """The ages of the settings."""
    return Keep(callbacks=settings.keep_callbacks, media=settings.keep_media, submissions=settings.keep_submissions)
