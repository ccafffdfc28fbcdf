"""Small objects that many share: how the destinations do, what does not work. Changed by compare-and-swap."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
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
        self._asked: list[tuple[Callable[[T], T], asyncio.Future[None]]] = []

    async def read(self, seconds: float = 0.0) -> T:
        """The value as it was no longer ago than that."""
        if self._read_at is None or seconds <= 0 or time.monotonic() - self._read_at >= seconds:
            await self._load()
        return self._value

    async def update(self, change: Callable[[T], T]) -> None:
        """Change the value. Changes that come while another one is written share the next put; nothing is written where
        the value stays the same."""
        asked = (change, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        async with self._turn:
            if not asked[1].done():
                await self._carry_out()
        await asked[1]

    async def _carry_out(self) -> None:
        asked, self._asked = self._asked, []
        try:
            await self._apply([change for change, _ in asked])
        except BaseException as exc:
            _tell(asked, exc if isinstance(exc, Exception) else JournalError("The write was broken off.", fault="io"))
            if not isinstance(exc, Exception):
                raise
        else:
            _tell(asked, None)

    async def _apply(self, changes: list[Callable[[T], T]]) -> None:
        for attempt in range(TRIES):
            if self._read_at is None or attempt:
                await self._load()
            value = self._value
            for change in changes:
                value = change(value)
            if value == self._value:
                known = self._tag
                await self._load()
                if self._tag == known:
                    return
                continue
            if await self._write(value):
                return
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


def _tell(asked: Sequence[tuple[object, asyncio.Future[None]]], problem: Exception | None) -> None:
    for _, future in asked:
        if future.done():
            continue  # nobody waits any more
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(None)


def _boxed(type: Any) -> Any:
    return msgspec.defstruct("Box", [("nonce", str), ("value", type)])
