"""The engine half of a process: the loops that send, reconcile, archive and deliver, and what watches them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from receiver.archiver import Archiver
from receiver.clock import Clock
from receiver.clock_steps import ClockSteps
from receiver.dispatcher import Dispatcher
from receiver.events import Submission
from receiver.journal.base import Journal
from receiver.media import Store
from receiver.runtime.standing import Standing
from receiver.runtime.upkeep import check_to_start
from receiver.submissions import Submissions
from receiver.watchdog import Watchdog
from receiver.web.admission import Admission
from receiver.worker import NotNow, Step, Worker

log = structlog.get_logger("receiver.engine")

DRAIN_SECONDS = 4.0
"""How long running attempts may go on after the engine was told to stop."""
MANY_CALLBACKS = 24
REST_SECONDS = 0.15
"""How long the engine begins nothing new while so many callbacks wait to be written down."""
SOON_SECONDS = 0.05
"""How long the leader lets word of other processes' commits gather before it looks: under load each has one."""


class Engine:
    """Every engine of a journal dispatches; its leader does all else. See `Standing`.

    Args:
        leading: the leader's steps, by name.
        destinations: what this engine delivers to: name → handler.
        exit_on_stall: whether the process ends when the event loop stands still.

    Attributes:
        worker: its loops.
        standing: whether it lives and leads.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        archiver: Archiver,
        submissions: Submissions,
        admission: Admission,
        store: Store,
        leading: Mapping[str, Step],
        destinations: Mapping[str, str],
        clock: Clock,
        exit_on_stall: bool,
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._archiver = archiver
        self._submissions = submissions
        self._admission = admission
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._clock_steps = ClockSteps(journal=journal, clock=clock)
        self.standing = Standing(
            journal=journal, dispatcher=dispatcher, clock=clock, led=self._led, freed=self.slot_free
        )
        steps = {**leading, "clock": self._clock_steps.check_once}
        self._leading = tuple(steps)
        self.worker = Worker(
            {
                **{name: self._when_leading(step) for name, step in steps.items()},
                "dispatch": self._dispatch,
                **self.standing.steps(),
            },
            clock=clock,
        )
        self._watchdog = Watchdog(exit=exit_on_stall)
        self._watching: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._listens = False

    @property
    def running(self) -> bool:
        """Whether this process is an engine."""
        return self.worker.running

    async def check(self) -> None:
        """Raises EngineStopped where it was started and does not turn any more."""
        self.worker.check()

    async def start(self, role: str) -> None:
        """Become an engine of this journal; without effect if we are one.

        Raises:
            EngineRunning: another one lives, and we may not run beside it.
            JournalError: its media store is another, or the journal cannot be used.
            MediaError: the media store cannot be used, and is not merely away.
        """
        if self.worker.started:
            return
        await self.standing.enter(role, store=await self._store.identity())
        try:
            await self._prepare(role)
        except BaseException:
            await self.standing.leave()
            raise
        if not self._listens:
            self._journal.listen(self._woken)
            self._listens = True
        self.worker.start()
        self._watching = asyncio.create_task(self._watchdog.run(), name="watchdog")

    async def _prepare(self, role: str) -> None:
        await check_to_start(self._store.check, self._store)
        await self._journal.register(self._destinations)
        self._clock_steps.restart()
        freed = await self._dispatcher.take_over(self._dispatcher.owner)
        owed = await self._journal.owed_destinations()
        log.info(
            "engine.started",
            role=role,
            freed=freed,
            destinations=sorted(self._destinations),
            unknown=[name for name in owed if name not in self._destinations],
        )

    async def stop(self) -> None:
        """Stop taking work, let what runs finish for a while, give way to others. Idempotent."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            if self.worker.started:
                await self._finish()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
            await self.standing.leave()

    async def _finish(self) -> None:
        """Whoever is cancelled here, because a person has no more patience, still gives back what runs: it would stay
        `running`, and the next engine would count a failure."""
        try:
            await self.worker.stop()
            await self._archiver.stop()
        finally:
            drains = self._dispatcher.drain(DRAIN_SECONDS), self._submissions.drain(DRAIN_SECONDS)
            # One that is cancelled does not end the wait for the other.
            for result in await asyncio.gather(*drains, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        log.info("engine.stopped")

    # What wakes it

    def changed(self, row: Submission) -> None:
        """Wake who has work with the row now: to wake all at each callback would cost more than the callback."""
        now_ms = self._clock.now_ms()
        self.worker.wake("dispatch")
        if row.send_due_ms is not None and row.send_due_ms <= now_ms:
            self.worker.wake("send")
        if row.poll_due_ms is not None and row.poll_due_ms <= now_ms:
            self.worker.wake("reconcile")
        if row.media_due_ms is not None and row.media_due_ms <= now_ms:
            self.worker.wake("archive")

    def slot_free(self) -> None:
        """There may be something to deliver now."""
        self.worker.wake("dispatch")

    def _woken(self) -> None:
        """Another process has committed something that is due now."""
        self.worker.wake("dispatch")
        if self.standing.leads and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._look)

    def _look(self) -> None:
        self._soon = None
        self.worker.wake("send", "reconcile", "archive")

    def _led(self) -> None:
        self._clock_steps.restart()
        self.worker.wake(*self._leading)

    # Its steps

    def _when_leading(self, step: Step) -> Step:
        """Where two lead for a moment, a step may run in both: the journal lets only one of them send."""

        async def led() -> int:
            if not self.standing.leads:
                raise NotNow
            return await step()

        return led

    async def _dispatch(self) -> int:
        """Callbacks first: what is to be delivered lies in the journal already."""
        if not self.standing.lives:
            raise NotNow
        if self._admission.waiting >= MANY_CALLBACKS:
            await self._clock.sleep(REST_SECONDS)
        return await self._dispatcher.dispatch_once()
