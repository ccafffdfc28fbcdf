"""Dispatch: claim due deliveries, run their handlers under a deadline, record how each attempt ended.

At least once, of the last word. A destination never holds up another: each has slots of its own.

Whatever a handler does, its attempt is recorded; while the journal cannot be written, that is tried again, because a
row left `running` would be freed only by the next engine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from receiver.backoff import DELIVERY, JOURNAL, wait, wait_forever
from receiver.clock import Clock
from receiver.deliveries import AttemptOutcome, Completion, Delivery, DeliveryStatus, Receipt
from receiver.errors import JournalError
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater, StoredMedia
from receiver.journal.base import Journal, Work
from receiver.media import MediaStore
from receiver.tasks import clean_text
from receiver.telemetry import redact

log = structlog.get_logger("receiver.dispatcher")

MAX_DETAIL = 500
"""Characters of an error kept with an attempt."""
LONGEST_PAUSE = max(DELIVERY)
"""Seconds; a handler that asks for more is called again after that."""
CANCEL_SECONDS = 1.0
"""How long an interrupted attempt may take to end."""

T = TypeVar("T")


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
        owner: what this engine signs its claims with; another at each start, so that it frees what it left itself.
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
        self.owner = owner
        self._changed = changed
        self._running: dict[str, set[asyncio.Task[None]]] = {name: set() for name in destinations}
        self._claiming: asyncio.Future[list[int | BaseException]] | None = None
        self._failing: set[str] = set()
        self._drained = False

    async def dispatch_once(self) -> int:
        """Claim what is due, never more than a destination's free slots, and start it. Returns how many started.

        A destination whose claim fails keeps no other back; only when all fail, this does.
        """
        self._drained = False
        destinations = list(self._destinations.values())
        self._claiming = asyncio.gather(*map(self._claim, destinations), return_exceptions=True)
        # Shielded, because a claim stands once it is committed: what it took must start, or it would stay `running`.
        results = await asyncio.shield(self._claiming)
        errors = {
            item.name: result
            for item, result in zip(destinations, results, strict=True)
            if isinstance(result, BaseException)
        }
        if errors and len(errors) == len(destinations):
            raise next(iter(errors.values()))
        self._tell_failing(errors)
        return sum(result for result in results if isinstance(result, int))

    async def _claim(self, destination: OpenDestination) -> int:
        free = destination.concurrency - len(self._running[destination.name])
        if free <= 0:
            return 0
        now_ms = self._clock.now_ms()
        claimed = await self._journal.claim(destination.name, owner=self.owner, limit=free, now_ms=now_ms)
        for work in claimed:
            self._start(destination, work)
        return len(claimed)

    def _tell_failing(self, errors: Mapping[str, BaseException]) -> None:
        for name in errors.keys() - self._failing:
            log.error("destination.claim_failed", destination=name, exc_info=errors[name])
        for name in self._failing - errors.keys():
            log.info("destination.claim_recovered", destination=name)
        self._failing = set(errors)

    async def settle(self) -> None:
        """Wait until nothing runs."""
        while running := [task for tasks in self._running.values() for task in tasks]:
            await asyncio.wait(running)

    async def drain(self, grace: float) -> None:
        """Let what runs finish for `grace` seconds, then interrupt it; an interrupted attempt uses up nothing.

        One that does not end even so is left behind: the next engine frees its delivery, and counts a failure.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        if self._claiming is not None and not self._claiming.done():
            await asyncio.wait([self._claiming], timeout=grace)
        running = [task for tasks in self._running.values() for task in tasks]
        if running:
            _, late = await asyncio.wait(running, timeout=max(until - loop.time(), 0))
            await self._interrupt(late)

    async def _interrupt(self, late: set[asyncio.Task[None]]) -> None:
        self._drained = True
        for task in late:
            task.cancel()
        _, stuck = await asyncio.wait(late, timeout=CANCEL_SECONDS) if late else (set(), set())
        for task in stuck:
            log.error("delivery.stuck", attempt=task.get_name())

    def _start(self, destination: OpenDestination, work: Work) -> None:
        task = asyncio.create_task(self._attempt(destination, work), name=f"delivery {work.delivery.id}")
        self._running[destination.name].add(task)
        task.add_done_callback(lambda done: self._ended(destination.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._running[name].discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            log.error("delivery.unrecorded", destination=name, attempt=task.get_name(), exc_info=error)
        self._changed()

    async def _attempt(self, destination: OpenDestination, work: Work) -> None:
        started = self._clock.now()
        limit = asyncio.timeout(destination.timeout)
        try:
            async with limit:
                receipt = await destination.handler.deliver(self._build(destination, work))
        except KeyboardInterrupt:
            raise  # a person's, not the handler's
        except BaseException as exc:  # SystemExit too: no handler ends this process
            if isinstance(exc, RetryLater) and exc.pause:
                until_ms = self._clock.now_ms() + int(_seconds(exc) * 1000)
                await self._recorded(work, partial(self._journal.pause, destination.name, until_ms, _text(exc)))
            completion = self._after(work, exc, late=limit.expired())
        else:
            completion = self._completion(work, "succeeded", receipt=_storable(work, receipt))
        kept = await self._recorded(work, partial(self._journal.complete, completion))
        self._tell(work, completion, kept=kept, seconds=self._clock.now() - started)

    async def _recorded(self, work: Work, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it works. The slot stays taken meanwhile: who cannot record should not start more."""
        failures = 0
        while True:
            try:
                return await write()
            except JournalError as exc:
                if self._drained:
                    raise
                failures += 1
                level = log.error if failures == 1 else log.debug
                level("delivery.recording", delivery=work.delivery.id, problem=str(exc))
            await self._clock.sleep(wait_forever(JOURNAL, failures))

    def _tell(self, work: Work, completion: Completion, *, kept: bool, seconds: float) -> None:
        log.info(
            f"delivery.{completion.outcome if kept else 'refused'}",
            delivery=work.delivery.id,
            destination=work.delivery.destination,
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

    def _after(self, work: Work, exc: BaseException, *, late: bool) -> Completion:
        """What becomes of a delivery whose handler raised. `late`: our own deadline had passed."""
        if isinstance(exc, RetryLater):
            due_ms = self._clock.now_ms() + int(_seconds(exc) * 1000)
            return self._completion(work, "postponed", due_ms=due_ms, detail=_text(exc))
        if isinstance(exc, Rejected):
            return self._completion(work, "rejected", detail=_text(exc))
        if _interrupted():
            return self._completion(work, "interrupted", detail="Receiver was stopped during the attempt")
        if isinstance(exc, TimeoutError) and late:
            return self._failed(work, f"the attempt took longer than {self._timeout(work):g} s")
        if isinstance(exc, asyncio.CancelledError):
            return self._failed(work, "the handler was cancelled by its own code")
        return self._failed(work, _text(exc))

    def _timeout(self, work: Work) -> float:
        return self._destinations[work.delivery.destination].timeout

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
            owner=delivery.owner or self.owner,
            outcome=outcome,
            status=status or _STATUS_AFTER[outcome],
            finished_ms=now_ms,
            due_ms=now_ms if due_ms is None else due_ms,
            counts=outcome == "failed",
            detail=detail,
            receipt=receipt,
        )


_STATUS_AFTER: Mapping[AttemptOutcome, DeliveryStatus] = {
    "succeeded": "succeeded",
    "failed": "pending",
    "rejected": "dead",
    "postponed": "pending",
    "interrupted": "pending",
}


def _interrupted() -> bool:
    """Whether somebody cancelled the attempt; a handler may raise CancelledError without that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seconds(later: RetryLater) -> float:
    """At least 1, so that no handler keeps us spinning; NaN becomes that too."""
    return min(max(1.0, float(later.after)), LONGEST_PAUSE)


def _text(exc: BaseException) -> str:
    """An error as a person and every database can read it, without secrets."""
    try:
        text = str(exc)
    except Exception:
        text = ""
    return clean_text(redact(text or type(exc).__name__))[:MAX_DETAIL]


def _storable(work: Work, receipt: Receipt | None) -> Receipt | None:
    """The receipt, if the journal can keep it and give it back. What it reports has happened either way."""
    try:
        msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt | None)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        log.warning("receipt.unusable", delivery=work.delivery.id, problem=_text(exc))
        return None
    return receipt


def _media_problem(work: Work) -> str | None:
    has_links = work.event.task is not None and work.event.task.result_urls
    if not has_links:
        return None
    return work.submission.media_problem or "the picture has not been downloaded yet"
