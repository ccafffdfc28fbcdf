"""Copy a whole journal into an empty one on whatever other database: row by row, then compared.

Nothing is interpreted on the way. What was owed stays owed under the same id, which is its idempotency key; due times,
pauses, attempts and the order in which callbacks and facts came stay as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import msgspec

from receiver.errors import JournalError

RowKind = Literal[
    "destinations",
    "submissions",
    "callbacks",
    "events",
    "deliveries",
    "attempts",
    "files",
    "leftovers",
    "troubles",
]
"""All that a journal holds, as its tables are called."""

ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
STANDING: tuple[RowKind, ...] = ("destinations", "troubles")
"""What a start without any work leaves behind; a journal that holds nothing else is as good as empty."""

Key = tuple[str | int, ...]
PAGE = 1000


class Kept(NamedTuple):
    """A row: what it is sorted by, and what it says. Callbacks and events have their number as their key."""

    key: Key
    record: msgspec.Struct


class NeededFile(msgspec.Struct, frozen=True, kw_only=True):
    """A submission needs a file of the media store."""

    submission_id: str
    digest: str


class LeftFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the media store that no submission needs any more."""

    digest: str


class Rows(Protocol):
    """What a journal holds, standing still."""

    async def page(self, kind: RowKind, after: Key | None, limit: int) -> list[Kept]:
        """The next rows in order of key, of which text is compared byte by byte; from the first if `after` is None."""


class NewRows(Rows, Protocol):
    """An empty journal that is being filled."""

    async def put(self, kind: RowKind, rows: Sequence[Kept]) -> None:
        """Write these."""


class Copyable(Protocol):
    """A journal, as far as a copy is concerned."""

    def reading(self) -> AbstractAsyncContextManager[Rows]:
        """Hold all of it still: until the end of the block nobody writes.

        Raises JournalError where somebody else writes all the time.
        """

    def filling(self) -> AbstractAsyncContextManager[NewRows]:
        """Fill it. What was put is there when the block has ended well; otherwise nothing is.

        Raises InputError where it holds something already.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many rows of a kind there are, and the SHA-256 of all of them in order."""

    count: int
    digest: str


async def copy(
    source: Copyable,
    target: Copyable,
    told: Callable[[RowKind, int], None] = lambda kind, count: None,
    *,
    sure: Callable[[], Awaitable[None]] | None = None,
) -> Mapping[RowKind, Tally]:
    """Copy everything from one to the other. The source is held still meanwhile; the target has all of it or nothing.

    Args:
        told: called with each kind and how many of it were copied so far.
        sure: called before anything is kept; what it raises breaks the copy off.

    Returns:
        What there was of each kind: the same on both sides, because both were read again and compared.

    Raises:
        InputError: the target holds something already.
        JournalError: one of them cannot be read or written, or they differ afterwards.
    """
    async with source.reading() as there, target.filling() as here:
        copied = {kind: await _copy(kind, there, here, told) for kind in ROW_KINDS}
        for kind in ROW_KINDS:
            found = await tally(here, kind)
            if found != copied[kind]:
                raise JournalError(
                    f"The copy differs from the original: {found.count:,} {kind} in place of {copied[kind].count:,}, "
                    "or not the same ones. Nothing of it was kept. Please report this."
                )
        if sure is not None:
            await sure()
    return copied


async def tally(rows: Rows, kind: RowKind) -> Tally:
    """Read all rows of a kind."""
    count, digest = 0, hashlib.sha256()
    async for page in _pages(rows, kind):
        count += len(page)
        for item in page:
            digest.update(_bytes(item))
    return Tally(count=count, digest=digest.hexdigest())


async def _copy(kind: RowKind, there: Rows, here: NewRows, told: Callable[[RowKind, int], None]) -> Tally:
    count, digest = 0, hashlib.sha256()
    async for page in _pages(there, kind):
        await here.put(kind, page)
        count += len(page)
        for item in page:
            digest.update(_bytes(item))
        told(kind, count)
    return Tally(count=count, digest=digest.hexdigest())


async def _pages(rows: Rows, kind: RowKind) -> AsyncIterator[list[Kept]]:
    after: Key | None = None
    while page := await rows.page(kind, after, PAGE):
        yield page
        after = page[-1].key


def _bytes(item: Kept) -> bytes:
    """The row as one line, the same whatever database it comes from."""
    return msgspec.json.encode((item.key, item.record), order="deterministic") + b"\n"
