"""How destinations do, in their rows: failures in a row pause one, and one delivery probes it when the pause is over.

One field is circuit breaker, rate limit and probe: `paused_until_ms`. Until then nothing is claimed. After it, a
destination that is taken for down gets one delivery at a time: a success ends it all, a failure makes a longer pause.
What never ran stays as it was.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from receiver.deliveries import Completion, DestinationRecord
from receiver.journal import rules
from receiver.journal.rows import from_row, to_row
from receiver.journal.sqlite.statements import SQL


def room(db: sqlite3.Connection, values: dict[str, Any]) -> int:
    """How many of `limit` may be claimed for `destination` now."""
    found = _get(db, values["destination"])
    limit: int = values["limit"]
    if found is None:
        return limit
    if found.paused(values["now_ms"]):
        return 0
    if not rules.is_down(found):
        return limit
    return 0 if db.execute(SQL["any_running"], values).fetchone() else min(limit, 1)


def note(db: sqlite3.Connection, completion: Completion) -> None:
    """What an attempt says of its destination."""
    if not rules.speaks(completion):
        return
    name = db.execute(SQL["destination_of"], {"delivery_id": completion.delivery_id}).fetchone()["destination"]
    if completion.outcome == "succeeded":
        db.execute(SQL["destination_succeeded"], {"name": name, "now_ms": completion.finished_ms})
    elif (found := _get(db, name)) is not None:
        db.execute(SQL["destination_failed"], to_row(rules.failed(found, completion)))


def _get(db: sqlite3.Connection, destination: str) -> DestinationRecord | None:
    row = db.execute(SQL["get_destination"], {"name": destination}).fetchone()
    return from_row(DestinationRecord, row) if row else None
