"""Functions as destinations, registered by `@receiver.on(…)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

from receiver.deliveries import Receipt
from receiver.events import EVENT_TYPES, Event, EventType
from receiver.handlers.base import Attempt

OnEvent = Callable[[Event], Awaitable[Receipt | None]]

MAX_CONCURRENCY = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_EXAMPLE = '@receiver.on("task.succeeded", name="catalogue")'


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that is a destination, and its handler. It may raise `RetryLater` and `Rejected` like any handler."""

    name: ClassVar = "function"

    call: OnEvent
    destination: str  # the name in the journal
    types: frozenset[EventType]  # empty: every decisive one
    concurrency: int  # calls at once
    timeout: float  # seconds one call may take

    async def deliver(self, attempt: Attempt) -> Receipt:
        return await self.call(attempt.event) or Receipt()

    async def aclose(self) -> None:
        return None


def check_registration(types: tuple[EventType, ...], name: str | None, concurrency: int, timeout: float) -> str:
    """Return the name. Raise TypeError if it is missing, or ValueError for a wrong value."""
    if any(callable(type) for type in types):
        raise TypeError(f"The decorator is called, with the function under it: {_EXAMPLE}.")
    if name is None:
        raise TypeError(
            f"The function needs a name, as in {_EXAMPLE}. After a restart, its deliveries find it by that name."
        )
    if not _NAME.match(name):
        raise ValueError(f"The name {name[:60]!r} must have at most 40 characters from a-z, 0-9, - and _.")
    if unknown := [type for type in types if type not in EVENT_TYPES]:
        raise ValueError(f"There are no events of type {unknown[0]!r}. There are: {', '.join(EVENT_TYPES)}.")
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ValueError(f"concurrency must be from 1 to {MAX_CONCURRENCY}, not {concurrency}.")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}.")
    return name


def check_function(function: object) -> None:
    """Raise TypeError unless calls of it can be awaited."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004 - its own
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(called):
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{name} must be `async def`: it runs in the event loop, which it must not block.")
