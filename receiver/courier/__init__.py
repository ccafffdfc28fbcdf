"""The courier: where no journal is kept, a callback is confirmed and delivered in the very request that brings it.

    both tokens bad, or none of ours             as everywhere: 401, nothing is done
    no end (progress, MODAL)                     nothing is owed: 200
    an end, and the provider shows a task whose  the event is made as everywhere (see `intake.decisions`), its files are
    `state` is our token of that submission      downloaded, every destination gets it: 200, or 500 where one did not
    an end, and no such task within the time     nothing is believed: 500

One chance per callback: nothing is kept, so nothing is tried again after the answer. What a handler is given says the
same for the same callback, so that a place which allows once gets it once however often the callback comes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from receiver.clock import Clock
from receiver.courier.confirming import Confirming
from receiver.courier.rounds import Round, Rounds
from receiver.courier.sending import Sending
from receiver.deliveries import Receipt
from receiver.dispatcher import OpenDestination
from receiver.errors import MediaError, NotDelivered
from receiver.events import Event, Media, Submission
from receiver.intake import Policy, Route
from receiver.intake.facts import replace
from receiver.media import Fetcher, MediaStore, Store
from receiver.provider import Provider
from receiver.requests import Request
from receiver.submissions import Options
from receiver.tasks import Task
from receiver.tokens import Tokens

__all__ = ["BUDGET", "Courier"]

log = structlog.get_logger("receiver.courier")

BUDGET = 20.0
"""Seconds for the download and all deliveries of one callback together."""
REMEMBERED = 1000
"""Deliveries made by this process that are not made again if the callback comes again: senders repeat the end after
some seconds (PROTOCOL.md §7). Only a kindness of a process that stays: another one knows nothing of it."""
TRIES = 2
"""Downloads of one file."""


class Courier:
    """Submits without a journal, and takes callbacks without one.

    Args:
        provider, fetcher, tokens, clock: what it works with.
        destinations, routes: where to, and what each wants.
        policy: only how long a result is confirmed.
        public_url: where the provider can reach the endpoint.
        budget: seconds; see `BUDGET`. A request may take as long, after `policy.confirm_ms`.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        fetcher: Fetcher,
        tokens: Tokens,
        clock: Clock,
        destinations: Mapping[str, OpenDestination],
        routes: tuple[Route, ...],
        policy: Policy,
        public_url: str | None,
        budget: float = BUDGET,
    ) -> None:
        self.tokens = tokens
        self._provider = provider
        self._fetcher = fetcher
        self._clock = clock
        self._destinations = destinations
        self._budget = budget
        self._sending = Sending(provider=provider, tokens=tokens, clock=clock, public_url=public_url)
        self._confirming = Confirming(
            provider=provider, fetcher=fetcher, tokens=tokens, policy=policy, routes=routes, clock=clock
        )
        self._rounds = Rounds(destinations, clock)
        self._made: OrderedDict[str, Receipt] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(self, request: Request, options: Options | None = None) -> Submission:
        """Send a request whose result comes to the endpoint alone; see `Sending.submit`."""
        return await self._sending.submit(request, options or Options())

    async def ask(self, task_id: str) -> Task | None:
        """The task as the provider shows it now; None: it does not know it. Raises ProviderError."""
        return await self._provider.fetch(task_id)

    async def received(self, submission_id: str, view: Task, body: bytes, cause: str | None) -> bool:
        """A verified callback, and all that comes of it.

        Args:
            submission_id: by its tokens.
            view: what it says.
            body: as it came; nothing of it is kept.
            cause: why it is not believed as it stands; None: both tokens agree.

        Returns:
            True: it has been delivered, or nothing is owed.

        Raises:
            NotDelivered: it could not be confirmed, or a destination did not get it; the text says which and why.
        """
        if not view.terminal:
            return True
        turn = self._turns.setdefault(submission_id, asyncio.Lock())
        async with turn:
            with tempfile.TemporaryDirectory(prefix="receiver-") as folder:
                await self._take(submission_id, view, cause, MediaStore(Path(folder)))
        return True

    async def _take(self, submission_id: str, view: Task, cause: str | None, store: Store) -> None:
        change = await self._confirming.confirm(submission_id, view, cause, store)
        until = self._clock.monotonic() + self._budget
        for event in change.events:
            log.info(event.type, submission=submission_id, task=event.task_id, confirmed=event.confirmed)
            names = tuple(delivery.destination for delivery in change.deliveries if delivery.event_id == event.id)
            self._check_names(change.submission)
            if names:
                row = await self._with_files(change.submission, store, until)
                await self._deliver(row, _steady(event), names, store, until)

    async def _deliver(self, row: Submission, event: Event, names: tuple[str, ...], store: Store, until: float) -> None:
        round = Round(event=event, submission=row, store=store, until=until, receipts=self._made_of(event, names))
        problems = await self._rounds.go(round, names)
        for name, receipt in round.receipts.items():
            self._made[_key(event, name)] = receipt
        while len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        if problems:
            told = "; ".join(f"{name}: {problem}" for name, problem in sorted(problems.items()))
            raise NotDelivered(f"Event {event.id} did not reach every destination. {told}")

    def _made_of(self, event: Event, names: tuple[str, ...]) -> dict[str, Receipt]:
        return {name: self._made[key] for name in names if (key := _key(event, name)) in self._made}

    def _check_names(self, row: Submission) -> None:
        unknown = [name for name in row.destinations or () if name not in self._destinations]
        if unknown:
            raise NotDelivered(
                f"Submission {row.id} names the destination {unknown[0]!r}, which is not here. "
                f"There are: {', '.join(sorted(self._destinations))}."
            )

    async def _with_files(self, row: Submission, store: Store, until: float) -> Submission:
        """The row with its result's files, or with the reason why they are not there."""
        if row.media_due_ms is None:
            return row
        try:
            async with asyncio.timeout(max(until - self._clock.monotonic(), 0) / self._clock.speed):
                media = await self._download(row, store)
        except TimeoutError:
            return replace(row, media_due_ms=None, media_problem="the picture did not come in time")
        except MediaError as exc:
            log.warning("media.unavailable", submission=row.id, problem=str(exc))
            return replace(row, media_due_ms=None, media_problem=str(exc))
        return replace(row, media_due_ms=None, media=media)

    async def _download(self, row: Submission, store: Store) -> tuple[Media, ...]:
        """The fetch's links first, the callback's second (PROTOCOL.md §10.4), and both once more."""
        first = row.task.result_urls if row.task else ()
        links = [urls for urls in (first, row.fallback_urls) if urls] * TRIES
        problem = MediaError("The result has no link to a file.", permanent=True)
        for urls in links:
            try:
                return await self._fetcher.fetch_all(urls, store)
            except MediaError as exc:
                problem = exc
        raise problem


def _key(event: Event, destination: str) -> str:
    """The idempotency key: by its parts, because there is no journal to keep one in."""
    return f"{event.id}.{destination}"


def _steady(event: Event) -> Event:
    """The event with a time that is the same whenever its callback comes: the end of its task."""
    ended = event.task.finish_ms if event.task is not None else None
    return replace(event, created_ms=ended) if ended else event
