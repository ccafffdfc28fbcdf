"""Follow a submission to its end, and say what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from receiver.cli.output import note, one_line, print_json, say, when
from receiver.cli.progress import Progress
from receiver.cli.running import first_end
from receiver.deliveries import Delivery
from receiver.events import EventType, Submission, event_id
from receiver.followups import once_name
from receiver.runtime import Runtime

SUCCEEDED, ERROR, FAILED, INPUT_REQUIRED, LOST = 0, 1, 3, 4, 5
"""Exit statuses; 2 is a wrong command line, 130 an interruption."""

_EXITS: dict[EventType, int] = {
    "task.succeeded": SUCCEEDED,
    "task.failed": FAILED,
    "task.input_required": INPUT_REQUIRED,
    "task.lost": LOST,
}
_LOOK = 0.1
"""Seconds between looks at the last deliveries."""
_LONG_MS = 10_000
"""A destination that is paused for longer than that keeps whoever waits for it so long that they are told why."""


Follow = Callable[[str], Awaitable[tuple[Submission, int]]]
"""Follows one submission, by its id, to its end; gives the submission as it is then, and the exit status."""


async def follow(runtime: Runtime, submission_id: str, *, as_json: bool) -> tuple[Submission, int]:
    """Show progress until the result has reached every destination, and say what came of it.

    Runs the engine if no other process does, and takes over when that one stops.
    """
    engine = asyncio.create_task(runtime.start_engine_when_free("submit --wait"))
    with Progress(runtime.clock, quiet=as_json) as progress:
        waiting = asyncio.create_task(until_settled(runtime, submission_id, progress.show))
        try:
            await first_end([waiting], [engine])
        finally:
            waiting.cancel()
            engine.cancel()
            await asyncio.gather(waiting, engine, return_exceptions=True)
    row, deliveries = waiting.result()
    return row, report(row, deliveries, as_json=as_json)


async def follow_all(runtime: Runtime, submission_id: str, follow_one: Follow) -> int:
    """Follow a submission, and then what it starts by itself; returns the worst exit status."""
    row, status = await follow_one(submission_id)
    for child in await _started_by(runtime, row):
        _, other = await follow_one(child.id)
        status = max(status, other)
    return status


async def _started_by(runtime: Runtime, row: Submission) -> list[Submission]:
    """The presses that a submission made by itself once it had succeeded, whether or not a destination has its result.
    A press that was refused has no name any more (`once`); it is known by its being the first of its button."""
    if row.last_word != "task.succeeded" or not row.auto:
        return []
    names = {once_name(row.id, button) for button in row.auto}
    found: dict[str, Submission] = {}
    for child in await runtime.patiently(lambda: runtime.journal.family(row.id)):
        name = once_name(row.id, child.button or "")
        if child.parent_id == row.id and name in names and (name not in found or child.once == name):
            found[name] = child
    return list(found.values())


async def until_settled(
    runtime: Runtime, submission_id: str, show: Callable[[Submission], None]
) -> tuple[Submission, list[Delivery]]:
    """Until there is a last word, and every destination has had its first try at it; `show` sees each change.

    Returns:
        The submission, and the deliveries of its last word as they were when that was so: a retry may begin any time.
    """
    async for row in runtime.watch(submission_id):
        show(row)
        if row.status != "refused" and row.last_word is None:
            continue
        deliveries = await _tried(runtime, row)
        now = await runtime.patiently(lambda: runtime.journal.get(submission_id))
        if now is None or now.last_word == row.last_word:  # else a success has taken a failure's place meanwhile
            return row, deliveries
    raise AssertionError("a watch ends only when its caller leaves")


async def _tried(runtime: Runtime, row: Submission) -> list[Delivery]:
    """The deliveries of the submission's last word, once none is untried, in the order of their destinations."""
    type = row.last_word
    if type is None:
        return []
    event = await runtime.patiently(lambda: runtime.journal.event(event_id(row.id, type)))
    if event is None:
        return []
    told: set[str] = set()

    async def look() -> tuple[list[Delivery], set[str]]:
        deliveries = await runtime.journal.event_deliveries(event)
        waiting = {item.destination for item in deliveries if await _untried(runtime, item)}
        told.update([name for name in waiting - told if await _tell_pause(runtime, name)])
        return deliveries, waiting

    while True:
        deliveries, waiting = await runtime.patiently(look)
        if not waiting:
            return sorted(deliveries, key=lambda item: item.destination)
        await runtime.clock.sleep(_LOOK)


async def _tell_pause(runtime: Runtime, name: str) -> bool:
    """Say what is waited for where that takes long; False: it does not."""
    until_ms, reason = await runtime.journal.pause_of(name) or (0, "")
    long = until_ms - runtime.clock.now_ms() > _LONG_MS
    if long:
        note(f"{name} gets nothing until {when(until_ms)} UTC: {one_line(reason)}")
    return long


async def _untried(runtime: Runtime, delivery: Delivery) -> bool:
    """Whether the destination has not had its say. An attempt that vanished with its engine says nothing of it, and
    the next one is due at once (`journal.rules.charge`); a second one that vanishes may well be the reason."""
    if delivery.status != "pending":
        return delivery.status == "running"
    if delivery.failures != 1:
        return delivery.failures == 0
    counted = [item for item in await runtime.journal.attempts(delivery.id) if item.outcome in ("failed", "vanished")]
    return any(item.outcome == "vanished" for item in counted[-1:])


def report(row: Submission, deliveries: list[Delivery], *, as_json: bool) -> int:
    """Print what came of it; returns the exit status."""
    type = row.last_word
    status = ERROR if type is None else _EXITS[type]
    if status == SUCCEEDED and _missed(deliveries):
        status = ERROR
    if as_json:
        print_json(_record(row, deliveries))
    else:
        _tell(row, deliveries)
    return status


def _missed(deliveries: list[Delivery]) -> list[Delivery]:
    """Those that have not reached their destination, also by no other delivery, as a person makes of one that is dead
    (`deliveries replay --as-new`)."""
    reached = {item.destination for item in deliveries if item.status == "succeeded"}
    return [item for item in deliveries if item.destination not in reached]


def _record(row: Submission, deliveries: list[Delivery]) -> dict[str, Any]:
    return {
        "submission": row.id,
        "task": row.task_id,
        "status": (row.last_word or f"task.{row.status}").removeprefix("task."),
        "prompt": row.prompt,
        "reason": row.reason,
        "labels": row.labels,
        "state": row.user_state,
        "texts": row.task.texts if row.task and row.ended == "task.succeeded" else (),
        "files": [item.receipt.ref for item in deliveries if item.receipt and item.receipt.ref],
        "deliveries": [
            {
                "id": item.id,
                "destination": item.destination,
                "status": item.status,
                "ref": item.receipt.ref if item.receipt else None,
                "url": item.receipt.url if item.receipt else None,
                "detail": item.detail,
            }
            for item in deliveries
        ],
    }


def _tell(row: Submission, deliveries: list[Delivery]) -> None:
    """Problems on standard error; what was made on standard output, paths last."""
    if row.last_word != "task.succeeded":
        note(_sentence(row))
    for item in _missed(deliveries):
        if item.status in ("pending", "dead"):
            note(f"Error: {_problem(item)}")
    if row.task is not None and row.ended == "task.succeeded":
        for text in row.task.texts:
            say(one_line(text))
    receipts = [(item.destination, item.receipt) for item in deliveries if item.receipt]
    for name, receipt in receipts:
        if receipt.url:
            say(f"{name}: {receipt.url}")
    for _, receipt in receipts:
        if receipt.ref and not receipt.url:
            say(receipt.ref)


def _sentence(row: Submission) -> str:
    word = row.last_word
    reason = row.reason or "The provider gave no reason."
    if word == "task.input_required":
        return f"Task {row.task_id} asks for input. Answer it with: receiver modal {row.id} --prompt …"
    if word == "task.lost":
        return f"The task was lost. {reason}"
    return f"The task failed: {reason}" if word == "task.failed" else reason


def _problem(item: Delivery) -> str:
    reason = (item.detail or "the reason is not known").rstrip(".")
    then = "It is not tried again." if item.status == "dead" else "`receiver serve` or `worker` goes on trying."
    return f"The result did not reach {item.destination}: {reason}. {then} See: receiver deliveries show {item.id}"
