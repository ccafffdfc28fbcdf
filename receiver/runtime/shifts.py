"""The engine of a process that lives only while it answers: it works in shifts, and nothing goes on after them.

    a request has begun something   its shift carries that on: confirm, download, deliver, until nothing of it is due
    now and then a request          looks at what is overdue, too, whoever left it
    a tick                          looks at everything, however long nobody came

Shifts of one process share its work, shifts of several processes may overlap, and each may be killed at any point: what
is due lies in the journal, and what a killed one ran is freed when it has given no sign of life for `DEAD_SECONDS`.
There are no loops, no watchdog and no leader: the journal lets steps run in several processes at once, it is only
dearer. Within a process they run side by side, each once at a time, so that one that hangs holds up nothing but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog

from receiver.archiver import Archiver
from receiver.clock import Clock
from receiver.dispatcher import Dispatcher
from receiver.errors import EngineRunning
from receiver.events import Submission
from receiver.journal.base import Journal
from receiver.media import Store
from receiver.runtime.presence import ROLE, Presence
from receiver.submissions import Submissions
from receiver.web.admission import Admission
from receiver.worker import Step, Worker

log = structlog.get_logger("receiver.shifts")

LOOK_SECONDS = 30.0
"""How often a process that is asked looks for what is overdue."""
FREE_SECONDS = 60.0
"""How often it frees what vanished processes left running."""
PAUSE = 0.2
"""Between looks at whether what runs has ended, where nothing tells."""
SEND_SECONDS = 600.0
"""More than any request to the provider may take."""
MUCH = 4
"""Of a step: then there may be more, and it is repeated. Each look costs requests where a bucket keeps the journal."""
TURN_MS = 1000
"""Between looks at whose turn it is, while something runs alone."""
_TURN = "turn"
"""In the place of an id."""
_OVERDUE = ("send", "reconcile", "archive", "dispatch")
_DAILY = ("callbacks", "purge")


class Shifts:
    """In the place of `Engine`, with what `Runtime` asks of one.

    Args:
        leading: steps by name.
        destinations: what this process delivers to: name → handler.
        admission, exit_on_stall: an engine's; without use here.

    Attributes:
        progress: whether a destination wants to know what happens on the way.
        sends: whether what is due may be sent: there must be time to wait for the answer.
        begun: counts what was found due, so that a request can tell whether it has begun something.
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
        self.progress = self.sends = True
        self.begun = 0
        self._journal = journal
        self._dispatcher = dispatcher
        dispatcher.put_off = self._put_off
        self._archiver = archiver
        self._submissions = submissions
        self._clock = clock
        self._presence = Presence(
            journal=journal, dispatcher=dispatcher, store=store, destinations=destinations, clock=clock
        )
        self._worker = Worker({**leading, "dispatch": self._dispatch}, clock=clock)
        self._wanted: set[str] = set()
        self._steps: dict[str, asyncio.Task[None]] = {}
        """Those that run, by name."""
        self._soon: dict[str, int] = {}
        """When what was moved here is due again, by the id of the submission or the delivery; `_TURN` is nobody's."""
        self._news = asyncio.Event()
        self._door = asyncio.Lock()
        """Whoever begins a shift waits for the rest of the last one."""
        self._shifts: dict[asyncio.Event, float] = {}
        """Those under way: what tells each that it is over → when its time is, on the clock's `monotonic`."""
        self._driver: asyncio.Task[None] | None = None
        self._looked = self._freed = float("-inf")
        self._ended = False
        """Whether a delivery has ended since the last look for more."""
        self._done: dict[str, int] = {}

    # What `Runtime` asks of an engine

    @property
    def running(self) -> bool:
        """Whether a shift is under way."""
        return self._driver is not None

    async def check(self) -> None:
        """Nothing goes on here that could stand still."""

    async def start(self, role: str) -> None:
        """Raises EngineRunning: nothing here goes on by itself."""
        raise EngineRunning("A function works in shifts, and has no engine that goes on.", holder=ROLE)

    async def stop(self) -> None:
        """End what is under way, and leave the engines; where the journal is out of reach, they learn it from our
        silence. Idempotent."""
        await self._rest()
        await self._presence.leave()

    def changed(self, row: Submission) -> None:
        """What of the row is due now is wanted in this shift, and what will be soon is waited for."""
        now_ms = self._clock.now_ms()
        dues = {"send": row.send_due_ms, "reconcile": row.poll_due_ms, "archive": row.media_due_ms}
        self._want(*(name for name, due in dues.items() if due is not None and due <= now_ms))
        if row.media_due_ms is None and (self.progress or row.last_word is not None):
            self._want("dispatch")  # what waits for a download is not due before
        if row.auto and row.ended == "task.succeeded":
            self._want("send")  # its follow-ups
        later = (row.poll_due_ms if row.claim else None, row.media_due_ms)
        soon = [due for due in later if due is not None and due > now_ms]
        self._soon.pop(row.id, None)
        if soon:
            self._soon[row.id] = min(soon)
        self._news.set()

    def _put_off(self, delivery_id: str, due_ms: int | None) -> None:
        self._soon.pop(delivery_id, None)
        if due_ms is not None:
            self._soon[delivery_id] = due_ms

    def slot_free(self) -> None:
        """There may be something to deliver now: where slots were what it lacked, else it is looked for once at the
        end."""
        self._ended = True
        if self._dispatcher.more:
            self._want("dispatch")
        self._news.set()

    def _want(self, *names: str) -> None:
        self._wanted.update(names)
        self.begun += len(names)

    # Shifts

    async def work(self, seconds: float, *, begun: bool = True, look: bool = True) -> None:
        """Carry on what was begun, until nothing is due or the time is over.

        Args:
            seconds: of this shift; then what runs is interrupted, unless another shift goes on.
            begun: whether whoever asks has begun something; it need not wait for what others have.
            look: also for what is overdue, if this process has not looked lately.
        """
        now = self._clock.now()
        if look and not 0 <= now - self._looked < LOOK_SECONDS:
            self._looked = now
            self._want(*_OVERDUE)
            begun = True
        if begun:
            await self._shift(seconds)
        await self._journal.settle()

    async def tick(self, seconds: float) -> dict[str, int]:
        """Look at everything, and carry it on as `work` does. May overlap with any other shift, in any process.

        Returns:
            How much each step found to do.
        """
        self._done = {}
        self._looked, self._freed = self._clock.now(), float("-inf")
        await self._journal.advance(self._clock.now_ms())
        self._want(*_OVERDUE, *_DAILY)
        await self._shift(seconds)
        await self._journal.settle()
        return dict(self._done)

    async def _shift(self, seconds: float) -> None:
        over = asyncio.Event()
        late = self._door.locked()
        async with self._door:
            if late and self._driver is None:
                self._wanted.update(_OVERDUE)  # the end of the last shift may have taken what we have begun
            self._shifts[over] = self._clock.monotonic() + seconds
            self._news.set()
            self._driver = self._driver or asyncio.create_task(self._drive(), name="shift")
        try:
            await self._clock.wait(over, seconds)
        finally:
            del self._shifts[over]
            await self._rest()

    async def _rest(self) -> None:
        """Nothing goes on after the last answer. A request to the provider is worth its answer: that is waited for."""
        async with self._door:
            if self._shifts or self._driver is None:
                return
            driver, self._driver = self._driver, None
            sending = "send" in self._steps
            ending = [driver, *self._steps.values()]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            await self._archiver.stop()
            if await self._dispatcher.drain(0):
                self._presence.doubt()
            self._wanted.clear()
            self._soon.clear()
        if sending:  # with the door open: whoever comes need not wait for it
            await self._submissions.drain(SEND_SECONDS)

    # The driver: one for all shifts of the process

    async def _drive(self) -> None:
        while self._driver is asyncio.current_task():
            self._news.clear()
            self._begin()
            if self._steps or self._dispatcher.running() or self._archiver.running:
                if self._dispatcher.running():
                    await self._presence.show()
                if self._next() != 0.0:
                    await self._clock.wait(self._news, PAUSE)
            elif self._ended:
                self._ended = False
                self._wanted.add("dispatch")
            elif (wait := self._next()) is not None:
                self._release(wait)
                await self._clock.wait(self._news, wait)
            else:
                self._release(float("inf"))
                await self._news.wait()

    def _begin(self) -> None:
        """Start the steps that are wanted; one that runs already is wanted still."""
        if self._archiver.more:
            self._wanted.add("archive")
        for name in [name for name in (*_OVERDUE, *_DAILY) if name in self._wanted and name not in self._steps]:
            self._wanted.discard(name)
            if name != "send" or self.sends:
                self._steps[name] = asyncio.create_task(self._step(name), name=f"shift {name}")
                self._steps[name].add_done_callback(partial(self._stepped, name))

    def _stepped(self, name: str, task: asyncio.Task[None]) -> None:
        del self._steps[name]
        self._news.set()

    async def _step(self, name: str) -> None:
        found = await self._worker.once(name)
        if found:
            self._done[name] = self._done.get(name, 0) + found
        if found >= MUCH:
            self._wanted.add(name)

    def _release(self, wait: float) -> None:
        """Nothing is due for so many seconds: let the shifts go that end before that."""
        due = self._clock.monotonic() + wait
        for over, until in self._shifts.items():
            if until <= due:
                over.set()

    def _next(self) -> float | None:
        """Seconds until something that was moved here is due, if a shift lasts so long. What is due is wanted."""
        now_ms = self._clock.now_ms()
        if not self._soon or not self._shifts:
            return None
        first = min(self._soon.values())
        if first > now_ms:
            wait = (first - now_ms) / 1000
            return wait if self._clock.monotonic() + wait < max(self._shifts.values()) else None
        self._soon = {id: due for id, due in self._soon.items() if due > now_ms}
        self._wanted.update(("reconcile", "archive", "dispatch"))
        return 0.0

    async def _dispatch(self) -> int:
        if not await self._presence.sure():
            return 0
        now = self._clock.now()
        if not 0 <= now - self._freed < FREE_SECONDS:
            self._freed = now
            if freed := await self._dispatcher.free():
                log.warning("shift.freed", deliveries=freed)
        found = await self._dispatcher.dispatch_once()
        self._put_off(_TURN, self._clock.now_ms() + TURN_MS if self._dispatcher.turning else None)
        return found
