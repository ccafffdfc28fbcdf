"""Pictures that go out with a request: read from files or data URIs, and checked before any money is spent."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from pathlib import Path

from receiver.errors import InputError
from receiver.media import sniff

MAX_BYTES = 16 * 1024 * 1024
MAX_PICTURES = 5
ACCEPTED = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})

_DATA_URI = re.compile(r"data:([\w.+/-]*)(;base64)?,", re.IGNORECASE)


async def read_picture(source: str) -> tuple[bytes, str]:
    """(bytes, media type) of a picture given as a path or a `data:…;base64,…` URI.

    Raises:
        InputError: it cannot be read, is no PNG, JPEG, WebP or GIF, or is larger than 16 MiB.
    """
    if source[:5].lower() == "data:":
        name, data = "The data URI", _from_data_uri(source)
    else:
        name, data = f"The picture {source}", await asyncio.to_thread(_from_file, Path(source))
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB. Make it smaller and submit again.")
    kind = sniff(data[:512])
    if kind is None or kind[0] not in ACCEPTED:
        raise InputError(f"{name} is no PNG, JPEG, WebP or GIF picture. Convert it and submit again.")
    return data, kind[0]


def data_uri(data: bytes, type: str) -> str:
    """How the provider takes pictures (PROTOCOL.md §2, `base64Array`)."""
    return f"data:{type};base64,{base64.b64encode(data).decode()}"


def _from_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"The picture {path} is larger than {MAX_BYTES // 2**20} MiB. Make it smaller.")
        return path.read_bytes()
    except OSError as exc:
        raise InputError(f"The picture {path} cannot be read: {exc.strerror}. Check the path.") from exc


def _from_data_uri(source: str) -> bytes:
    match = _DATA_URI.match(source)
    if not match or not match[2]:
        raise InputError("The data URI does not start with `data:image/…;base64,`.")
    try:
        return base64.b64decode(source[match.end() :], validate=True)
    except binascii.Error as exc:
        raise InputError("The data URI is not valid base64.") from exc
