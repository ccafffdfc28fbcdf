"""Pictures of a request, read from files or data URIs and checked before any money is spent. Links are not read."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from urllib.parse import unquote

from receiver.errors import InputError
from receiver.media import sniff
from receiver.requests import is_link

MAX_BYTES = 16 * 1024 * 1024
MAX_MASK_BYTES = 4 * 1024 * 1024
ACCEPTED = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
MASKS = frozenset({"image/png", "image/jpeg", "image/webp"})

_PNG_HEAD = 8
_PNG_CHUNK = 12  # length, type and check sum around each chunk's data

_DATA_URI = re.compile(r"data:[^,;]{0,100}(;[^,;]{0,200}){0,9};\s*base64\s*,", re.IGNORECASE)
"""Beginning of a data URI with any parameters (RFC 2397, 3), such as a character set or a name."""
_WHITE_SPACE = str.maketrans("", "", " \t\r\n\f\v")


async def read_picture(source: str) -> tuple[bytes, str]:
    """Return (bytes, media type) of a picture given as a path or a `data:…;base64,…` URI.

    Raises:
        InputError: it cannot be read, is no PNG, JPEG, WebP or GIF, or is larger than 16 MiB.
    """
    if is_link(source):
        raise InputError(f"{source[:80]!r} is a link. Download it and give the file.")
    if source[:5].lower() == "data:":
        name, data = "The data URI", await asyncio.to_thread(_from_uri, source)
    else:
        name, data = f"The picture {source}", await asyncio.to_thread(_from_file, Path(source))
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB. Make it smaller and submit again.")
    kind = sniff(data[:512])
    if kind is None or kind[0] not in ACCEPTED:
        raise InputError(f"{name} is no PNG, JPEG, WebP or GIF picture. Convert it and submit again.")
    return data, kind[0]


async def read_mask(source: str) -> tuple[bytes, str]:
    """Return (bytes, media type) of a mask: white is repainted, black stays (PROTOCOL.md §2, modal).

    Raises:
        InputError: as `read_picture`, or for a GIF, more than 4 MiB, or a PNG that was cut short.
    """
    data, type = await read_picture(source)
    if type not in MASKS:
        raise InputError("The mask is a GIF. Convert it to PNG, white where to repaint and black elsewhere.")
    if len(data) > MAX_MASK_BYTES:
        raise InputError(f"The mask is larger than {MAX_MASK_BYTES // 2**20} MiB. Save it in black and white only.")
    if type == "image/png" and not _png_ends(data):
        raise InputError("The mask is a PNG that was cut short. Save it again.")
    return data, type


def data_uri(data: bytes, type: str) -> str:
    """Return a picture in the provider's form (PROTOCOL.md §2, `base64Array`)."""
    return f"data:{type};base64,{base64.b64encode(data).decode()}"


def _png_ends(data: bytes) -> bool:
    """Return True if the chunks lead to the last one (PNG specification, 11.2.5)."""
    at = _PNG_HEAD
    while at + _PNG_CHUNK <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += _PNG_CHUNK + int.from_bytes(data[at : at + 4], "big")
    return False


def _from_uri(source: str) -> bytes:
    """Decode a data URI as tools write it: in lines, percent-encoded, in the URL-safe alphabet (RFC 4648, 5)."""
    match = _DATA_URI.match(source)
    if not match:
        raise InputError("The data URI does not start with `data:image/…;base64,`.")
    text = unquote(source[match.end() :]).translate(_WHITE_SPACE).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as exc:  # binascii.Error is a subclass, and letters outside ASCII raise ValueError itself
        raise InputError("The data URI is not valid base64.") from exc


def _from_file(path: Path) -> bytes:
    """Read at most one byte more than allowed, and only a regular file, because a pipe may never end."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"The picture {path} cannot be read: it is no file. Check the path.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise InputError(f"The picture {path} cannot be read: {exc.strerror}. Check the path.") from exc
    except ValueError as exc:  # a NUL, or half a character
        raise InputError("The path of a picture holds characters that no path has.") from exc
