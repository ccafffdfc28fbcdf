"""Factories for one process: the journal that the settings name, the destinations, and a Runtime on both.

The only place that knows all stores. Each is imported when it is wanted, because its library is an extra.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import structlog

from receiver.app.container import Runtime
from receiver.app.functions import Function
from receiver.clock import Clock
from receiver.engine.attempts import OpenDestination
from receiver.errors import JournalError, SettingsError, require
from receiver.events import EVENT_TYPES, EventType
from receiver.handlers import registry
from receiver.handlers.base import Handler
from receiver.intake import Route
from receiver.journal import Journal, sqlite
from receiver.journal.store import Store
from receiver.settings import Destination, Settings, check_platform, ensure_keys, require_provider_key
from receiver.settings.load import nearest
from receiver.telemetry import learn

log = structlog.get_logger("receiver.engine")

CLOSE_SECONDS = 1.0
"""How long all handlers together may take to close."""
ACTIONS = (
    "ACTION", "BLEND", "CUSTOM_ZOOM", "DESCRIBE", "EDIT", "HIGH_VARIATION", "IMAGINE", "INPAINT", "LOW_VARIATION",
    "MODAL", "PAN", "REROLL", "RETEXTURE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "UPSCALE",
    "UPSCALE_HD", "VARIATION", "VIDEO", "ZOOM",
)  # fmt: skip
"""Those of the three proxies (PROTOCOL.md §5). A provider may have others: a pattern with `*` is not looked up."""


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


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    clock: Clock | None = None,
    functions: Iterable[Function] = (),
    exit_on_stall: bool = False,
    function: bool = False,
    steady: bool = False,
) -> AsyncIterator[Runtime]:
    """A Runtime on its journal, closed at the end of the block.

    Args:
        settings: as loaded.
        clock: the time; a real one if None.
        functions: destinations registered in code, beside those of the settings.
        exit_on_stall: end the process when the event loop stands still while we are an engine. For a process of ours.
        function: for a process that may be frozen or ended as soon as it has answered.
        steady: give the same event to the same destination the same delivery id, whatever journal it is in.

    Raises:
        SettingsError: a setting is missing, wrong or unsafe.
        JournalError: the journal cannot be opened.
    """
    functions = tuple(functions)
    check_platform(settings, functions=bool(functions))
    learn([*settings.secret_values(), require_provider_key(settings), *ensure_keys(settings)])
    async with AsyncExitStack() as stack:
        destinations: dict[str, OpenDestination] = {}
        stack.push_async_callback(close_all, destinations)  # also those before one that cannot be opened
        routes = open_all(destinations, settings, functions)
        check_links(destinations)
        journal = await stack.enter_async_context(journal_of(settings, stays=not function))
        runtime = Runtime(
            settings,
            journal=journal,
            destinations=destinations,
            routes=routes,
            clock=clock or Clock(),
            exit_on_stall=exit_on_stall,
            function=function,
            steady=steady,
        )
        stack.push_async_callback(runtime.aclose)
        yield runtime


def open_all(
    opened: dict[str, OpenDestination], settings: Settings, functions: Iterable[Function] = ()
) -> tuple[Route, ...]:
    """Puts each into `opened` as soon as it is."""
    routes = []
    for item in settings.resolved_destinations():
        opened[item.name] = _open(item)
        routes.append(route_of(item))
    for function in functions:
        if function.name in opened:
            raise SettingsError(
                f"The destination {function.name!r} is in the settings and registered in code as well. "
                "Give one of them another name."
            )
        opened[function.name] = function.destination()
        routes.append(function.route())
    return tuple(routes)


def _open(item: Destination) -> OpenDestination:
    return OpenDestination(
        name=item.name, handler=registry.build(item), concurrency=item.concurrency, timeout=item.timeout
    )


async def close_all(destinations: Mapping[str, OpenDestination]) -> None:
    """Side by side and for a while only: a handler that fails or hangs here keeps nobody from ending."""
    closing = {asyncio.create_task(item.handler.aclose()): name for name, item in destinations.items()}
    done, late = await asyncio.wait(closing, timeout=CLOSE_SECONDS) if closing else (set(), set())
    for task in late:
        task.cancel()
        log.warning("destination.not_closed", destination=closing[task], problem="it takes too long")
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("destination.not_closed", destination=closing[task], problem=str(error))


def check_link(name: str, handler: Handler, names: Iterable[str]) -> None:
    """A handler's `waits_for` names the destination whose link it shows. Raises SettingsError where there is none."""
    wanted = getattr(handler, "waits_for", None)
    others = [other for other in names if other != name]
    if wanted is not None and wanted not in others:
        raise SettingsError(
            f"Destination {name}: its option link names {wanted!r}, but the other destinations are: "
            f"{', '.join(others) or 'none'}."
        )


def check_links(destinations: Mapping[str, OpenDestination]) -> None:
    """Raises SettingsError where one of them shows the link of a destination that is not there."""
    for item in destinations.values():
        check_link(item.name, item.handler, destinations)


def route_of(item: Destination) -> Route:
    """The route of a destination.

    Raises:
        SettingsError: it names an event type or an action there is not; a line for each.
    """
    actions = [action.upper() for action in item.actions]
    problems = [
        *_unknown(item, "events", "event type", item.events, EVENT_TYPES),
        *_unknown(item, "actions", "provider action", (one for one in actions if "*" not in one), ACTIONS),
    ]
    if problems:
        raise SettingsError("\n".join(problems))
    return Route(
        destination=item.name,
        progress=item.progress,
        types=cast("frozenset[EventType]", frozenset(item.events)) if item.events else None,
        actions=frozenset(actions),
        labels=tuple(item.labels.items()),
    )


def _unknown(item: Destination, option: str, what: str, given: Iterable[str], known: tuple[str, ...]) -> list[str]:
    return [
        f"Destination {item.name}: the option {option} is wrong: there is no {what} {name[:40]!r}. "
        + (f"Did you mean {guess}?" if (guess := nearest(name, known)) else f"There are: {', '.join(known)}.")
        for name in given
        if name not in known
    ]
