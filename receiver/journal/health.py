"""How destinations do, in their rows: failures in a row pause one, and one delivery probes it when the pause is over.

One field is circuit breaker, rate limit and probe: `paused_until_ms`. Until then nothing is claimed. After it, a
destination that is taken for down gets one delivery at a time: a success ends it all, a failure makes a longer pause.
What never ran stays as it was.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from receiver.backoff import DOWN_AFTER, pause
from receiver.deliveries import Completion, DestinationRecord
from receiver.journal.rows import from_row, to_row
from receiver.journal.statements import SQL


def room(db: sqlite3.Connection, values: dict[str, Any]) -> int:
    """How many of `limit` may be claimed for `destination` now."""
    found = _get(db, values["destination"])
    limit: int = values["limit"]
    if found is None:
        return limit
    if found.paused(values["now_ms"]):
        return 0
    if found.failures < DOWN_AFTER:
        return limit
    return 0 if db.execute(SQL["any_running"], values).fetchone() else min(limit, 1)


def note(db: sqlite3.Connection, completion: Completion) -> None:
    """What an attempt says of its destination. That it asks to wait, or that we were stopped, says nothing."""
    if completion.outcome not in ("succeeded", "failed", "rejected"):
        return
    name = db.execute(SQL["destination_of"], {"delivery_id": completion.delivery_id}).fetchone()["destination"]
    if completion.outcome == "succeeded":
        db.execute(SQL["destination_succeeded"], {"name": name, "now_ms": completion.finished_ms})
    elif (found := _get(db, name)) is not None:
        db.execute(SQL["destination_failed"], to_row(_after(found, completion)))


def _after(found: DestinationRecord, completion: Completion) -> DestinationRecord:
    """A rejection is about one delivery, and what fails during a pause had begun before it: neither makes it longer."""
    now_ms = completion.finished_ms
    told = msgspec.structs.replace(found, last_error_ms=now_ms, last_error=completion.detail)
    if not completion.counts or found.paused(now_ms):
        return told
    failures = found.failures + 1
    seconds = pause(failures)
    if seconds is None:
        return msgspec.structs.replace(told, failures=failures)
    return msgspec.structs.replace(
        told,
        failures=failures,
        paused_until_ms=now_ms + int(seconds * 1000),
        paused_reason=f"{failures} attempts in a row have failed, the last one with: {completion.detail}",
    )


def _get(db: sqlite3.Connection, destination: str) -> DestinationRecord | None:
    row = db.execute(SQL["get_destination"], {"name": destination}).fetchone()
    return from_row(DestinationRecord, row) if row else None
