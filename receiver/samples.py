"""A sample result for `receiver destinations test`: clearly marked, with a small real picture, and of no submission."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable

from receiver.deliveries import Receipt
from receiver.events import Event, EventType, event_id, new_id
from receiver.handlers.base import Attempt, StoredMedia, no_tiles
from receiver.tasks import Button, Task

PROMPT = "SAMPLE, sent by receiver destinations test: a paper boat on calm water --v 6.1"
LABELS = {"sample": "true"}
BUTTONS = ("U1", "U2", "U3", "U4", "V1", "V2", "V3", "V4", "🔄")
LINK = "https://example.com/receiver-sample.png"
REASON = "SAMPLE, sent by receiver destinations test: this is how a reason looks."
SIDE = 512
"""Pixels of the picture's side: a grid of four, as Midjourney makes them."""
_HALF = SIDE // 2
_DOT = 6
"""Pixels of a letter's dot; a letter is five wide and seven high."""
_TOP, _LEFT = 40, (_HALF - 35 * _DOT) // 2
_LETTERS = {
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "E": "11111 10000 10000 11110 10000 10000 11111",
}
_SKIES = ((250, 176, 120), (120, 170, 230), (180, 140, 210), (240, 140, 150))
_WATER, _INK = (40, 70, 120), (255, 255, 255)

_STATUS: dict[EventType, str] = {
    "task.accepted": "NOT_START",
    "task.progressed": "IN_PROGRESS",
    "task.input_required": "MODAL",
    "task.succeeded": "SUCCESS",
    "task.failed": "FAILURE",
    "task.lost": "IN_PROGRESS",
}
_PERCENT: dict[EventType, int] = {"task.progressed": 40, "task.succeeded": 100}


def sample_event(type: EventType, now_ms: int) -> Event:
    """A fact about a task nobody submitted."""
    row_id = new_id(now_ms)
    percent = _PERCENT.get(type)
    failed = type in ("task.failed", "task.lost")
    return Event(
        id=event_id(row_id, type, percent),
        type=type,
        submission_id=row_id,
        created_ms=now_ms,
        source="poll",
        task_id="0000000000000000",
        status=_STATUS[type],
        progress=percent,
        prompt=PROMPT,
        kind="imagine",
        labels=LABELS,
        state=None,
        parent_id=None,
        confirmed=True,
        reason=REASON if failed else None,
        task=_task(type, percent),
    )


def _task(type: EventType, percent: int | None) -> Task:
    succeeded = type == "task.succeeded"
    return Task(
        id="0000000000000000",
        status=_STATUS[type],
        progress=percent,
        action="IMAGINE",
        prompt=PROMPT,
        image_url=LINK if succeeded else "",
        fail_reason=REASON if type == "task.failed" else "",
        buttons=tuple(Button(custom_id=f"sample {name}", label=name) for name in BUTTONS) if succeeded else (),
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
    """The first attempt at the sample.

    Args:
        event: by `sample_event`.
        destination: its name.
        deadline: seconds the attempt may take.
        picture: `sample_picture` as it is kept, for a result.
        tiles: gives the four pictures it is cut into.
        others: names of other destinations, which stand in as if each had a copy under a link.
    """
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
    """Four small seas under four skies, each with the word SAMPLE on it: a PNG (ISO/IEC 15948) of a few kilobytes."""
    rows = b"".join(b"\0" + _row(y) for y in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _row(y: int) -> bytes:
    top = 0 if y < _HALF else 2
    return b"".join(_half_row(y % _HALF, _SKIES[top + side]) for side in (0, 1))


def _half_row(y: int, sky: tuple[int, int, int]) -> bytes:
    horizon = _HALF * 5 // 8
    ground = _WATER if y >= horizon else tuple(channel - (horizon - y) // 4 for channel in sky)
    pixels = bytearray(bytes(ground) * _HALF)
    line = (y - _TOP) // _DOT
    if 0 <= line < 7:
        for number, dot in enumerate("0".join(_LETTERS[letter].split()[line] for letter in "SAMPLE")):
            if dot == "1":
                start = 3 * (_LEFT + number * _DOT)
                pixels[start : start + 3 * _DOT] = bytes(_INK) * _DOT
    return bytes(pixels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
