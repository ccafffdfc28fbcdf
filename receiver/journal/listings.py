"""What is asked alike of every journal in tables, each by a statement of that name in its own SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from receiver.deliveries import AttemptRecord, Delivery, DeliveryStatus, DestinationRecord
from receiver.errors import NotFound
from receiver.events import Submission
from receiver.journal import Trouble
from receiver.journal.rows import delivery_from_row

Row = TypeVar("Row", bound=msgspec.Struct)


class Listings(ABC):
    """A part of journals in tables; see `journal.base.Journal`."""

    @abstractmethod
    async def _rows(self, name: str, **values: Any) -> Sequence[Any]:
        """What the statement of that name finds: rows that give a column by its name."""

    @abstractmethod
    async def _select(self, type: type[Row], name: str, **values: Any) -> list[Row]:
        """The same as structs."""

    async def settle(self) -> None:  # noqa: B027 - nothing to do is all there is to it
        """A transaction leaves nothing to be swept up."""

    # Submissions

    async def family(self, submission_id: str) -> list[Submission]:
        return await self._select(Submission, "family", id=submission_id)

    async def find(self, reference: str, *, whole: bool = False) -> Submission:
        # One by one, because an index leads to the first two, and none to a part of an id.
        rows = await self._select(Submission, "get_submission", id=reference)
        rows = rows or await self._select(Submission, "find_by_task", task_id=reference)
        if not rows and not whole:
            rows = await self._select(Submission, "find_by_part", part=reference)
        if not rows:
            raise NotFound(f"There is no submission or task {reference!r} in this journal. See: receiver tasks list")
        if len(rows) > 1:
            raise NotFound(f"More than one submission matches {reference!r}. Give more of its id.")
        return rows[0]

    async def submissions(self, *, limit: int, status: str | None = None) -> list[Submission]:
        return await self._select(Submission, "list_submissions", limit=limit, status=status)

    async def due_sends(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._select(Submission, "due_sends", now_ms=now_ms, limit=limit)

    async def due_polls(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._select(Submission, "due_polls", now_ms=now_ms, limit=limit)

    async def due_media(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._select(Submission, "due_media", now_ms=now_ms, limit=limit)

    async def overdue(self, now_ms: int, limit: int) -> list[Submission]:
        return await self._select(Submission, "overdue", now_ms=now_ms, limit=limit)

    async def called_back(self, *, limit: int, created_before_ms: int) -> list[Submission]:
        return await self._select(Submission, "called_back", limit=limit, created_before_ms=created_before_ms)

    async def troubles(self) -> list[Trouble]:
        return await self._select(Trouble, "list_troubles")

    # Deliveries

    async def deliveries(
        self,
        *,
        limit: int,
        submission_id: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
    ) -> list[Delivery]:
        name = "list_deliveries" if submission_id is None else "list_submission_deliveries"
        filters = {"submission_id": submission_id, "destination": destination, "status": status}
        return [delivery_from_row(row) for row in await self._rows(name, limit=limit, **filters)]

    async def delivery(self, delivery_id: str) -> Delivery | None:
        rows = await self._rows("get_delivery", id=delivery_id)
        return delivery_from_row(rows[0]) if rows else None

    async def attempts(self, delivery_id: str) -> list[AttemptRecord]:
        return await self._select(AttemptRecord, "list_attempts", delivery_id=delivery_id)

    async def owed_destinations(self) -> list[str]:
        return [row["name"] for row in await self._rows("owed_destinations")]

    async def destinations(self) -> list[DestinationRecord]:
        return await self._select(DestinationRecord, "list_destinations")
