"""How attempts end, many in one transaction: the fence, the attempt, what became outdated meanwhile, and what it says
of the destination."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from receiver.deliveries import Completion, DestinationRecord
from receiver.journal import rules
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.driver import Connection
from receiver.journal.postgres.statements import rows, run
from receiver.journal.rows import from_row, to_json, to_row
from receiver.tasks import clean_text

Ends = Sequence[tuple[str, Completion]]
"""Names of destinations, each with how an attempt there ended."""


def simple(completions: Sequence[Completion]) -> bool:
    """Whether these need one statement only: all is well, and none is about the same delivery as another."""
    distinct = {one.delivery_id for one in completions}
    return len(distinct) == len(completions) and all(one.outcome == "succeeded" for one in completions)


async def succeed(db: Connection, completions: Sequence[Completion], mark: Mark) -> tuple[list[bool], Ends]:
    """Which of them the fence let through, and what their destinations should learn: see `tell`."""
    found = await _end(db, completions, mark)
    told = [one for one in completions if one.delivery_id in found]
    last: dict[str, Completion] = {}
    for one in told:
        last[found[one.delivery_id]["destination"]] = one  # all have succeeded, so of each destination one says it all
    news = [(name, one) for name, one in last.items() if _is_news(one, found[one.delivery_id])]
    return [one.delivery_id in found for one in completions], news


async def succeeded(db: Connection, completions: Sequence[Completion]) -> tuple[list[bool], Ends]:
    """The same, after that was done."""
    names = ("ids", "attempts", "outcomes", "times")
    values = {name: column for name, column in _columns(completions).items() if name in names}
    done = {row["delivery_id"] for row in await rows(db, "completed", **values)}
    return [one.delivery_id in done for one in completions], []


async def complete(db: Connection, completions: Sequence[Completion], mark: Mark) -> list[bool]:
    """Which of them the fence let through. Of two about one delivery, the first one that fits counts."""
    outcomes = [False] * len(completions)
    left = list(range(len(completions)))
    await mark.leave(db)
    while left:
        turn: dict[str, int] = {}
        for number in left:
            turn.setdefault(completions[number].delivery_id, number)
        done = await _complete_each(db, [completions[number] for number in turn.values()])
        for id, number in turn.items():
            outcomes[number] = id in done
        left = [number for number in left if turn[completions[number].delivery_id] != number]
    return outcomes


async def _complete_each(db: Connection, completions: Sequence[Completion]) -> set[str]:
    found = await finish(db, completions)
    told = [one for one in completions if one.delivery_id in found and rules.speaks(one)]
    if any(_is_news(one, found[one.delivery_id]) for one in told):
        await tell(db, [(found[one.delivery_id]["destination"], one) for one in told])
    return set(found)


async def finish(db: Connection, completions: Sequence[Completion]) -> dict[str, Any]:
    """Deliveries and their attempts only, in a transaction that leaves its mark elsewhere. By id, the destination of
    each one that the fence let through, and how that does. Each is of another delivery."""
    again = [one for one in completions if one.status == "pending"]
    if again:
        await run(db, "lock_owing", deliveries=[one.delivery_id for one in again])
    done = await _end(db, completions, None)
    if again:
        ended = {one.delivery_id: one.finished_ms for one in again if one.delivery_id in done}
        await run(db, "cancel_outdated", ids=list(ended), times=list(ended.values()))
    return done


async def give_back(db: Connection, owner: str, held: Sequence[str]) -> None:
    """Make pending again, as if it had not been tried, what is running for an engine that does not hold it."""
    ids = [row["id"] for row in await rows(db, "list_strays", owner=owner, held=held)]
    if ids:
        await run(db, "lock_owing", deliveries=ids)
        await run(db, "give_back", owner=owner, ids=ids)
        times = await rows(db, "get_due", ids=ids)
        await run(db, "cancel_outdated", ids=[row["id"] for row in times], times=[row["due_ms"] for row in times])


async def _end(db: Connection, completions: Sequence[Completion], mark: Mark | None) -> dict[str, Any]:
    marks = mark.values if mark else {"mark": None, "needless": []}
    return {row["id"]: row for row in await rows(db, "complete", **_columns(completions), **marks)}


def _columns(completions: Sequence[Completion]) -> dict[str, list[Any]]:
    """In order of id, so that no two batches wait for each other."""
    ends = sorted(completions, key=attrgetter("delivery_id"))
    return {
        "ids": [one.delivery_id for one in ends],
        "owners": [one.owner for one in ends],
        "attempts": [one.attempt for one in ends],
        "outcomes": [one.outcome for one in ends],
        "statuses": [one.status for one in ends],
        "times": [one.finished_ms for one in ends],
        "dues": [one.due_ms for one in ends],
        "counts": [int(one.counts) for one in ends],
        "details": [None if one.detail is None else clean_text(one.detail) for one in ends],
        "receipts": [None if one.receipt is None else to_json(one.receipt) for one in ends],
    }


def _is_news(one: Completion, row: Any) -> bool:
    """Whether an end changes its destination's row, as far as that was just read."""
    if row["failures"] is None:
        return False  # nobody registered it
    if one.outcome != "succeeded":
        return True
    found = DestinationRecord(
        name="",
        handler="",
        failures=row["failures"],
        paused_until_ms=row["paused_until_ms"],
        last_success_ms=row["last_success_ms"],
    )
    return rules.succeeded(found, one.finished_ms) is not found


async def tell(db: Connection, ends: Ends) -> None:
    """Apply them in turn. Destinations are locked last and in order of name, by everybody."""
    names = sorted({name for name, _ in ends})
    found = await rows(db, "lock_destinations", names=names)
    before = {row["name"]: from_row(DestinationRecord, row) for row in found}
    after = dict(before)
    for name, one in ends:
        if name in after:
            after[name] = _after(after[name], one)
    changed = [to_row(row) for name, row in after.items() if row is not before[name]]
    if changed:
        await run(db, "update_destinations", **{name: [row[name] for row in changed] for name in _TOLD})


def _after(found: DestinationRecord, one: Completion) -> DestinationRecord:
    return rules.succeeded(found, one.finished_ms) if one.outcome == "succeeded" else rules.failed(found, one)


_TOLD = ("name", "failures", "paused_until_ms", "paused_reason", "last_success_ms", "last_error_ms", "last_error")
