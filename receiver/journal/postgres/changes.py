"""What a batch of additions and changes does inside one transaction.

The rows are locked first, all with one statement and in order of id, so that no two processes wait for each other; or
they are not locked, and the one statement that writes them fails unless they are as we have seen them.
"""

from __future__ import annotations

from collections.abc import Mapping

from receiver.events import Submission
from receiver.journal.postgres.batch import Batch
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.driver import Connection, asyncpg
from receiver.journal.postgres.operations import Add, Applied, Operations, Stale, changed_id
from receiver.journal.postgres.seen import Known, Seen
from receiver.journal.postgres.statements import rows, run
from receiver.journal.rows import from_row


async def check(db: Connection) -> None:
    """Write and remove a row."""
    await run(db, "register_destination", names=[""], handlers=[""])
    await run(db, "forget_destination", name="")


async def apply(db: Connection, operations: Operations, mark: Mark, seen: Seen) -> Applied:
    """Carry them out."""
    ids = sorted({changed_id(operation) for operation in operations if not isinstance(operation, Add)})
    locked = await rows(db, "lock_submissions", ids=ids) if ids else []
    batch = Batch(await _read(db, {row["id"]: row["version"] for row in locked}, seen))
    outcomes = [batch.decide(operation) for operation in operations]
    await batch.write(db, mark)
    return batch.applied(outcomes)


class Hopeful:
    """A batch decided on rows as we know them, without asking the server first. It is written by one statement, which
    fails if any of the rows has another version by now.

    Raises:
        Stale: at once, if that cannot be.
    """

    def __init__(self, operations: Operations, seen: Seen) -> None:
        if any(isinstance(operation, Add) for operation in operations):
            raise Stale
        ids = sorted({changed_id(one) for one in operations if not isinstance(one, Add)})
        known = {id: found for id in ids if (found := seen.get(id)) is not None}
        if len(known) < len(ids):
            raise Stale
        self._batch = Batch(known)
        self._outcomes = [self._batch.decide(operation) for operation in operations]
        self._batch.hope()

    async def write(self, db: Connection, mark: Mark) -> Applied:
        """Raises Stale if a row was changed, or a fact was known."""
        try:
            await self._batch.write_unlocked(db, mark)
        except (asyncpg.DivisionByZeroError, asyncpg.UniqueViolationError) as exc:
            raise Stale from exc
        return self._batch.applied(self._outcomes)

    async def written(self, db: Connection) -> Applied:
        """It was, but the answer was lost, and with it the new version: what we know is out of date."""
        return self._batch.applied(self._outcomes)


async def _read(db: Connection, versions: Mapping[str, str], seen: Seen) -> dict[str, Known]:
    """Locked rows: those that were changed since we have seen them are read."""
    known = {id: one for id in versions if (one := seen.get(id)) is not None and one.version == versions[id]}
    unknown = [id for id in versions if id not in known]
    read = await rows(db, "get_submissions", ids=unknown) if unknown else []
    return known | {row["id"]: Known(versions[row["id"]], from_row(Submission, row)) for row in read}
