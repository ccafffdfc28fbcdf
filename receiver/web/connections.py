"""uvicorn's connections with bounds: httptools and uvicorn set none, so that one sender could fill our memory with
headers or pipelined requests, an idle or slow one keep its connection for ever, and many of them all there are.

    head too long, too slow           431, 408; a trailer or what else stands between the parts of a body, too
    no HTTP, or ambiguous             400: 0.9 and 2.0, no Host or two, a transfer coding beside `chunked`
    an upgrade is asked for           answered as if it were not: newer Java clients ask for h2c with each plain request
    body that trickles after its answer, answer that is not read      the connection ends
    requests sent ahead without reading their answers                 the connection ends
    more connections than `most`      the longest idle one gives way; if none is idle, 503, but health is answered

uvicorn's own `limit_concurrency` counts requests together with connections, and refuses health checks, too.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

import httptools
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.web.problems import Problem, problem

log = structlog.get_logger("receiver.connections")

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers, about: real senders have 1–2 KB."""
MAX_CONNECTIONS = 1000
MAX_AHEAD = 32
"""Requests one connection may send before their turn has come; real senders send none."""
KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps an idle connection (nginx: 60 s), so that it never sends a callback on one we just closed;
it would not send it again, because a POST must not be repeated."""
_RESERVE = 64
"""Connections beyond `most` that are listened to, so that health checks get their answer."""
_LINGERING = 256
"""Further ones that hear a 503; beyond that, connections are dropped without a word."""
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1024 * 1024
_TELL_SECONDS = 10.0

_BUSY = Problem(
    503, "Receiver has too many connections; send it again.", {"Retry-After": "5", "Connection": "close"}
)  # fmt: skip
_TOO_LONG = Problem(431, f"A request's head has {MAX_HEAD >> 10} KiB at most.", {"Connection": "close"})
_UNREADABLE = Problem(400, "The request cannot be read.", {"Connection": "close"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_HEALTH = frozenset({"/livez", "/readyz"})


class Crowd:
    """How many connections one server may have, and one log line in a while when it has more."""

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self.most = most
        self.refused = 0
        self._told = float("-inf")

    def refuse(self, now: float) -> None:
        """Counts one; now and then the log hears of it."""
        self.refused += 1
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            log.warning("connections.full", most=self.most, refused=self.refused)


class Connection(HttpToolsProtocol):
    """One connection, on which requests come one after the other."""

    crowd = Crowd()
    head_seconds = 10.0
    """How long a head may take, counted from the connection or its first byte."""
    tail_seconds = 10.0
    """How long the rest of a body may take whose request was answered already."""
    unread_seconds = 30.0
    """How long a sender may leave its answer unread."""
    _in_head = False
    """Whether a head is coming in."""
    _framing = 0
    """Bytes that came since a head began or since the last part of a body."""
    _body = False
    """Whether a body is coming in."""
    _over = False
    """Whether we have more connections than we should: this one is let go after its answer."""
    _deaf = False
    """Whether all has been said, and what comes is not looked at."""
    _parting: Problem | None = None
    """What is said after the answers that are owed."""
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        excess = len(self.connections) - self.crowd.most
        if excess > 0 and not self._take_place():
            self._join_crowd(excess)
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._parting is not None:
            return
        self._unset_keepalive_if_required()
        self._framing += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(_TOO_LONG if self._framing > MAX_HEAD else _UNREADABLE)
            return
        if self._framing > MAX_HEAD and (self._in_head or self._body):
            self._refuse(_TOO_LONG)
        elif self._timer is None and (self._in_head or self._waits_for_nothing()):
            self._start_timer()  # a head that came whole, as nearly all do, costs none

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._framing = 0
        if self._timer is not None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD or not self._unambiguous():
            raise ValueError("refused")  # httptools makes its own error of it
        super().on_headers_complete()
        self._in_head = False
        self._body = True
        self._stop_timer()
        if self._over:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body = False
        self._framing = 0
        if self.cycle.response_complete:  # the tail has come, so this connection is idle from now on
            self._stop_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # those that wait come first
        elif self._parting is not None and not self._owes_answer():
            self._part(self._parting)
        elif self._body:
            self._stop_timer()
            self._timer = self.loop.call_later(self.tail_seconds, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_unread()
        self._unread = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and something was."""
        return (
            self.cycle is not None
            and self.cycle.response_complete
            and not self._in_head
            and not self._body
            and not self.transport.is_closing()
        )

    def _waits_for_nothing(self) -> bool:
        """Whether what came was line ends alone, which no message begins with, and no other timer is set."""
        return self.timeout_keep_alive_task is None and self.idle

    def _unambiguous(self) -> bool:
        """Whether this head can be read in one way only (RFC 9112 §3.2, §6.1)."""
        version = self.parser.get_http_version()
        hosts, coded = 0, False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                coded = True
                if value.lower() != b"chunked":
                    return False
        return (version == "1.1" and hosts == 1) or (version == "1.0" and hosts < 2 and not coded)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._go_on(data[exc.args[0] :])

    def _go_on(self, rest: bytes) -> None:
        """Read the body of a request that asked for an upgrade, which httptools would leave to the other protocol."""
        self.cycle.more_body = True
        self.cycle.message_event.clear()
        self.cycle.keep_alive = False
        self._body = True
        self.parser = httptools.HttpRequestParser(_Rest(self))
        framing = [b"%b: %b\r\n" % field for field in self.headers if field[0] in _FRAMING]
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" + rest)

    def _take_place(self) -> bool:
        """An idle connection's place; whether there was one."""
        idle = next((item for item in self.connections if isinstance(item, Connection) and item.idle), None)
        if idle is not None:
            idle.transport.close()
        return idle is not None

    def _join_crowd(self, excess: int) -> None:
        self._over = True
        if excess > _RESERVE + _LINGERING:
            self.crowd.refuse(self.loop.time())
            self.transport.abort()
        elif excess > _RESERVE:
            self.crowd.refuse(self.loop.time())
            self._part(_BUSY)
        else:
            self.app = cast(ASGI3Application, _Busy(cast(ASGIApp, self.app), self.crowd))
            self._start_timer()

    def _owes_answer(self) -> bool:
        """Whether a request that came as a whole waits for its answer."""
        return bool(self.pipeline) or (
            self.cycle is not None and not self.cycle.response_complete and not self._body
        )  # fmt: skip

    def _start_timer(self) -> None:
        self._stop_timer()
        late = Problem(408, f"The request's head did not come within {self.head_seconds:g} s.", {"Connection": "close"})
        self._timer = self.loop.call_later(self.head_seconds, self._refuse, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, error: Problem) -> None:
        """Say why this connection ends, after the answers that are owed."""
        self._stop_timer()
        if self.transport.is_closing() or self._parting is not None:
            return
        reading = self._body and not self.cycle.response_complete
        if not reading:  # else whoever reads the body learns that it has broken off, and says so
            log.info("connection.refused", status=error.status, reason=error.detail)
        self._parting = error
        if self._owes_answer():
            self.flow.pause_reading()
        elif reading and self.cycle.response_started:
            self.transport.close()  # in the middle of an answer, nothing can be said
        else:
            self._part(error)

    def _part(self, error: Problem) -> None:
        """Say it, and end. What is still coming in is read for a moment, and forgotten: a connection closed with bytes
        unread is reset, and our answer lost (RFC 9112 §9.6)."""
        self._deaf = True
        self.transport.write(_on_the_wire(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_timer()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whoever reads the body learns that nobody is there
            self.cycle.message_event.set()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio asks for it, uvicorn's own never says yes
        """Nothing more comes. A sender that hangs up after a whole request, without waiting for our answer, has sent
        it all the same; uvicorn would forget it."""
        owes = self._owes_answer()
        if owes:
            self.cycle.keep_alive = False
        return owes


class _Rest:
    """Passes on what a body's parser finds, until the body's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.on_body = connection.on_body

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()
        self._connection._deaf = True


def bounded(most: int) -> type[Connection]:
    """Connections of a server that may have `most` of them."""
    return type("Connection", (Connection,), {"crowd": Crowd(most)})


class _Busy:
    """Answers health checks, and 503 to everybody else."""

    def __init__(self, app: ASGIApp, crowd: Crowd) -> None:
        self._app = app
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _HEALTH:
            await self._app(scope, receive, send)
            return
        self._crowd.refuse(asyncio.get_running_loop().time())
        await _swallow(receive)
        await problem(_BUSY)(scope, receive, send)


async def _swallow(receive: Receive) -> None:
    """Read a body and forget it, for a while."""
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            size, more = 0, True
            while more and size < _LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        return


def _on_the_wire(error: Problem) -> bytes:
    """A problem as bytes, for where there is no request yet that could be answered."""
    response = problem(error)
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
