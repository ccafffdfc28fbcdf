"""Servers of a command: listening sockets, signals that stop them, and their end."""

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
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from receiver.cli.process import first_end
from receiver.errors import SettingsError
from receiver.telemetry import Log
from receiver.web.connections import KEEP_ALIVE_SECONDS, MAX_CONNECTIONS, bounded

log = Log("receiver.process")

SHUTDOWN_SECONDS = 3
"""Limit for open requests after SIGTERM. Without it a half-sent body would block the end forever."""
STOP_SECONDS = 8.5
"""Seconds from a stop signal to a forced end, if a thread, a disk or a handler hangs. Platforms kill after 10 s."""
OTHER_FILES = 256
"""Open files beside connections: journal, media, downloads, destinations."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would raise the signal again before our engine has drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise SettingsError if the address is taken or not ours.

    `::` takes IPv4 as well. The system decides that for no other address, because Python asks for IPv6 alone.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (while")[0]  # Python repeats the address there
        raise SettingsError(
            f"Nothing can listen on {host}:{port}: {reason}. "
            "Choose another with --port (0 takes a free one) or --host.",
            page="server",
        ) from exc
    # Connections inherit it. Without it each answer waits 40 ms for a delayed ACK. uvloop always sets it, asyncio's own
    # loop only for sockets made with the protocol's number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(app: ASGIApp, *, max_connections: int = MAX_CONNECTIONS) -> Server:
    """Return a server that runs the app's lifespan, with as many connections as this process may open files for.

    The system's soft limit is raised first. Beyond it the system would refuse connections and the journal's files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max_connections if soft == resource.RLIM_INFINITY else max(min(max_connections, soft - OTHER_FILES), 16)
    if most < max_connections:
        log.warning("connections.limited", most=most, wanted=max_connections, limit="open files")
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http=bounded(most),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the caller's address and host name decide nothing here
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


@contextlib.contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets. A second one, or `STOP_SECONDS`, ends the process.

    Enter it before announcing that the process is ready.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        log.error("process.cut_off", seconds=STOP_SECONDS, threads=sorted(item.name for item in threading.enumerate()))
        os._exit(1)

    def first() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        # A thread ends the process, because the loop itself may hang. The next start recovers as after a kill.
        timer = threading.Timer(STOP_SECONDS, end)
        timer.daemon = True
        timer.name = "end in time"
        timer.start()
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, first)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def until_stopped(
    stop: asyncio.Event,
    *servers: tuple[Server, socket.socket],
    beside: Coroutine[Any, Any, None] | None = None,
    ending: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until `stop` is set, or a server ends, or `beside` fails. `beside` may return early.

    `ending` runs while the servers stop, so that their times do not add up.
    """
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
    """Freeze what is imported and collect less often, which is worth some percent of throughput (scripts/bench)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
