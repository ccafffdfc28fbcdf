"""What a handler is given, made for tests: events, small real pictures, attempts."""

from __future__ import annotations

import hashlib
import struct
import time
import zlib
from pathlib import Path
from typing import Any

from receiver.events import Event, EventType, Media, event_id, new_id
from receiver.handlers.base import Attempt, StoredMedia
from receiver.tasks import Task

PROMPT = "a paper boat floating on calm water at sunrise --v 6.1"
LINK = "https://cdn.discordapp.com/attachments/1/2/boat-{number}.png"
SIDE = 16
"""Pixels of a small picture's side."""

_STATUS: dict[EventType, str] = {
    "task.accepted": "NOT_START",
    "task.progressed": "IN_PROGRESS",
    "task.input_required": "MODAL",
    "task.succeeded": "SUCCESS",
    "task.failed": "FAILURE",
    "task.lost": "IN_PROGRESS",
}
_PERCENT: dict[EventType, int | None] = {"task.accepted": None, "task.input_required": None, "task.succeeded": 100}
_REASON: dict[EventType, str] = {
    "task.failed": "Invalid parameter: unrecognized parameter(s): `--nonsense`",
    "task.lost": "The provider still says IN_PROGRESS of task 1773314942177684 at the deadline.",
}


def make_event(
    type: EventType = "task.succeeded", *, submission_id: str | None = None, pictures: int = 1, **fields: Any
) -> Event:
    """A fact as intake would write it; of a new submission unless its id is given.

    Args:
        type: what happened.
        submission_id: 26 characters, as `receiver.events.new_id` makes them.
        pictures: how many links the result has; 0 for one of texts (`describe`).
        fields: of the event, in place of what it would have.
    """
    now_ms = int(time.time() * 1000)
    row_id = submission_id or new_id(now_ms)
    percent = _PERCENT.get(type, 40)
    task = _task(type, percent, pictures)
    default: dict[str, Any] = {
        "id": event_id(row_id, type, percent),
        "type": type,
        "submission_id": row_id,
        "created_ms": now_ms,
        "source": "poll",
        "task_id": task.id,
        "status": task.status,
        "progress": percent,
        "prompt": PROMPT,
        "kind": "imagine" if pictures else "describe",
        "labels": {"order": "17"},
        "state": None,
        "parent_id": None,
        "confirmed": True,
        "reason": _REASON.get(type),
        "task": task,
    }
    return Event(**default | fields)


def _task(type: EventType, percent: int | None, pictures: int) -> Task:
    links = _links(pictures) if type == "task.succeeded" else ()
    return Task(
        id="1773314942177684",
        status=_STATUS[type],
        progress=percent,
        action="IMAGINE" if pictures else "DESCRIBE",
        prompt=PROMPT,
        final_prompt="" if pictures or type != "task.succeeded" else "1️⃣ a boat\n\n2️⃣ a paper boat",
        image_url=links[0] if links else "",
        image_urls=links[1:] and links,
        fail_reason=_REASON.get(type, "") if type == "task.failed" else "",
    )


def make_media(folder: Path, count: int = 1) -> tuple[StoredMedia, ...]:
    """`count` different PNGs of 16 × 16 pixels, written into `folder` as the media store would keep them."""
    return tuple(_stored(folder, number) for number in range(count))


def make_attempt(
    folder: Path,
    type: EventType = "task.succeeded",
    *,
    pictures: int = 1,
    submission_id: str | None = None,
    **fields: Any,
) -> Attempt:
    """The first attempt at a delivery of a new event; a result comes with its pictures.

    Args:
        folder: where the pictures are put.
        type: of the event.
        pictures: how many a result has; 0 for one of texts.
        submission_id: for a further event of the same submission.
        fields: of the attempt, in place of what it would have: `previous`, `media=()`, `media_problem`, …
    """
    result = type == "task.succeeded"
    default: dict[str, Any] = {
        "event": make_event(type, submission_id=submission_id, pictures=pictures),
        "destination": "tested",
        "number": 1,
        "idempotency_key": new_id(int(time.time() * 1000)),
        "deadline": 10.0,
        "media": make_media(folder, pictures) if result and "media" not in fields else (),
        "receipts": {},
    }
    return Attempt(**default | fields)


def _links(count: int) -> tuple[str, ...]:
    return tuple(LINK.format(number=number) for number in range(count))


def _stored(folder: Path, number: int) -> StoredMedia:
    data = _png((40 * number % 256, 90, 160))
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"{digest}.png"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    link = LINK.format(number=number)
    media = Media(digest=digest, type="image/png", size=len(data), extension=".png", url=link, index=number)
    return StoredMedia(media=media, path=path)


def _png(colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour (PNG, second edition: ISO/IEC 15948:2003), small enough to need no library."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * SIDE) * SIDE
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
