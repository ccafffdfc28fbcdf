"""Small objects that many share: how the destinations do, what does not work. Changed by compare-and-swap."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from receiver.errors import JournalError
from receiver.journal.bucket.document import decode_as
from receiver.journal.bucket.objects import Objects, Refused, Tag
from receiver.journal.bucket.rows import TRIES, jitter
from receiver.journal.rows import to_json_bytes

T = TypeVar("T")


class Cell(Generic[T]):
    """One object with a value.

    Args:
        type: of the value, for msgspec.
        empty: the value where there is no object yet.
    """

    def __init__(self, objects: Objects, key: str, type: Any, empty: T) -> None:
        self._objects = objects
        self._key = key
        self._type = _boxed(type)
        self._empty = empty
        self._value = empty
        self._tag: Tag | None = None
        self._read_at: float | None = None
        self._turn = asyncio.Lock()

    async def read(self, seconds: float = 0.0) -> T:
        """The value as it was no longer ago than that."""
        if self._read_at is None or seconds <= 0 or time.monotonic() - self._read_at >= seconds:
            await self._load()
        return self._value

    async def update(self, change: Callable[[T], T]) -> T:
        """Change the value; nothing is written where it stays the same."""
        async with self._turn:
            for attempt in range(TRIES):
                if self._read_at is None or attempt:
                    await self._load()
                value = change(self._value)
                if value == self._value:
                    known = self._tag
                    await self._load()
                    if self._tag == known:
                        return value
                    continue
                if await self._write(value):
                    return value
                await asyncio.sleep(jitter(attempt))
        raise JournalError(f"Too many change the journal's object {self._key} at once. Try again.", fault="locked")

    async def _write(self, value: T) -> bool:
        nonce = secrets.token_hex(8)
        data = to_json_bytes({"nonce": nonce, "value": value})
        try:
            tag = await (
                self._objects.create(self._key, data)
                if self._tag is None
                else self._objects.replace(self._key, data, self._tag)
            )
        except Refused:
            return await self._load() == nonce
        except JournalError:
            self._read_at = None
            if await self._load() == nonce:
                return True
            raise
        self._value, self._tag, self._read_at = value, tag, time.monotonic()
        return True

    async def _load(self) -> str | None:
        """Returns who wrote it last."""
        found = await self._objects.get(self._key)
        if found is None:
            self._value, self._tag = self._empty, None
            self._read_at = time.monotonic()
            return None
        box = decode_as(self._type, found.data, self._key)
        self._value, self._tag, self._read_at = box.value, found.tag, time.monotonic()
        nonce: str = box.nonce
        return nonce


def _boxed(type: Any) -> Any:
    return msgspec.defstruct("Box", [("nonce", str), ("value", type)])
