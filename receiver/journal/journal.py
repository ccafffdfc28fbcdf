"""The journal: durable submissions, callbacks, events and deliveries, with the rules of `transitions` on any store."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from receiver.deliveries import AttemptRecord, Completion, Delivery, DeliveryStatus, DestinationRecord
from receiver.errors import JournalError
from receiver.events import Callback, Event, EventType, Submission
from receiver.journal import transitions
from receiver.journal.document import (
    Action,
    Changed,
    Decide,
    Document,
    Transition,
    Trouble,
    Work,
    is_settled,
    replace,
)
from receiver.journal.membership import EngineRecord, membership_of
from receiver.journal.selection import Kind, Listed, Order, Replayed, row_of
from receiver.journal.shared import Shared
from receiver.journal.store import (
    EVERYTHING,
    Counts,
    DueKind,
    Filter,
    Key,
    LeftFile,
    NeededFile,
    RowKind,
    Store,
    StoredRow,
    pages,
)

T = TypeVar("T")

PAGE = 200
"""Rows that one step of a purge deletes."""
MANY = 10_000
"""Open and dead deliveries from which on counting takes long: a million take a second or two."""
COUNT_SHARE = 20
HEALTH_SECONDS = 0.5
"""A claim knows pauses of other processes at most so much later."""
MAX_ACTIONS = 500
PROBES = (1.0, 0.5, 0.75, 0.25, 0.0)
"""Places of probes, in turns, among the due deliveries that have not failed. 1 is the last one. Those due first may be
of the same kind as the ones that have failed."""
PROBE_MS = 60_000
"""Milliseconds after which a claim of a probe is taken for one of a process that has ended."""


class Journal:
    """The durable state of Receiver: the rules of `transitions` on a store.

    Every method raises JournalError when the store cannot be read or written. Times are epoch milliseconds. A method
    that writes returns only after the commit is on disk.

    Args:
        store: holds the rows. It is asked directly for what needs no rule: its clean-up, its disk, a backup.

    Attributes:
        membership: the engines of this journal.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.membership = membership_of(store)
        self._destinations: Shared[dict[str, DestinationRecord]] = Shared(
            store, "destinations", dict[str, DestinationRecord], {}
        )
        self._probed = Counter[str]()
        self._counted = Counts(), 0.0
        self._troubles: Shared[dict[str, Trouble]] = Shared(store, "troubles", dict[str, Trouble], {})
        self._actions: Shared[list[Action]] = Shared(store, "actions", list[Action], [])

    @property
    def shared(self) -> bool:
        """True if several engines may run on it at once: every one dispatches, one leads."""
        return self.store.shared

    async def aclose(self) -> None:
        """Finish accepted writes, then close. Idempotent."""
        await self.store.aclose()

    async def check(self) -> None:
        """Raise JournalError unless a write works now."""
        await self.store.check()

    def subscribe(self, changed: Callable[[frozenset[str] | None], None]) -> None:
        """See `Store.subscribe`."""
        self.store.subscribe(changed)

    async def counts(self, *, submissions: bool = False, exact: bool = False) -> Counts:
        """See `Store.counts`. Numbers of many deliveries are kept for `COUNT_SHARE` times as long as counting took,
        unless they have to be `exact`."""
        if submissions or exact:
            return await self.store.counts(submissions=submissions)
        counts, until = self._counted
        if time.monotonic() >= until:
            began = time.monotonic()
            counts, now = await self.store.counts(), time.monotonic()
            many = sum(item.pending + item.running + item.dead for item in counts.destinations.values()) > MANY
            self._counted = counts, now + COUNT_SHARE * (now - began) if many else 0.0
        return counts

    # Submissions

    async def add(self, submission: Submission) -> Submission:
        """Journal a new submission. If its name (`once`) is taken, nothing is written and the one that has it is
        returned."""
        return await self.store.create(submission)

    async def change(self, submission_id: str, decide: Decide, callback: Callback | None = None) -> Changed | None:
        """Decide on the current row and write the outcome, in one transaction. None: no such submission.

        A callback is journalled even if the decision fails. Then the problem is returned, not raised.
        """

        def transition(document: Document) -> tuple[Document, Changed]:
            return transitions.change(document, decide, callback)

        try:
            return await self.store.update(submission_id, transition)
        except JournalError as exc:
            if callback is None or exc.fault:
                raise  # without a fault, the outcome itself cannot be written
            problem = exc

        def kept(document: Document) -> tuple[Document, Changed]:
            after = transitions.keep_callback(document, callback, "error")
            return after, Changed(submission=document.submission, problem=problem)

        return await self.store.update(submission_id, kept)

    async def get(self, submission_id: str) -> Submission | None:
        document = (await self.store.load([submission_id])).get(submission_id)
        return None if document is None else document.submission

    async def family(self, submission_id: str) -> list[Submission]:
        """Return the submission with all its ancestors and follow-ups, oldest first."""
        top = await self.get(submission_id)
        if top is None:
            return []
        seen = {top.id}
        while top.parent_id is not None and top.parent_id not in seen:
            above = await self.get(top.parent_id)
            if above is None:
                break
            seen.add(above.id)
            top = above
        found, waiting = {top.id: top}, [top.id]
        while waiting:
            below = await self._newest("submissions", Filter(parent_id=waiting.pop()), Submission, 1000)
            waiting += [row.id for row in below if row.id not in found]
            found |= {row.id: row for row in below}
        return sorted(found.values(), key=lambda row: row.id)

    async def find(self, reference: str, *, whole: bool = False) -> Submission:
        """Find a submission as a person names it: see `row_of`. With `whole`, only by its id or its task's.

        Raises:
            NotFound: there is none, or more than one.
        """
        found = await self.get(reference) if reference else None
        if found is not None:
            return found
        return cast(Submission, (await row_of(self.store, "submissions", reference, whole=whole)).record)

    async def submissions(
        self, wanted: Filter = EVERYTHING, *, limit: int, after: str | None = None
    ) -> list[Submission]:
        """Return the newest first, beginning behind the one that `after` names (see `row_of`)."""
        return await self._listed("submissions", wanted, Submission, limit, after)

    async def called_back(self, *, limit: int, created_before_ms: int) -> list[Submission]:
        """Return the newest submissions that took a callback URL along and that the provider has ended."""
        wanted = Filter(called_back=True, until_ms=created_before_ms)
        return await self._newest("submissions", wanted, Submission, limit)

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        """Return submissions to be sent, polled, downloaded or past their deadline: see `Store.due`."""
        return await self.store.due(kind, now_ms, limit)

    async def _listed(self, kind: Listed, wanted: Filter, type: type[T], limit: int, after: str | None) -> list[T]:
        key = (await row_of(self.store, kind, after)).key if after is not None else None
        page = await self.page(kind, wanted, after=key, limit=limit)
        return [row.record for row in page if isinstance(row.record, type)]

    async def _newest(self, kind: RowKind, wanted: Filter, type: type[T], limit: int) -> list[T]:
        page = await self.store.page(kind, wanted, limit=limit, newest_first=True)
        return [row.record for row in page if isinstance(row.record, type)]

    async def _each(self, kind: RowKind, wanted: Filter, type: type[T]) -> AsyncIterator[T]:
        async for row in pages(self.store, kind, wanted):
            if isinstance(row.record, type):
                yield row.record

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = True
    ) -> list[StoredRow]:
        """Return a page of rows for a listing, without alerts: see `Store.page`."""
        wanted = dataclasses.replace(wanted, requests=True)
        return await self.store.page(kind, wanted, after=after, limit=limit, newest_first=newest_first)

    # Callbacks and events

    async def callbacks(self, submission_id: str, *, limit: int | None = None) -> list[Callback]:
        """Return callbacks in order of arrival. A `limit` returns the last ones only."""
        wanted = Filter(submission_id=submission_id)
        if limit is not None:
            return (await self._newest("callbacks", wanted, Callback, limit))[::-1]
        return [item async for item in self._each("callbacks", wanted, Callback)]

    async def events(
        self,
        wanted: Filter = EVERYTHING,
        *,
        limit: int,
        after: str | None = None,
        submission_id: str | None = None,
        type: EventType | None = None,
    ) -> list[Event]:
        """Return the newest first, like `submissions`. The last two are short for a selection with them alone."""
        if submission_id is not None or type is not None:
            wanted = Filter(submission_id=submission_id, type=type)
        return await self._listed("events", wanted, Event, limit, after)

    async def find_event(self, reference: str) -> Event:
        """Find an event like `find`."""
        return cast(Event, (await row_of(self.store, "events", reference)).record)

    async def event(self, event_id: str) -> Event | None:
        found = await self._newest("events", Filter(ids=(event_id,)), Event, 1)
        return found[0] if found else None

    # Deliveries

    async def deliveries(
        self,
        wanted: Filter = EVERYTHING,
        *,
        limit: int,
        after: str | None = None,
        submission_id: str | None = None,
        destination: str | None = None,
        status: DeliveryStatus | None = None,
    ) -> list[Delivery]:
        """Return the newest first, like `submissions`. The last three are short for a selection with them alone."""
        if (submission_id, destination, status) != (None, None, None):
            wanted = Filter(submission_id=submission_id, destination=destination, status=status)
        return await self._listed("deliveries", wanted, Delivery, limit, after)

    async def find_delivery(self, reference: str) -> Delivery:
        """Find a delivery like `find`."""
        return cast(Delivery, (await row_of(self.store, "deliveries", reference)).record)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        found = await self._newest("deliveries", Filter(ids=(delivery_id,)), Delivery, 1)
        return found[0] if found else None

    async def attempts(self, delivery_id: str) -> list[AttemptRecord]:
        return [item async for item in self._each("attempts", Filter(delivery_id=delivery_id), AttemptRecord)]

    async def outstanding(self, submission_id: str) -> list[Delivery]:
        """Return deliveries of a submission that are pending or running, oldest first."""
        document = (await self.store.load([submission_id])).get(submission_id)
        return sorted(document.deliveries, key=lambda item: item.id) if document is not None else []

    async def claim(self, destination: str, *, owner: str, limit: int, now_ms: int) -> list[Work]:
        """Start up to `limit` due deliveries of one destination, never two of one submission at once.

        While the destination is paused, nothing starts. While it is down, one starts at a time (a probe). In a
        pause for failures that is one that has not failed itself. A claim lasts until it is completed or
        its engine has expired.
        """
        known = await self._destinations.read(max(self.store.cache_seconds, HEALTH_SECONDS))
        record = known.get(destination)
        if record is None or not (record.paused(now_ms) or transitions.is_down(record)):
            return await self._claim(destination, owner, now_ms, limit)
        if limit <= 0 or not transitions.may_probe(record, now_ms):
            return []
        return await self._probe(destination, owner, now_ms)

    async def _claim(
        self, destination: str, owner: str, now_ms: int, limit: int, fresh: float | None = None
    ) -> list[Work]:
        def transition(document: Document) -> tuple[Document, tuple[Document, Delivery] | None]:
            after, taken = transitions.claim(document, destination, owner, now_ms, fresh=fresh is not None)
            return after, None if taken is None else (after, taken)

        claimed = await self.store.claim(destination, now_ms, limit, transition, fresh=fresh) if limit > 0 else []
        parents = {id for document, _ in claimed if (id := document.submission.parent_id) is not None}
        loaded = await self.store.load(sorted(parents)) if parents else {}
        return [_work(document, taken, loaded.get(document.submission.parent_id or "")) for document, taken in claimed]

    async def _probe(self, destination: str, owner: str, now_ms: int) -> list[Work]:
        """Claim one delivery unless the last probe still runs. A shared value names its submission, so that nothing
        else is read. A claim of another process under way is a time in its place."""
        key = f"probes/{destination}"
        held = (await self.store.values(key)).get(key)
        if held is not None:
            last = held.data.decode()
            if last.isdecimal() and abs(now_ms - int(last)) < PROBE_MS:
                return []
            document = (await self.store.load([last])).get(last)
            if document is not None and document.is_busy(destination):
                return []
        version = await self.store.swap(key, str(now_ms).encode(), held.version if held is not None else None)
        if version is None:
            return []
        taken: list[Work] = []
        try:
            record = (await self._destinations.read()).get(destination)
            if record is not None and not transitions.may_probe(record, now_ms):
                return []  # the last probe has just failed, which is noted before its end
            place = PROBES[self._probed[destination] % len(PROBES)]
            self._probed[destination] += 1
            taken = await self._claim(destination, owner, now_ms, 1, fresh=place)
            if not taken and (record is None or not record.paused(now_ms)):
                taken = await self._claim(destination, owner, now_ms, 1)
            return taken
        finally:
            probe = taken[0].delivery.submission_id.encode() if taken else None
            with suppress(JournalError):  # what was claimed is more important
                await self.store.swap(key, probe, version)

    async def complete(self, completion: Completion) -> bool:
        """Record the end of an attempt, and the health of its destination: failures in a row pause it.

        False: another owner or attempt has taken over, and nothing was written.
        """
        # The health comes first: between the two commits, a claim must not find a failing destination idle and healthy.
        if transitions.is_about_destination(completion):
            await self._note_health(completion)
        done = await self.store.update(
            completion.submission_id, lambda document: transitions.complete(document, completion)
        )
        return bool(done)

    async def _note_health(self, completion: Completion) -> None:
        def noted(record: DestinationRecord) -> DestinationRecord:
            return transitions.noted(record, completion)

        known = await self._destinations.read(max(self.store.cache_seconds, 1.0))
        record = known.get(completion.destination)
        if record is not None and noted(record) != record:
            with suppress(JournalError):  # the end of the attempt is more important, and the next notes its own health
                await self._change_destination(record.name, noted)

    async def free_running(
        self, owner: str, now_ms: int, owners: Callable[[], Awaitable[Collection[str]]] | None = None
    ) -> int:
        """End attempts left running by engines that are gone. Each counts as a failure and is retried.

        Args:
            owner: our own, whose attempts go on.
            now_ms: epoch milliseconds.
            owners: returns the engines that run. Called after the running deliveries are known, because an engine
                joins before it claims.

        Returns:
            The number of deliveries that were freed.
        """
        running = await self._running()
        alive = {owner, *(await owners() if running and owners is not None else ())}

        def lost(item: Delivery) -> bool:
            return item.owner not in alive

        ids = sorted({item.submission_id for item in running if lost(item)})
        freed = await asyncio.gather(
            *(
                self.store.update(id, lambda document, turn=turn: transitions.free(document, lost, now_ms, turn))  # type: ignore[misc]
                for turn, id in enumerate(ids)
            )
        )
        return sum(count or 0 for count in freed)

    async def running_owners(self) -> set[str]:
        """Return the engines that have deliveries running."""
        return {item.owner for item in await self._running() if item.owner is not None}

    async def _running(self) -> list[Delivery]:
        return [item async for item in self._each("deliveries", Filter(status="running"), Delivery)]

    async def clamp(self, now_ms: int, poll_ms: int = 0) -> int:
        """Bring due times that a wrong clock wrote back into reach. Return the number of submissions changed.

        `poll_ms` is the configured interval between polls.
        """
        reach = transitions.LONGEST_MS
        rows = Filter(due_after_ms=now_ms + reach["poll_due_ms"])
        owed = Filter(status="pending", due_after_ms=now_ms + reach["delivery"])
        ids = {item.id async for item in self._each("submissions", rows, Submission)}
        ids |= {item.submission_id async for item in self._each("deliveries", owed, Delivery)}
        moved = await self._update(ids, lambda document: transitions.clamp(document, now_ms, poll_ms))

        def clamped(known: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            moved = {}
            for name, record in known.items():
                kind = "pause by hand" if record.paused_by_hand else "pause"
                until_ms = transitions.clamped(record.paused_until_ms, kind, now_ms)
                probe_due_ms = transitions.clamped(record.probe_due_ms, kind, now_ms)
                moved[name] = replace(record, paused_until_ms=until_ms, probe_due_ms=probe_due_ms)
            return moved

        await self._destinations.update(clamped)
        return sum(bool(item) for item in moved)

    async def _update(self, ids: Collection[str], transition: Transition[T]) -> list[T | None]:
        return await asyncio.gather(*(self.store.update(id, transition) for id in sorted(ids)))

    # Destinations

    async def register(self, destinations: Mapping[str, str]) -> None:
        """Make a record of each configured destination (name → handler name)."""

        def registered(known: dict[str, DestinationRecord]) -> dict[str, DestinationRecord]:
            fresh = {name: DestinationRecord(name=name, handler="") for name in destinations} | known
            return fresh | {name: replace(fresh[name], handler=handler) for name, handler in destinations.items()}

        await self._destinations.update(registered)

    async def registered(self) -> dict[str, str]:
        """Return the destinations that engines were started with: name → handler."""
        return {name: record.handler for name, record in (await self._destinations.read()).items()}

    async def destinations(self, counts: Counts | None = None) -> list[DestinationRecord]:
        """Return all that were ever registered, by name, with their counts, which are read unless they are given."""
        known, found = await self._destinations.read(), (counts or await self.counts()).destinations
        return [
            replace(record, pending=count.pending, dead=count.dead) if (count := found.get(name)) else record
            for name, record in sorted(known.items())
        ]

    async def pause_of(self, destination: str) -> tuple[int, str] | None:
        """Return until when a destination gets nothing, or got nothing lately, and why."""
        record = (await self._destinations.read()).get(destination)
        if record is None or record.paused_until_ms is None:
            return None
        return record.paused_until_ms, record.paused_reason or ""

    async def pause(self, destination: str, until_ms: int, reason: str, *, by_hand: bool = False) -> None:
        """Claim nothing for a destination until then. Of two pauses the longer one counts."""
        await self._change_destination(
            destination, lambda record: transitions.paused(record, until_ms, reason, by_hand)
        )

    async def resume(self, destination: str) -> bool:
        """End a destination's pause and its failures, and make the deliveries due that waited for it. False: it was
        never registered."""
        record = (await self._destinations.read()).get(destination)
        if record is None:
            return False
        until_ms = record.paused_until_ms
        if until_ms is not None:
            wanted = Filter(destination=destination, status="pending", due_after_ms=0)
            waiting = {
                item.submission_id
                async for item in self._each("deliveries", wanted, Delivery)
                if item.created_ms < item.due_ms <= until_ms  # few: what came during the pause is due anyway
            }
            await self._update(waiting, lambda document: (transitions.end_wait(document, destination, until_ms), None))
        await self._change_destination(destination, transitions.resumed)
        return True

    async def _change_destination(self, name: str, change: Callable[[DestinationRecord], DestinationRecord]) -> None:
        """Change the record of a destination, if it is registered."""
        await self._destinations.update(lambda known: {**known, name: change(known[name])} if name in known else known)

    # Troubles

    async def troubles(self) -> list[Trouble]:
        """Return the current troubles, oldest first."""
        return sorted((await self._troubles.read()).values(), key=lambda item: (item.since_ms, item.name))

    async def note(self, trouble: Trouble) -> None:
        """Journal a trouble. An open one of that name gets the new text."""

        def noted(known: dict[str, Trouble]) -> dict[str, Trouble]:
            old = known.get(trouble.name)
            return {**known, trouble.name: trouble if old is None else replace(old, text=trouble.text)}

        await self._troubles.update(noted)

    async def clear(self, name: str) -> None:
        """Forget a trouble that is over."""
        await self._troubles.update(lambda known: {key: item for key, item in known.items() if key != name})

    # Actions of people

    async def actions(self) -> list[Action]:
        """Return the last actions at the page, the newest first."""
        return (await self._actions.read())[::-1]

    async def note_action(self, action: Action) -> None:
        """Journal an action. The last `MAX_ACTIONS` are kept."""
        await self._actions.update(lambda known: [*known[1 - MAX_ACTIONS :], action])

    # Replay

    def selected(self, kind: Listed, wanted: Filter) -> AsyncIterator[StoredRow]:
        """Yield all rows that fit, the oldest first. Events come in the order in which they became known."""
        return pages(self.store, kind, wanted)

    async def event_deliveries(self, event: Event) -> list[Delivery]:
        """Return all deliveries of an event, the newest first."""
        found = await self._newest("deliveries", Filter(submission_id=event.submission_id), Delivery, 10_000)
        return [item for item in found if item.event_id == event.id]

    async def foresee(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        """Return the outcome that `replay` would have now. Writes nothing."""
        documents, found, events = await self._replayed(orders)
        foreseen = []
        for order in orders:
            document = documents.get(order.submission_id)
            if document is None:
                foreseen.append(transitions.outcome_of(order, None, now_ms, event=False))
                continue
            _, (seen,) = transitions.replay(document, [order], found, events, now_ms)
            # The id of a new delivery is made again when it is carried out.
            foreseen.append(dataclasses.replace(seen, delivery_id=None) if seen.outcome == "new" else seen)
        return foreseen

    async def replay(self, orders: Sequence[Order], now_ms: int) -> list[Replayed]:
        """Make the ordered deliveries due now, in one transaction for each submission."""
        by_id: dict[str, list[Order]] = defaultdict(list)
        for order in orders:
            by_id[order.submission_id].append(order)

        async def carry_out(id: str, mine: list[Order], read: _Replayable) -> list[Replayed]:
            documents, found, events = read
            if id not in documents:
                return [transitions.outcome_of(order, None, now_ms, event=False) for order in mine]

            def transition(document: Document) -> tuple[Document, list[Replayed] | None]:
                if document.version != documents[id].version:
                    return document, None  # an attempt may have closed what was read before
                return transitions.replay(document, mine, found, events, now_ms)

            done = await self.store.update(id, transition)
            return await carry_out(id, mine, await self._replayed(mine)) if done is None else done

        read = await self._replayed(orders)
        done = await asyncio.gather(*(carry_out(id, mine, read) for id, mine in by_id.items()))
        results = {id: iter(some) for id, some in zip(by_id, done, strict=True)}
        return [next(results[order.submission_id]) for order in orders]

    async def _replayed(self, orders: Sequence[Order]) -> _Replayable:
        """Read the rows of orders: documents, and deliveries and events that are no longer in them."""
        documents = await self.store.load(sorted({order.submission_id for order in orders}))
        named = tuple(sorted({order.delivery_id for order in orders if order.delivery_id is not None}))
        events = tuple(sorted({order.event_id for order in orders}))
        unnamed = sorted({order.submission_id for order in orders if order.delivery_id is None})
        reads = [Filter(submission_id=id) for id in unnamed] + ([Filter(ids=named)] if named else [])
        found = {item.id: item for wanted in reads async for item in self._each("deliveries", wanted, Delivery)}
        return documents, found, {item.id: item async for item in self._each("events", Filter(ids=events), Event)}

    # Deleting: never an outstanding delivery, unless a person forces it

    async def old(self, kind: Kind, before_ms: int, after: Key | None) -> list[Key]:
        """Return a page of keys after `after`: rows older than `before_ms` that may be deleted."""
        if kind == "callbacks":
            page = await self.store.page("callbacks", Filter(until_ms=before_ms), after=after, limit=PAGE)
        else:
            wanted = Filter(until_ms=before_ms, settled=True, with_files=kind == "media")
            page = await self.store.page("submissions", wanted, after=after, limit=PAGE)
        return [row.key for row in page]

    async def delete(self, kind: Kind, keys: Sequence[Key], *, problem: str) -> Mapping[str, int]:
        """Delete rows in one step, and return how many of each kind. A submission with new deliveries stays.

        Args:
            kind: the kind of rows.
            keys: from `old`.
            problem: the sentence that handlers get about deleted files.
        """
        if kind == "callbacks":
            return {"callbacks": await self.store.forget("callbacks", keys)}
        ids = [str(key[0]) for key in keys]
        if kind == "media":
            removed = await self.store.remove(
                ids, lambda document: transitions.drop_media(document, problem), files_only=True
            )
        else:
            removed = await self.store.remove(ids, _if_settled)
        if removed["kept"] == len(ids):
            return {}
        return {name: removed[name] for name in (["files"] if kind == "media" else removed) if name != "kept"}

    async def children(self, submission_id: str) -> list[str]:
        """Return the ids of its follow-ups."""
        found = await self._newest("submissions", Filter(parent_id=submission_id), Submission, 1000)
        return sorted(row.id for row in found)

    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        """Delete a submission with all its rows and return how many of each kind. None: something is outstanding or
        under way, and without `force` nothing was deleted."""
        removed = dict(await self.store.remove([submission_id], (lambda document: document) if force else _if_settled))
        return None if removed.pop("kept") else removed

    async def needed_files(self) -> list[str]:
        """Return the digests of all files that submissions need, sorted."""
        return sorted({item.digest async for item in self._each("files", EVERYTHING, NeededFile)})

    async def leftovers(self, after: str) -> list[LeftFile]:
        """Return a page of the files that deleted submissions had, in order of digest."""
        page = await self.store.page("leftovers", EVERYTHING, after=(after,) if after else None, limit=PAGE)
        return [row.record for row in page if isinstance(row.record, LeftFile)]

    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        """Forget files that have been removed, or are needed again."""
        if digests:
            await self.store.forget("leftovers", [(digest,) for digest in digests])

    # The store as a whole

    async def engines(self) -> list[EngineRecord]:
        """Return the engines that run, the leader first."""
        return await self.membership.engines()

    async def problems(self) -> list[str]:
        """Read everything and return its faults as sentences."""
        return await self.store.problems(frozenset(item.owner for item in await self.engines()))


_Replayable = tuple[dict[str, Document], dict[str, Delivery], dict[str, Event]]


def _if_settled(document: Document) -> Document | None:
    return document if is_settled(document) else None


def _work(document: Document, delivery: Delivery, parent: Document | None) -> Work:
    event = document.event(delivery.event_id)
    assert event is not None  # noqa: S101 - `transitions.claim` starts nothing without its event
    above = parent.receipts.get(delivery.destination) if parent is not None else None
    return Work(
        delivery=delivery,
        event=event,
        submission=document.submission,
        receipts={name: last.receipt for name, last in document.receipts.items()},
        parent=above.receipt if above is not None else None,
    )
