"""Program that decodes one foreign picture, in a process with limits of its own, and ends. Run it by its path.

Usage: program.py OPERATION PATH PROCESSOR_SECONDS SECONDS MEMORY_BYTES [NUMBER]

It writes its results to standard output, each after its length in four bytes. With the exit status REFUSED, the last
one is the reason. FAILED and an errno mean an error of the system.

No other module of Receiver imports Pillow (extra `images`). This one imports nothing of Receiver, so that it starts
in a tenth of a second.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps

REFUSED, FAILED = 3, 64
MAX_PIXELS = 25_000_000
"""Limit of a picture to decode (100 MB of memory). Midjourney's largest have 17 million pixels (PROTOCOL.md §9)."""
MAX_SCANS = 32
"""Limit of the scans of a JPEG, each of which passes over the whole picture. Progressive ones have about ten."""
MAX_OUTPUT = 256 * 1024 * 1024
QUALITIES = (92, 85, 75)
SIDES = (None, 3072, 2048, 1024)
"""Longest side of a smaller copy in pixels. None keeps the picture's own."""
THUMBNAIL_SIDE = 640
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_LOSSLESS = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Modes that PNG can hold without loss. Others become RGB."""
_START_OF_SCAN = b"\xff\xda"  # ITU-T T.81, B.1.1.3: coded data never holds it


class Refused(Exception):
    """The picture is not decoded. The text says why, after "it" or "its"."""


def tiles(picture: Image.Image) -> Iterator[bytes]:
    """Yield the quarters as PNG, without loss, in reading order. An odd pixel goes to the right and to the bottom."""
    if getattr(picture, "is_animated", False):
        raise Refused("it moves")
    width, height = picture.size
    if width < 2 or height < 2:
        raise Refused(f"it is only {width} × {height} pixels large")
    whole = _upright(picture)
    if whole.mode not in _LOSSLESS:
        whole = _rgb(whole)
    width, height = whole.size
    for top, bottom in ((0, height // 2), (height // 2, height)):
        for left, right in ((0, width // 2), (width // 2, width)):
            # Level 3 takes a third of the time of the usual 6, and the files are about as large.
            yield _saved(whole.crop((left, top, right, bottom)), "PNG", compress_level=3)


def smaller(picture: Image.Image, limit: int) -> Iterator[bytes]:
    """Yield a JPEG of at most `limit` bytes, as good as that allows."""
    copy = _rgb(_upright(picture))
    for side in SIDES:
        if side is not None:
            copy.thumbnail((side, side))
        for quality in QUALITIES:
            data = _saved(copy, "JPEG", quality=quality, optimize=True)
            if len(data) <= limit:
                yield data
                return
    raise Refused(f"even a small copy has more than {limit:,} bytes")


def thumbnail(picture: Image.Image) -> Iterator[bytes]:
    """Yield a WebP whose longest side has 640 pixels at most."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    picture.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))  # decodes only so much of a JPEG
    copy = _upright(picture)
    copy = copy.convert("RGBA") if copy.has_transparency_data else _rgb(copy)
    copy.thumbnail(side)
    yield _saved(copy, "WEBP", quality=80)


OPERATIONS: Mapping[str, Callable[..., Iterator[bytes]]] = {
    "tiles": tiles,
    "smaller": smaller,
    "thumbnail": thumbnail,
}


def opened(path: Path) -> Image.Image:
    """Return a picture of which only the header was read. Raise Refused if decoding it would take too much."""
    with path.open("rb") as file:
        if file.read(2) == b"\xff\xd8" and file.read().count(_START_OF_SCAN) > MAX_SCANS:
            raise Refused(f"it is a JPEG with more than {MAX_SCANS} scans, and was not decoded")
    Image.MAX_IMAGE_PIXELS = None  # we count them ourselves
    picture = Image.open(path, formats=_FORMATS)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise Refused(f"it is {width} × {height} pixels large, and was not decoded")
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Return the decoded picture as its EXIF orientation says that it is to be shown."""
    picture.load()
    with suppress(Exception):  # EXIF that cannot be read says nothing
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB. Sixteen bits of grey are scaled to eight, which `convert` alone would cut off."""
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda tone: tone * (1 / 256)).convert("L")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _saved(picture: Image.Image, format: str, **options: int) -> bytes:
    """Return the file. A colour profile that is not for the picture's kind of colours is left out."""
    profile = picture.info.get("icc_profile") or b""
    kinds = {"1": b"GRAY", "L": b"GRAY", "LA": b"GRAY", "I;16": b"GRAY"}  # ICC.1:2010, 7.2.6
    fits = profile[16:20] == kinds.get(picture.mode, b"RGB ")
    held = io.BytesIO()
    picture.save(held, format, icc_profile=profile if fits else None, **options)
    return held.getvalue()


def limit_process(processor: int, seconds: int, memory: int) -> None:
    """Bound this process. Its end does not depend on Receiver, which may be killed meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a service. Receiver ends us by KILL
    signal.alarm(seconds)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT),
        (resource.RLIMIT_AS, memory),
    ):
        with suppress(OSError, ValueError):  # a lower limit is set already, or the system has none
            resource.setrlimit(kind, (limit, limit))
    with suppress(OSError):  # where memory runs out, the kernel ends us before Receiver
        Path("/proc/self/oom_score_adj").write_text("1000")


def write(data: bytes) -> None:
    """Write one result."""
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
    sys.stdout.buffer.flush()


def main() -> int:
    operation, path, processor, seconds, memory, *numbers = sys.argv[1:]
    limit_process(int(processor), int(seconds), int(memory))
    if operation == "thumbnail":
        os.nice(10)  # no delivery waits for it
    try:
        for result in OPERATIONS[operation](opened(Path(path)), *map(int, numbers)):
            write(result)
        return 0
    except Refused as exc:
        reason = str(exc)
    except MemoryError:
        reason = f"decoding it takes more than {int(memory) // 2**20} MB of memory"
    except Exception as exc:  # decoders raise anything for a broken file
        if isinstance(exc, OSError) and exc.errno:  # Pillow's own have no number
            return FAILED + exc.errno
        reason = "its file is broken, or no PNG, JPEG, WebP or GIF"
    write(reason.encode())
    return REFUSED


if __name__ == "__main__":
    # Without the interpreter's own end: nothing is left to clean up.
    os._exit(main())
