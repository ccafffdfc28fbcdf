"""Receiver on PostgreSQL with one seam replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from receiver.journal.postgres.writer import Writer

from builds.replacing import replaced
from receiver.app import standing
from receiver.events import Callback, Submission
from receiver.journal import Changed, Decide
from receiver.journal.postgres import PostgresJournal, connecting, connections, engines, statements

LATE_SECONDS = 0.3
HASTY: Mapping[str, float] = {"BEAT_SECONDS": 1.0, "DEAD_SECONDS": 5.0, "LEASE_SECONDS": 3.0}


@contextmanager
def hasty() -> Iterator[None]:
    """Not broken: takes others for dead three times as soon, for those who have no time."""
    with ExitStack() as stack:
        for owner in (engines, standing):
            for name, seconds in HASTY.items():
                if hasattr(owner, name):
                    stack.enter_context(replaced(owner, name, seconds))
        yield


@contextmanager
def commit_later() -> Iterator[None]:
    """Does not mind a server that answers before anything is on disk."""
    careless = {**connecting.SETTINGS, "synchronous_commit": "off"}

    async def nothing(*values: Any) -> None:
        return

    with replaced(connecting, "SETTINGS", careless), replaced(connections, "check_server", nothing):
        yield


@contextmanager
def acknowledge_before_write() -> Iterator[None]:
    """Callbacks are answered first, and written a little later."""
    change = PostgresJournal.change
    late: set[asyncio.Task[Any]] = set()

    async def early(
        self: PostgresJournal, submission_id: str, decide: Decide, callback: Callback | None = None
    ) -> Changed | None:
        row: Submission | None = await self.get(submission_id)
        if callback is None or row is None:
            return await change(self, submission_id, decide, callback)

        async def write() -> None:
            await asyncio.sleep(LATE_SECONDS)
            await change(self, submission_id, decide, callback)

        task = asyncio.create_task(write())
        late.add(task)
        task.add_done_callback(late.discard)
        return Changed(submission=row)

    with replaced(PostgresJournal, "change", early):
        yield


def restated(name: str, old: str, new: str) -> AbstractContextManager[None]:
    """One of the journal's statements, in part another."""
    statement = statements.SQL[name]
    assert old in statement.text, f"{name} has changed"
    changed = replace(statement, text=statement.text.replace(old, new))
    return replaced(statements, "SQL", {**statements.SQL, name: changed})


@contextmanager
def unfenced() -> Iterator[None]:
    """Whoever has made an attempt may say how it ended, whatever has become of the delivery since."""
    with (
        restated("complete", "AND deliveries.owner = new.owner AND deliveries.attempt = new.attempt", ""),
        restated("complete", "AND deliveries.status || '' = 'running'", ""),
    ):
        yield


def leading_for_ever() -> AbstractContextManager[None]:
    """Who has led once is never replaced."""
    return restated("lead", "OR leases.expires < clock_timestamp()", "")


def all_for_one() -> AbstractContextManager[None]:
    """What is wrong with one of a batch is the fault of all."""

    async def commit(self: Writer[Any], operations: list[Any]) -> list[Any]:
        try:
            return await self._run(operations)
        except Exception as exc:
            return [exc] * len(operations)

    return replaced(Writer, "_commit", commit)


BUILDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "hasty": hasty,
    "commit-later": commit_later,
    "acknowledge-before-write": acknowledge_before_write,
    "unfenced": unfenced,
    "leading-for-ever": leading_for_ever,
    "all-for-one": all_for_one,
}
