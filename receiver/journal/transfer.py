"""Copy a whole journal into an empty one on another store: row by row, then compared.

Nothing is interpreted on the way. Pending deliveries keep their ids, which are their idempotency keys. Due times,
pauses, attempts and the order of callbacks and events stay the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from receiver.errors import JournalError
from receiver.journal.store import ROW_KINDS, Key, RowKind, Rows, SharedValue, Store, StoredRow

PAGE = 1000
COPIED_VALUES = ("destinations", "troubles")
"""Shared values that belong to the journal. The others belong to running engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The number of rows of a kind, and the SHA-256 of all of them in order."""

    count: int
    digest: str


async def copy(
    source: Store,
    target: Store,
    progress: Callable[[RowKind, int], None] = lambda kind, count: None,
    *,
    confirm: Callable[[], Awaitable[None]] | None = None,
) -> Mapping[RowKind, Tally]:
    """Copy everything from one store to the other. The source is locked meanwhile. The target gets all or nothing.

    Args:
        source, target: no engine may run on either.
        progress: called with each kind and the number copied so far.
        confirm: called before the commit. An error of it ends the copy.

    Returns:
        The rows of each kind, the same on both sides. The target was read again and compared.

    Raises:
        InputError: the target is not empty, or a store cannot be copied.
        JournalError: one of them cannot be read or written, or they differ afterwards.
    """
    async with source.transfer(fill=False) as there, target.transfer(fill=True) as here:
        copied = {kind: await _copy(kind, there, here, progress) for kind in ROW_KINDS}
        for kind in ROW_KINDS:
            found = await tally(here, kind)
            if found != copied[kind]:
                raise JournalError(
                    f"The copy differs from the original: {found.count:,} {kind} in place of {copied[kind].count:,}, "
                    "or not the same ones. The target stays empty. Please report this."
                )
        if confirm is not None:
            await confirm()
    return copied


async def _copy(kind: RowKind, there: Rows, here: Rows, progress: Callable[[RowKind, int], None]) -> Tally:
    async def put(page: list[StoredRow], count: int) -> None:
        await here.put(kind, page)
        progress(kind, count)

    return await tally(there, kind, put)


async def tally(
    rows: Rows, kind: RowKind, use: Callable[[list[StoredRow], int], Awaitable[None]] | None = None
) -> Tally:
    """Read all rows of a kind. `use` gets each page, with the number of rows so far."""
    count, digest = 0, hashlib.sha256()
    after: Key | None = None
    while page := await rows.page(kind, after, PAGE):
        after = page[-1].key
        page = [row for row in page if not isinstance(row.record, SharedValue) or row.record.key in COPIED_VALUES]
        count += len(page)
        for row in page:
            digest.update(_bytes(row))
        if use is not None:
            await use(page, count)
    return Tally(count=count, digest=digest.hexdigest())


def _bytes(row: StoredRow) -> bytes:
    """Return the row as one line, the same from every store. Versions of shared values differ, so they are left out."""
    record = row.record
    if isinstance(record, SharedValue):
        record = msgspec.structs.replace(record, version="")
    return msgspec.json.encode((row.key, record), order="deterministic") + b"\n"
