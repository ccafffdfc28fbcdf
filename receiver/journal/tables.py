"""The tables a journal on an SQL database has, and how a row of each becomes a record and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from receiver.deliveries import AttemptRecord, Delivery, DestinationRecord
from receiver.events import Callback, Event, Submission
from receiver.journal import Trouble
from receiver.journal.copying import Kept, Key, LeftFile, NeededFile, RowKind
from receiver.journal.rows import from_row, to_json, to_row


@dataclass(frozen=True, slots=True)
class Table:
    """How one kind of rows lies in a table of its name.

    Attributes:
        key: the columns that sort it.
        first: comes before every key.
    """

    record: type[msgspec.Struct]
    key: tuple[str, ...]
    first: Key

    def kept(self, row: Mapping[str, Any]) -> Kept:
        """A row as it was read. Columns the table has not, because they are counted, are 0."""
        record = self.record
        read = msgspec.json.decode(row["body"], type=Event) if record is Event else from_row(record, row)
        return Kept(tuple(row[name] for name in self.key), read)

    def columns(self, kept: Kept) -> dict[str, Any]:
        """What to write, by column."""
        record = kept.record
        if isinstance(record, Event):
            facts = {name: getattr(record, name) for name in ("id", "submission_id", "type", "created_ms")}
            return {"number": kept.key[0], **facts, "body": to_json(record)}
        if isinstance(record, Callback):
            return {"number": kept.key[0], **to_row(record)}
        return {name: value for name, value in to_row(record).items() if name not in _COUNTED}


_COUNTED = frozenset({"pending", "dead"})
"""Of a destination: how many deliveries it has."""

TABLES: Mapping[RowKind, Table] = {
    "destinations": Table(DestinationRecord, ("name",), ("",)),
    "submissions": Table(Submission, ("id",), ("",)),
    "callbacks": Table(Callback, ("number",), (-1,)),
    "events": Table(Event, ("number",), (-1,)),
    "deliveries": Table(Delivery, ("id",), ("",)),
    "attempts": Table(AttemptRecord, ("delivery_id", "number"), ("", -1)),
    "files": Table(NeededFile, ("submission_id", "digest"), ("", "")),
    "leftovers": Table(LeftFile, ("digest",), ("",)),
    "troubles": Table(Trouble, ("name",), ("",)),
}
