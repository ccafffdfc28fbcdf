"""The engine: sends, polls, archives and delivers whatever is due, for ever (`start`) or until idle (`run_until_idle`).

Every engine of a journal dispatches. Only its leader does the rest. A journal in a file has one engine, which leads.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from receiver.clock import Clock
from receiver.engine.archiver import Archiver
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.watchdog import Watchdog
from receiver.errors import EngineRunning, EngineStopped, JournalError, MediaError, ReceiverError
from receiver.events import Submission
from receiver.journal import Journal
from receiver.journal.membership import EXPIRE_SECONDS, HEARTBEAT_SECONDS
from receiver.journal.transitions import FREED_AFTER
from receiver.media import Store
from receiver.submissions import Submissions
from receiver.telemetry import Log

log = Log("receiver.engine")

DRAIN_SECONDS = 4.0
"""Time for running attempts to end after a stop."""
LEAVE_SECONDS = 2.0
"""Time for the journal to end our membership, because a person waits for the exit."""
FREE_SECONDS = 60.0
"""Interval between searches for deliveries of engines that are gone. An engine that expires also starts one."""
CLAMP_SECONDS = 300.0
"""Interval between corrections of due times after the clock was set back."""
MANY_CALLBACKS = 24
REST_SECONDS = 0.15
"""Pause before the next deliveries while `MANY_CALLBACKS` or more wait to be written."""
SOON_SECONDS = 0.05
"""Time in which the leader collects news of commits before it runs its steps."""

FUNCTION = "function"
"""The role of an engine that runs until idle."""
LOOK_SECONDS = 30.0
"""Interval between searches for overdue work by a process that runs until idle."""
PAUSE_SECONDS = 0.2
"""Interval between checks of running attempts and downloads, which do not wake the driver."""
SEND_SECONDS = 600.0
"""Longer than any request to the provider."""
MUCH = 4
"""A step with this count is repeated, because there may be more. In a bucket each search costs requests."""
OVERDUE = ("send", "reconcile", "archive", "dispatch")
DAILY = ("callbacks", "alerts", "purge")


TICK = 1.0
"""Seconds between looks at the journal without a wake-up: other processes write it too, and due times pass."""

STALLED = 900.0
"""Seconds after which a step counts as hanging. The slowest one makes ten requests to the provider in a row."""

Step = Callable[[], Awaitable[int]]


class NotNow(Exception):
    """Raised by a step that must not run now. It neither begins nor ends a failure."""


class Loops:
    """Runs steps side by side until stopped. A step that fails is logged and tried again after a tick."""

    def __init__(self, steps: dict[str, Step], *, clock: Clock) -> None:
        self._steps = steps
        self._clock = clock
        self._wakes = {name: asyncio.Event() for name in steps}
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._began: dict[str, float] = {}

    @property
    def started(self) -> bool:
        """True from `start` until `stop`."""
        return bool(self._tasks)

    @property
    def running(self) -> bool:
        """True while all loops run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def check(self) -> None:
        """Raise EngineStopped if the loops were started and have ended, or if a step hangs."""
        if self.started and not self.running:
            raise EngineStopped("The engine has stopped. Receiver's log says why. Start it again.")
        late = self._clock.now() - STALLED
        if stuck := sorted(name for name, since in self._began.items() if since < late):
            raise EngineStopped(f"The engine hangs in: {', '.join(stuck)}. Start Receiver again.")

    def start(self) -> None:
        """Start the loops. Without effect while they run."""
        if self._tasks:
            return
        self._tasks = [
            asyncio.create_task(self._loop(name, step), name=f"engine {name}") for name, step in self._steps.items()
        ]

    def wake(self, *names: str) -> None:
        """Make these steps run now, because they may have work. The others run at their next tick."""
        for name in names:
            self._wakes[name].set()

    async def once(self, name: str) -> int:
        """Run one step without a loop and return its count. A failure is logged as a loop's is, and counts 0."""
        return await self._step(name, self._steps[name]) or 0

    async def stop(self) -> None:
        """End the loops. A running step is cancelled. Its uncommitted work is still due."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._began.clear()

    async def _loop(self, name: str, step: Step) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            self._began[name] = self._clock.now()
            done = await self._step(name, step)
            del self._began[name]
            if done is None:
                await self._clock.sleep(TICK)  # even if woken: a failing step may make a request each time
            elif not done:
                await self._clock.wait(wake, TICK)

    async def _step(self, name: str, step: Step) -> int | None:
        """Run a step and return its count. None: it failed, which is logged once until it works again."""
        current = asyncio.current_task()
        try:
            done = await step()
        except NotNow:
            return 0
        except (asyncio.CancelledError, Exception) as exc:
            if current is not None and current.cancelling():
                if isinstance(exc, asyncio.CancelledError):
                    raise
                raise asyncio.CancelledError from exc  # our cancellation, which the step turned into an error
            if name not in self._failing:
                traceback = None if isinstance(exc, ReceiverError) else exc
                log.error("engine.step_failed", step=name, problem=str(exc), exc_info=traceback)
            self._failing.add(name)
            return None
        if name in self._failing:
            self._failing.discard(name)
            log.info("engine.step_recovered", step=name)
        return done


class Engine:
    """The steps of one process, and its membership in the journal's engines.

    Args:
        waiting: returns the number of callbacks that wait to be written.
        leading: the leader's steps, by name.
        destinations: the handler's name of each destination.
        exit_on_stall: end the process if the event loop stalls (see `Watchdog`).
        function: True if the process runs until idle, whenever it is called.
        poll_ms: interval between polls in milliseconds.

    Attributes:
        news: set after each change of this process, whether the engine runs or not.
        loops: repeat the steps once the engine has started.
        progress: True if a destination gets progress events. Only `run_until_idle` uses it.
        sends: False while a run is too short to wait for the provider's answer.
        begun: increases with all that became due, so that a request can see if it has begun something.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        archiver: Archiver,
        submissions: Submissions,
        waiting: Callable[[], int],
        store: Store,
        leading: Mapping[str, Step],
        destinations: Mapping[str, str],
        clock: Clock,
        exit_on_stall: bool = False,
        function: bool = False,
        poll_ms: int = 0,
    ) -> None:
        self.news = asyncio.Event()
        self._function, self._poll_ms = function, poll_ms
        self._journal = journal
        self._dispatcher = dispatcher
        self._archiver = archiver
        self._submissions = submissions
        self._waiting = waiting
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._leading = tuple(leading)
        self.loops = Loops(
            {
                **{name: partial(self._when_leading, step) for name, step in leading.items()},
                "dispatch": self._dispatch,
                "membership": self._keep_membership,
            },
            clock=clock,
        )
        self._watchdog = Watchdog(exit=exit_on_stall)
        self._watching: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._role = ""
        self._joined = self._leads = self._registered = self._subscribed = False
        self._freed_at = self._clamped_at = self._looked_at = float("-inf")
        self._last_heartbeat = (float("-inf"), float("-inf"))
        """Its time by the monotonic clock, which may pause while a machine sleeps, and by the wall clock."""
        self._joining = asyncio.Lock()
        # Runs until idle
        self.progress = self.sends = True
        self.begun = 0
        self._wanted: set[str] = set()
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, int] = {}
        """The next due time of rows that changed here, by the id of the submission or delivery."""
        self._news = asyncio.Event()
        self._runs: dict[asyncio.Event, float] = {}
        """Runs under way: the event that ends each, and the monotonic second of its time limit."""
        self._driver: asyncio.Task[None] | None = None
        self._resting = asyncio.Lock()
        """Held while a run begins or the last one ends."""
        self._freed_slot = False
        self._done: dict[str, int] = {}
        dispatcher.ended = self._set_due

    @property
    def running(self) -> bool:
        """True while this process works as an engine."""
        return self.loops.running or self._driver is not None

    @property
    def leads(self) -> bool:
        """True if no other engine may lead now."""
        return self._leads and self.is_member

    @property
    def is_member(self) -> bool:
        """True while our last heartbeat is so recent that no other engine can have expired us. Only then we claim."""
        if not self._journal.shared:
            return self._joined
        return self._joined and self._silence() < EXPIRE_SECONDS - HEARTBEAT_SECONDS

    def _silence(self) -> float:
        """Return the seconds since our last heartbeat, by the clock that shows more of them."""
        monotonic, wall = self._last_heartbeat
        return max(self._clock.monotonic() - monotonic, self._clock.now() - wall) / self._clock.speed

    async def check(self) -> None:
        """Raise EngineStopped if the loops were started and have ended, or hang."""
        self.loops.check()

    # Start and end

    async def start(self, role: str) -> None:
        """Become an engine of this journal, and work until `stop`. Without effect if we are one.

        Raises:
            EngineRunning: another engine runs, and excludes this one.
            JournalError: another engine has another media store, or the journal cannot be used.
            MediaError: the media store is wrong. One that is only out of reach is logged.
        """
        if self.loops.started:
            return
        await self._join(role)
        try:
            await self._register()
            await self._keep_membership()
        except BaseException:
            await self._leave()
            raise
        outstanding = [item.name for item in await self._journal.destinations() if item.pending]
        unknown = [name for name in outstanding if name not in self._destinations]
        log.info("engine.started", role=role, destinations=sorted(self._destinations), unknown=unknown)
        if not self._subscribed:
            self._journal.subscribe(self._changed_elsewhere)
            self._subscribed = True
        self.loops.start()
        self._watching = asyncio.create_task(self._watchdog.run(), name="watchdog")

    async def stop(self) -> None:
        """Stop taking work, let running attempts finish for a while, and leave the engines. Idempotent.

        Attempts are given back even if this is cancelled. Otherwise they would stay `running`, and the next engine
        would count a failure.
        """
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            await self._rest()
            if self.loops.started:
                try:
                    await self.loops.stop()
                    await self._archiver.stop()
                finally:
                    drains = self._dispatcher.drain(DRAIN_SECONDS), self._submissions.drain(DRAIN_SECONDS)
                    for result in await asyncio.gather(*drains, return_exceptions=True):
                        if isinstance(result, BaseException):
                            raise result
                log.info("engine.stopped")
        finally:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
            await self._leave()

    # Membership

    async def _join(self, role: str) -> None:
        owner = f"{role.replace(' ', '-')}-{os.getpid()}-{secrets.token_hex(4)}"
        await self._journal.membership.join(role, owner, store=await self._store.identity())
        self._role, self._dispatcher.owner = role, owner
        self._joined, self._last_heartbeat = True, (self._clock.monotonic(), self._clock.now())

    async def _register(self) -> None:
        try:
            await self._store.check()
        except MediaError as exc:
            if not exc.away:
                raise
            log.error("media.away", store=self._store.place, problem=str(exc))
        await self._journal.register(self._destinations)
        self._registered = True

    async def _leave(self) -> None:
        """End the membership. If the journal is out of reach, the other engines expire us later."""
        if not self._joined:
            return
        self._joined = self._leads = False
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._journal.membership.leave(self._dispatcher.owner)
        except (JournalError, TimeoutError) as exc:
            problem = str(exc) or "The journal does not answer in time."
            log.warning("engine.not_left", owner=self._dispatcher.owner, problem=problem)

    async def _keep_membership(self) -> int:
        """Send a heartbeat if one is due, delete expired members, and lead if no other does."""
        membership, looked = self._journal.membership, self._freed_at != float("-inf")
        if self._joined and looked and self._silence() < HEARTBEAT_SECONDS:
            return 0
        await self._heartbeat()
        gone = await membership.expire(self._dispatcher.owner)
        led, self._leads = self._leads, await membership.lead(self._dispatcher.owner)
        if self._leads and not led:
            log.info("engine.leads", owner=self._dispatcher.owner)
            if self.loops.started:
                self.loops.wake(*self._leading)
        if self._leads:
            await self._free(at_once=bool(gone) or not led)
            now = self._clock.monotonic()
            if not led or now - self._clamped_at >= CLAMP_SECONDS * self._clock.speed:
                self._clamped_at = now
                if moved := await self._journal.clamp(self._clock.now_ms(), self._poll_ms):
                    log.warning("clock.clamped", submissions=moved)
        else:
            self._freed_at = self._clock.now()
        return 0

    async def _heartbeat(self) -> None:
        """Send a heartbeat. If we have expired, drop our attempts, which others have, and go on as another owner."""
        at = self._clock.monotonic(), self._clock.now()
        owner = self._dispatcher.owner
        if self._joined:
            if await self._journal.membership.heartbeat(owner):
                self._last_heartbeat = at
                return
            self._joined = self._leads = False
            log.error("engine.expired", owner=owner, dropped=await self._dispatcher.abandon())
        await self._join(self._role)
        log.info("engine.joined_again", owner=self._dispatcher.owner)

    async def _free(self, *, at_once: bool) -> None:
        """Free the deliveries that engines left running when they ended."""
        now = self._clock.now()
        if not at_once and 0 <= now - self._freed_at < FREE_SECONDS:
            return
        self._freed_at = now
        owner, membership = self._dispatcher.owner, self._journal.membership
        if freed := await self._journal.free_running(owner, self._clock.now_ms(), membership.owners):
            log.warning("engine.freed", deliveries=freed)
            self.slot_free()

    # News

    def changed(self, row: Submission) -> None:
        """Wake the steps that have work with the row now. Waking all would cost more than the callback itself."""
        self.news.set()
        if not self.loops.started and not self._function:
            return  # the engine is another process
        now_ms = self._clock.now_ms()
        dues = {"send": row.send_due_ms, "reconcile": row.poll_due_ms, "archive": row.media_due_ms}
        due = [name for name, at_ms in dues.items() if at_ms is not None and at_ms <= now_ms]
        if self.loops.started:
            self.loops.wake("dispatch", *due)
            return
        self._want(*due)
        if not row.awaits_files(now_ms) and (self.progress or row.last_word is not None):
            self._want("dispatch")  # a delivery that waits for the download is not due earlier
        if row.auto and row.ended == "task.succeeded":
            self._want("send")  # its follow-ups
        later = (row.poll_due_ms if row.claim or row.unlinked_ms else None, row.media_due_ms)
        self._set_due(row.id, min((at_ms for at_ms in later if at_ms is not None and at_ms > now_ms), default=None))
        self._news.set()

    def slot_free(self) -> None:
        """Dispatch again, because a slot is free or deliveries became due."""
        self.news.set()
        if self.loops.started:
            self.loops.wake("dispatch")
        if self.loops.started or not self._function:
            return
        self._freed_slot = True
        if self._dispatcher.more:
            self._want("dispatch")
        self._news.set()

    def _changed_elsewhere(self, ids: frozenset[str] | None) -> None:
        """Run the steps soon, because this process or another one has committed something."""
        if not self.loops.started:
            return
        self.loops.wake("dispatch")
        if self.leads and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._wake_leading)

    def _wake_leading(self) -> None:
        self._soon = None
        self.loops.wake(*self._leading)

    # Steps

    async def _when_leading(self, step: Step) -> int:
        """Run a leader's step. If two lead for a moment, both run it, and the journal lets only one of them send."""
        if self.loops.started and not self.leads:
            raise NotNow
        return await step()

    async def _dispatch(self) -> int:
        """Dispatch. Callbacks come first, because deliveries are in the journal already."""
        if not self.is_member:
            raise NotNow
        if self._waiting() >= MANY_CALLBACKS:
            await self._clock.sleep(REST_SECONDS)
        return await self._dispatcher.dispatch_once()

    # Runs until idle, for a process that may be frozen or ended as soon as it has answered
    #
    # A run wants steps, and lasts until nothing is wanted, running or due before its end. One driver task starts the
    # wanted steps for all runs of the process. The last run to end cancels whatever still goes on. Any process may be
    # killed at any point, because the due work is in the journal. There is no leader: the journal lets steps run in
    # several processes at once.

    async def run_until_idle(self, seconds: float, *, begun: bool = True, look: bool = True) -> None:
        """Carry on due work until nothing is due, or the time is over. Then interrupt the rest, unless another run of
        this process goes on.

        Args:
            seconds: time limit of this run.
            begun: True if the caller has begun something. Otherwise this does not wait for work that others began.
            look: also search for overdue work, if this process has not done so lately.
        """
        now = self._clock.now()
        if look and not 0 <= now - self._looked_at < LOOK_SECONDS:
            self._looked_at = now
            self._want(*OVERDUE)
            await self._run_and_free(seconds)
        elif begun:
            await self._run(seconds)
        await self._journal.store.settle()

    async def run_everything(self, seconds: float) -> dict[str, int]:
        """Search for all due work, and carry it on as `run_until_idle` does. Return the count of each step."""
        self._done = {}
        self._looked_at, self._freed_at = self._clock.now(), float("-inf")
        await self._journal.clamp(self._clock.now_ms(), self._poll_ms)
        self._want(*OVERDUE, *DAILY)
        await self._run_and_free(seconds)
        await self._journal.store.settle()
        return dict(self._done)

    async def _run_and_free(self, seconds: float) -> None:
        """Run, then free the deliveries of engines that are gone, and run again when the first of them is due."""
        until = self._clock.monotonic() + seconds
        await self._run(seconds)
        if self._journal.shared and await self._expire_silent(until):
            await self._free(at_once=True)
            await self._clock.sleep(max(min(FREED_AFTER, until - self._clock.monotonic()), 0))
            self._want("dispatch")
            await self._run(until - self._clock.monotonic())

    async def _expire_silent(self, until: float) -> bool:
        """Observe the engines of running deliveries that seem silent, until one has expired. Return True if one has.

        Between runs nothing observes them, and each run may be in another process. So the time has to pass in one run.
        """
        membership, owner = self._journal.membership, self._dispatcher.owner
        silent = await self._journal.running_owners() - {owner}
        if silent:
            silent -= {item.owner for item in await self._journal.engines()}
        until = min(until, self._clock.monotonic() + (EXPIRE_SECONDS + HEARTBEAT_SECONDS) * self._clock.speed)
        while silent and self._clock.monotonic() < until:
            if not silent.isdisjoint(await membership.expire(owner)):
                return True
            await asyncio.sleep(HEARTBEAT_SECONDS / 2)
        return False

    async def _run(self, seconds: float) -> None:
        over = asyncio.Event()
        late = self._resting.locked()
        async with self._resting:
            if late and self._driver is None:
                self._wanted.update(OVERDUE)  # the end of the last run may have dropped steps wanted by this one
            self._runs[over] = self._clock.monotonic() + seconds
            self._news.set()
            self._driver = self._driver or asyncio.create_task(self._drive(), name="run")
        try:
            await self._clock.wait(over, seconds)
        finally:
            del self._runs[over]
            await self._rest()

    async def _rest(self) -> None:
        """End all work, once no run is left. Wait for answers of the provider, because a request may be charged."""
        async with self._resting:
            if self._runs or self._driver is None:
                return
            driver, self._driver = self._driver, None
            sending = "send" in self._steps
            ending = [driver, *self._steps.values()]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            await self._archiver.stop()
            if await self._dispatcher.drain(0):
                await self._leave()  # an attempt was left behind under our name, so claim under another one next time
            self._wanted.clear()
            self._due.clear()
        if sending:
            await self._submissions.drain(SEND_SECONDS)

    async def _drive(self) -> None:
        """Start the wanted steps, and end each run that has nothing left to wait for."""
        while self._driver is asyncio.current_task():
            self._news.clear()
            wait = self._seconds_until_due()
            if self._archiver.more:
                self._wanted.add("archive")
            for name in [name for name in (*OVERDUE, *DAILY) if name in self._wanted and name not in self._steps]:
                self._wanted.discard(name)
                if name != "send" or self.sends:
                    self._steps[name] = asyncio.create_task(self._step(name), name=f"run {name}")
                    self._steps[name].add_done_callback(partial(self._stepped, name))
            if self._steps or self._dispatcher.running or self._archiver.running:
                if self._dispatcher.running:
                    await self._keep_heartbeat()
                wait = min(wait, PAUSE_SECONDS)
            elif self._freed_slot:
                self._freed_slot = False
                self._wanted.add("dispatch")
                continue
            else:
                due = self._clock.monotonic() + wait
                for over, until in self._runs.items():
                    if until <= due:
                        over.set()
            await self._clock.wait(self._news, min(wait, LOOK_SECONDS))

    async def _step(self, name: str) -> None:
        if name == "dispatch" and not await self._join_as_function():
            return
        found = await self.loops.once(name)
        if found:
            self._done[name] = self._done.get(name, 0) + found
        if found >= MUCH:
            self._wanted.add(name)

    def _stepped(self, name: str, task: asyncio.Task[None]) -> None:
        del self._steps[name]
        self._news.set()

    def _seconds_until_due(self) -> float:
        """Return the seconds until a row that changed here is due again, or infinity. Want the steps of due rows."""
        now_ms = self._clock.now_ms()
        later = {id: due for id, due in self._due.items() if due > now_ms}
        if len(later) < len(self._due):
            self._due = later
            self._wanted.update(("reconcile", "archive", "dispatch"))
        return (min(later.values()) - now_ms) / 1000 if later else float("inf")

    async def _join_as_function(self) -> bool:
        """Be a member before anything is claimed. Return False if an exclusive engine runs, which does the work.

        A process may have been frozen since its last heartbeat, and have expired. Then it claims under a new name.
        """
        async with self._joining:
            slept = self._journal.shared and self._silence() >= EXPIRE_SECONDS / 2
            try:
                if self._joined and slept and not self._dispatcher.running:
                    await self._leave()
                if not self._joined:
                    await self._join(FUNCTION)
                elif self._journal.shared and self._silence() >= HEARTBEAT_SECONDS:
                    await self._heartbeat()
                if not self._registered:
                    await self._register()
            except EngineRunning as exc:
                log.info("engine.left_to_other", holder=exc.holder)
                return False
            if not 0 <= self._clock.now() - self._freed_at < FREE_SECONDS:
                await self._journal.membership.expire(self._dispatcher.owner)
                await self._free(at_once=True)
        return True

    async def _keep_heartbeat(self) -> None:
        """Send a heartbeat if one is due. If we expire all the same, the journal refuses our completions."""
        async with self._joining:
            if self._joined and self._silence() >= HEARTBEAT_SECONDS:
                try:
                    await self._heartbeat()
                except JournalError as exc:
                    log.warning("engine.no_heartbeat", problem=str(exc))

    def _set_due(self, id: str, due_ms: int | None) -> None:
        self._due.pop(id, None)
        if due_ms is not None and not self.loops.started:
            self._due[id] = due_ms

    def _want(self, *names: str) -> None:
        self._wanted.update(names)
        self.begun += len(names)
