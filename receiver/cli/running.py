"""How commands run: settings, logs, the event loop, servers and signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from receiver.errors import SettingsError
from receiver.settings import Settings, load
from receiver.telemetry import configure
from receiver.web.connections import KEEP_ALIVE_SECONDS, MAX_CONNECTIONS, bounded

log = structlog.get_logger("receiver.process")

T = TypeVar("T")

SHUTDOWN_SECONDS = 3
"""How long open requests may go on after SIGTERM; a half-sent body would otherwise hold us for ever."""
STOP_SECONDS = 8.5
"""When a process that was told to stop ends whatever hangs: a thread, a disk, a handler that cannot be interrupted.
Platforms kill after 10 s."""
OTHER_FILES = 256
"""Files the process opens beside its connections: journal, media, downloads, destinations."""


def settings_for(*, quiet: bool = False, **flags: Any) -> Settings:
    """The settings with this command's flags, and logs set up. `quiet`: only errors, because the command talks."""
    settings = load(overrides=flags)
    chosen = settings.sources["log_level"] != "default"
    configure(
        level="error" if quiet and not chosen else settings.log_level,
        format=settings.log_format,
        secrets=settings.secret_values(),
    )
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it would raise the signal again when done, before our engine drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError when the address is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (while")[0]  # Python repeats the address there
        raise SettingsError(
            f"Nothing can listen on {host}:{port}: {reason}. Choose another with --port (0 takes a free one) or --host."
        ) from exc
    # Connections inherit it. Without it each answer, head and body, waits 40 ms for the other side's delayed ACK on
    # asyncio's own loop, which sets it only for sockets that were made by the protocol's number; uvloop always does.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(app: ASGIApp, *, max_connections: int = MAX_CONNECTIONS) -> Server:
    """A server for an app whose lifespan, if it has one, is honoured."""
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http=bounded(_affordable(max_connections)),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who calls and by which name decides nothing here
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


def _affordable(connections: int) -> int:
    """As many connections as this process may open files for; the system's soft limit is raised first. Without that,
    the connection one too many would be refused by the system, and so would the journal's next file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = connections if soft == resource.RLIM_INFINITY else max(min(connections, soft - OTHER_FILES), 16)
    if found < connections:
        log.warning("connections.limited", most=found, wanted=connections, limit="open files")
    return found


@contextlib.contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets; take it before anybody is told that we are there."""
    stop = asyncio.Event()
    with on_signal(stop.set):
        yield stop


async def until_stopped(
    stop: asyncio.Event,
    *servers: tuple[Server, socket.socket],
    beside: Coroutine[Any, Any, None] | None = None,
    ending: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until `stop` is set. If `beside` fails, so does this; its end alone stops nothing. `ending` is called when
    the servers are told to stop, and runs while they do: their times do not add up."""
    spare_the_collector()
    serving = [asyncio.create_task(item.serve(sockets=[listener])) for item, listener in servers]
    other = [asyncio.create_task(beside)] if beside is not None else []
    stopped = asyncio.create_task(stop.wait())
    try:
        await first_end([stopped, *serving], other)
    finally:
        for item, _ in servers:
            item.should_exit = True
        for task in [stopped, *other]:
            task.cancel()
        await asyncio.gather(*other, return_exceptions=True)
        closing = [asyncio.ensure_future(ending())] if ending is not None else []
        await asyncio.gather(*serving, stopped, *closing, return_exceptions=True)
        for task in closing:
            task.result()


def spare_the_collector() -> None:
    """What was imported stays until the end, and a request makes hundreds of objects that are gone with it: not looking
    through the former after every 700 of the latter is worth some percent of throughput (scripts/bench)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def first_end(ends: list[asyncio.Task[Any]], others: list[asyncio.Task[Any]]) -> None:
    """Until one of `ends` is done, or one of `others` has failed."""
    waiting = set(ends) | set(others)
    while not any(task.done() for task in ends):
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def _end_in_time() -> None:
    """End the process `STOP_SECONDS` from now, if it is still there. A thread does it, because it may be the loop that
    hangs; what is then still running is found by the next start, as after a kill."""

    def end() -> None:
        log.error("process.cut_off", seconds=STOP_SECONDS, threads=sorted(item.name for item in threading.enumerate()))
        os._exit(1)

    timer = threading.Timer(STOP_SECONDS, end)
    timer.daemon = True
    timer.name = "end in time"
    timer.start()


@contextlib.contextmanager
def on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM; a second one ends the process at once, and so does the time."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        _end_in_time()
        stop()

    for number in signals:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
