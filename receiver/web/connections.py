"""uvicorn's HTTP connection, with the bounds that uvicorn and httptools lack.

    head too long or too slow             431 or 408. Chunk extensions and trailers count as head
    not HTTP/1.x, or framing that two readers could understand differently      400
    an upgrade is requested               answered as plain HTTP/1.1: Java's client requests h2c with every call
    more connections than the limit       one that is silent, slow with its head, or idle gives way. If there is none,
                                          503, except for health checks

`receiver serve` must also hold without a proxy. uvicorn's own `limit_concurrency` refuses health checks.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.telemetry import Log
from receiver.web.problems import Problem, problem

log = Log("receiver.connections")

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers, approximately. Real senders have 1–2 KB."""
MAX_CONNECTIONS = 1000
KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection (nginx: 60 s). A callback on a connection that we just closed is lost,
because a proxy must not repeat a POST."""
_RESERVE = 64
"""Connections beyond the limit that are still read, so that health checks are answered. Later ones are dropped."""
_LINGER_SECONDS = 1.0
_LOG_SECONDS = 10.0

_CLOSE = {"Connection": "close"}
_BUSY = Problem(503, "Receiver has too many connections. Send it again.", {"Retry-After": "5", **_CLOSE})
_TOO_LONG = Problem(431, f"A request's head has {MAX_HEAD >> 10} KiB at most.", _CLOSE)
_UNREADABLE = Problem(400, "The request cannot be read.", _CLOSE)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_HEALTH = frozenset({b"/livez", b"/readyz"})


class Connection(HttpToolsProtocol):
    """One connection, with its requests one after the other."""

    most = MAX_CONNECTIONS
    silent: ClassVar[dict[Connection, None]] = {}
    """Connections of this server that have sent no whole head yet, the oldest first."""
    idle: ClassVar[dict[Connection, None]] = {}
    """Connections that were answered and send nothing new, the longest first."""
    head_seconds = 10.0
    """Deadline of a head, counted from the connection or its first byte."""
    _logged = float("-inf")  # time of the last log line about too many connections, of all connections
    _in_head = False
    _in_body = False
    _framing = 0  # bytes since a head began, or since the last part of a body
    _over_limit = False
    _ignores_input = False  # the connection ends, or only waits for its last answer
    _last: Problem | None = None  # sent behind the answers that are owed
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._make_room()
        self.silent[self] = None
        excess = len(self.connections) - self.most
        self._over_limit = excess > 0
        if excess > _RESERVE:
            self._log_full()
            self.transport.abort()
        else:
            self._start_timer()

    def _make_room(self) -> None:
        """End the connection that has been without a whole head for longest, if there is one. Idle ones come last,
        because a proxy may be about to use them."""
        for waiting in (self.silent, self.idle):
            if waiting:
                given_up = next(iter(waiting))
                del waiting[given_up]
                self.connections.discard(given_up)  # it is lost only after all that are being accepted now
                given_up.transport.abort()
                self._log_full()
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self.silent.pop(self, None)
        self.idle.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads the result, and uvicorn returns none
        """Answer a whole request although its sender closed its side. uvicorn would forget it. A stream of events has
        no end of its own, so it ends with its reader."""
        answering = self.cycle is not None and not self.cycle.response_complete and not self._in_body
        if answering and self.cycle.response_started and self.cycle.chunked_encoding:
            return False
        if answering:
            self.cycle.keep_alive = False
        return answering

    def data_received(self, data: bytes) -> None:
        """Parse what arrived. Only a new head ends the keep-alive time: line ends between requests, and the rest of a
        body that was answered unread, keep no connection open."""
        for at in range(0, len(data), MAX_HEAD):  # one read may bring a whole head of 256 KiB
            self._parse(data[at : at + MAX_HEAD])

    def _parse(self, data: bytes) -> None:
        if self._ignores_input:
            return
        self._framing += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                self._read_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self._refuse(_TOO_LONG if self._framing > MAX_HEAD else _UNREADABLE)
            return
        if self._framing > MAX_HEAD and (self._in_head or self._in_body):
            self._refuse(_TOO_LONG)
        elif self._in_head and self._timer is None:
            self._start_timer()  # a head that arrives whole, as nearly all do, costs no timer

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head = True
        self._framing = 0
        if self._timer is not None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        if self._over_limit and self.url not in _HEALTH:
            self._refuse(_BUSY)
        if self._ignores_input or not self._is_unambiguous():
            raise ValueError("refused")  # httptools turns it into an HttpParserError
        self.silent.pop(self, None)
        self.idle.pop(self, None)
        super().on_headers_complete()
        self._unset_keepalive_if_required()  # the last answer may have been completed since the head began
        self._in_head = False
        self._in_body = True
        self._stop_timer()
        if self._over_limit:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._framing = 0
        super().on_message_complete()

    def _is_unambiguous(self) -> bool:
        """Return True if this head can be read in one way only (RFC 9112 §3.2, §6.1)."""
        version = self.parser.get_http_version()
        hosts, codings = 0, set()
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.add(value.lower())
        return (version == "1.1" and hosts == 1 and codings <= {b"chunked"}) or (
            version == "1.0" and hosts < 2 and not codings
        )

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that asked for an upgrade. httptools stops parsing there, so a second parser goes
        on, after a head that only says how the body is framed."""

        def complete() -> None:
            self.on_message_complete()
            self._ignores_input = True

        self.cycle.more_body = True
        self.cycle.message_event.clear()
        self.cycle.keep_alive = False
        self._in_body = True
        self.parser = httptools.HttpRequestParser(SimpleNamespace(on_body=self.on_body, on_message_complete=complete))
        framing = [b"%b: %b\r\n" % field for field in self.headers if field[0] in _FRAMING]
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" + rest)

    def _start_timer(self) -> None:
        self._stop_timer()
        late = Problem(408, f"The request's head did not come within {self.head_seconds:g} s.", _CLOSE)
        self._timer = self.loop.call_later(self.head_seconds, self._refuse, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: Problem) -> None:
        """End the connection with this error, or with the answers that are still owed."""
        if self._ignores_input or self.transport.is_closing():
            return
        self._ignores_input = True
        self._stop_timer()
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._in_body:
            self.cycle.disconnected = True  # the reader of the body raises ClientDisconnect, and logs that
            self.cycle.message_event.set()
            if self.pipeline or self.cycle.response_started:
                self.transport.close()  # an error in the middle of other answers could not be read
                return
        elif error is _BUSY:
            self._log_full()
        else:
            log.info("connection.refused", status=error.status, reason=error.detail)
        if answering and not self._in_body:
            self._last = error
        else:
            self._end(error)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.idle[self] = None
        if self._last is not None and self.cycle.response_complete and not self.transport.is_closing():
            self._end(self._last)

    def _end(self, error: Problem) -> None:
        response = problem(error)
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        # Closing with bytes unread would reset the connection and lose our answer (RFC 9112 §9.6).
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _log_full(self) -> None:
        kind, now = type(self), self.loop.time()
        if now - kind._logged >= _LOG_SECONDS:
            kind._logged = now
            log.warning("connections.full", most=self.most)


def bounded(most: int) -> type[Connection]:
    """Return the connection class of a server that may have `most` connections."""
    return type("Connection", (Connection,), {"most": most, "silent": {}, "idle": {}})
