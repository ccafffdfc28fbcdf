"""Where a picture comes from, written into the PNG itself as iTXt chunks (PNG specification, 11.3.3.4).

No pixel is touched, nothing is decoded: the chunks go in behind the header, and the rest of the file follows as it is.
"""

from __future__ import annotations

import json
import zlib

from receiver.events import Event
from receiver.handlers.names import FIRST_FLAG

HEADER = 33
"""Bytes of a PNG's signature and IHDR chunk, which stands first."""
SOFTWARE = "imagine-receiver"


def parameters(prompt: str) -> dict[str, str | bool]:
    """The flags at the end of a prompt: `--v 6.1 --tile` is `{"v": "6.1", "tile": true}`. The last of a name counts."""
    found: dict[str, str | bool] = {}
    for flag in FIRST_FLAG.split(prompt)[1:]:
        name, *value = flag.split(maxsplit=1)
        found[name.lower()] = value[0].strip() if value else True
    return found


def chunks(event: Event, tile: int = 0) -> bytes:
    """The iTXt chunks of a picture: `Description`, `Source` and `Software` for people, `Comment` as JSON for programs.

    Only from the event, so that a retry writes the same bytes; without state and callback URL, which hold our tokens.
    """
    task = event.task
    comment = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "button": event.button,
        "task": event.task_id,
        "seed": task.seed if task else "",
        "tile": f"U{tile}" if tile else None,
        "submission": event.submission_id,
    }
    texts = {
        "Description": event.prompt,
        "Source": f"Midjourney, task {event.task_id}",
        "Software": SOFTWARE,
        "Comment": json.dumps(comment, ensure_ascii=False),
    }
    return b"".join(_chunk(keyword, text) for keyword, text in texts.items() if text)


def takes_chunks(head: bytes) -> bool:
    """Whether a file that begins so is a PNG with its header where it belongs."""
    return head.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") and len(head) >= HEADER


def _chunk(keyword: str, text: str) -> bytes:
    words = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    # Keyword, not compressed, no language, no translated keyword.
    body = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + words
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
