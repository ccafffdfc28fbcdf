"""Test delivery: one sample through a destination's real handler, without journal and engine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

from receiver.app.factory import check_link, route_of
from receiver.clock import Clock
from receiver.deliveries import Receipt
from receiver.engine.attempts import tiles_of
from receiver.errors import InputError, NotDelivered, NotFound
from receiver.events import EventType
from receiver.handlers import registry
from receiver.handlers.base import Rejected, RetryLater, StoredMedia
from receiver.handlers.samples import LINK, sample_attempt, sample_event, sample_picture
from receiver.media import MediaStore, Tiles
from receiver.settings import Destination, Settings
from receiver.telemetry import redact


def find_destination(settings: Settings, name: str) -> Destination:
    """Return the destination of that name. Raise NotFound with all names."""
    found = {item.name: item for item in settings.resolved_destinations()}
    if name not in found:
        raise NotFound(f"There is no destination {name[:40]!r} in the settings. There are: {', '.join(found)}.")
    return found[name]


async def try_destination(
    item: Destination, type: EventType = "task.succeeded", *, others: Iterable[str] = (), reply_to: str | None = None
) -> Receipt:
    """Deliver one sample there, as an engine would: the picture in a media store, its tiles cut on demand.

    `others` are the names of other destinations, for one that shows the link of another. `reply_to` is the URL for a
    destination that posts to the URL of each submission.

    Raises:
        SettingsError: the destination's table is wrong, or it shows the link of a destination that does not exist.
        InputError: `reply_to` is missing, or the destination takes none.
        NotDelivered: the handler did not deliver it. The text has the reason, and what an engine would do next.
    """
    route_of(item)
    async with aclosing(registry.build(item)) as handler:
        check_link(item.name, handler, others)
        if getattr(handler, "reply_origins", None) and reply_to is None:
            raise InputError(
                f"{item.name} posts to the URL that a submission names (--reply-to). Give one to try with --url.",
                page="webhook",
            )
        if reply_to is not None and not getattr(handler, "reply_origins", None):
            raise InputError(f"{item.name} has a place of its own and takes no --url.", page="webhook")
        try:
            with tempfile.TemporaryDirectory(prefix="receiver-sample-") as folder:
                store = MediaStore(Path(folder))
                picture = await store.put_bytes(sample_picture(), url=LINK)
                attempt = sample_attempt(
                    sample_event(type, Clock().now_ms()),
                    destination=item.name,
                    deadline=item.timeout,
                    picture=StoredMedia(media=picture, path=store.path(picture)),
                    tiles=partial(tiles_of, picture, Tiles(store)),
                    others=others,
                )
                attempt = replace(attempt, reply_to=reply_to)
                async with asyncio.timeout(item.timeout):
                    return await handler.deliver(attempt) or Receipt()
        except Exception as exc:
            said = redact(str(exc)) or exc.__class__.__name__
            if isinstance(exc, Rejected):
                said = f"An event would be dead there: {said}"
            elif isinstance(exc, RetryLater):
                said = f"It asks to come again in {exc.after:g} s: {said}"
            elif isinstance(exc, TimeoutError) and not str(exc):
                said = f"An event would be tried again: it took longer than {item.timeout:g} s (its option timeout)"
            else:
                said = f"An event would be tried again: {said}"
            raise NotDelivered(f"{item.name} did not take the sample. {said}") from exc
