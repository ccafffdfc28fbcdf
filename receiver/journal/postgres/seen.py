"""Submissions as they were last read or written here: a task calls back about ten times, and to read its row anew costs
more than to decide about it.

A row's version is the number of the transaction that wrote it (`xmin`). One that is still of the version we know is as
we know it, whoever else writes. Numbers mean nothing on another server, so with each new connection all is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from receiver.events import Submission

REMEMBERED = 4096
"""Rows; a few kilobytes each."""


@dataclass(frozen=True, slots=True)
class Known:
    """A submission.

    Attributes:
        row: as it is in this version.
        last: by destination, the delivery that came last, those apart that a person asked for. What came before it is
            owed no more. Where none is named, whoever adds one has to look. (Whoever adds one, or makes one pending
            again, gives the submission a new version.)
    """

    version: str
    row: Submission
    last: Mapping[str, str] = field(default_factory=dict)


class Seen:
    """Submissions by id."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._known: dict[str, Known] = {}

    def get(self, id: str) -> Known | None:
        """The submission as we know it, and which version that is."""
        return self._known.get(id)

    def keep(self, known: Mapping[str, Known]) -> None:
        """Remember submissions as they are committed."""
        for id, one in known.items():
            if len(self._known) >= self._limit and id not in self._known:
                del self._known[next(iter(self._known))]  # the one that came first
            self._known[id] = one

    def keep_new(self, known: Mapping[str, Known]) -> None:
        """Remember submissions that were added, where there is room: most of those that are told of are older."""
        for id, one in known.items():
            if len(self._known) < self._limit:
                self._known[id] = one

    def forget(self) -> None:
        self._known.clear()
