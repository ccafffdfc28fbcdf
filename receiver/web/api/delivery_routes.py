"""Endpoints of deliveries and destinations: list, show, replay, pause and resume."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from receiver.clock import Clock
from receiver.deliveries import DELIVERY_STATUSES, MAX_PAUSE_SECONDS, PAUSE_SECONDS, Delivery
from receiver.errors import InputError
from receiver.journal import Journal
from receiver.journal.selection import Selection
from receiver.maintenance.replay import Replay
from receiver.web.api import schemas
from receiver.web.api.queries import read_query, whole_number
from receiver.web.api.read_routes import find
from receiver.web.api.responses import Destination, Replayed, clean, delivery_record, json
from receiver.web.problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRoutes:
    """The endpoints.

    Attributes:
        destinations: names, as configured in this process.
    """

    journal: Journal
    replays: Replay
    destinations: Collection[str]
    clock: Clock

    async def list_deliveries(self, request: Request, caller: str) -> Response:
        """`GET /deliveries`: the newest first."""
        query = read_query(request, DELIVERY_STATUSES, "destination", "submission")
        given = request.query_params
        wanted = replace(
            query.selection,
            destination=given.get("destination"),
            submission_id=await self._submission(given.get("submission")),
        )
        page = await self.journal.page("deliveries", wanted.filter(), after=query.after, limit=query.limit)
        rows = [delivery_record(row.record) for row in page if isinstance(row.record, Delivery)]
        return json(rows, headers=query.following(request, [row.id for row in rows]))

    async def show(self, request: Request, caller: str) -> Response:
        """`GET /deliveries/{id}`: with its attempts."""
        delivery = await self._find(request.path_params["id"])
        attempts = await self.journal.attempts(delivery.id)
        return json(delivery_record(delivery, attempts))

    async def replay(self, request: Request, caller: str) -> Response:
        """`POST /deliveries/replay`: make deliveries due again, or with `preview` say which."""
        body = schemas.read(schemas.Replay, await schemas.read_json(request))
        if body.status is not None and body.status not in DELIVERY_STATUSES:
            raise InputError(f"The field status is one of {', '.join(DELIVERY_STATUSES)}.")
        if len(body.ids) > schemas.MAX_IDS:
            raise InputError(f"The field ids takes {schemas.MAX_IDS} at most. Use conditions for more.")
        selection = Selection(
            ids=tuple([(await self._find(id)).id for id in body.ids]),
            submission_id=await self._submission(body.submission),
            destination=body.destination,
            status=body.status,
            labels=tuple(body.labels.items()),
            words=tuple((body.search or "").split()),
            since_ms=body.since_ms,
            until_ms=body.until_ms,
        )
        if selection.empty:
            raise InputError("A replay of everything is refused. Give ids, or at least one condition.", page="operate")
        orders = await self.replays.of_deliveries(selection, to=body.to, as_new=body.as_new)
        done = await (self.replays.foresee(orders) if body.preview else self.replays.carry_out(orders))
        return json(
            [
                Replayed(
                    delivery=item.delivery_id,
                    event=item.order.event_id,
                    destination=item.order.destination,
                    outcome=item.outcome,
                    was=item.was,
                )
                for item in done
            ]
        )

    async def list_destinations(self, request: Request, caller: str) -> Response:
        """`GET /destinations`: all that this journal knows, by name."""
        return json(await self._all_destinations())

    async def pause(self, request: Request, caller: str) -> Response:
        """`POST /destinations/{name}/pause`: nothing is delivered to it for `seconds`."""
        text = request.query_params.get("seconds", str(PAUSE_SECONDS))
        seconds = whole_number("seconds", text, 1, MAX_PAUSE_SECONDS)
        name = await self._known(request)
        await self.journal.pause(name, self.clock.now_ms() + seconds * 1000, f"paused by {caller}", by_hand=True)
        return await self._shown(name)

    async def resume(self, request: Request, caller: str) -> Response:
        """`POST /destinations/{name}/resume`: end its pause and forget its failures."""
        name = await self._known(request)
        await self.journal.resume(name)
        self.replays.changed()
        return await self._shown(name)

    async def _all_destinations(self) -> tuple[Destination, ...]:
        now_ms = self.clock.now_ms()
        return tuple(
            Destination(
                name=item.name,
                handler=item.handler,
                configured=item.name in self.destinations,
                status=item.display_status(now_ms),
                failures=item.failures,
                pending=item.pending,
                dead=item.dead,
                paused_until_ms=item.paused_until_ms if item.paused(now_ms) else None,
                reason=clean(item.paused_reason or "") or None if item.paused(now_ms) else None,
                last_success_ms=item.last_success_ms,
                last_error_ms=item.last_error_ms,
                last_error=clean(item.last_error) if item.last_error else None,
            )
            for item in await self.journal.destinations()
        )

    async def _shown(self, name: str) -> Response:
        return json(next(item for item in await self._all_destinations() if item.name == name))

    async def _known(self, request: Request) -> str:
        name: str = request.path_params["name"]
        if name not in await self.journal.registered():
            raise Problem(404, "There is no such destination. GET /destinations lists them.")
        return name

    async def _submission(self, reference: str | None) -> str | None:
        """Return the id of the submission that a whole id means, its own or its task's."""
        return None if reference is None else (await find(self.journal, reference)).id

    async def _find(self, id: str) -> Delivery:
        delivery = await self.journal.delivery(id)
        if delivery is None:
            raise Problem(404, "No delivery has that id.")
        return delivery
