"""A JPEG in place of a picture that is too large for a chat. Needs the extra `images`."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

CAN_SHRINK = find_spec("PIL") is not None
"""Whether the extra is installed."""
QUALITIES = (92, 85, 75)
SIDES = (None, 3072, 2048, 1024)
"""The longest side in pixels; None leaves the picture's own."""
MAX_PIXELS = 64_000_000
"""A picture that says it is larger is not decoded; Midjourney's largest have 16 million."""


def smaller(path: Path, limit: int) -> bytes | None:
    """The picture as JPEG of at most `limit` bytes, as good as that allows. Blocks: run it in a thread.

    None where the extra is not installed, where it is no picture Pillow reads, or where even a small one is too large.
    """
    if not CAN_SHRINK:
        return None
    from PIL import Image  # noqa: PLC0415 - an extra

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for side in SIDES:
        if side is not None:
            picture.thumbnail((side, side))
        for quality in QUALITIES:
            data = io.BytesIO()
            picture.save(data, "JPEG", quality=quality, optimize=True)
            if data.tell() <= limit:
                return data.getvalue()
    return None
