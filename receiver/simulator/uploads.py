"""Pictures that clients send: data URIs or bare base64."""

import base64
import binascii
import re

_DATA_URI = re.compile(r"^data:[\w.+/-]*(?:;[\w=-]+)*;base64,", re.IGNORECASE)
_KINDS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
)


def is_link(text: str) -> bool:
    """Whether this is an address and no picture."""
    return text.startswith(("http://", "https://"))


def decoded(text: str) -> bytes | None:
    """The picture in a data URI or in bare base64; None when there is none in it."""
    try:
        content = base64.b64decode(_DATA_URI.sub("", text.strip(), count=1), validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if media_type(content) else None


def media_type(content: bytes) -> str | None:
    """PNG, JPEG, WebP or GIF, by the first bytes; None for anything else."""
    return next((name for magic, name in _KINDS if magic.match(content)), None)
