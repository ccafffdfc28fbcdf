"""The archived files an attempt reads: brought to this machine before its handler runs, kept there until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from receiver.backoff import STORE, wait_forever
from receiver.errors import MediaError
from receiver.handlers.base import RetryLater, StoredMedia
from receiver.journal import Work
from receiver.media import Store

BRING_SECONDS = 60.0
"""How long an attempt waits for its files. What is still coming then goes on coming, and the next attempt finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a handler may read. `problem` says why there is nothing although the journal knows of files."""

    media: tuple[StoredMedia, ...] = ()
    problem: str | None = None


@asynccontextmanager
async def bring(work: Work, store: Store) -> AsyncIterator[Files]:
    """The files of a result. What the store has no more is no reason to keep back the rest.

    It has time of its own: a handler gets all of its deadline, and a store that is down is no failure of a destination.

    Raises:
        RetryLater: the store cannot be read now.
    """
    media = work.media if work.event.type == "task.succeeded" else ()
    if not media:
        yield Files()
        return
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(BRING_SECONDS):
                paths = await held.enter_async_context(store.holding(media))
            found = zip(media, paths, strict=True)
            files = Files(media=tuple(StoredMedia(media=item, path=path) for item, path in found))
        except TimeoutError as exc:
            raise _later(work, f"The files have not come from {store.place} within {BRING_SECONDS:g} s.") from exc
        except MediaError as exc:
            if not exc.permanent:
                raise _later(work, str(exc)) from exc
            files = Files(problem=str(exc))
        yield files


def _later(work: Work, problem: str) -> RetryLater:
    """Longer each time it was put off."""
    return RetryLater(wait_forever(STORE, work.delivery.attempt - work.delivery.failures), problem)
