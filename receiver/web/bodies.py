"""How a request's body is read: within a length and a time, and only where it calls itself JSON."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from starlette.types import Message, Receive

from receiver.web.problems import Problem


class Gone(Exception):
    """The sender hung up before its body was complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """The bounds of the bodies at one door.

    Attributes:
        name: what they are, the first word of a sentence, in the plural.
        limit: bytes one may have.
        linger: bytes of one too large that are still read, and forgotten: closing with bytes unread resets the
            connection, and the sender loses our answer (RFC 9112 §9.6).
        seconds: how long one may take to come.
    """

    name: str
    limit: int
    linger: int
    seconds: float

    async def check_length(self, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        """Raises Problem for a length that is not given, no number, or too large."""
        text = headers.get(b"content-length")
        if text is None:
            if b"transfer-encoding" in headers:
                return
            raise Problem(411, f"{self.name} say how long they are.")
        if not text.isdigit() or len(text) > 18:
            raise Problem(400, "Content-Length is no number.")
        if (length := int(text)) > self.limit:
            if length <= self.linger:
                await self.read(receive)
            raise self._too_large()

    def check_type(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Problem for what is not JSON by its own word, or compressed."""
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
            raise Problem(415, f"{self.name} are application/json.", {"Accept": "application/json"})
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise Problem(415, f"{self.name} are not compressed.", {"Accept-Encoding": "identity"})

    async def read(self, receive: Receive) -> bytes:
        """The body.

        Raises:
            Problem: too large, or too slow.
            Gone: nobody is there any more.
        """
        reading = self._read(receive).__await__()
        try:
            waits_for = next(reading)
        except StopIteration as done:
            return cast(bytes, done.value)  # it came along with its head, as nearly all do: that costs no timer
        try:
            async with asyncio.timeout(self.seconds):
                return await _go_on(reading, waits_for)
        except TimeoutError as exc:
            headers = {"Connection": "close"}
            raise Problem(408, f"The body did not come within {self.seconds:g} s.", headers) from exc
        except asyncio.CancelledError as exc:
            # The server stops and waits no longer. Nothing has been stored, and the sender shall know that.
            headers = {"Connection": "close", "Retry-After": "5"}
            raise Problem(503, "Receiver stops; send it again.", headers, cause="stopping") from exc

    async def _read(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        more = True
        while more and size <= self.linger:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self.limit:
                chunks.append(chunk)
            more = message.get("more_body", False)
        if size > self.limit:
            raise self._too_large()
        return b"".join(chunks)

    def _too_large(self) -> Problem:
        size = f"{self.limit >> 20} MiB" if self.limit >= 1 << 20 else f"{self.limit >> 10} KiB"
        return Problem(413, f"{self.name} have {size} at most.", {"Connection": "close"})


@types.coroutine
def _go_on(begun: Generator[Any, Any, bytes], waits_for: Any) -> Generator[Any, Any, bytes]:
    """Await what has run up to its first wait already."""
    yield waits_for
    return (yield from begun)
