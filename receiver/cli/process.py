"""The process of a command: settings, logs, event loop and journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

from receiver.app.journals import journal_of
from receiver.cli import chosen
from receiver.journal import Journal
from receiver.settings import Settings, load
from receiver.telemetry import configure, silence

T = TypeVar("T")

THREADS = 32
"""Threads for files. They wait for disks most of the time, and asyncio's own number is that of the cores and four."""


def settings_for(*, quiet: bool = False, **flags: Any) -> Settings:
    """Load the settings with this command's flags and set up logs. `quiet` logs nothing unless a level is set,
    because the command itself says what went wrong."""
    settings = load(overrides=flags, file=chosen["config"])
    if quiet and settings.sources["log_level"] == "default":
        silence(settings.secret_values())
    else:
        configure(level=settings.log_level, format=settings.log_format, secrets=settings.secret_values())
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    return loop


def on_journal(work: Callable[[Journal], Awaitable[T]], settings: Settings | None = None) -> T:
    """Run `work` on the journal of the settings, which must exist. The provider is not asked."""
    found = settings or settings_for(quiet=True)

    async def main() -> T:
        async with journal_of(found, existing=True) as journal:
            return await work(journal)

    return run(main())


async def first_end(ends: list[asyncio.Future[Any]], others: list[asyncio.Task[Any]]) -> None:
    """Wait until one of `ends` is done, or raise the error of one of `others`."""
    waiting = {*ends, *others}
    while not any(task.done() for task in ends):
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
