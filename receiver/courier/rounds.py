"""One round: an event to its destinations, side by side, within the time that the request has."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from receiver.clock import Clock
from receiver.deliveries import Delivery, Receipt
from receiver.engine.attempts import OpenDestination
from receiver.engine.attempts import build, pause_ms, text_of
from receiver.engine.attempts import bring
from receiver.events import Event, Submission
from receiver.handlers.base import Rejected, RetryLater
from receiver.journal import Work
from receiver.media import Store, Tiles

log = structlog.get_logger("receiver.courier")

WAITS = (1.0, 3.0)
"""Seconds before a delivery that failed is tried again, if the request has the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is brought.

    Attributes:
        until: on the clock's `monotonic`; nothing begins after it.
        receipts: what has been made of the event already, by destination; added to.
    """

    event: Event
    submission: Submission
    store: Store
    until: float
    receipts: dict[str, Receipt]


class Rounds:
    """Calls handlers as a dispatcher does, with nothing behind it that would call them later."""

    def __init__(self, destinations: Mapping[str, OpenDestination], clock: Clock) -> None:
        self._destinations = destinations
        self._clock = clock
        self._slots = {name: asyncio.Semaphore(item.concurrency) for name, item in destinations.items()}

    async def go(self, round: Round, names: Iterable[str]) -> dict[str, str]:
        """Bring the event to all of them that have not had it. Returns why it did not reach which.

        Those that show another one's link come after it.
        """
        left = [name for name in names if name not in round.receipts]
        after = [name for name in left if getattr(self._destinations[name].handler, "waits_for", None) in left]
        problems: dict[str, str] = {}
        for wave in ([name for name in left if name not in after], after):
            results = await asyncio.gather(*(self._bring(round, name) for name in wave), return_exceptions=True)
            for name, result in zip(wave, results, strict=True):
                if isinstance(result, Receipt):
                    round.receipts[name] = result
                else:
                    problems[name] = text_of(result)
        return problems

    async def _bring(self, round: Round, name: str) -> Receipt:
        """Again after a failure, as long as there is time; the last error is raised."""
        number = 0
        while True:
            number += 1
            try:
                async with self._slots[name]:
                    receipt = await self._attempt(round, self._destinations[name], number)
            except Rejected as exc:
                self._tell(round, name, number, "rejected", exc)
                raise
            except (Exception, SystemExit) as exc:
                self._tell(round, name, number, "failed", exc)
                wait = self._wait(exc, number)
                if wait is None or self._clock.monotonic() + wait >= round.until:
                    raise
                await self._clock.sleep(wait)
            else:
                self._tell(round, name, number, "succeeded")
                return receipt

    def _wait(self, error: BaseException, number: int) -> float | None:
        if isinstance(error, RetryLater):
            return pause_ms(error) / 1000
        return WAITS[number - 1] if number <= len(WAITS) else None

    async def _attempt(self, round: Round, destination: OpenDestination, number: int) -> Receipt:
        seconds = min(destination.timeout, round.until - self._clock.monotonic())
        if seconds <= 0:
            raise TimeoutError("there was no time left in the request")
        work = Work(
            delivery=_delivery(round.event, destination.name, number),
            event=round.event,
            media=round.submission.media,
            media_problem=round.submission.media_problem,
            media_due_ms=round.submission.media_due_ms,
            receipts=round.receipts,
            parent=None,
        )
        hurried = dataclasses.replace(destination, timeout=seconds)
        limit = asyncio.timeout(seconds / self._clock.speed)
        try:
            async with limit, bring(work, round.store) as files:
                attempt = build(hurried, work, files, Tiles(round.store))
                return await destination.handler.deliver(attempt) or Receipt()
        except TimeoutError as exc:
            if limit.expired():
                raise TimeoutError(f"the attempt took longer than {seconds:.0f} s") from exc
            raise

    def _tell(self, round: Round, name: str, number: int, outcome: str, error: BaseException | None = None) -> None:
        log.info(
            f"delivery.{outcome}",
            delivery=f"{round.event.id}.{name}",
            destination=name,
            submission=round.submission.id,
            event_id=round.event.id,
            attempt=number,
            detail=None if error is None else text_of(error),
        )


def _delivery(event: Event, destination: str, number: int) -> Delivery:
    """The same id for the same event and destination, whenever and wherever it is made: the idempotency key."""
    return Delivery(
        id=f"{event.id}.{destination}",
        event_id=event.id,
        submission_id=event.submission_id,
        destination=destination,
        created_ms=event.created_ms,
        due_ms=event.created_ms,
        status="running",
        attempt=number,
        failures=number - 1,
    )
