"""Opening for one process: the journal that the settings name, the destinations, and a Runtime on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from receiver.app.functions import Function
from receiver.app.journals import journal_of
from receiver.app.routing import route_of
from receiver.app.wiring import Runtime
from receiver.clock import Clock
from receiver.engine.attempts import OpenDestination
from receiver.errors import SettingsError
from receiver.handlers import registry
from receiver.handlers.base import Handler
from receiver.intake import Route
from receiver.settings import Destination, Settings, check_platform, ensure_keys, require_provider_key
from receiver.telemetry import learn

log = structlog.get_logger("receiver.engine")

CLOSE_SECONDS = 1.0
"""How long all handlers together may take to close."""


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
