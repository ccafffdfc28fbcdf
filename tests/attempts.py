"""Attempts as the dispatcher makes them, for tests of handlers that keep files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from receiver.events import Event, EventType, Media
from receiver.handlers.base import Attempt, StoredMedia
from receiver.tasks import Button, Task

ID = "01JD7K0000ABCDEFGHJKMNPQRS"  # 2024-11-21
LINK = "https://cdn.discordapp.com/attachments/1/2/boat.png?ex=1&hm=2"
COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))
"""Of the tiles U1 to U4."""
GRID_BUTTONS = tuple(Button(custom_id=f"MJ::JOB::upsample::{n}::abc", label=f"U{n}") for n in range(1, 5))
TASK = Task(
    id="1320098173412546",
    status="SUCCESS",
    progress=100,
    action="IMAGINE",
    prompt="a paper boat",
    state="01JD7K0000ABCDEFGHJKMNPQRS.token.secret",
    image_url=LINK,
    buttons=GRID_BUTTONS,
    seed="42",
)
EVENT = Event(
    id=f"{ID}.task.succeeded",
    type="task.succeeded",
    submission_id=ID,
    created_ms=1732200402250,
    source="callback",
    task_id=TASK.id,
    status="SUCCESS",
    progress=100,
    prompt="a paper boat on calm water --v 6.1 --ar 16:9",
    kind="imagine",
    labels={"customer": "Zoë & Söhne"},
    state="mine",
    parent_id=None,
    confirmed=True,
    task=TASK,
)


def event_of(type: EventType, **changes: Any) -> Event:
    """The event of another type."""
    return msgspec.structs.replace(EVENT, type=type, id=f"{ID}.{type}", **changes)


def attempt_of(event: Event, *media: StoredMedia, **changes: Any) -> Attempt:
    """A first attempt."""
    plain = Attempt(
        event=event,
        destination="there",
        number=1,
        idempotency_key="01JD7K1111ABCDEFGHJKMNPQRS",
        deadline=30,
        receipts={},
    )
    return dataclasses.replace(plain, media=media, **changes)


def grid_picture(width: int = 64, height: int = 48, format: str = "PNG") -> bytes:
    """A grid of four colours, U1 top left to U4 bottom right; an odd pixel belongs to the right and to the bottom."""
    image = Image.new("RGB", (width, height), COLORS[3])
    middle, half = width // 2, height // 2
    image.paste(COLORS[0], (0, 0, middle, half))
    image.paste(COLORS[1], (middle, 0, width, half))
    image.paste(COLORS[2], (0, half, middle, height))
    held = io.BytesIO()
    image.save(held, format)
    return held.getvalue()


def media_of(content: bytes, type: str = "image/png", extension: str = ".png", index: int = 0) -> Media:
    """What the journal knows of a file."""
    digest = hashlib.sha256(content).hexdigest()
    return Media(digest=digest, type=type, size=len(content), extension=extension, url=LINK, index=index)


def stored(folder: Path, content: bytes, **about: Any) -> StoredMedia:
    """A file as the media store keeps it."""
    media = media_of(content, **about)
    path = folder / media.digest[:2] / f"{media.digest}{media.extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return StoredMedia(media=media, path=path)


def colors_of(pictures: Sequence[bytes]) -> list[set[Any]]:
    """The colours each picture holds."""
    found = []
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            found.append({color for _, color in image.convert("RGB").getcolors() or []})
    return found
