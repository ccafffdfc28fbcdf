"""Signs of life of a command that is the engine for as long as it takes, so that no other begins meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from receiver.errors import JournalError
from receiver.journal import BEAT_SECONDS, DEAD_SECONDS, EngineRecord

log = structlog.get_logger("receiver.journal")


class Beating(Protocol):
    """A journal, as far as signs of life are concerned."""

    async def beat(self, owner: str) -> bool: ...

    async def engines(self) -> list[EngineRecord]: ...


@asynccontextmanager
async def beating(journal: Beating, owner: str, shown: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Give signs of life until the end of the block.

    Args:
        shown: the journal, as it can be shown.

    Yields:
        What gives one at once, and raises JournalError where we were taken for dead, or the journal cannot be asked.

    Raises:
        JournalError: we were taken for dead; the block was broken off.
    """

    async def sure() -> None:
        # Whoever began while we seemed dead may not have buried us yet: then we can beat, and are two.
        if not await journal.beat(owner) or any(one.owner != owner for one in await journal.engines()):
            raise _broken_off(shown)

    try:
        async with asyncio.timeout(None) as life:
            signs = asyncio.create_task(_beat(journal, owner, life))
            try:
                yield sure
            finally:
                signs.cancel()
                await asyncio.gather(signs, return_exceptions=True)
    except TimeoutError as exc:
        if not life.expired():
            raise
        raise _broken_off(shown) from exc


def _broken_off(shown: str) -> JournalError:
    return JournalError(
        f"Broken off: {shown} had no sign of life from this command for {DEAD_SECONDS:g} s, so that an engine may "
        "have begun there. Stop every process that uses this journal, and run the command again."
    )


async def _beat(journal: Beating, owner: str, life: asyncio.Timeout) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            alive = await journal.beat(owner)
        except JournalError as exc:  # the next one may come in time
            log.warning("journal.no_sign_of_life", problem=str(exc))
            continue
        if not alive:
            life.reschedule(asyncio.get_running_loop().time())
            return
