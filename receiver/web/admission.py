"""Bounds of a request before the work begins: its body, and how many requests wait for the journal.

    body too large, too slow, not JSON or compressed     413, 408, 415
    body with more values than any of ours               400
    more at once of one sender than its share            429 (see `Shares`)
    fewer requests wait than the bounds allow            admitted, and waits for its commit
    too many, or too many bytes                          503 with `Retry-After`, at once
    one has waited too long                              503, and every new one gets 503 at once until a write succeeds

A request that waited too long may still be committed when the journal works again, because the writer drops nothing.
Then the callback is kept although its sender got 503. A second callback with the same fact makes no second event. The
reverse never happens: 2xx is sent only after the commit.
"""

from __future__ import annotations

import asyncio
import io
import types
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from receiver.errors import JournalError
from receiver.telemetry import Log
from receiver.web.problems import Problem

P = ParamSpec("P")
T = TypeVar("T")

log = Log("receiver.admission")

MAX_WAITING = 1000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of bodies. While it waits, a callback takes about four times the size of its body."""
MAX_WAIT = 10.0
"""Seconds a request may wait for its commit: as long as the journal waits for another process's lock."""
PROBE_SECONDS = 0.5
_MAX_DRAIN = 8 * 1024 * 1024
MAX_PARTS = 10_000
"""Brackets and commas in a body, those in texts included. A value takes up to 60 times its bytes in memory."""

RETRY = {"Retry-After": "5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Bounds of the bodies that one endpoint reads.

    Some more bytes than `limit` are read and dropped: closing with bytes unread would reset the connection and lose our
    answer (RFC 9112 §9.6).
    """

    name: str  # the first word of an error sentence, in the plural
    limit: int  # bytes
    seconds: float  # deadline of a body

    async def check_length(self, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        """Raise Problem if the length is missing, not a number, or too large."""
        text = headers.get(b"content-length")
        if text is None:
            if b"transfer-encoding" in headers:
                return
            raise Problem(411, f"{self.name} need a Content-Length.")
        if not text.isdigit() or len(text) > 18:
            raise Problem(400, "Content-Length is not a number.")
        if (length := int(text)) > self.limit:
            if length <= self._most_read:
                await self.read(receive)
            raise self._too_large()

    def check_type(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise Problem if the body is not declared as JSON, or is compressed."""
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
            raise Problem(415, f"{self.name} must be application/json.", {"Accept": "application/json"})
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise Problem(415, f"{self.name} must not be compressed.", {"Accept-Encoding": "identity"})

    async def read(self, receive: Receive) -> bytes:
        """Return the body. Raise Problem if it is too large or too slow, ClientDisconnect if the sender hung up."""
        reading = self._read(receive).__await__()
        try:
            waits_for = next(reading)
        except StopIteration as done:
            return cast(bytes, done.value)  # arrived together with its head, as nearly all do: that needs no timer
        try:
            async with asyncio.timeout(self.seconds):
                return await _resume(reading, waits_for)
        except TimeoutError as exc:
            raise Problem(408, f"The body did not come within {self.seconds:g} s.", {"Connection": "close"}) from exc
        except asyncio.CancelledError as exc:
            # The server stops and no longer waits. Nothing is stored, and the sender must learn that.
            headers = {**RETRY, "Connection": "close"}
            raise Problem(503, "Receiver is stopping. Send it again.", headers, cause="stopping") from exc

    async def _read(self, receive: Receive) -> bytes:
        buffer = io.BytesIO()  # a list of many small pieces would take more memory than the body
        size = parts = 0
        more = True
        while more and size <= self._most_read:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            more = message.get("more_body", False)
            if more or size > MAX_PARTS:  # a whole body that is shorter cannot have more
                parts += count_parts(chunk)
            if size <= self.limit and parts <= MAX_PARTS:
                buffer.write(chunk)
        if size > self.limit:
            raise self._too_large()
        if parts > MAX_PARTS:
            raise Problem(400, f"{self.name} have {MAX_PARTS:,} values at most.")
        return buffer.getvalue()

    @property
    def _most_read(self) -> int:
        return min(4 * self.limit, self.limit + _MAX_DRAIN)

    def _too_large(self) -> Problem:
        size = f"{self.limit >> 20} MiB" if self.limit >= 1 << 20 else f"{self.limit >> 10} KiB"
        return Problem(413, f"{self.name} have {size} at most.", {"Connection": "close"})


def count_parts(data: bytes) -> int:
    """Return an upper bound of the values in a piece of JSON. It costs little beside reading them."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


@types.coroutine
def _resume(started: Generator[Any, Any, bytes], waits_for: Any) -> Generator[Any, Any, bytes]:
    """Await what already ran up to its first wait."""
    yield waits_for
    return (yield from started)


class Shares:
    """Bound of what each sender does at once, and of all senders together. For one event loop, without locks.

    Args:
        each: the share of one sender.
        total: the share of all. None: no bound.
    """

    def __init__(self, each: int, total: int | None = None) -> None:
        self._each = each
        self._total = total
        self._held: dict[str, int] = {}

    @contextmanager
    def hold(self, sender: str, size: int = 1) -> Iterator[None]:
        """Count `size` for the sender while the block runs. Raises as `take` does."""
        self.take(sender, size)
        try:
            yield
        finally:
            self.give_back(sender, size)

    def take(self, sender: str, size: int = 1) -> None:
        """Count `size` for the sender until `give_back`. Raise Problem (429) beyond its share, (503) beyond all."""
        held = self._held.get(sender, 0)
        if held and held + size > self._each:
            raise Problem(429, "Too many of your requests are under way. Wait until some have ended.", RETRY)
        if self._total is not None and sum(self._held.values()) + size > self._total:
            raise Problem(503, "Too many requests are under way. Send it again.", RETRY, cause="overload")
        self._held[sender] = held + size

    def give_back(self, sender: str, size: int = 1) -> None:
        """End the counting of what `take` counted."""
        if (left := self._held[sender] - size) > 0:
            self._held[sender] = left
        else:
            del self._held[sender]


class Admission:
    """Count the requests that wait, and end waits that take too long. For one event loop, without locks.

    Args:
        probe: a write that raises JournalError while the journal cannot be used. Without it, a request that waits too
            long is given up, and new ones are still admitted.
        kept: a sentence for the sender of a request that was given up.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]] | None,
        *,
        most: int = MAX_WAITING,
        most_bytes: int = MAX_WAITING_BYTES,
        max_wait: float = MAX_WAIT,
        kept: str = "It may have been kept. Send it again.",
    ) -> None:
        self._probe = probe
        self._most = most
        self._most_bytes = most_bytes
        self._max_wait = max_wait
        self._kept = kept
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        """By request that waits, in order, in seconds of the loop's clock."""
        self._late = set[asyncio.Task[Any]]()
        self._timer: asyncio.TimerHandle | None = None
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Kept from the first request, because asking for it costs a system call."""
        self._probing: asyncio.Task[None] | None = None
        self.refused = 0

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._deadlines)

    @property
    def shut(self) -> bool:
        """True while every request is refused, because one waited too long and no write has succeeded since."""
        return self._probing is not None

    async def run(self, size: int, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `work` with the current task, and a body of this size, counted as one that waits.

        Raises:
            Problem: 503, at once, or when the wait was cancelled by `Admission` or by the server's stop.
        """
        self.check()
        if len(self._deadlines) >= self._most or self._bytes + size > self._most_bytes:
            self.refused += 1
            raise Problem(503, "Receiver is overloaded. Send it again.", RETRY, cause="overload")
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        self._deadlines[task] = deadline = loop.time() + self._max_wait
        # One timer for all: one for each would be thousands in the loop's queue, nearly all of them cancelled.
        self._timer = self._timer or loop.call_at(deadline, self._give_up_late, loop)
        self._bytes += size
        try:
            return await work(*args, **kwargs)
        except asyncio.CancelledError as exc:
            if task not in self._late:
                headers = {**RETRY, "Connection": "close"}
                raise Problem(503, f"Receiver is stopping. {self._kept}", headers, cause="stopping") from exc
            task.uncancel()
            detail = f"Receiver could not write within {self._max_wait:g} s. {self._kept}"
            raise Problem(503, detail, RETRY, cause="journal stalled") from exc
        finally:
            del self._deadlines[task]
            self._late.discard(task)
            self._bytes -= size

    def check(self) -> None:
        """Raise Problem (503) while no request is admitted."""
        if self._probing is not None:
            self.refused += 1
            raise Problem(503, "Receiver cannot write now. Send it again.", RETRY, cause="journal stalled")

    async def aclose(self) -> None:
        """End the probe. Idempotent."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._probing = None
        if self._timer is not None:
            self._timer.cancel()

    def _give_up_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = [task for task, deadline in self._deadlines.items() if deadline <= now and task not in self._late]
        if late and self._probe is not None and self._probing is None:
            log.error("admission.shut", waiting=self.waiting, bytes=self._bytes, seconds=self._max_wait)
            self._probing = asyncio.create_task(self._reopen(self._probe), name="admission probe")
        for task in late:
            self._late.add(task)
            task.cancel()
        later = next((deadline for deadline in self._deadlines.values() if deadline > now), None)
        self._timer = None if later is None else loop.call_at(later, self._give_up_late, loop)

    async def _reopen(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Admit requests again after a write. It queues behind all that was given up, which by then takes no memory."""
        while True:
            try:
                await probe()
                break
            except JournalError:
                await asyncio.sleep(PROBE_SECONDS)
        self._probing = None
        log.info("admission.open", refused=self.refused)
