"""Connections of slow, greedy and silent senders: a real server, and raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from engine import logged
from servers import connect, exchange, read_all, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from waiting import PATIENCE

from receiver.cli.servers import server
from receiver.web.connections import KEEP_ALIVE_SECONDS, Connection, bounded
from receiver.web.health import livez
from receiver.web.streams import EventStream

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def refuses(request: Request) -> Response:
    """Answers without reading a body."""
    return PlainTextResponse("no", 401)


async def endless(request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    return StreamingResponse(lines())


APP = Starlette(
    routes=[
        Route("/livez", livez, methods=["GET"]),
        Route("/other", livez, methods=["GET", "POST"]),
        Route("/refuses", refuses, methods=["POST"]),
        Route("/endless", endless),
    ]
)


def few(most: int) -> type[Connection]:
    return bounded(most)


async def ask(connection: socket.socket, data: bytes = GET) -> bytes:
    """One answer on a connection that stays."""

    def talk() -> bytes:
        connection.sendall(data)
        answer = connection.recv(65536)
        while not answer.endswith((b"ok", b"no", b"}")):
            answer += connection.recv(65536)
        return answer

    return await asyncio.to_thread(talk)


async def closed(connection: socket.socket) -> bool:
    """Return True when the server ends the connection, after reading what it sends."""
    with contextlib.suppress(ConnectionError):
        await asyncio.to_thread(read_all, connection)
    return True


def trickle(connection: socket.socket, data: bytes) -> None:
    """Send the same again and again, for a minute or until the server has ended the connection."""
    for _ in range(3000):
        connection.sendall(data)
        time.sleep(0.02)


# The head


async def test_endless_headers() -> None:
    """Endless headers are cut off with 431 before they fill our memory. 40 KB of headers are accepted."""

    def talk(url: str, lines: int) -> bytes:
        with connect(url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            for number in range(lines):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 10_000))
            connection.sendall(b"\r\n")
            return read_all(connection)
        return b"cut off"

    async with serving(APP) as url:
        assert (await asyncio.to_thread(talk, url, 4)).startswith(b"HTTP/1.1 200")
        assert (await asyncio.to_thread(talk, url, 3000)).startswith((b"HTTP/1.1 431", b"cut off"))


class Whole(Connection):
    """Reads bring whole heads at once, as they do on a busy machine."""

    read = b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        if self.read.endswith(b"\r\n\r\n"):
            super().data_received(self.read)


@pytest.mark.parametrize(("size", "status"), [(40_000, b"200"), (200_000, b"431")])
async def test_a_long_head_in_one_read(size: int, status: bytes) -> None:
    """The bound holds however the head arrives."""
    async with serving(APP, Whole) as url:
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: %s\r\n\r\n" % (b"a" * size)
        answer = await exchange(url, head)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [status]


class Impatient(Connection):
    head_seconds = 0.5


class Forgetful(Connection):
    """A connection with a short keep-alive time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive = 1


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /callbacks/x HTTP/1.1\r\nHost: x\r\nX-A: ", b"\r\n\r\n", GET + b"GET /li"],
    ids=["nothing", "half a head", "line ends", "half a second head"],
)
async def test_slow_heads(sent: bytes) -> None:
    """A sender that never finishes its head, or never begins, gets 408. What it sent before is answered."""
    async with serving(APP, Impatient) as url:
        answer = await exchange(url, sent)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"] * sent.count(GET) + [b"408"]
    assert b"application/problem+json" in answer


async def test_line_ends_keep_no_connection() -> None:
    """Between requests, line ends alone do not extend the keep-alive time."""
    async with serving(APP, Forgetful) as url:
        with await asyncio.to_thread(connect, url) as connection:
            assert (await ask(connection)).startswith(b"HTTP/1.1 200")
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(trickle, connection, b"\r\n")


# The body


async def test_a_body_that_trickles_after_its_answer() -> None:
    """A sender that was answered before its body came has the keep-alive time to send the rest, and no longer."""
    async with serving(APP, Forgetful) as url:
        with await asyncio.to_thread(connect, url) as connection:
            connection.sendall(b"POST /refuses HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert (await asyncio.to_thread(connection.recv, 4096)).startswith(b"HTTP/1.1 401")
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(trickle, connection, b"x")


async def test_a_body_that_comes_after_its_answer() -> None:
    """A sender that sends the rest in time keeps the connection, without a deadline for its next request."""
    async with serving(APP, Impatient) as url:
        with await asyncio.to_thread(connect, url) as connection:
            refused = await ask(connection, b"POST /refuses HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
            assert refused.startswith(b"HTTP/1.1 401")
            connection.sendall(b"abc")
            await asyncio.sleep(3 * Impatient.head_seconds)
            assert (await ask(connection)).endswith(b"ok")


async def test_half_closed() -> None:
    """A sender that says it will send nothing more still gets its answer."""

    def talk(url: str) -> bytes:
        with connect(url) as connection:
            connection.sendall(GET)
            connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    async with serving(APP) as url:
        assert (await asyncio.to_thread(talk, url)).startswith(b"HTTP/1.1 200")


async def test_a_stream_ends_when_its_reader_leaves() -> None:
    """At once, although nothing is sent meanwhile: a page that was left is not rendered any more."""
    ended = asyncio.Event()

    async def told() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return EventStream(told(), media_type="text/event-stream")

    def look(url: str) -> None:
        with connect(url) as connection:
            connection.sendall(GET)
            received = b""
            while b"data: 1" not in received:
                received += connection.recv(65536)

    async with serving(Starlette(routes=[Route("/livez", stream)])) as url:
        await asyncio.to_thread(look, url)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_connections_outlive_a_proxys() -> None:
    """An idle connection is kept longer than nginx keeps it: a POST on one that is just being closed would be lost."""
    assert server(APP).config.timeout_keep_alive == KEEP_ALIVE_SECONDS
    assert KEEP_ALIVE_SECONDS > 60


# Too many


async def test_more_than_there_is_room_for() -> None:
    """Beyond the limit a request gets a quick 503 with Retry-After, and health checks are answered. With room again,
    requests are answered. The refusals are logged once."""
    body = b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    async with AsyncExitStack() as stack:
        lines = stack.enter_context(logged())
        url = await stack.enter_async_context(serving(APP, few(2)))
        busy = [stack.enter_context(await asyncio.to_thread(connect, url)) for _ in range(2)]
        for connection in busy:
            connection.sendall(GET.replace(b"livez", b"endless"))
            assert await asyncio.to_thread(connection.recv, 12) == b"HTTP/1.1 200"
        answers = [await exchange(url, data) for data in (GET.replace(b"livez", b"other"), body)]
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in answer.lower()
            assert b"connection: close" in answer.lower()
            assert b"application/problem+json" in answer
        health = await exchange(url, GET)
        assert health.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in health.lower()
        for connection in busy:
            connection.close()
        other = GET.replace(b"/livez", b"/other").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while not (await exchange(url, other)).startswith(b"HTTP/1.1 200"):
                pass
    assert [line["event"] for line in lines].count("connections.full") == 1


async def open_many(stack: AsyncExitStack, url: str, count: int, sent: bytes = b"") -> list[socket.socket]:
    """So many connections, each of which sends something."""

    def open_all() -> list[socket.socket]:
        found = [stack.enter_context(connect(url)) for _ in range(count)]
        for connection in found:
            connection.sendall(sent)
        return found

    return await asyncio.to_thread(open_all)


async def test_far_more_than_there_is_room_for() -> None:
    """Beyond the places kept for health checks a connection is dropped."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(APP, few(1)))
        (busy,) = await open_many(stack, url, 1, GET.replace(b"livez", b"endless"))
        assert await asyncio.to_thread(busy.recv, 1)  # under way, so that it gives no way to those that follow
        held = await open_many(stack, url, 99, GET.replace(b"livez", b"endless"))
        assert await closed(held[98])


@pytest.mark.parametrize("sent", [b"", GET[:20], GET], ids=["silent", "slow heads", "idle"])
async def test_connections_without_a_request_give_way(sent: bytes) -> None:
    """However many there are, a new one is answered, by any route. The oldest of them is closed."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(APP, few(3)))
        if sent == GET:
            held = [(await open_many(stack, url, 1))[0] for _ in range(10)]
            for connection in held[-3:]:
                assert (await ask(connection)).endswith(b"ok")
        else:
            held = await open_many(stack, url, 50, sent)
        begun = time.monotonic()
        answer = await exchange(url, GET.replace(b"/livez", b"/other").replace(b"x\r\n", b"x\r\nConnection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begun < Connection.head_seconds
        assert await closed(held[0])


async def test_a_request_under_way_gives_no_way() -> None:
    """A stream goes on, and an idle connection is closed after the silent ones."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(APP, few(3)))
        (stream,) = await open_many(stack, url, 1, GET.replace(b"livez", b"endless"))
        (idle,) = await open_many(stack, url, 1)
        assert (await ask(idle)).endswith(b"ok")
        await open_many(stack, url, 50)
        assert (await ask(idle)).endswith(b"ok")
        assert await asyncio.to_thread(stream.recv, 12) == b"HTTP/1.1 200"
