"""Dispatch: claim due deliveries, run their handlers under a deadline, record how each attempt ended.

At least once, newest event wins. Each destination has its own slots, so that none holds up another.

Every attempt is recorded, whatever its handler does. While the journal cannot be written, the record is retried,
because a row left `running` is freed only after this engine has expired.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from receiver import metrics
from receiver.backoff import JOURNAL, wait_forever
from receiver.clock import Clock
from receiver.deliveries import Completion
from receiver.engine.attempts import OpenDestination, bring, build, failed, raised, succeeded, text_of
from receiver.errors import JournalError
from receiver.handlers.base import RetryLater
from receiver.journal import Journal, Work
from receiver.media import Store, Tiles
from receiver.telemetry import Log, span

log = Log("receiver.engine.dispatcher")

CANCEL_SECONDS = 1.0
"""Time for an interrupted attempt to end."""
CLAIM_SECONDS = 4.0
"""Time for a claim under way to end. Its deliveries must be known before they can be given back."""
STUCK_SECONDS = 5.0
"""Time for an attempt to end after its deadline. Then it is recorded as failed, and its slot stays taken."""

T = TypeVar("T")


class Dispatcher:
    """Claims and runs deliveries of its destinations.

    Args:
        journal, store, clock: its collaborators.
        destinations: by name.
        owner: signs this engine's claims.
        changed: called when an attempt has ended, because a slot is free again.
        stuck_seconds: see `STUCK_SECONDS`.

    Attributes:
        ended: called with the id of a delivery whose attempt has ended here, and its next due time or None.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        destinations: Mapping[str, OpenDestination],
        store: Store,
        clock: Clock,
        owner: str,
        changed: Callable[[], None] = lambda: None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._journal = journal
        self._destinations = destinations
        self._store = store
        self._tiles = Tiles(store)
        self._clock = clock
        self.owner = owner
        self.changed = changed
        self._stuck_seconds = stuck_seconds
        self._running: dict[str, set[asyncio.Task[None]]] = {name: set() for name in destinations}
        self._claiming: asyncio.Future[list[int | BaseException]] | None = None
        self._recording = Counter[str]()
        """Successes that are being recorded, by destination."""
        self._failing: set[str] = set()
        self._full: set[str] = set()
        """Destinations that had too few slots at their last claim."""
        self._paused: set[str] = set()
        self._drained = False
        self.ended: Callable[[str, int | None], None] | None = None

    async def abandon(self) -> int:
        """Cancel all attempts, because this engine has expired and others have their deliveries. Return their number.

        The journal accepts no completion of theirs, and `owner` must be new afterwards.
        """
        running = self._tasks()
        self.owner = ""
        await self._interrupt(running)
        return len(running)

    async def dispatch_once(self) -> int:
        """Claim due deliveries, never more than a destination's free slots, and start them. Return how many started.

        A destination whose claim fails does not hold up the others. The error is raised only if all fail.
        """
        self._drained = False
        destinations = list(self._destinations.values())
        self._claiming = asyncio.gather(*map(self._claim, destinations), return_exceptions=True)
        # Shielded: once the claim is committed its deliveries must start, or they would stay `running`.
        results = await asyncio.shield(self._claiming)
        errors = {
            item.name: result
            for item, result in zip(destinations, results, strict=True)
            if isinstance(result, BaseException)
        }
        if errors and len(errors) == len(destinations):
            raise next(iter(errors.values()))
        for name in errors.keys() - self._failing:
            log.error("destination.claim_failed", destination=name, exc_info=errors[name])
        for name in self._failing - errors.keys():
            log.info("destination.claim_recovered", destination=name)
        self._failing = set(errors)
        return sum(result for result in results if isinstance(result, int))

    async def _claim(self, destination: OpenDestination) -> int:
        free = destination.concurrency - len(self._running[destination.name]) + self._recording[destination.name]
        if free <= 0:
            self._full.add(destination.name)
            return 0
        owner, now_ms = self.owner, self._clock.now_ms()
        claimed = await self._journal.claim(destination.name, owner=owner, limit=free, now_ms=now_ms)
        if owner != self.owner:
            return 0  # we expired meanwhile, so the leader frees them
        for work in claimed:
            self._start(destination, self._attempt(destination, work), f"delivery {work.delivery.id}")
        (self._full.add if len(claimed) == free else self._full.discard)(destination.name)
        return len(claimed)

    @property
    def more(self) -> bool:
        """True if more may be due than there were slots for."""
        return bool(self._full)

    @property
    def running(self) -> bool:
        """True while an attempt runs that is not stuck."""
        return any(task.get_name().startswith("delivery ") for task in self._tasks())

    async def settle(self) -> None:
        """Wait until nothing runs."""
        while running := self._tasks():
            await asyncio.wait(running)

    async def drain(self, grace: float) -> int:
        """Let attempts finish for `grace` seconds, or until this is cancelled. Then interrupt them, which counts as no
        failure.

        Returns:
            The number of attempts left behind: they did not end, or their end could not be recorded. The next engine
            frees their deliveries, and counts a failure.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        running: set[asyncio.Task[None]] = set()
        try:
            await self._claimed(max(grace, CLAIM_SECONDS))
            if running := self._tasks():
                await asyncio.wait(running, timeout=max(until - loop.time(), 0))
        finally:  # while the journal is open: deliveries may have been claimed meanwhile
            await self._claimed(CLAIM_SECONDS)
            running |= self._tasks()
            await self._interrupt(self._tasks())
        return sum(not task.done() or task.cancelled() or task.exception() is not None for task in running)

    async def _claimed(self, seconds: float) -> None:
        if self._claiming is not None and not self._claiming.done():
            await asyncio.wait([self._claiming], timeout=seconds)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {task for tasks in self._running.values() for task in tasks}

    async def _interrupt(self, late: set[asyncio.Task[None]]) -> None:
        self._drained = True
        for task in late:
            if not task.cancelling():  # or its clean-up, or the record of its end, would be cut short
                task.cancel()
        _, stuck = await asyncio.wait(late, timeout=CANCEL_SECONDS) if late else (set(), set())
        for task in stuck:
            log.error("delivery.stuck", attempt=task.get_name())

    def _start(self, destination: OpenDestination, main: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(main, name=name)
        self._running[destination.name].add(task)
        task.add_done_callback(lambda done: self._ended(destination.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._running[name].discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            log.error("delivery.unrecorded", destination=name, attempt=task.get_name(), exc_info=error)
        self.changed()

    async def _attempt(self, destination: OpenDestination, work: Work) -> None:
        started = self._clock.monotonic()
        limit = asyncio.timeout(destination.timeout)
        try:
            with ExitStack() as held:
                files = await bring(work, self._store, held)
                delay = destination.timeout + self._stuck_seconds
                stuck = asyncio.get_running_loop().call_later(
                    delay, self._give_up, destination, work, asyncio.current_task()
                )
                held.callback(stuck.cancel)
                async with limit:
                    with span(
                        "receiver.deliver", link=work.submission.traceparent, event=work.event.id, to=destination.name
                    ):
                        receipt = await destination.handler.deliver(build(destination, work, files, self._tiles))
        except KeyboardInterrupt:
            raise  # from the terminal
        except BaseException as exc:  # SystemExit too: no handler ends this process
            task = asyncio.current_task()
            completion = raised(
                work,
                exc,
                self._clock.now_ms(),
                timeout=destination.timeout,
                late=limit.expired(),
                interrupted=task is not None and task.cancelling() > 0,
            )
            if isinstance(exc, RetryLater) and exc.pause:
                # Exactly until the delivery is due, so that the pause does not delay it further.
                pause = partial(self._journal.pause, destination.name, completion.due_ms, text_of(exc))
                await self._recorded(work, pause)
        else:
            completion = succeeded(work, receipt, self._clock.now_ms())
        await self._record(work, completion, seconds=self._clock.monotonic() - started)

    async def _record(self, work: Work, completion: Completion, *, seconds: float) -> None:
        accepted = await self._recorded(work, partial(self._complete, completion))
        if accepted and self.ended is not None:
            self.ended(completion.delivery_id, completion.due_ms if completion.status == "pending" else None)
        name = work.delivery.destination
        if metrics.counting:
            metrics.ATTEMPTS.add(name, completion.outcome if accepted else "refused")
            metrics.ATTEMPT_SECONDS.observe(seconds, name)
            if accepted and completion.outcome == "succeeded" and not work.delivery.manual:
                metrics.LAG.observe((completion.finished_ms - work.event.created_ms) / 1000, name)
        await self._log_pause(name, completion)
        level = log.warning if completion.outcome in ("failed", "rejected") else log.info
        level = log.error if completion.status == "dead" or completion.traceback else level
        trace: dict[str, Any] = {"exception": completion.traceback} if completion.traceback else {}
        level(
            f"delivery.{completion.outcome if accepted else 'refused'}",
            delivery=work.delivery.id,
            destination=name,
            submission=work.delivery.submission_id,
            event_id=work.event.id,
            attempt=work.delivery.attempt,
            status=completion.status,
            detail=completion.detail,
            seconds=round(seconds, 3),
            **trace,
        )

    async def _complete(self, completion: Completion) -> bool:
        """Record an end. A success frees its slot meanwhile, so that the next claim can be in the same transaction."""
        if completion.outcome != "succeeded":
            return await self._journal.complete(completion)
        self._recording[completion.destination] += 1
        if completion.destination in self._full:
            self.changed()
        try:
            return await self._journal.complete(completion)
        finally:
            self._recording[completion.destination] -= 1

    async def _log_pause(self, name: str, completion: Completion) -> None:
        """Log once that a destination was paused, and once that it works again."""
        if completion.outcome == "succeeded" and name in self._paused:
            self._paused.discard(name)
            log.info("destination.resumed", destination=name)
        if completion.outcome not in ("failed", "postponed"):
            return
        try:
            until_ms, reason = await self._journal.pause_of(name) or (0, "")
        except JournalError:
            return  # only this line of the log is missing
        if until_ms > self._clock.now_ms() and name not in self._paused:
            self._paused.add(name)
            log.warning("destination.paused", destination=name, until_ms=until_ms, reason=reason)

    def _give_up(self, destination: OpenDestination, work: Work, task: asyncio.Task[None] | None) -> None:
        """Record a failure for a handler that ignores its cancellation. The fence refuses its later completion.
        Its slot stays taken until it ends, so that a leaking handler leaks at most its slots."""
        log.error("delivery.stuck", delivery=work.delivery.id, destination=destination.name)
        if task is not None:
            task.set_name(f"stuck {work.delivery.id}")
        detail = (
            f"the attempt took longer than {destination.timeout:g} s, and its handler ignores that it was cancelled"
        )
        completion = failed(work, detail, self._clock.now_ms())
        seconds = destination.timeout + self._stuck_seconds
        self._start(destination, self._record(work, completion, seconds=seconds), f"end of {work.delivery.id}")

    async def _recorded(self, work: Work, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it works. The slot is taken between tries: an engine that cannot record starts no more."""
        failures = 0
        while True:
            try:
                return await write()
            except JournalError as exc:
                if self._drained or exc.fault == "closed":  # then it never works again
                    raise
                failures += 1
                level = log.error if failures == 1 else log.debug
                level("delivery.recording", delivery=work.delivery.id, problem=str(exc))
            await self._clock.sleep(wait_forever(JOURNAL, failures))
