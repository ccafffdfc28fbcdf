"""Copy a journal to another database, both named as `RECEIVER_DATABASE` names one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from receiver.app.factory import journal_of
from receiver.errors import EngineRunning, InputError, JournalError
from receiver.events import new_id
from receiver.journal import Journal
from receiver.journal.membership import EXPIRE_SECONDS, HEARTBEAT_SECONDS
from receiver.journal.store import RowKind
from receiver.journal.transfer import Tally, copy
from receiver.settings import Settings
from receiver.settings.kinds import check_database, database_secrets
from receiver.telemetry import learn

log = structlog.get_logger("receiver.journal")

ROLE = "journal copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A copy that is whole.

    Attributes:
        source, target: as they can be shown.
        rows: of each kind, the same on both sides.
    """

    source: str
    target: str
    rows: Mapping[RowKind, Tally]


async def copy_journal(
    settings: Settings, source: str, target: str, told: Callable[[RowKind, int], None] = lambda kind, count: None
) -> Copied:
    """Copy everything from one journal into another, empty one. No engine may run on either.

    Args:
        source, target: databases, for instance `sqlite:./journal.db` and `postgresql://…`.
        told: called with each kind of rows and how many of it were copied so far.

    Raises:
        InputError: one of them is no database, they are the same, or the target holds something.
        EngineRunning: an engine runs on one of them.
        JournalError: one of them cannot be used, the copy was taken for dead there, or it differs; then nothing of it
            was kept.
    """
    there, here = (_naming(settings, url) for url in (source, target))
    if "none" in (there.database_kind, here.database_kind):
        raise InputError("`none` keeps no journal: there is nothing to copy from or to.")
    if there.database_shown == here.database_shown:
        raise InputError(f"A journal is not copied onto itself: {there.database_shown}.")
    async with (
        journal_of(there, existing=True) as origin,
        _alone(origin, there.database_shown) as confirm_there,  # before the target is made
        journal_of(here, migrate=True) as copied,
        _alone(copied, here.database_shown) as confirm_here,
    ):

        async def confirm() -> None:
            await confirm_there()
            await confirm_here()

        rows = await copy(origin.store, copied.store, told, confirm=confirm)
    return Copied(source=there.database_shown, target=here.database_shown, rows=rows)


def _naming(settings: Settings, url: str) -> Settings:
    """The settings with another database."""
    try:
        database = check_database(url)
    except ValueError as exc:
        kind = url.partition(":")[0]  # the rest may hold a password
        raise InputError(f"{kind}:… is no database: {exc}. Give one like sqlite:PATH or postgresql://…") from exc
    learn(database_secrets(database))
    return settings.model_copy(update={"database": database})


@asynccontextmanager
async def _alone(journal: Journal, shown: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Be the only engine of a journal until the end of the block.

    Yields:
        A function that raises JournalError unless we still are a member.

    Raises:
        EngineRunning: an engine runs.
        JournalError: our heartbeat came too late, so that an engine may have started. The block was cancelled.
    """
    owner, membership = f"copy-{new_id(0)}", journal.membership
    try:
        await membership.join(ROLE, owner, store="")
    except EngineRunning as exc:
        raise EngineRunning(
            f"An engine runs on {shown}: `receiver {exc.holder}`. Stop it, and every other process that uses this "
            f"journal, and copy then. (Except in a file, one that was killed counts for {EXPIRE_SECONDS:g} s.)",
            holder=exc.holder,
        ) from exc

    async def confirm() -> None:
        if not await membership.heartbeat(owner):
            raise _expired(shown)

    try:
        async with asyncio.timeout(None) as block:
            heartbeats = asyncio.create_task(_show_heartbeats(confirm, block))
            try:
                yield confirm
            finally:
                heartbeats.cancel()
                await asyncio.gather(heartbeats, return_exceptions=True)
    except TimeoutError as exc:
        raise (_expired(shown) if block.expired() else exc) from exc
    finally:
        with suppress(JournalError):  # where it is out of reach, the others find us expired
            await membership.leave(owner)


async def _show_heartbeats(confirm: Callable[[], Awaitable[None]], block: asyncio.Timeout) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        try:
            await confirm()
        except JournalError as exc:
            if exc.fault:
                log.warning("journal.no_heartbeat", problem=str(exc))  # the next one may come in time
                continue
            block.reschedule(asyncio.get_running_loop().time())
            return


def _expired(shown: str) -> JournalError:
    return JournalError(
        f"Broken off: {shown} had no heartbeat from this command for {EXPIRE_SECONDS:g} s, so that an engine may have "
        "started there. Stop every process that uses this journal, and run the command again."
    )
