"""Dispatch: claim due deliveries, run their handlers under a deadline, record how each attempt ended.

At least once, of the last word. A destination never holds up another: each has slots of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from receiver.backoff import DELIVERY, wait
from receiver.clock import Clock
from receiver.deliveries import AttemptOutcome, Completion, Delivery, DeliveryStatus, Receipt
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater, StoredMedia
from receiver.journal.base import Journal, Work
from receiver.media import MediaStore
from receiver.telemetry import redact

log = structlog.get_logger("receiver.dispatcher")

MAX_DETAIL = 500
"""Characters of an error kept with an attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDestination:
    """A destination ready for use: its handler, and how much of it may run at once.

    Attributes:
        concurrency: attempts at once.
        timeout: seconds one attempt may take in all.
    """

    name: str
    handler: Handler
    concurrency: int
    timeout: float


class Dispatcher:
    """Claims and runs deliveries of its destinations.

    Args:
        owner: what this engine signs its claims with.
        changed: called when an attempt has ended, because a slot is free again.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        destinations: Mapping[str, OpenDestination],
        store: MediaStore,
        clock: Clock,
        owner: str,
        changed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._destinations = destinations
        self._store = store
        self._clock = clock
        self._owner = owner
        self._changed = changed
        self._running: dict[str, set[asyncio.Task[None]]] = {name: set() for name in destinations}

    async def dispatch_once(self) -> int:
        """Claim what is due, never more than a destination's free slots, and start it. Returns how many started."""
        started = 0
        for destination in self._destinations.values():
            free = destination.concurrency - len(self._running[destination.name])
            if free <= 0:
                continue
            claimed = await self._journal.claim(
                destination.name, owner=self._owner, limit=free, now_ms=self._clock.now_ms()
            )
            for work in claimed:
                self._start(destination, work)
            started += len(claimed)
        return started

    async def settle(self) -> None:
        """Wait until nothing runs."""
        while running := [task for tasks in self._running.values() for task in tasks]:
            await asyncio.wait(running)

    async def drain(self, grace: float) -> None:
        """Let what runs finish for `grace` seconds, then interrupt it; an interrupted attempt uses up nothing."""
        running = [task for tasks in self._running.values() for task in tasks]
        if running:
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _start(self, destination: OpenDestination, work: Work) -> None:
        task = asyncio.create_task(self._attempt(destination, work), name=f"delivery {work.delivery.id}")
        self._running[destination.name].add(task)
        task.add_done_callback(lambda done: self._ended(destination.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._running[name].discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery.unrecorded", destination=name, exc_info=error)
        self._changed()

    async def _attempt(self, destination: OpenDestination, work: Work) -> None:
        started = self._clock.now()
        try:
            async with asyncio.timeout(destination.timeout):
                receipt = await destination.handler.deliver(self._build(destination, work))
            completion = self._completion(work, "succeeded", receipt=receipt)
        except RetryLater as exc:
            completion = await self._postpone(destination, work, exc)
        except Rejected as exc:
            completion = self._completion(work, "rejected", detail=str(exc))
        except asyncio.CancelledError:
            completion = self._completion(work, "interrupted", detail="Receiver was stopped during the attempt")
        except TimeoutError:
            completion = self._failed(work, f"the attempt took longer than {destination.timeout:g} s")
        except Exception as exc:
            completion = self._failed(work, str(exc) or type(exc).__name__)
        await self._record(destination, work, completion, self._clock.now() - started)

    async def _record(self, destination: OpenDestination, work: Work, completion: Completion, seconds: float) -> None:
        kept = await self._journal.complete(completion)
        log.info(
            f"delivery.{completion.outcome if kept else 'refused'}",
            delivery=work.delivery.id,
            destination=destination.name,
            submission=work.submission.id,
            event_id=work.event.id,
            attempt=work.delivery.attempt,
            status=completion.status,
            detail=completion.detail,
            seconds=round(seconds, 3),
        )

    def _build(self, destination: OpenDestination, work: Work) -> Attempt:
        row = work.submission
        result = work.event.type == "task.succeeded"
        media = row.media if result else ()
        return Attempt(
            event=work.event,
            destination=destination.name,
            number=work.delivery.attempt,
            idempotency_key=work.delivery.idempotency_key,
            deadline=destination.timeout,
            media=tuple(StoredMedia(media=item, path=self._store.path(item)) for item in media),
            media_problem=_media_problem(work) if result and not media else None,
            media_pending=result and row.media_due_ms is not None,
            previous=work.receipts.get(destination.name),
            parent=work.parent,
            receipts={name: receipt for name, receipt in work.receipts.items() if name != destination.name},
        )

    async def _postpone(self, destination: OpenDestination, work: Work, later: RetryLater) -> Completion:
        due_ms = self._clock.now_ms() + int(max(later.after, 0) * 1000)
        if later.pause:
            await self._journal.pause(destination.name, due_ms, redact(str(later))[:MAX_DETAIL])
        return self._completion(work, "postponed", due_ms=due_ms, detail=str(later))

    def _failed(self, work: Work, detail: str) -> Completion:
        seconds = wait(DELIVERY, work.delivery.failures + 1, random=random.random)
        if seconds is None:
            return self._completion(work, "failed", status="dead", detail=f"{detail}; the retries are used up")
        due_ms = self._clock.now_ms() + int(seconds * 1000)
        return self._completion(work, "failed", due_ms=due_ms, detail=detail)

    def _completion(
        self,
        work: Work,
        outcome: AttemptOutcome,
        *,
        status: DeliveryStatus | None = None,
        due_ms: int | None = None,
        detail: str | None = None,
        receipt: Receipt | None = None,
    ) -> Completion:
        delivery: Delivery = work.delivery
        now_ms = self._clock.now_ms()
        return Completion(
            delivery_id=delivery.id,
            attempt=delivery.attempt,
            owner=self._owner,
            outcome=outcome,
            status=status or _STATUS_AFTER[outcome],
            finished_ms=now_ms,
            due_ms=now_ms if due_ms is None else due_ms,
            counts=outcome == "failed",
            detail=None if detail is None else redact(detail)[:MAX_DETAIL],
            receipt=receipt,
        )


_STATUS_AFTER: Mapping[AttemptOutcome, DeliveryStatus] = {
    "succeeded": "succeeded",
    "failed": "pending",
    "rejected": "dead",
    "postponed": "pending",
    "interrupted": "pending",
}


def _media_problem(work: Work) -> str | None:
    has_links = work.event.task is not None and work.event.task.result_urls
    if not has_links:
        return None
    return work.submission.media_problem or "the picture has not been downloaded yet"
