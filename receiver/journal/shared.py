"""Values that several processes change by compare-and-swap, and the small ones of a journal that all of them share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from receiver.errors import JournalError
from receiver.journal.store import Store

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

TRIES = 20
"""Tries of a change that conflicts with other processes."""


class Swaps(Generic[S]):
    """Changes of one value by compare-and-swap. Those that come during a swap wait, and share the next one.

    A change is a pure function, which may run several times: the value in memory is tried first, and it may be
    outdated. It returns the value afterwards with a result. The same value means that nothing changes.

    Args:
        name: of the value, for a sentence.
        current: returns the value, and True if it was read now, as it must be if its argument is True. None: there is
            no value.
        swap: replaces the first value by the second one, the outcome of so many changes. False: another process was
            faster.
        start: starts the task that swaps, which a cancelled caller does not end.
    """

    def __init__(
        self,
        name: str,
        current: Callable[[bool], Awaitable[tuple[S | None, bool]]],
        swap: Callable[[S, S, int], Awaitable[bool]],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        self._name, self._current, self._swap, self._start = name, current, swap, start
        self._waiting: list[tuple[Callable[[S], tuple[S, Any]], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, change: Callable[[S], tuple[S, R]]) -> R | None:
        """Make a change and return its result. None: there is no value.

        Raises:
            JournalError: too many processes change it at once, or the store failed.
            Exception: the error of the change. Nothing of it was written.
        """
        future: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._task is None or self._task.done():
            self._task = self._start(self._serve())
        return await future

    async def _serve(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            outcomes: Sequence[Any]
            try:
                outcomes = await self._write([change for change, _ in batch])
            except Exception as exc:
                outcomes = [exc] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def _write(self, changes: Sequence[Callable[[S], tuple[S, Any]]]) -> Sequence[Any]:
        """Return the outcome or the exception of each change."""
        value, fresh = await self._current(False)
        for attempt in range(TRIES):
            if value is None:
                return [None] * len(changes)
            draft, outcomes = value, []
            for change in changes:
                try:
                    draft, outcome = change(draft)
                except Exception as exc:  # one that fails changes nothing
                    outcome = exc
                outcomes.append(outcome)
            if draft is value and fresh:
                return outcomes
            if draft is not value:
                if await self._swap(value, draft, len(changes)):
                    return outcomes
                # Jitter, so that the conflict does not repeat.
                await asyncio.sleep(random.random() * 0.01 * 2.0 ** min(attempt, 6))  # noqa: S311 - no secret
            before = value
            value, fresh = await self._current(True)
            if draft is before is value:
                return outcomes
        raise JournalError(f"Too many processes change {self._name} of the journal at once. Try again.", fault="locked")


class Shared(Generic[T]):
    """One shared value of a type that msgspec knows.

    Args:
        store: holds the value.
        key: its key in the store.
        type: for msgspec.
        empty: the value before the first write.
    """

    def __init__(self, store: Store, key: str, type: Any, empty: T) -> None:
        self._store, self._key = store, key
        self._swaps = Swaps(key, self._current, self._swap)
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(type)
        self._empty = empty
        self._held: tuple[T, str | None] = empty, None
        """The value, and the version by which it is replaced."""
        self._read_at: float | None = None

    async def read(self, max_age: float = 0.0) -> T:
        """Return the value, as it was at most `max_age` seconds ago."""
        if self._read_at is None or max_age <= 0 or time.monotonic() - self._read_at >= max_age:
            await self._current(True)
        return self._held[0]

    async def update(self, change: Callable[[T], T]) -> T:
        """Change the value and return it. An equal value is not written. Raises as `Swaps.run` does."""

        def changed(held: tuple[T, str | None]) -> tuple[tuple[T, str | None], None]:
            value = change(held[0])
            return (held if value == held[0] else (value, held[1])), None

        await self._swaps.run(changed)
        return self._held[0]

    async def _current(self, fresh: bool) -> tuple[tuple[T, str | None], bool]:
        if self._read_at is not None and not fresh:
            return self._held, False
        found = (await self._store.values(self._key)).get(self._key)
        self._read_at = time.monotonic()
        if found is None:
            self._held = self._held if self._held[1] is None else (self._empty, None)
        elif found.version != self._held[1]:
            try:
                self._held = self._decoder.decode(found.data), found.version
            except msgspec.DecodeError as exc:
                raise JournalError(
                    f"The journal's value {self._key} cannot be read ({exc}). Restore a backup, or delete it.",
                    fault="damaged",
                ) from exc
        return self._held, True

    async def _swap(self, old: tuple[T, str | None], new: tuple[T, str | None], count: int) -> bool:
        version = await self._store.swap(self._key, msgspec.json.encode(new[0]), old[1])
        if version is None:
            return False
        self._held, self._read_at = (new[0], version), time.monotonic()
        return True
