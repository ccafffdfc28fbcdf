"""Dispatch: claim due deliveries, run their handlers under a deadline, record how each attempt ended.

At least once, of the last word. A destination never holds up another: each has slots of its own.

Whatever a handler does, its attempt is recorded; while the journal cannot be written, that is tried again, because a
row left `running` would be freed only by the next engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog

from receiver.backoff import JOURNAL, wait_forever
from receiver.clock import Clock
from receiver.deliveries import Completion, Receipt
from receiver.dispatcher.attempts import Ending, OpenDestination, build, failed, raised, succeeded, text_of
from receiver.dispatcher.files import Files, bring
from receiver.dispatcher.turns import Turns
from receiver.errors import JournalError
from receiver.handlers.base import RetryLater
from receiver.journal import Journal, Work
from receiver.media import Store, Tiles

__all__ = ["LOOK_SECONDS", "PATIENCE", "Dispatcher", "OpenDestination"]

log = structlog.get_logger("receiver.dispatcher")

CANCEL_SECONDS = 1.0
"""How long an interrupted attempt may take to end."""
CLAIM_SECONDS = 4.0
"""How long a claim under way is waited for: what it takes must be known to be given back."""
PATIENCE = 5.0
"""Seconds an attempt may take to end after its deadline; then it is recorded as failed without it."""
LOOK_SECONDS = 1.0
"""Between looks for deliveries that run alone, where there were none: only a crash or a person makes one."""

T = TypeVar("T")


class Dispatcher:
    """Claims and runs deliveries of its destinations.

    Args:
        owner: what this engine signs its claims with; see `take_over`.
        changed: called when an attempt has ended, because a slot is free again.
        patience: seconds; see `PATIENCE`.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        destinations: Mapping[str, OpenDestination],
        store: Store,
        clock: Clock,
        owner: str,
        changed: Callable[[], None],
        patience: float = PATIENCE,
    ) -> None:
        self._journal = journal
        self._destinations = destinations
        self._store = store
        self._tiles = Tiles(store)
        self._clock = clock
        self.owner = owner
        self._changed = changed
        self._patience = patience
        self._running: dict[str, set[asyncio.Task[None]]] = {name: set() for name in destinations}
        self._claiming: asyncio.Task[int] | None = None
        self._turns = Turns(clock)
        self._alone: asyncio.Task[None] | None = None
        self._look_at = float("-inf")
        self._failing: set[str] = set()
        self._full: set[str] = set()
        """Destinations that were short of slots when last claimed for."""
        self._drained = False
        self.turning = False
        """Whether something that runs alone had a part in the last look: then the next one may come to something else,
        although nothing has changed but the time."""
        self.put_off: Callable[[str, int | None], None] | None = None
        """Told the id of a delivery whose attempt has ended here, and when it is due again, if it is. For an engine
        that cannot look again by itself; what others do with it meanwhile is not known here."""

    async def take_over(self, owner: str) -> int:
        """Start as another owner, so that what an engine left running is freed, be it our own former self's; where
        several may run, their leader frees, in its own time. Due times out of reach come back. Returns how many were
        freed."""
        self.owner = owner
        await self._journal.advance(self._clock.now_ms())
        return 0 if self._journal.shared else await self.free()

    async def free(self) -> int:
        """Make due again what those left running who have vanished. Returns how many."""
        self._look_at = float("-inf")
        return await self._journal.free_running(self.owner, self._clock.now_ms())

    async def abandon(self) -> int:
        """Drop what runs: others have it, and the journal takes our word on it no more. Returns how many. The owner is
        to be another afterwards."""
        running = self._tasks()
        self.owner = ""
        await self._interrupt(running)
        return len(running)

    async def dispatch_once(self) -> int:
        """Claim what is due, never more than a destination's free slots, and start it. Returns how many started.

        A destination whose claim fails keeps no other back; only when all fail, this does. A delivery that runs alone
        keeps all others back for ten seconds at most.
        """
        self._drained = False
        self._claiming = asyncio.create_task(self._dispatch(), name="dispatch")
        self._claiming.add_done_callback(_look_at_error)
        # Shielded, because a claim stands once it is committed: what it took must start, or it would stay `running`.
        return await asyncio.shield(self._claiming)

    async def _dispatch(self) -> int:
        running = self._alone is not None and not self._alone.done()
        due = not running and await self._alone_due()
        wait = self._turns.others_wait(due=due, running=running)
        self.turning = wait or due or running
        if wait:
            return 0 if running else await self._claim_alone()
        destinations = list(self._destinations.values())
        results = await asyncio.gather(*map(self._claim, destinations), return_exceptions=True)
        errors = {
            item.name: result
            for item, result in zip(destinations, results, strict=True)
            if isinstance(result, BaseException)
        }
        if errors and len(errors) == len(destinations):
            raise next(iter(errors.values()))
        self._tell_failing(errors)
        return sum(result for result in results if isinstance(result, int))

    async def _alone_due(self) -> bool:
        now = self._clock.monotonic()
        if now < self._look_at:
            return False
        due = await self._journal.alone_due(self._destinations.keys(), self._clock.now_ms())
        self._look_at = now if due else now + LOOK_SECONDS
        return due

    async def _claim_alone(self) -> int:
        if not self._turns.quiet(others=any(self._running.values())):
            return 0
        owner, now_ms = self.owner, self._clock.now_ms()
        work = await self._journal.claim_alone(self._destinations.keys(), owner=owner, now_ms=now_ms)
        if work is None or owner != self.owner:
            return 0
        log.info("delivery.alone", delivery=work.delivery.id, failures=work.delivery.failures)
        self._alone = self._start(self._destinations[work.delivery.destination], work)
        return 1

    async def _claim(self, destination: OpenDestination) -> int:
        free = destination.concurrency - len(self._running[destination.name])
        if free <= 0:
            self._full.add(destination.name)
            return 0
        owner, now_ms = self.owner, self._clock.now_ms()
        claimed = await self._journal.claim(destination.name, owner=owner, limit=free, now_ms=now_ms)
        if owner != self.owner:
            return 0  # taken for dead while it was under way: whoever leads frees them
        for work in claimed:
            self._start(destination, work)
        (self._full.add if len(claimed) == free else self._full.discard)(destination.name)
        return len(claimed)

    def _tell_failing(self, errors: Mapping[str, BaseException]) -> None:
        for name in errors.keys() - self._failing:
            log.error("destination.claim_failed", destination=name, exc_info=errors[name])
        for name in self._failing - errors.keys():
            log.info("destination.claim_recovered", destination=name)
        self._failing = set(errors)

    @property
    def more(self) -> bool:
        """Whether more may be due than there were slots for."""
        return bool(self._full)

    def running(self) -> list[str]:
        """The ids of the deliveries that are running."""
        names = [task.get_name() for task in self._tasks()]
        return [name.removeprefix("delivery ") for name in names if name.startswith("delivery ")]

    async def settle(self) -> None:
        """Wait until nothing runs."""
        while running := self._tasks():
            await asyncio.wait(running)

    async def drain(self, grace: float) -> int:
        """Let what runs finish for `grace` seconds, or until this is cancelled, and interrupt it then; an interrupted
        attempt uses up nothing.

        Returns:
            How many were left behind: they did not end, or their end could not be written down. The next engine frees
            such a delivery, and counts a failure.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        running: set[asyncio.Task[None]] = set()
        try:
            await self._claimed(max(grace, CLAIM_SECONDS))
            if running := self._tasks():
                await asyncio.wait(running, timeout=max(until - loop.time(), 0))
        finally:  # while the journal is open, and what was claimed meanwhile, too: nobody else would end it
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

    def _start(self, destination: OpenDestination, work: Work) -> asyncio.Task[None]:
        return self._keep(destination, self._attempt(destination, work), f"delivery {work.delivery.id}")

    def _keep(self, destination: OpenDestination, main: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(main, name=name)
        self._running[destination.name].add(task)
        task.add_done_callback(lambda done: self._ended(destination.name, done))
        return task

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._running[name].discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            log.error("delivery.unrecorded", destination=name, attempt=task.get_name(), exc_info=error)
        self._changed()

    async def _attempt(self, destination: OpenDestination, work: Work) -> None:
        started = self._clock.monotonic()
        limit = asyncio.timeout(destination.timeout)
        try:
            async with bring(work, self._store) as files, limit:
                receipt = await self._deliver(destination, work, files)
        except KeyboardInterrupt:
            raise  # a person's, not the handler's
        except BaseException as exc:  # SystemExit too: no handler ends this process
            ending = Ending(error=exc, late=limit.expired(), interrupted=_interrupted())
            completion = raised(work, ending, destination.timeout, self._clock.now_ms())
            if isinstance(exc, RetryLater) and exc.pause:
                # Until the delivery is due, not a moment more: whoever looks then must not find it held back.
                pause = partial(self._journal.pause, destination.name, completion.due_ms, text_of(exc))
                await self._recorded(work, pause)
        else:
            completion = succeeded(work, receipt, self._clock.now_ms())
        await self._record(work, completion, seconds=self._clock.monotonic() - started)

    async def _deliver(self, destination: OpenDestination, work: Work, files: Files) -> Receipt:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        stuck = loop.call_later(destination.timeout + self._patience, self._give_up, destination, work, task)
        try:
            return await destination.handler.deliver(build(destination, work, files, self._tiles))
        finally:
            stuck.cancel()

    async def _record(self, work: Work, completion: Completion, *, seconds: float) -> None:
        kept = await self._recorded(work, partial(self._journal.complete, completion))
        if kept and self.put_off is not None:
            self.put_off(completion.delivery_id, completion.due_ms if completion.status == "pending" else None)
        self._tell(work, completion, kept=kept, seconds=seconds)

    def _give_up(self, destination: OpenDestination, work: Work, task: asyncio.Task[None] | None) -> None:
        """The handler swallows its cancellation. What it still does is refused by the fence; its slot stays taken until
        it ends, so that one that leaks cannot leak without end; but the delivery runs no more."""
        log.error("delivery.stuck", delivery=work.delivery.id, destination=destination.name)
        if task is not None:
            task.set_name(f"stuck {work.delivery.id}")
        detail = (
            f"the attempt took longer than {destination.timeout:g} s, and its handler ignores that it was cancelled"
        )
        completion = failed(work, detail, self._clock.now_ms())
        seconds = destination.timeout + self._patience
        self._keep(destination, self._record(work, completion, seconds=seconds), f"end of {work.delivery.id}")

    async def _recorded(self, work: Work, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it works. The slot stays taken meanwhile: who cannot record should not start more."""
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

    def _tell(self, work: Work, completion: Completion, *, kept: bool, seconds: float) -> None:
        log.info(
            f"delivery.{completion.outcome if kept else 'refused'}",
            delivery=work.delivery.id,
            destination=work.delivery.destination,
            submission=work.delivery.submission_id,
            event_id=work.event.id,
            attempt=work.delivery.attempt,
            status=completion.status,
            detail=completion.detail,
            seconds=round(seconds, 3),
        )


def _interrupted() -> bool:
    """Whether somebody cancelled the attempt."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _look_at_error(task: asyncio.Task[int]) -> None:
    """Whoever waits for the step is told; if nobody does any more, the loops have been stopped."""
    if not task.cancelled():
        task.exception()
