"""Factories for one process: the destinations of the settings, and a Runtime on them and the journal."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from receiver.app.container import Runtime
from receiver.app.functions import Function
from receiver.app.journals import journal_of
from receiver.clock import Clock
from receiver.engine.attempts import OpenDestination
from receiver.errors import SettingsError
from receiver.events import EVENT_TYPES, EventType
from receiver.handlers import registry
from receiver.handlers.base import Handler
from receiver.intake import Route
from receiver.settings import (
    CONCURRENCY,
    FEWER,
    Destination,
    Settings,
    check_platform,
    ensure_keys,
    require_provider_key,
)
from receiver.settings.options import guessed
from receiver.telemetry import Log, learn

log = Log("receiver.engine")

EVERY_ALERT = "receiver.*"
"""The name for all alerts in a destination's `events`."""
CLOSE_SECONDS = 1.0
"""Time for all handlers together to close."""
ACTIONS = (
    "ACTION", "BLEND", "CUSTOM_ZOOM", "DESCRIBE", "EDIT", "HIGH_VARIATION", "IMAGINE", "INPAINT", "LOW_VARIATION",
    "MODAL", "PAN", "REROLL", "RETEXTURE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "UPSCALE",
    "UPSCALE_HD", "VARIATION", "VIDEO", "ZOOM",
)  # fmt: skip
"""Actions of the three relays (PROTOCOL.md §5). A provider may have others: a pattern with `*` is not checked."""


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
    """Open a Runtime on its journal. Closed at the end of the block.

    Args:
        functions: destinations registered in code, beside those of the settings.
        exit_on_stall: end the process if the event loop stalls while we are an engine. For our own commands.
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
        stack.push_async_callback(close_all, destinations)  # also if a later one cannot be opened
        routes = open_all(destinations, settings, functions)
        for item in destinations.values():
            check_link(item.name, item.handler, destinations)
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
    """Open all destinations and return their routes. Each is in `opened` as soon as it is open."""
    routes = []
    handlers = registry.installed_handlers()
    for item in settings.resolved_destinations():
        handler = registry.build(item, handlers)
        concurrency = item.concurrency or FEWER.get(handler.name, CONCURRENCY)
        opened[item.name] = OpenDestination(
            name=item.name, handler=handler, concurrency=concurrency, timeout=item.timeout
        )
        origins: frozenset[str] = getattr(handler, "reply_origins", frozenset())
        routes.append(dataclasses.replace(route_of(item), reply_origins=origins))
    for function in functions:
        if function.destination in opened:
            raise SettingsError(
                f"The destination {function.destination!r} is in the settings and registered in code as well. "
                "Give one of them another name.",
                page="destinations",
            )
        opened[function.destination] = OpenDestination(
            name=function.destination, handler=function, concurrency=function.concurrency, timeout=function.timeout
        )
        routes.append(Route(destination=function.destination, types=function.types or None))
    return tuple(routes)


async def close_all(destinations: Mapping[str, OpenDestination]) -> None:
    """Close all handlers side by side, within `CLOSE_SECONDS`. A failure is logged only."""
    closing = {asyncio.create_task(item.handler.aclose()): name for name, item in destinations.items()}
    done, late = await asyncio.wait(closing, timeout=CLOSE_SECONDS) if closing else (set(), set())
    for task in late:
        task.cancel()
        log.warning("destination.not_closed", destination=closing[task], problem="it takes too long")
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("destination.not_closed", destination=closing[task], problem=str(error))


def check_link(name: str, handler: Handler, names: Iterable[str]) -> None:
    """Raise SettingsError if a handler's `waits_for`, the destination whose link it shows, does not exist."""
    wanted = getattr(handler, "waits_for", None)
    others = [other for other in names if other != name]
    if wanted is not None and wanted not in others:
        raise SettingsError(
            f"Destination {name}: its option link names {wanted!r}, but the other destinations are: "
            f"{', '.join(others) or 'none'}.",
            page="destinations",
        )


def route_of(item: Destination) -> Route:
    """Return the route of a destination. A SettingsError has a line for each event type or action that is unknown."""
    events = [name for name in item.events if name != EVERY_ALERT]
    actions = [action.upper() for action in item.actions]
    problems = [
        *_unknown(item, "events", "event type", events, EVENT_TYPES),
        *_unknown(item, "actions", "provider action", (one for one in actions if "*" not in one), ACTIONS),
    ]
    if problems:
        raise SettingsError("\n".join(problems), page="destinations")
    return Route(
        destination=item.name,
        progress=item.progress,
        types=cast("frozenset[EventType]", frozenset(events)) if item.events else None,
        alerts=item.alerts or EVERY_ALERT in item.events,
        actions=frozenset(actions),
        labels=tuple(item.labels.items()),
    )


def _unknown(item: Destination, option: str, what: str, given: Iterable[str], known: tuple[str, ...]) -> list[str]:
    wrong = f"Destination {item.name}: the option {option} is wrong: there is no {what}"
    return [f"{wrong} {name[:40]!r}. {guessed(name, known)}" for name in given if name not in known]
