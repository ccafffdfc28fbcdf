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

    gzip and deflate are unpacked. Some gateways pack without the header, or name it and do not pack.

    Args:
        encoding: the answer's `Content-Encoding`.
        limit: bytes to keep, of the unpacked body.

    Attributes:
        data: the unpacked bytes so far.
        problem: reason why it cannot be read: another encoding, or damaged bytes.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self.data = bytearray()
        self.problem: str | None = None
        self._encoding: str | None = encoding.strip().lower()
        self._limit = limit
        self._unpacker: zlib._Decompress | None = None

    @property
    def readable(self) -> bool:
        """True if there is no problem so far."""
        return self.problem is None

    @property
    def complete(self) -> bool:
        """False while packed bytes are missing."""
        return self._unpacker is None or self._unpacker.eof

    def add(self, chunk: bytes) -> bool:
        """Add the next bytes. Return False if no more are wanted."""
        if chunk and self._encoding is not None:
            self._choose(self._encoding, chunk[0])
            self._encoding = None
        room = self._limit - len(self.data)
        if room <= 0 or not self.readable:
            return False
        if self._unpacker is not None:
            try:
                chunk = self._unpacker.decompress(chunk, room)
            except zlib.error:
                self.problem = "its compression is spoilt"
                return False
        self.data += chunk[:room]
        return len(self.data) < self._limit

    def _choose(self, encoding: str, first: int) -> None:
        """Choose how to unpack by the header and the first byte, which is 1F in gzip only."""
        if first == 0x1F:
            encoding = "gzip"
        if encoding in ("", "identity") or first in b"{[<":
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            self.problem = f"it is packed as {encoding[:40]}, which was not asked for"
        # A zlib stream begins with an 8 in the lower half of its first byte. Some servers send it bare.
        bare = encoding == "deflate" and first & 15 != zlib.DEFLATED
        # 32 beside the window's size takes gzip and zlib alike.
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS if bare else 32 + zlib.MAX_WBITS)


def system_reason(error: BaseException) -> str | None:
    """Return the system's words for a failed connection, which are below several layers of libraries, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
            # asyncio replaces the system's text. A resolver's number is negative, and no errno.
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return None
