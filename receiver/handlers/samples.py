"""Sample result for `receiver destinations test`: clearly marked, with a small real picture, of no submission."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterable

from receiver.deliveries import Receipt
from receiver.events import ALERT_TYPES, Event, EventType, alert_event, event_id, new_id
from receiver.handlers.base import Attempt, StoredMedia, no_tiles
from receiver.handlers.result_files import png_chunk
from receiver.tasks import Button, Task

PROMPT = "SAMPLE, sent by receiver destinations test: a paper boat on calm water --v 6.1"
LABELS = {"sample": "true"}
BUTTONS = ("U1", "U2", "U3", "U4", "V1", "V2", "V3", "V4", "🔄")
LINK = "https://example.com/receiver-sample.png"
REASON = "SAMPLE, sent by receiver destinations test: this is how a reason looks."
SIDE = 512
"""Pixels of the picture's side. It is a grid of four, like Midjourney's."""
_SKIES = ((250, 176, 120), (120, 170, 230), (180, 140, 210), (240, 140, 150))
_WATER = (40, 70, 120)

STATUS: dict[EventType, str] = {
    "task.accepted": "NOT_START",
    "task.progressed": "IN_PROGRESS",
    "task.input_required": "MODAL",
    "task.succeeded": "SUCCESS",
    "task.failed": "FAILURE",
    "task.lost": "IN_PROGRESS",
}
"""Status of a task at each event."""
_PERCENT: dict[EventType, int] = {"task.progressed": 40, "task.succeeded": 100}


def sample_event(type: EventType, now_ms: int) -> Event:
    """Return an event of a task that was never submitted."""
    if type in ALERT_TYPES:
        return alert_event(type, REASON, created_ms=now_ms, labels=LABELS)
    succeeded = type == "task.succeeded"
    task = Task(
        id="0000000000000000",
        status=STATUS[type],
        progress=_PERCENT.get(type),
        action="IMAGINE",
        prompt=PROMPT,
        image_url=LINK if succeeded else "",
        fail_reason=REASON if type == "task.failed" else "",
        buttons=tuple(Button(custom_id=f"sample {name}", label=name) for name in BUTTONS) if succeeded else (),
    )
    reason = REASON if type in ("task.failed", "task.lost") else None
    return event_about(task, type, created_ms=now_ms, labels=LABELS, reason=reason)


def event_about(
    task: Task,
    type: EventType,
    *,
    created_ms: int,
    labels: dict[str, str],
    reason: str | None,
    submission_id: str | None = None,
) -> Event:
    """Return an event of a task as intake writes it, of a new submission unless its id is given."""
    row_id = submission_id or new_id(created_ms)
    return Event(
        id=event_id(row_id, type, task.progress),
        type=type,
        submission_id=row_id,
        created_ms=created_ms,
        source="poll",
        task_id=task.id,
        status=task.status,
        progress=task.progress,
        prompt=task.prompt,
        kind=task.action.lower(),
        labels=labels,
        state=None,
        parent_id=None,
        confirmed=True,
        reason=reason,
        task=task,
    )


def sample_attempt(
    event: Event,
    *,
    destination: str,
    deadline: float,
    picture: StoredMedia,
    tiles: Callable[[], Awaitable[tuple[StoredMedia, ...]]] = no_tiles,
    others: Iterable[str] = (),
) -> Attempt:
    """Return the first attempt at the sample. Each of the `others` seems to have a copy under a link."""
    result = event.type == "task.succeeded"
    return Attempt(
        event=event,
        destination=destination,
        number=1,
        idempotency_key=new_id(event.created_ms),
        deadline=deadline,
        media=(picture,) if result else (),
        receipts={name: Receipt(ref="sample", url=LINK) for name in others if name != destination},
        tiles=tiles if result else no_tiles,
    )


def sample_picture() -> bytes:
    """Return a PNG of a few kilobytes: four small seas under four skies."""
    half = SIDE // 2
    horizon = half * 5 // 8

    def row(y: int, sky: tuple[int, int, int]) -> bytes:
        return bytes(_WATER if y >= horizon else (channel - (horizon - y) // 4 for channel in sky)) * half

    skies = [(y % half, _SKIES[0 if y < half else 2 :][:2]) for y in range(SIDE)]
    return png(SIDE, (row(y, left) + row(y, right) for y, (left, right) in skies))


def png(side: int, rows: Iterable[bytes]) -> bytes:
    """Return a square PNG (ISO/IEC 15948) of rows of `3 * side` bytes, red, green and blue."""
    header = side.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
