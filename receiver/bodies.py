"""Answers by HTTP: certificates to trust, bodies under a cap, and the system's reason if there is no answer.

A few hundred compressed bytes can become gigabytes, so a body is unpacked only as far as the cap.
"""

from __future__ import annotations

import os
import ssl
import zlib
from functools import cache

import certifi


@cache
def certificates() -> ssl.SSLContext:
    """Read the certificates of certifi once, for the provider and for downloads. That takes 20 ms."""
    return ssl.create_default_context(cafile=certifi.where())


class Body:
    """Body of an answer, as far as it was read. Feed it the raw bytes of the connection.

    Args:
        encoding: the answer's `Content-Encoding`. gzip and deflate are unpacked.
        limit: bytes to keep, of the unpacked body.

    Attributes:
        data: the unpacked bytes so far.
        readable: False if the encoding is another one or the packed bytes are damaged.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        self.data = bytearray()
        self.readable = encoding in ("", "identity", "gzip", "x-gzip", "deflate")
        self._limit = limit
        # 32 beside the window's size takes gzip and zlib alike.
        self._unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS) if encoding not in ("", "identity") else None

    def add(self, chunk: bytes) -> bool:
        """Add the next bytes. Return False if no more are wanted."""
        room = self._limit - len(self.data)
        if room <= 0 or not self.readable:
            return False
        if self._unpacker is not None:
            try:
                chunk = self._unpacker.decompress(chunk, room)
            except zlib.error:
                self.readable = False
                return False
        self.data += chunk[:room]
        return len(self.data) < self._limit


def system_reason(error: BaseException) -> str | None:
    """Return the system's words for a failed connection, which are below several layers of libraries, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
            # asyncio replaces the system's text. A resolver's number is negative, and no errno.
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return None
