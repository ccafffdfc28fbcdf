"""Concurrent requests for the same thing share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class SingleFlight(Generic[_T]):
    """Runs one call per key at a time. Callers that come meanwhile get its result."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[_T]] = {}

    async def run(self, key: str, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return the result of `call`, or of the call that is under way for the key."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(call(), name=f"for {key[:12]}")
            task.add_done_callback(lambda done: self._ended(key, done))
        # Shielded: a cancelled caller must not take the result from others, and the work is not lost.
        return await asyncio.shield(task)

    def _ended(self, key: str, task: asyncio.Task[_T]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: each caller that waits gets it

    async def aclose(self) -> None:
        """Cancel the calls that are under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
