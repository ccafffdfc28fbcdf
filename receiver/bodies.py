"""Bodies of HTTP answers, read and unpacked under a cap: a few hundred compressed bytes can become gigabytes."""

from __future__ import annotations

import zlib


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
