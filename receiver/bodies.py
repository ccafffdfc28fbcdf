"""Answers by HTTP: certificates to trust, bodies under a cap, and the reason if there is no answer.

A few hundred compressed bytes can become gigabytes, so a body is unpacked only as far as the cap.
"""

from __future__ import annotations

import os
import re
import ssl
import zlib
from functools import cache

import certifi
import httpcore

from receiver.errors import SettingsError


@cache
def certificates() -> ssl.SSLContext:
    """Read the trusted certificates once, which takes 20 ms: those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's.

    A company whose proxy opens TLS names its own there. Raise SettingsError if they cannot be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder or None)
    except OSError as exc:
        problem = f"{file or folder} cannot be read ({exc.strerror or exc})"
        raise SettingsError(f"SSL_CERT_FILE, or SSL_CERT_DIR: the certificates in {problem}.") from exc


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


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})


def connection_reason(error: BaseException) -> str | None:
    """Return why a connection failed or broke, which is below several layers of libraries, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; SSL_CERT_FILE can name its authority"
        if isinstance(cause, ssl.SSLError):
            known = getattr(cause, "reason", None) in _NO_TLS
            return "it does not speak TLS, so the address may begin with http://" if known else "TLS failed"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio replaces the system's text. A resolver's number is negative, and no errno.
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        if isinstance(cause, httpcore.RemoteProtocolError):
            early = re.search("disconnected|closed connection", str(cause))
            return "it closed the connection early" if early else "its answer is no valid HTTP"
        cause = cause.__cause__ or cause.__context__
    return None
