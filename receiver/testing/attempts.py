"""Arguments of a handler, made for tests: events, small real pictures, attempts."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec

from receiver.events import ALERT_TYPES, Event, EventType, Media, alert_event, new_id
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.samples import STATUS, event_about, png
from receiver.tasks import Task

PROMPT = "a paper boat floating on calm water at sunrise --v 6.1"
SIDE = 16
"""Pixels of a small picture's side."""

_PERCENT: dict[EventType, int | None] = {"task.accepted": None, "task.input_required": None, "task.succeeded": 100}
_REASON: dict[EventType, str] = {
    "task.failed": "Invalid parameter: unrecognized parameter(s): `--nonsense`",
    "task.lost": "The provider still says IN_PROGRESS of task 1773314942177684 at the deadline.",
}


def make_event(
    type: EventType = "task.succeeded", *, submission_id: str | None = None, pictures: int = 1, **fields: Any
) -> Event:
    """Return an event as intake writes it, of a new submission unless its id is given.

    Args:
        pictures: the number of links in the result, 0 for a result of texts (`describe`).
        fields: of the event, in place of the default ones.
    """
    now_ms = int(time.time() * 1000)
    if type in ALERT_TYPES:
        text = "Destination slack is paused, 12 deliveries wait: connection refused."
        labels = {"destination": "slack"}
        event = alert_event(type, text, created_ms=now_ms, labels=labels, submission_id=submission_id)
        return msgspec.structs.replace(event, **fields)
    links = tuple(map(_link, range(pictures))) if type == "task.succeeded" else ()
    task = Task(
        id="1773314942177684",
        status=STATUS[type],
        progress=_PERCENT.get(type, 40),
        action="IMAGINE" if pictures else "DESCRIBE",
        prompt=PROMPT,
        final_prompt="" if pictures or type != "task.succeeded" else "1️⃣ a boat\n\n2️⃣ a paper boat",
        image_url=links[0] if links else "",
        image_urls=links[1:] and links,
        fail_reason=_REASON.get(type, "") if type == "task.failed" else "",
    )
    event = event_about(
        task, type, created_ms=now_ms, labels={"order": "17"}, reason=_REASON.get(type), submission_id=submission_id
    )
    return msgspec.structs.replace(event, **fields)


def make_media(folder: Path, count: int = 1) -> tuple[StoredMedia, ...]:
    """Write `count` different PNGs of 16 × 16 pixels into `folder`, as the media store keeps them, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        data = png(SIDE, [bytes((40 * number % 256, 90, 160)) * SIDE] * SIDE)
        digest = hashlib.sha256(data).hexdigest()
        path = folder / f"{digest}.png"
        path.write_bytes(data)
        url = _link(number)
        media = Media(digest=digest, type="image/png", size=len(data), extension=".png", url=url, index=number)
        made.append(StoredMedia(media=media, path=path))
    return tuple(made)


def _link(number: int) -> str:
    return f"https://cdn.discordapp.com/attachments/1/2/boat-{number}.png"


def make_attempt(
    folder: Path,
    type: EventType = "task.succeeded",
    *,
    pictures: int = 1,
    submission_id: str | None = None,
    **fields: Any,
) -> Attempt:
    """Return the first attempt at a delivery of a new event. A result has its pictures, which are put into `folder`.

    Args:
        pictures: the number of pictures of a result, 0 for one of texts.
        submission_id: for a further event of the same submission.
        fields: of the attempt, in place of the default ones: `previous`, `media=()`, `media_problem`, …
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
