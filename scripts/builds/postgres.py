"""Receiver on PostgreSQL with one function replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from builds.replacing import replaced
from receiver.deliveries import AttemptRecord, Completion
from receiver.engine import engine
from receiver.engine.dispatcher import Dispatcher
from receiver.events import Callback
from receiver.journal import Changed, Decide, Journal, membership, transitions
from receiver.journal.document import Document, replace
from receiver.journal.membership import SharedMembership
from receiver.journal.postgres.documents import Writer

LATE_SECONDS = 0.3
HASTY: Mapping[str, float] = {"HEARTBEAT_SECONDS": 1.0, "EXPIRE_SECONDS": 5.0}


@contextmanager
def hasty(times: Mapping[str, float] = HASTY) -> Iterator[None]:
    """Not broken: engines expire three times as soon."""
    with ExitStack() as stack:
        for owner in (membership, engine):
            for name, seconds in times.items():
                stack.enter_context(replaced(owner, name, seconds))
        yield


@contextmanager
def acknowledge_before_write() -> Iterator[None]:
    """Answer callbacks first, and write them a little later."""
    change = Journal.change
    late: set[asyncio.Task[Any]] = set()

    async def early(
        self: Journal, submission_id: str, decide: Decide, callback: Callback | None = None
    ) -> Changed | None:
        row = await self.get(submission_id)
        if callback is None or row is None:
            return await change(self, submission_id, decide, callback)

        async def write() -> None:
            await asyncio.sleep(LATE_SECONDS)
            await change(self, submission_id, decide, callback)

        task = asyncio.create_task(write())
        late.add(task)
        task.add_done_callback(late.discard)
        return Changed(submission=row)

    with replaced(Journal, "change", early):
        yield


@contextmanager
def unfenced() -> Iterator[None]:
    """Finish and record every attempt, even if this engine has expired and another has taken over the delivery."""
    complete = transitions.complete

    def record(document: Document, completion: Completion) -> tuple[Document, bool]:
        after, done = complete(document, completion)
        if done:
            return after, True
        late = AttemptRecord(
            delivery_id=completion.delivery_id,
            number=completion.attempt,
            started_ms=completion.finished_ms,
            finished_ms=completion.finished_ms,
            outcome=completion.outcome,
        )
        return replace(document, new_attempts=(*document.new_attempts, late)), True

    async def keep(self: Dispatcher) -> int:
        self.owner = ""
        return 0

    with replaced(transitions, "complete", record), replaced(Dispatcher, "abandon", keep):
        yield


def leading_for_ever() -> AbstractContextManager[None]:
    """Never replace a leader, even after its record has expired."""
    lead = SharedMembership.lead

    async def once(self: SharedMembership, owner: str) -> bool:
        leader = (await self._store.values("leader")).get("leader")
        return leader.data.decode() == owner if leader is not None else await lead(self, owner)

    return replaced(SharedMembership, "lead", once)


def all_for_one() -> AbstractContextManager[None]:
    """Refuse a whole batch if one of its operations fails."""

    async def commit(self: Writer[Any], operations: list[Any]) -> list[Any]:
        try:
            return await self._run(operations)
        except Exception as exc:
            return [exc] * len(operations)

    return replaced(Writer, "_commit", commit)


BUILDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "hasty": hasty,
    "acknowledge-before-write": acknowledge_before_write,
    "unfenced": unfenced,
    "leading-for-ever": leading_for_ever,
    "all-for-one": all_for_one,
}
