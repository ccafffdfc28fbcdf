"""The engine: sends, reconciles, archives and delivers what is due: for ever (`start`), or until idle.

Every engine of a journal dispatches. Its leader does all else. Where one engine alone may run, it leads.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from receiver.clock import Clock
from receiver.engine.archiver import Archiver
from receiver.engine.dispatcher import Dispatcher
from receiver.engine.loops import Loops, NotNow, Step
from receiver.errors import EngineRunning, JournalError, MediaError
from receiver.events import Submission
from receiver.journal import Journal
from receiver.journal.membership import EXPIRE_SECONDS, HEARTBEAT_SECONDS
from receiver.media import Store
from receiver.submissions import Submissions
from receiver.watchdog import Watchdog

log = structlog.get_logger("receiver.engine")

DRAIN_SECONDS = 4.0
"""How long running attempts may go on after the engine was told to stop."""
LEAVE_SECONDS = 2.0
"""How long the journal may take to end our membership: a person waits for our exit."""
FREE_SECONDS = 60.0
"""How often the leader looks for deliveries of engines that are gone, besides right after one has expired."""
CLAMP_SECONDS = 300.0
"""How often due times are brought back into reach of the clock."""
MANY_CALLBACKS = 24
REST_SECONDS = 0.15
"""How long the engine begins nothing new while so many callbacks wait to be written."""
SOON_SECONDS = 0.05
"""How long the leader collects news of other processes' commits before it looks."""

FUNCTION = "function"
"""The role of an engine that runs until idle."""
LOOK_SECONDS = 30.0
"""How often a process that runs until idle looks for what is overdue, whatever began it."""
PAUSE_SECONDS = 0.2
"""Between looks whether what runs has ended, where nothing wakes us."""
SEND_SECONDS = 600.0
"""More than any request to the provider may take."""
MUCH = 4
"""A step that found so much is repeated, because there may be more. In a bucket each look costs requests."""
OVERDUE = ("send", "reconcile", "archive", "dispatch")
DAILY = ("callbacks", "purge")


class Engine:
    """The steps of one process, and its membership in the journal's engines.

    Args:
        waiting: returns the number of callbacks that wait to be written.
        leading: the leader's steps, by name.
        destinations: where this engine delivers to: name → handler.
        exit_on_stall: end the process when the event loop stands still (see `Watchdog`).

    Attributes:
        loops: repeat the steps once the engine has started.
        progress: True if a destination wants events on the way. Only `run_until_idle` asks.
        sends: False while a run is too short to wait for the provider's answer.
        begun: increases with all that was found due, so that a request can tell if it has begun something.
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
    ) -> None:
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
        self._subscribed = False
        self._role = ""
        self._joined = self._leads = self._registered = False
        self._freed_at = self._clamped_at = float("-inf")
        self._heartbeat_at = (float("-inf"), float("-inf"))
        """By the monotonic clock, which may stand still while a machine sleeps, and by the wall clock."""
        self._joining = asyncio.Lock()
        # Runs until idle
        self.progress = self.sends = True
        self.begun = 0
        self._wanted: set[str] = set()
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, int] = {}
        """When something that was moved here is due again, by the id of its submission or delivery."""
        self._news = asyncio.Event()
        self._runs: dict[asyncio.Event, float] = {}
        """Runs under way: the event that ends each, and the monotonic second at which its time is over."""
        self._driver: asyncio.Task[None] | None = None
        self._resting = asyncio.Lock()
        self._looked_at = float("-inf")
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
        """True while our last heartbeat is so recent that no other engine can have found us expired. Then what we claim
        is ours."""
        if not self._journal.shared:
            return self._joined
        return self._joined and self._silence() < EXPIRE_SECONDS - HEARTBEAT_SECONDS

    def _silence(self) -> float:
        """Return the seconds since our last heartbeat. A wall clock that was set back says nothing."""
        monotonic, wall = self._heartbeat_at
        return max(self._clock.monotonic() - monotonic, self._clock.now() - wall) / self._clock.speed

    async def check(self) -> None:
        """Raise EngineStopped if the loops were started and have ended, or hang."""
        self.loops.check()

    # Start and end

    async def start(self, role: str) -> None:
        """Become an engine of this journal, and work for ever. Without effect if we are one.

        Raises:
            EngineRunning: another engine runs, and the two may not run together.
            JournalError: another engine has another media store, or the journal cannot be used.
            MediaError: the media store cannot be used, and is not merely away.
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
        unknown = [name for name in await self._journal.owed_destinations() if name not in self._destinations]
        log.info("engine.started", role=role, destinations=sorted(self._destinations), unknown=unknown)
        if not self._subscribed:
            self._journal.subscribe(self._changed_elsewhere)
            self._subscribed = True
        self.loops.start()
        self._watching = asyncio.create_task(self._watchdog.run(), name="watchdog")

    async def stop(self) -> None:
        """Stop taking work, let what runs finish for a while, leave the engines. Idempotent."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            await self._rest()
            if self.loops.started:
                await self._finish()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None
            await self._leave()

    async def _finish(self) -> None:
        """Also where this is cancelled, what runs is given back. It would stay `running` otherwise, and the next engine
        would count a failure."""
        try:
            await self.loops.stop()
            await self._archiver.stop()
        finally:
            drains = self._dispatcher.drain(DRAIN_SECONDS), self._submissions.drain(DRAIN_SECONDS)
            for result in await asyncio.gather(*drains, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        log.info("engine.stopped")

    # Membership

    async def _join(self, role: str) -> None:
        owner = f"{role.replace(' ', '-')}-{os.getpid()}-{secrets.token_hex(4)}"
        await self._journal.membership.join(role, owner, store=await self._store.identity())
        self._role, self._dispatcher.owner = role, owner
        self._joined, self._heartbeat_at = True, (self._clock.monotonic(), self._clock.now())

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
        """End the membership. Where the journal is out of reach, the others find us expired."""
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
        """Show a heartbeat when it is due, delete members that have expired, and lead if no other does."""
        membership, looked = self._journal.membership, self._freed_at != float("-inf")
        if self._joined and looked and self._silence() < HEARTBEAT_SECONDS:
            return 0
        await self._show_heartbeat()
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
                if moved := await self._journal.clamp(self._clock.now_ms()):
                    log.warning("clock.clamped", submissions=moved)
        else:
            self._freed_at = self._clock.now()
        return 0

    async def _show_heartbeat(self) -> None:
        """Show a heartbeat. If we have expired, others have what runs here: drop it, and go on as another owner."""
        at = self._clock.monotonic(), self._clock.now()
        owner = self._dispatcher.owner
        if self._joined:
            if await self._journal.membership.heartbeat(owner):
                self._heartbeat_at = at
                return
            self._joined = self._leads = False
            log.error("engine.expired", owner=owner, dropped=await self._dispatcher.abandon())
        await self._join(self._role)
        log.info("engine.joined_again", owner=self._dispatcher.owner)

    async def _free(self, *, at_once: bool, patient: bool = False) -> None:
        """Free what engines that are gone have left running. `patient`: wait until the silent ones have expired."""
        now = self._clock.now()
        if not at_once and 0 <= now - self._freed_at < FREE_SECONDS:
            return
        self._freed_at = now
        owner, membership = self._dispatcher.owner, self._journal.membership
        owners = partial(membership.await_silent, owner) if patient else membership.owners
        if freed := await self._journal.free_running(owner, self._clock.now_ms(), owners):
            log.warning("engine.freed", deliveries=freed)
            self.slot_free()

    # News

    def changed(self, row: Submission) -> None:
        """Wake the steps that have work with the row now. To wake all at each callback would cost more than it."""
        now_ms = self._clock.now_ms()
        dues = {"send": row.send_due_ms, "reconcile": row.poll_due_ms, "archive": row.media_due_ms}
        due = [name for name, at_ms in dues.items() if at_ms is not None and at_ms <= now_ms]
        if self.loops.started:
            self.loops.wake("dispatch", *due)
            return
        self._want(*due)
        if row.media_due_ms is None and (self.progress or row.last_word is not None):
            self._want("dispatch")  # what waits for a download is not due before
        if row.auto and row.ended == "task.succeeded":
            self._want("send")  # its follow-ups
        later = (row.poll_due_ms if row.claim else None, row.media_due_ms)
        self._set_due(row.id, min((at_ms for at_ms in later if at_ms is not None and at_ms > now_ms), default=None))
        self._news.set()

    def slot_free(self) -> None:
        """There may be something to deliver now."""
        if self.loops.started:
            self.loops.wake("dispatch")
            return
        self._freed_slot = True
        if self._dispatcher.more:
            self._want("dispatch")
        self._news.set()

    def _changed_elsewhere(self, ids: frozenset[str] | None) -> None:
        """Another process, or this one, has committed something."""
        if not self.loops.started:
            return
        self.loops.wake("dispatch")
        if self.leads and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._look)

    def _look(self) -> None:
        self._soon = None
        self.loops.wake(*self._leading)

    # Steps

    async def _when_leading(self, step: Step) -> int:
        """Where two lead for a moment, a step may run in both: the journal lets only one of them send."""
        if self.loops.started and not self.leads:
            raise NotNow
        return await step()

    async def _dispatch(self) -> int:
        """Callbacks first: what is to be delivered is in the journal already."""
        if not self.is_member:
            raise NotNow
        if self._waiting() >= MANY_CALLBACKS:
            await self._clock.sleep(REST_SECONDS)
        return await self._dispatcher.dispatch_once()

    # Runs until idle: for a process that may be frozen or ended as soon as it has answered.
    #
    # Runs of one process share its work. Runs of several processes may overlap, and each may be killed at any point:
    # what is due is in the journal. There is no leader then. The journal lets steps run in several processes at once.

    async def run_until_idle(self, seconds: float, *, begun: bool = True, look: bool = True) -> None:
        """Carry on what is due until nothing is, or the time is over. Then interrupt what runs, unless another run of
        this process goes on.

        Args:
            seconds: of this run.
            begun: True if the caller has begun something. Without it, this waits for nothing that others began.
            look: also look for what is overdue, if this process has not looked lately.
        """
        now = self._clock.now()
        if look and not 0 <= now - self._looked_at < LOOK_SECONDS:
            self._looked_at = now
            self._want(*OVERDUE)
            await self._run_and_free(seconds)
        elif begun:
            await self._run(seconds)
        await self._journal.settle()

    async def run_everything(self, seconds: float) -> dict[str, int]:
        """Look at all that is due, and carry it on as `run_until_idle` does. Return how much each step found to do."""
        self._done = {}
        self._looked_at, self._freed_at = self._clock.now(), float("-inf")
        await self._journal.clamp(self._clock.now_ms())
        begun = self._clock.monotonic()
        try:
            await self._join_function(patient=True)
        except (JournalError, MediaError) as exc:  # the other steps do not need a member
            log.warning("engine.not_joined", problem=str(exc))
        self._want(*OVERDUE, *DAILY)
        await self._run_and_free(seconds)
        await self._journal.settle()
        return dict(self._done)

    async def _run_and_free(self, seconds: float) -> None:
        """Run, then free the deliveries of engines that are gone, and run again if there are any."""
        until = self._clock.monotonic() + seconds
        await self._run(seconds)
        if self._journal.shared and await self._expire_silent(until):
            await self._free(at_once=True)
            self._want("dispatch")
            await self._run(until - self._clock.monotonic())

    async def _expire_silent(self, until: float) -> bool:
        """Observe the engines of running deliveries that seem silent, until one has expired. Return True if one has.

        Between runs nothing observes them, and each run may be in another process. So the time has to pass in one run.
        """
        membership, owner = self._journal.membership, self._dispatcher.owner
        fresh = {owner, *(item.owner for item in await self._journal.engines())}
        silent = await self._journal.running_owners() - fresh
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
                self._wanted.update(OVERDUE)  # the end of the last run may have taken what we have begun
            self._runs[over] = self._clock.monotonic() + seconds
            self._news.set()
            self._driver = self._driver or asyncio.create_task(self._drive(), name="run")
        try:
            await self._clock.wait(over, seconds)
        finally:
            del self._runs[over]
            await self._rest()

    async def _rest(self) -> None:
        """End what goes on, once no run is left. A request to the provider is worth its answer: that is waited for."""
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
                await self._leave()  # something was left behind under our name: claim under another one next time
            self._wanted.clear()
            self._due.clear()
        if sending:
            await self._submissions.drain(SEND_SECONDS)

    async def _drive(self) -> None:
        """The one task that starts steps for all runs of the process."""
        while self._driver is asyncio.current_task():
            self._news.clear()
            self._start_steps()
            if self._steps or self._dispatcher.running() or self._archiver.running:
                if self._dispatcher.running():
                    await self._show_heartbeat_if_due()
                if self._next_due() != 0.0:
                    await self._clock.wait(self._news, PAUSE_SECONDS)
            elif self._freed_slot:
                self._freed_slot = False
                self._wanted.add("dispatch")
            elif (wait := self._next_due()) is not None:
                self._end_runs_before(wait)
                await self._clock.wait(self._news, wait)
            else:
                self._end_runs_before(float("inf"))
                await self._news.wait()

    def _start_steps(self) -> None:
        if self._archiver.more:
            self._wanted.add("archive")
        for name in [name for name in (*OVERDUE, *DAILY) if name in self._wanted and name not in self._steps]:
            self._wanted.discard(name)
            if name != "send" or self.sends:
                self._steps[name] = asyncio.create_task(self._step(name), name=f"run {name}")
                self._steps[name].add_done_callback(partial(self._stepped, name))

    def _stepped(self, name: str, task: asyncio.Task[None]) -> None:
        del self._steps[name]
        self._news.set()

    async def _step(self, name: str) -> None:
        if name == "dispatch" and not await self._join_function():
            return
        found = await self.loops.once(name)
        if found:
            self._done[name] = self._done.get(name, 0) + found
        if found >= MUCH:
            self._wanted.add(name)

    async def _join_function(self, *, patient: bool = False) -> bool:
        """Be a member before anything is claimed. False: an engine that runs alone is there, and gets the work.

        A process may have been frozen since its last heartbeat, and have expired. Then it claims under a new name.
        """
        async with self._joining:
            slept = self._journal.shared and self._silence() >= EXPIRE_SECONDS / 2
            try:
                if self._joined and slept and not self._dispatcher.running():
                    await self._leave()
                if not self._joined:
                    await self._join(FUNCTION)
                elif self._journal.shared and self._silence() >= HEARTBEAT_SECONDS:
                    await self._show_heartbeat()
                if not self._registered:
                    await self._register()
            except EngineRunning as exc:
                log.info("engine.left_to_other", holder=exc.holder)
                return False
            if not 0 <= self._clock.now() - self._freed_at < FREE_SECONDS:
                await self._journal.membership.expire(self._dispatcher.owner)
                await self._free(at_once=True, patient=patient)
        return True

    async def _show_heartbeat_if_due(self) -> None:
        """Show heartbeats while deliveries run. If we have expired all the same, the journal refuses their ends."""
        async with self._joining:
            if self._joined and self._silence() >= HEARTBEAT_SECONDS:
                try:
                    await self._show_heartbeat()
                except JournalError as exc:
                    log.warning("engine.no_heartbeat", problem=str(exc))

    def _end_runs_before(self, wait: float) -> None:
        """Nothing is due for so many seconds: end the runs whose time is over before that."""
        due = self._clock.monotonic() + wait
        for over, until in self._runs.items():
            if until <= due:
                over.set()

    def _next_due(self) -> float | None:
        """Return the seconds until something that was moved here is due, if a run lasts so long. What is due now is
        wanted."""
        now_ms = self._clock.now_ms()
        if not self._due or not self._runs:
            return None
        first = min(self._due.values())
        if first > now_ms:
            wait = (first - now_ms) / 1000
            return wait if self._clock.monotonic() + wait < max(self._runs.values()) else None
        self._due = {id: due for id, due in self._due.items() if due > now_ms}
        self._wanted.update(("reconcile", "archive", "dispatch"))
        return 0.0

    def _set_due(self, id: str, due_ms: int | None) -> None:
        self._due.pop(id, None)
        if due_ms is not None and not self.loops.started:
            self._due[id] = due_ms

    def _want(self, *names: str) -> None:
        self._wanted.update(names)
        self.begun += len(names)
