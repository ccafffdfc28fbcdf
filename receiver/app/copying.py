"""Copy a journal to another database, both named as `RECEIVER_DATABASE` names one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from msgspec.structs import replace

from receiver.app.journals import journal_of
from receiver.errors import EngineRunning, InputError, JournalError
from receiver.events import new_id
from receiver.journal import Journal
from receiver.journal.membership import EXPIRE_SECONDS, HEARTBEAT_SECONDS
from receiver.journal.store import RowKind
from receiver.journal.transfer import Tally, copy
from receiver.settings import Settings
from receiver.settings.kinds import check_database, url_secrets
from receiver.telemetry import Log, learn

log = Log("receiver.journal")

ROLE = "journal copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A complete copy."""

    source: str  # the databases, without passwords
    target: str
    rows: Mapping[RowKind, Tally]  # of each kind, the same on both sides


async def copy_journal(
    settings: Settings, source: str, target: str, progress: Callable[[RowKind, int], None] = lambda kind, count: None
) -> Copied:
    """Copy everything from one journal into another, empty one. No engine may run on either.

    `progress` is called with each kind of rows and the number copied so far.

    Raises:
        InputError: a database is malformed, they are the same, or the target is not empty.
        EngineRunning: an engine runs on one of them.
        JournalError: one cannot be used, our membership there expired, or the copy differs. Then the target is empty.
    """
    there, here = (_with_database(settings, url) for url in (source, target))
    if "none" in (there.database_kind, here.database_kind):
        raise InputError("`none` keeps no journal: there is nothing to copy from or to.", page="backup")
    if there.database_shown == here.database_shown:
        raise InputError(f"A journal is not copied onto itself: {there.database_shown}.", page="backup")
    async with (
        journal_of(there, existing=True) as origin,
        _exclusive(origin, there.database_shown) as confirm_there,  # before the target is made
        journal_of(here, migrate=True) as copied,
        _exclusive(copied, here.database_shown) as confirm_here,
    ):

        async def confirm() -> None:
            await confirm_there()
            await confirm_here()

        rows = await copy(origin.store, copied.store, progress, confirm=confirm)
    return Copied(source=there.database_shown, target=here.database_shown, rows=rows)


def _with_database(settings: Settings, url: str) -> Settings:
    try:
        database = check_database(url)
    except ValueError as exc:
        kind = url.partition(":")[0]  # the rest may hold a password
        raise InputError(f"{kind}:… is no database: {exc}. Give one like sqlite:PATH or postgresql://…") from exc
    learn(url_secrets(database))
    return replace(settings, database=database)


@asynccontextmanager
async def _exclusive(journal: Journal, shown: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Be the only engine of a journal until the end of the block, which is cancelled if we expire.

    Yields a function that raises JournalError unless we still are a member. Raises EngineRunning if an engine runs.
    """
    owner, membership = f"copy-{new_id(0)}", journal.membership
    expired = JournalError(
        f"Broken off: {shown} had no heartbeat from this command for {EXPIRE_SECONDS:g} s, so that an engine may have "
        "started there. Stop every process that uses this journal, and run the command again."
    )
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
            raise expired

    async def send_heartbeats(block: asyncio.Timeout) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await confirm()
            except JournalError as exc:
                if not exc.fault:
                    block.reschedule(asyncio.get_running_loop().time())
                    return
                log.warning("journal.no_heartbeat", problem=str(exc))  # the next one may come in time

    try:
        async with asyncio.timeout(None) as block:
            heartbeats = asyncio.create_task(send_heartbeats(block))
            try:
                yield confirm
            finally:
                heartbeats.cancel()
                await asyncio.gather(heartbeats, return_exceptions=True)
    except TimeoutError as exc:
        raise (expired if block.expired() else exc) from exc
    finally:
        with suppress(JournalError):  # if it is out of reach, other engines expire us
            await membership.leave(owner)
