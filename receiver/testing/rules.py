"""The rules of the handler contract, each a check that raises RuleBroken with a sentence.

Each delivers results of new submissions, and compares what is visible outside before and after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import msgspec

from receiver.deliveries import Receipt
from receiver.events import EventType, new_id
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater
from receiver.testing.trial import END_SECONDS, RuleBroken, Trial, listed, told

ROUNDS = 8
"""How often two attempts are made side by side: each time they may meet elsewhere."""
GONE = "The picture could not be downloaded: 404 from cdn.discordapp.com."


async def same_key(trial: Trial) -> None:
    """An attempt made again under the same idempotency key makes nothing more, and reports the same thing."""
    attempt, before = trial.attempt(), await trial.seen()
    async with trial.handler() as handler:
        first = await trial.deliver(handler, attempt)
        again = await trial.deliver(handler, replace(attempt, number=2))
    await trial.check_made(before, attempts=2, after="a second attempt under the same key")
    if trial.once and _ref(first) != _ref(again):
        raise RuleBroken(f"the second attempt reports another ref: {_ref(again)} after {_ref(first)}")


def _ref(receipt: Receipt) -> str | None:
    return getattr(receipt, "ref", None)


async def crash(trial: Trial) -> None:
    """A process that ends between the effect and its record: another one makes the same attempt again."""
    attempt, before = trial.attempt(), await trial.seen()
    async with trial.handler() as handler:
        await trial.deliver(handler, attempt)
    async with trial.handler() as handler:
        await trial.deliver(handler, replace(attempt, number=2))
    await trial.check_made(before, attempts=2, after="a crash between effect and record, and another attempt")


async def duplicate(trial: Trial) -> None:
    """Two engines make the same attempt at once: the effect of one is there, and if both fail it is made again."""
    for _ in range(ROUNDS):
        attempt, before = trial.attempt(), await trial.seen()
        async with trial.handler() as one, trial.handler() as other:
            both = [_limited(trial, one, attempt), _limited(trial, other, replace(attempt, number=2))]
            ends = await asyncio.gather(*both, return_exceptions=True)
            between = await trial.seen()
            if not any(isinstance(end, Receipt) for end in ends):
                await trial.deliver(one, replace(attempt, number=3))
        if half := between - await trial.seen():
            raise RuleBroken(f"after two attempts side by side, something half made was visible: {listed(half)}")
        await trial.check_made(before, attempts=3, after="two attempts side by side")


async def _limited(trial: Trial, handler: Handler, attempt: Attempt) -> Receipt:
    async with asyncio.timeout(trial.deadline):
        return await handler.deliver(attempt)


async def deadline(trial: Trial) -> None:
    """A place that does not answer: at the deadline the attempt ends within a second, and leaves nothing half made."""
    async with trial.handler() as handler:
        for step in await trial.steps():
            await trial.check_stopped(handler, "hang", step, how=f"that hung at await {step} until its deadline")


async def cancellation(trial: Trial) -> None:
    """An engine that stops: cancelled at any await, the attempt ends within a second, and leaves nothing half made."""
    async with trial.handler() as handler:
        for step in await trial.steps():
            await trial.check_stopped(handler, "before", step, how=f"cancelled at await {step}")
            await trial.check_stopped(handler, "after", step, how=f"cancelled just after await {step}")


COURSES: tuple[tuple[EventType, ...], ...] = (
    ("task.accepted", "task.progressed", "task.succeeded"),
    ("task.accepted", "task.input_required", "task.progressed", "task.failed"),
    ("task.lost", "task.succeeded"),
)


async def order(trial: Trial) -> None:
    """Events of a submission in order, each with the last one's receipt; a result shows, a repeat changes nothing."""
    for course in COURSES:
        submission_id, last, previous = new_id(_now_ms()), trial.attempt(), None
        async with trial.handler() as handler:
            for type in course:
                before = await trial.seen()
                last = trial.attempt(type, submission_id=submission_id, previous=previous)
                previous = await trial.deliver(handler, last)
            after = await trial.seen()
            if last.event.type == "task.succeeded" and after == before:
                raise RuleBroken(f"after {' and '.join(course[:-1])}, the result changed nothing that is visible")
            await trial.deliver(handler, replace(last, number=2))
        if trial.once and await trial.seen() != after:
            raise RuleBroken(f"after {' and '.join(course)}, the last one again changed what is visible")


async def media(trial: Trial) -> None:
    """A result with four pictures, of texts alone, without its picture for ever, and without it for now."""
    gone = "delivered or Rejected, which says that there will be no picture"
    waits = "delivered or RetryLater, because the picture may still come"
    async with trial.handler() as handler:
        await trial.deliver(handler, trial.attempt(pictures=4))
        await trial.deliver(handler, trial.attempt(pictures=0))
        without = trial.attempt(media=(), media_problem=GONE)
        await _delivered_or(trial, handler, without, Rejected, f"whose picture is gone must be {gone}")
        pending = trial.attempt(media=(), media_problem=GONE, media_pending=True)
        await _delivered_or(trial, handler, pending, RetryLater, f"whose picture is being downloaded must be {waits}")


async def _delivered_or(
    trial: Trial, handler: Handler, attempt: Attempt, allowed: type[Exception], wanted: str
) -> None:
    try:
        await _limited(trial, handler, attempt)
    except allowed:
        return
    except Exception as exc:
        raise RuleBroken(f"a result {wanted}, but failed with {told(exc)}") from exc


async def receipt(trial: Trial) -> None:
    """What is returned is a Receipt that the journal can keep and give back unchanged."""
    async with trial.handler() as handler:
        given = await trial.deliver(handler, trial.attempt())
    if not isinstance(given, Receipt):
        raise RuleBroken(f"deliver returned {type(given).__name__} instead of a Receipt")
    try:
        kept = msgspec.json.decode(msgspec.json.encode(given), type=Receipt)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise RuleBroken(f"the receipt cannot be kept: {told(exc)}. `data` may hold JSON values only") from exc
    if kept != given:
        raise RuleBroken(f"the receipt comes back changed from the journal: {given} becomes {kept}")


async def close(trial: Trial) -> None:
    """A handler closes within a second, used or unused, and a second time without effect."""
    for used in (False, True):
        handler = trial.make()
        if used:
            await trial.deliver(handler, trial.attempt())
        for again in ("", " a second time"):
            what = f"closing a {'used' if used else 'new'} handler{again}"
            try:
                async with asyncio.timeout(END_SECONDS):
                    await handler.aclose()
            except TimeoutError as exc:
                raise RuleBroken(f"{what} took longer than {END_SECONDS:g} s") from exc
            except Exception as exc:
                raise RuleBroken(f"{what} failed with {told(exc)}") from exc


def _now_ms() -> int:
    return int(time.time() * 1000)


RULES: Mapping[str, Callable[[Trial], Awaitable[None]]] = {
    "same key": same_key,
    "crash": crash,
    "duplicate": duplicate,
    "deadline": deadline,
    "cancellation": cancellation,
    "order": order,
    "media": media,
    "receipt": receipt,
}
"""Beside `close`, which is checked first: the others close what they open."""
