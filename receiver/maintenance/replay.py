"""Replay: deliver events again because a person asks for it.

A replayed delivery keeps its id, which is its idempotency key, so a destination that remembers keys drops the repeat.
`as_new` makes a new delivery. Nothing is sent here: the engine delivers what is outstanding.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any, Literal

from receiver.clock import Clock
from receiver.deliveries import Delivery
from receiver.errors import InputError
from receiver.events import ALERT_TYPES, EVENT_TYPES, Event, EventType
from receiver.journal import Journal
from receiver.journal.selection import Order, Replayed
from receiver.journal.store import EVERYTHING, Filter
from receiver.telemetry import Log

log = Log("receiver.replay")

PAGE = 200
"""Orders in one transaction, and rows read at once."""
MAX_ORDERS = 100_000
"""Orders of one replay: they are held in memory."""
DECISIVE: tuple[EventType, ...] = tuple(
    type for type in EVENT_TYPES if type not in ("task.accepted", "task.progressed", *ALERT_TYPES)
)
"""Types that go to another destination unless a type or an event is named, as in automatic delivery."""


class Replay:
    """Plans and carries out replays on a journal.

    Args:
        destinations: names of the destinations in the settings.
        changed: called when deliveries became due, so that an engine in this process looks at once.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        destinations: Collection[str],
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._destinations = destinations
        self._clock = clock
        self.changed = changed

    async def of_deliveries(self, selection: Filter, *, to: str | None = None, as_new: bool = False) -> list[Order]:
        """Return the orders that replay the selected deliveries, each to its own destination or to `to`.

        Raises:
            InputError: nothing is selected, too much is selected, or a destination does not exist.
            NotFound: no delivery has one of the ids.
        """
        self._check(selection, to, Filter(ids=selection.ids))
        orders = []
        async for delivery in self._selected("deliveries", selection):
            orders.append(_order(delivery, to or delivery.destination, as_new))
            _check_size(orders)
        return self._distinct(orders)

    async def of_events(self, selection: Filter, *, to: str | None = None, as_new: bool = False) -> list[Order]:
        """Return the orders that replay the selected events: each of their deliveries, or one delivery each to `to`.

        Without a type and without ids, only decisive events go to `to`. Raises as `of_deliveries`, and InputError if
        no selected event ever had a delivery.
        """
        self._check(selection, to, Filter(ids=selection.ids, destination=selection.destination))
        orders: list[Order] = []
        found = 0
        async for event in self._selected("events", selection):
            found += 1
            orders += await self._of_event(event, selection, to, as_new)
            _check_size(orders)
        if found and not orders and to is None:
            raise InputError("No selected event ever had a destination. Name one with --to.", page="operate")
        return self._distinct(orders)

    async def foresee(self, orders: Sequence[Order]) -> list[Replayed]:
        """Return the result that `carry_out` would have now. Writes nothing."""
        now_ms = self._clock.now_ms()
        return [seen for page in _pages(orders) for seen in await self._journal.foresee(page, now_ms)]

    async def carry_out(self, orders: Sequence[Order]) -> list[Replayed]:
        """Make the deliveries due, in short transactions. Every order is on disk when this returns."""
        done: list[Replayed] = []
        for page in _pages(orders):
            done += await self._journal.replay(page, self._clock.now_ms())
        if done:
            log.info("replay.ordered", orders=len(done))
        self.changed()
        return done

    async def _of_event(self, event: Event, selection: Filter, to: str | None, as_new: bool) -> list[Order]:
        narrowed = selection.destination is not None
        newest: dict[str, Delivery] = {}  # by destination
        for delivery in await self._journal.event_deliveries(event) if narrowed or to is None else ():
            if selection.destination in (None, delivery.destination):
                newest.setdefault(delivery.destination, delivery)
        if to is None:
            return [_order(delivery, name, as_new) for name, delivery in newest.items()]
        named = selection.ids or selection.type or event.type in DECISIVE
        if not named or (narrowed and not newest):
            return []
        return [Order(event_id=event.id, submission_id=event.submission_id, destination=to, as_new=as_new)]

    def _check(self, selection: Filter, to: str | None, by_ids: Filter) -> None:
        """Raise InputError unless the selection is by ids or by conditions. `by_ids` has all that ids allow: a further
        condition would narrow a list that was given one by one."""
        if selection.ids and selection != by_ids:
            raise InputError("Give either ids or conditions, not both.", page="operate")
        if selection == EVERYTHING:
            raise InputError(
                "A replay of everything is refused. Give ids, or --task, --destination, --status, --since or --until.",
                page="operate",
            )
        if to is not None:
            self._check_destination(to, "give another name to --to")

    def _check_destination(self, name: str, remedy: str) -> None:
        if name not in self._destinations:
            known = ", ".join(sorted(self._destinations)) or "none"
            raise InputError(
                f"There is no destination {name[:80]!r} in the settings. There are: {known}. Configure it, or "
                f"{remedy}.",
                page="destinations",
            )

    def _distinct(self, orders: list[Order]) -> list[Order]:
        """Drop repeats: two deliveries of one event go to another destination as one."""
        distinct = list(dict.fromkeys(orders))
        for name in {order.destination for order in distinct}:
            self._check_destination(name, "replay to another one with --to")
        return distinct

    async def _selected(self, kind: Literal["deliveries", "events"], selection: Filter) -> AsyncIterator[Any]:
        find = self._journal.find_delivery if kind == "deliveries" else self._journal.find_event
        for id in selection.ids or ():
            yield await find(id)
        if not selection.ids:
            async for row in self._journal.selected(kind, selection):
                yield row.record


def _check_size(orders: list[Order]) -> None:
    if len(orders) > MAX_ORDERS:
        raise InputError(
            f"That is more than {MAX_ORDERS:,} deliveries at once. Replay them in parts, with --since and --until.",
            page="operate",
        )


def _order(delivery: Delivery, destination: str, as_new: bool) -> Order:
    same = destination == delivery.destination and not as_new
    return Order(
        event_id=delivery.event_id,
        submission_id=delivery.submission_id,
        destination=destination,
        delivery_id=delivery.id if same else None,
        as_new=as_new,
    )


def _pages(orders: Sequence[Order]) -> Iterator[Sequence[Order]]:
    for start in range(0, len(orders), PAGE):
        yield orders[start : start + PAGE]
