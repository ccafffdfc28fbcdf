"""Stateless mode, without a journal: a callback is confirmed and delivered in the request that brings it.

The submission's labels and destinations travel in its `state` (see `Tag`). A callback becomes a submission of a
temporary SQLite journal, and the engine runs on that until idle.

    neither token is ours                    401 as everywhere, and nothing is done
    no end (progress, MODAL)                 200, because nothing is delivered
    an end, and every delivery succeeded     200
    an end that was not delivered in time    500, and the rest is tried again when the callback comes again

Nothing is stored beyond the process. The same event has the same idempotency key in every process, so that a
destination that remembers keys gets it once.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from msgspec.structs import replace
from starlette.applications import Starlette

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.stateless_submit import check_keys
from receiver.backoff import CONFIRM
from receiver.clock import Clock
from receiver.errors import NotDelivered, ProviderError, SettingsError, TokenError
from receiver.events import Submission, id_ms
from receiver.journal.selection import Order
from receiver.settings import Settings
from receiver.tasks import Task
from receiver.telemetry import Log
from receiver.tokens import Tag
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz

log = Log("receiver.stateless")

BUDGET = 20.0
"""Seconds for the download and all deliveries of one callback together, after its confirmation."""
REMEMBERED = 1000
"""Submissions in the temporary journal, because senders repeat the end after some seconds (PROTOCOL.md §7)."""
AT_ONCE = 64
"""Callbacks in one process. Each holds files on disk and an open request until it is delivered."""


class StatelessReceive:
    """Takes callbacks in the place of `Intake`, on a runtime with a temporary journal.

    Args:
        confirm_seconds: time for the provider to confirm a result. 0 accepts a doubly signed callback.
        budget: seconds for the download and all deliveries of one callback together.
    """

    def __init__(self, runtime: Runtime, *, confirm_seconds: float, budget: float) -> None:
        self.tokens = runtime.tokens
        self._runtime = runtime
        self._journal = runtime.journal
        self._engine = runtime.engine
        self._confirm_seconds = confirm_seconds
        self._budget = budget
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool:
        """Confirm and deliver a verified callback. Return True if it was delivered, or is no end.

        `cause` is the reason not to accept it without the provider, or None if both tokens agree.

        Raises:
            NotDelivered: it could not be confirmed, or a destination did not get it. The text has the reason.
        """
        if not view.terminal:
            return True
        turn = self._turns.setdefault(submission_id, asyncio.Lock())
        async with turn:
            row = await self._journal.get(submission_id)
            if row is None:
                await self._add(submission_id, view, cause)
                await self._runtime.intake.received(submission_id, view, body, None)
            else:
                await self._retry(row)
            await self._engine.run_until_idle(self._confirm_seconds + self._budget, look=False)
            await self._check(submission_id)
        return True

    async def _add(self, submission_id: str, view: Task, cause: str | None) -> None:
        """Journal the submission of a callback. Its tokens may leak, so the provider must show the task with our
        `state`."""
        if cause is None and self._confirm_seconds <= 0:
            tag = self.tokens.read_tag(view.state)
        else:
            tag = await self._shown_tag(submission_id, view)
        unknown = [name for name in tag.destinations or () if name not in self._runtime.destinations]
        if unknown:
            raise NotDelivered(
                f"Submission {submission_id} names the destination {unknown[0]!r}, which is not here. "
                f"There are: {', '.join(sorted(self._runtime.destinations))}."
            )
        now_ms = self._runtime.clock.now_ms()
        await self._journal.add(
            Submission(
                id=submission_id,
                kind=view.action.lower() or "imagine",
                created_ms=id_ms(submission_id),
                prompt=view.prompt,
                request={},
                labels=dict(tag.labels),
                destinations=tag.destinations,
                hooked=True,
                status="accepted",
                task_id=view.id,
                deadline_ms=now_ms + int(self._confirm_seconds * 1000),  # the request cannot wait longer
            )
        )
        self._seen[submission_id] = None
        while len(self._seen) > REMEMBERED:
            oldest, _ = self._seen.popitem(last=False)
            await self._journal.erase(oldest, force=True)

    async def _shown_tag(self, submission_id: str, view: Task) -> Tag:
        """Return the tag in the provider's own answer about a task. Asked at 0, 2, 5, 10, 16 and 30 s, because a relay
        shows `state` late (PROTOCOL.md §5). Raise NotDelivered if it shows none in time, or another submission's."""
        clock, seconds = self._runtime.clock, self._confirm_seconds
        began = clock.monotonic()
        for share in CONFIRM:
            await clock.sleep(began + share * seconds - clock.monotonic())
            try:
                shown = await self._runtime.provider.fetch(view.id)
            except ProviderError as exc:
                log.info("task.unanswered", task=view.id, problem=str(exc))
                continue
            if shown is None or not shown.state:
                continue
            with suppress(TokenError):
                if (tag := self.tokens.read_tag(shown.state)).submission_id == submission_id:
                    return tag
            raise NotDelivered(f"Task {view.id} is not the one that submission {submission_id} made.")
        raise NotDelivered(f"The provider did not show task {view.id} with our state within {seconds:g} s.")

    async def _retry(self, row: Submission) -> None:
        """Continue after an earlier callback: poll again, and make failed deliveries due."""
        self._engine.changed(row)
        left = [
            Order(event_id=item.event_id, submission_id=row.id, destination=item.destination, delivery_id=item.id)
            for item in await self._journal.deliveries(limit=1000, submission_id=row.id)
            if item.status in ("pending", "dead")
        ]
        if left:
            await self._journal.replay(left, self._runtime.clock.now_ms())
            self._engine.changed(row)

    async def _check(self, submission_id: str) -> None:
        row = await self._journal.get(submission_id)
        if row is None or row.ended is None:
            raise NotDelivered(f"Submission {submission_id} could not be confirmed in time.")
        problems = sorted(
            f"{item.destination}: {item.detail or 'it was not delivered in time'}"
            for item in await self._journal.deliveries(limit=1000, submission_id=submission_id)
            if item.status not in ("succeeded", "cancelled")
        )
        if problems:
            event_id = f"{submission_id}.{row.ended}"
            raise NotDelivered(f"Event {event_id} did not reach every destination. {'; '.join(problems)}")


@asynccontextmanager
async def open_stateless_receive(
    settings: Settings, *, budget: float = BUDGET, clock: Clock | None = None
) -> AsyncIterator[StatelessReceive]:
    """Open a `StatelessReceive` on a temporary journal.

    Raises:
        SettingsError: a setting is missing, wrong, or needs a journal.
    """
    check_keys(settings)
    for item in settings.resolved_destinations():
        if item.progress or {"task.accepted", "task.progressed"} & set(item.events):
            raise SettingsError(
                f"Destination {item.name}: progress needs a journal, which remembers earlier events. Remove it, or "
                "keep a journal in a bucket."
            )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-")))
        temporary = replace(settings, database=f"sqlite:{folder / 'receiver.db'}", data=folder, media=None)
        runtime = await stack.enter_async_context(open_runtime(temporary, clock=clock, function=True, steady=True))
        runtime.engine.progress = False
        yield StatelessReceive(runtime, confirm_seconds=settings.confirm_within, budget=budget)


def stateless_app(receive: StatelessReceive, *, seconds: float) -> Starlette:
    """Return the web application for callbacks and health. A callback that takes longer than `seconds` gets a 503."""
    admission = Admission(None, most=AT_ONCE, max_wait=seconds, kept="It may have been delivered in part.")
    return create_app(
        callbacks=Callbacks(intake=receive, tokens=receive.tokens, admission=admission), readyz=Readyz({})
    )
