"""Small values that all processes of a journal share, changed by compare-and-swap."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from receiver.errors import JournalError
from receiver.journal.store import Store

T = TypeVar("T")

TRIES = 20
"""Tries of a change that conflicts with other processes."""


@dataclass(slots=True)
class _Waiting(Generic[T]):
    change: Callable[[T], T]
    done: bool = False


class Shared(Generic[T]):
    """One shared value of a type that msgspec knows.

    Args:
        store: holds the value.
        key: its key in the store.
        type: for msgspec.
        empty: the value before the first write.
    """

    def __init__(self, store: Store, key: str, type: Any, empty: T) -> None:
        self._store = store
        self._key = key
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(type)
        self._empty = empty
        self._value = empty
        self._version: str | None = None
        self._read_at: float | None = None
        self._writing = asyncio.Lock()
        self._waiting: list[_Waiting[T]] = []

    async def read(self, max_age: float = 0.0) -> T:
        """Return the value, as it was at most `max_age` seconds ago."""
        if self._read_at is None or max_age <= 0 or time.monotonic() - self._read_at >= max_age:
            await self._load()
        return self._value

    async def update(self, change: Callable[[T], T]) -> T:
        """Change the value and return it. A change that returns an equal value writes nothing.

        Raises:
            JournalError: too many processes change it at once, or the store failed.
        """
        mine = _Waiting(change)
        self._waiting.append(mine)
        async with self._writing:
            if not mine.done:
                await asyncio.sleep(0)  # changes that come at the same time share the swap
                batch, self._waiting = self._waiting, []
                try:
                    await self._write(batch)
                except BaseException:
                    self._waiting = [item for item in batch if item is not mine] + self._waiting
                    raise
        return self._value

    async def _write(self, batch: Sequence[_Waiting[T]]) -> None:
        """Write changes that wait together in one swap. The value in memory is tried first. It may be outdated."""
        in_memory = self._read_at is not None
        for attempt in range(TRIES):
            if not in_memory:
                await self._load()
            value = self._value
            for item in batch:
                value = item.change(value)
            changes = value != self._value
            if await self._swap(value) if changes else not in_memory:
                for item in batch:
                    item.done = True
                return
            if changes:
                await asyncio.sleep(jitter(attempt))
            in_memory = False
        raise JournalError(f"Too many processes change {self._key} of the journal at once. Try again.", fault="locked")

    async def _swap(self, value: T) -> bool:
        """Replace the value of the version that we know. False: another process was faster."""
        version = await self._store.swap(self._key, msgspec.json.encode(value), self._version)
        if version is None:
            return False
        self._value, self._version, self._read_at = value, version, time.monotonic()
        return True

    async def _load(self) -> None:
        found = (await self._store.values(self._key)).get(self._key)
        self._read_at = time.monotonic()
        if found is None:
            self._value, self._version = self._empty, None
        elif found.version != self._version:
            try:
                self._value, self._version = self._decoder.decode(found.data), found.version
            except msgspec.DecodeError as exc:
                raise JournalError(
                    f"The journal's value {self._key} cannot be read ({exc}). Restore a backup, or delete it.",
                    fault="damaged",
                ) from exc


def jitter(attempt: int) -> float:
    """Return the seconds to wait before the next try, with jitter, so that the conflict does not repeat."""
    return random.random() * 0.01 * 2.0 ** min(attempt, 6)  # noqa: S311 - no secret
