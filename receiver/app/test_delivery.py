"""One sample through a destination's real handler. The journal, its deliveries and the engine have no part in it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from receiver.app.factory import check_link, route_of
from receiver.clock import Clock
from receiver.deliveries import Receipt
from receiver.engine.attempts import tiles_of
from receiver.errors import NotDelivered, NotFound
from receiver.events import EventType
from receiver.handlers import registry
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater, StoredMedia
from receiver.handlers.samples import LINK, sample_attempt, sample_event, sample_picture
from receiver.media import MediaStore, Tiles
from receiver.settings import Destination, Settings
from receiver.telemetry import redact


def find_destination(settings: Settings, name: str) -> Destination:
    """The destination of that name. Raises NotFound, naming those there are."""
    found = settings.resolved_destinations()
    for item in found:
        if item.name == name:
            return item
    raise NotFound(
        f"There is no destination {name[:40]!r} in the settings. There are: {', '.join(i.name for i in found)}."
    )


async def try_destination(
    item: Destination, type: EventType = "task.succeeded", *, others: Iterable[str] = ()
) -> Receipt:
    """Deliver one sample there, as an engine would.

    Args:
        item: the destination.
        type: of the event.
        others: names of other destinations, for one that shows the link of another.

    Raises:
        SettingsError: the destination's table is wrong, or it shows the link of a destination that is not there.
        NotDelivered: the handler did not deliver it; the text says what it said.
    """
    route_of(item)
    handler = registry.build(item)
    try:
        check_link(item.name, handler, others)
        return await _delivered(item, handler, type, others)
    finally:
        await handler.aclose()


async def _delivered(item: Destination, handler: Handler, type: EventType, others: Iterable[str]) -> Receipt:
    try:
        with tempfile.TemporaryDirectory(prefix="receiver-sample-") as folder:
            attempt = await _sample(item, type, MediaStore(Path(folder)), others)
            async with asyncio.timeout(item.timeout):
                return await handler.deliver(attempt) or Receipt()
    except Exception as exc:
        raise NotDelivered(f"{item.name} did not take the sample. {_told(exc, item.timeout)}") from exc


async def _sample(item: Destination, type: EventType, store: MediaStore, others: Iterable[str]) -> Attempt:
    """As the dispatcher builds it: the picture in a media store, and its tiles cut when the handler asks for them."""
    picture = await store.put_bytes(sample_picture(), url=LINK)
    return sample_attempt(
        sample_event(type, Clock().now_ms()),
        destination=item.name,
        deadline=item.timeout,
        picture=StoredMedia(media=picture, path=store.path(picture)),
        tiles=partial(tiles_of, picture, Tiles(store)),
        others=others,
    )


def _told(exc: Exception, timeout: float) -> str:
    """What an engine would make of it."""
    said = redact(str(exc)) or type(exc).__name__
    if isinstance(exc, Rejected):
        return f"An event would be dead there: {said}"
    if isinstance(exc, RetryLater):
        return f"It asks to come again in {exc.after:g} s: {said}"
    if isinstance(exc, TimeoutError) and not str(exc):
        said = f"it took longer than {timeout:g} s (its option timeout)"
    return f"An event would be tried again: {said}"
