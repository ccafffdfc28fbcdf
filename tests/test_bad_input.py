"""Bad input, as one corpus: each case on the real server over a raw socket, and through a client where one sends it."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import AsyncIterator, Callable, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import pytest
import pytest_asyncio
from doors import JSON, MARKER, TASK, Door, assert_problem, body, opened, path, tokens
from engine import logged
from servers import connect, exchange, read_all
from waiting import PATIENCE

from receiver.clock import Clock
from receiver.events import Submission
from receiver.intake import Policy
from receiver.telemetry import redact
from receiver.web.callbacks import MAX_BODY

pytestmark = pytest.mark.asyncio(loop_scope="module")

Bytes = Callable[[Submission], bytes]
TYPE = "Content-Type: application/json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """An endpoint that accepts a terminal callback at once, without confirmation."""
    async with opened(tmp_path_factory.mktemp("door"), policy=Policy(confirm_ms=0)) as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One bad request and its answer.

    Attributes:
        status: of the answer.
        content: the body, or the bytes behind the head.
        length: True adds a correct Content-Length. False leaves the framing to `headers`.
        pieces: True sends it in chunks instead.
        raw: no client library sends it.
        logged: the one line in the log.
    """

    status: int
    method: str = "POST"
    where: Callable[[Submission], str] = path
    version: str = " HTTP/1.1"
    host: tuple[str, ...] = ("Host: x",)
    headers: tuple[str, ...] = (TYPE,)
    content: Bytes = body
    length: bool = True
    pieces: bool = False
    raw: bool = False
    logged: str = "callback.refused"

    def wire(self, row: Submission) -> bytes:
        """The request as bytes."""
        content = chunked(self.content)(row) if self.pieces else self.content(row)
        lines = [f"{self.method} {self.where(row)}{self.version}", *self.host, *self.headers]
        lines += [f"X-Marker: {MARKER}", "Connection: close"]
        if self.pieces:
            lines.append("Transfer-Encoding: chunked")
        elif self.length:
            lines.append(f"Content-Length: {len(content)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + content

    async def through(self, client: httpx.AsyncClient, url: str, row: Submission) -> httpx.Response:
        """The request as a client sends it."""
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in self.headers)]
        content = _pieces(self.content(row)) if self.pieces else self.content(row)
        where = url + self.where(row)
        return await client.request(self.method, where, content=content, headers=[*headers, ("X-Marker", MARKER)])


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """In pieces: the client then sends it chunked."""
    for at in range(0, len(content), 50_000):
        yield content[at : at + 50_000]


# What stands in the body


def padded(row: Submission, size: int) -> bytes:
    bare = len(body(row, padding=""))
    return body(row, padding="x" * (size - bare))


def iso_8859_1(row: Submission) -> bytes:
    return body(row, prompt="PLACE").replace(b"PLACE", f"{MARKER} caf\xe9".encode("iso-8859-1"))


def put(literal: bytes, key: str = "x") -> Bytes:
    """A task with a value of that spelling."""
    return lambda row: body(row, **{key: 0}).replace(f'"{key}": 0'.encode(), f'"{key}": '.encode() + literal)


BODIES: dict[str, tuple[int, Bytes]] = {
    "empty": (400, lambda row: b""),
    "blank": (400, lambda row: b" \n"),
    "not JSON": (400, lambda row: f"hello {MARKER}".encode()),
    "form": (400, lambda row: f"id={TASK}&state={MARKER}".encode()),
    "HTML": (400, lambda row: f"<html>{MARKER}</html>".encode()),
    "truncated": (400, lambda row: body(row)[:-1]),
    "two documents": (400, lambda row: body(row) + body(row)),
    "comment": (400, lambda row: b"/* */" + body(row)),
    "trailing comma": (400, lambda row: body(row)[:-1] + b",}"),
    "single quotes": (400, lambda row: body(row).replace(b'"', b"'")),
    "ISO-8859-1 and no JSON": (400, lambda row: iso_8859_1(row)[:-1]),
    "UTF-16": (400, lambda row: body(row).decode().encode("utf-16")),
    "UTF-32": (400, lambda row: body(row).decode().encode("utf-32")),
    "two BOMs": (400, lambda row: b"\xef\xbb\xbf" * 2 + body(row)),
    "BOM alone": (400, lambda row: b"\xef\xbb\xbf"),
    "NaN": (400, put(b"NaN")),
    "Infinity": (400, put(b"-Infinity")),
    "leading zero": (400, put(b"017")),
    "hexadecimal": (400, put(b"0x11")),
    "raw NUL": (400, lambda row: body(row).replace(b"46%", b"46\x00")),
    "raw line end": (400, lambda row: body(row).replace(b"46%", b"46\n")),
    "100,000 [": (400, lambda row: b"[" * 100_000),
    "100,000 [ closed": (400, lambda row: b"[" * 100_000 + b"]" * 100_000),
    "100,000 objects": (400, lambda row: b'{"a":' * 50_000),
    "65 nested lists": (400, put(b"[" * 64 + b"]" * 64, "seed")),
    "5,000 nested lists": (400, put(b"[" * 5_000 + b"]" * 5_000)),
    "4,301-digit integer": (400, put(b"9" * 4301)),
    "100,000-digit integer": (400, put(b"9" * 100_000)),
    "list": (422, lambda row: f'["{MARKER}"]'.encode()),
    "list of tasks": (422, lambda row: b"[" + body(row) + b"]"),
    "string": (422, lambda row: f'"{MARKER}"'.encode()),
    "null": (422, lambda row: b"null"),
    "number": (422, lambda row: b"17"),
    "no id": (422, lambda row: json.dumps({"state": tokens().state_token(row.id), "x": MARKER}).encode()),
    "id null": (422, lambda row: body(row, id=None)),
    "id empty": (422, lambda row: body(row, id="")),
    "id blank": (422, lambda row: body(row, id="  ")),
    "id too long": (422, lambda row: body(row, id=MARKER + "9" * 60)),
    "id bool": (422, lambda row: body(row, id=True)),
    "id float": (422, lambda row: body(row, id=1.5)),
    "id object": (422, lambda row: body(row, id={"a": MARKER})),
    "id of 65 digits": (422, lambda row: body(row, id=10**64)),
    "one byte too many": (413, lambda row: padded(row, MAX_BODY + 1)),
    "1 MiB": (413, lambda row: padded(row, 2**20)),
}


def chunked(make: Bytes) -> Bytes:
    """In chunks of 50,000 bytes."""

    def content(row: Submission) -> bytes:
        whole = make(row)
        parts = [whole[at : at + 50_000] for at in range(0, len(whole), 50_000)]
        return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    return content


# What stands before it


def gzip(kind: str) -> Case:
    return Case(status=415, headers=(TYPE, f"Content-Encoding: {kind}"))


def typed(kind: str) -> Case:
    return Case(status=415, headers=(f"Content-Type: {kind}",))


HEADERS: dict[str, Case] = {
    "no type": Case(status=415, headers=()),
    "empty type": typed(""),
    "text": typed("text/plain"),
    "form": typed("application/x-www-form-urlencoded"),
    "multipart": typed(f"multipart/form-data; boundary={MARKER}"),
    "HTML": typed(f"text/html; x={MARKER}"),
    "JSONP": typed("application/jsonp"),
    "half a type": typed("application"),
    "two types in one": typed("text/plain, application/json"),
    "two types": Case(status=415, headers=(TYPE, "Content-Type: text/plain")),
    "gzip": gzip("gzip"),
    "br": gzip("br"),
    "unknown coding": gzip(MARKER),
    "two codings": gzip("gzip, identity"),
}

METHODS: dict[str, Case] = {
    f"{method} {name}": Case(status=405, method=method, where=where)
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    for name, where in (("signed", path), ("unsigned", lambda row: "/callbacks"))
}


def at(where: str, status: int = 404, method: str = "POST", *, raw: bool = False) -> Case:
    logged = "callback.refused" if status == 401 else "request.refused"
    content: Bytes = body if method == "POST" else lambda row: b""
    return Case(status=status, method=method, where=lambda row: where, content=content, raw=raw, logged=logged)


def behind(change: Callable[[str], str], status: int = 401) -> Case:
    """At a signed address that was changed on the way."""
    return replace(at("", status, raw=True), where=lambda row: change(path(row)))


ADDRESSES: dict[str, Case] = {
    "root": at("/"),
    "unknown": at(f"/{MARKER}"),
    "almost": at("/callback"),
    "upper case": at(f"/CALLBACKS/{MARKER}"),
    "two slashes": at("//callbacks", raw=True),
    "unsigned": at(f"/callbacks/{MARKER}", 401),
    "no token": at("/callbacks/", 401),
    "health with a slash": at("/livez/", method="GET"),
    "docs": at("/docs", method="GET"),
    "API without tokens": at("/openapi.json", method="GET"),
    "POST to health": at("/livez", 405),
    "DELETE of health": at("/readyz", 405, "DELETE"),
    "asterisk": at("*", method="OPTIONS", raw=True),
    "encoded NUL": at("/callbacks%00", raw=True),
    "encoded slash": at("/callbacks%2Fx", 401, raw=True),
    "broken escape": at("/%zz", raw=True),
    "climbing": at("/callbacks/../livez", 401, raw=True),
    "climbing, encoded": at("/callbacks/%2e%2e/%2e%2e/etc/passwd", 401, raw=True),
    "overlong dots": at("/callbacks/%c0%ae%c0%ae/", 401, raw=True),
    "backslashes": at("/callbacks/..\\..\\x", 401, raw=True),
    "60 KB of path": at(f"/{'A' * 60_000}", raw=True),
    "two slashes behind": behind(lambda where: where + "//"),
    "a slash and more behind": behind(lambda where: where + "%2Fx"),
    "slash before": behind(lambda where: where.replace("/callbacks/", "/callbacks//")),
    "two slashes before": behind(lambda where: "/" + where, 404),
    "semicolon": behind(lambda where: where + ";jsessionid=1"),
    "encoded twice": behind(lambda where: where.replace(".", "%252E")),
}


# What no client sends


def unreadable(**changed: Any) -> Case:
    return replace(Case(status=400, raw=True, logged="connection.refused"), **changed)


def framed(*headers: str, content: Bytes = body, **changed: Any) -> Case:
    return unreadable(headers=(TYPE, *headers), content=content, length=False, **changed)


WIRE: dict[str, Case] = {
    "HTTP/0.9": unreadable(version=""),
    "HTTP/2.0": unreadable(version=" HTTP/2.0"),
    "HTTP/1.2": unreadable(version=" HTTP/1.2"),
    "HTTP/9.9": unreadable(version=" HTTP/9.9"),
    "two words more": unreadable(version=" x HTTP/1.1"),
    "unknown method": unreadable(method="FOO"),
    "lower-case method": unreadable(method="post"),
    "long method": unreadable(method="A" * 1000),
    "CONNECT": unreadable(method="CONNECT", where=lambda row: "evil.test:443"),
    "address without a path": unreadable(where=lambda row: "http://evil.test"),
    "address beyond ASCII": unreadable(where=lambda row: f"/callbacks/{MARKER}\xe9"),
    "address of 70 KB": unreadable(where=lambda row: "/" + "A" * 70_000),
    "control character in the address": unreadable(where=lambda row: "/callbacks/\x01"),
    "no Host": unreadable(host=()),
    "two Hosts": unreadable(host=("Host: x", "Host: evil.test")),
    "header without a colon": unreadable(headers=(TYPE, "Bad header")),
    "space before the colon": unreadable(headers=(TYPE, "X-Bad : 1")),
    "folded header": unreadable(headers=(TYPE, "X-Bad: 1\r\n 2")),
    "NUL in a header": unreadable(headers=(TYPE, "X-Bad: a\x00b")),
    "CR in a header": unreadable(headers=(TYPE, "X-Bad: a\rb")),
    "line ends without CR": unreadable(headers=(f"{TYPE}\nX-Bad: 1",)),
    "two lengths": framed("Content-Length: 5", "Content-Length: 6"),
    "the same length twice": framed("Content-Length: 5", "Content-Length: 5"),
    "list of lengths": framed("Content-Length: 5, 5"),
    "length in letters": framed("Content-Length: abc"),
    "negative length": framed("Content-Length: -1"),
    "length with a plus": framed("Content-Length: +5"),
    "hexadecimal length": framed("Content-Length: 0x10"),
    "empty length": framed("Content-Length:"),
    "length of 20 digits": framed("Content-Length: 99999999999999999999"),
    "length and chunks": framed("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunks and length": framed("Transfer-Encoding: chunked", "Content-Length: 5"),
    "chunked twice": framed("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "not quite chunked": framed("Transfer-Encoding: xchunked"),
    "gzip, chunked": framed("Transfer-Encoding: gzip, chunked", content=chunked(body)),
    "chunked, gzip": framed("Transfer-Encoding: chunked, gzip", content=chunked(body)),
    "space before chunked's colon": framed("Transfer-Encoding : chunked", content=chunked(body)),
    "chunked in HTTP/1.0": framed("Transfer-Encoding: chunked", content=chunked(body), version=" HTTP/1.0"),
    "no length": framed(content=lambda row: b"", status=411, logged="callback.refused"),
    "no length in HTTP/1.0": framed(status=411, version=" HTTP/1.0", logged="callback.refused"),
    **{
        f"chunk size {name}": framed("Transfer-Encoding: chunked", content=made(size), logged="callback.broken_off")
        for made in (lambda size: lambda row: size + b"\r\n" + body(row),)
        for name, size in {"in letters": b"zz", "negative": b"-1", "endless": b"F" * 17, "hexadecimal": b"0x5"}.items()
    },
    "chunk longer than it says": framed(
        "Transfer-Encoding: chunked", content=lambda row: b"3\r\n" + body(row), logged="callback.broken_off"
    ),
    "an upgrade and a broken chunk": framed(
        "Transfer-Encoding: chunked", "Connection: Upgrade", "Upgrade: h2c", content=lambda row: b"zz\r\n" + body(row),
        logged="callback.broken_off",
    ),
    "endless chunk extension": framed(
        "Transfer-Encoding: chunked", content=lambda row: b"1;" + b"a" * 300_000, status=431,
        logged="callback.broken_off",
    ),
    "endless trailer": framed(
        "Transfer-Encoding: chunked", status=431, logged="callback.broken_off",
        content=lambda row: chunked(body)(row)[:-2] + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(300)),
    ),
    "header flood": unreadable(headers=(TYPE, *(f"X-{n}: {'a' * 1000}" for n in range(200))), status=431),
    "one endless header": unreadable(headers=(TYPE, f"X-A: {'a' * 200_000}"), status=431),
    "a gigabyte to come": framed("Content-Length: 1000000000", status=413, logged="callback.refused"),
    "an exabyte to come": framed("Content-Length: 1000000000000000000", status=400, logged="callback.refused"),
}  # fmt: skip

CORPUS: dict[str, Case] = {
    **{f"body: {name}": Case(status=status, content=make) for name, (status, make) in BODIES.items()},
    **{
        f"chunked body: {name}": Case(status=BODIES[name][0], content=BODIES[name][1], pieces=True)
        for name in ("empty", "truncated", "100,000 [", "list", "one byte too many", "1 MiB")
    },
    **{f"header: {name}": case for name, case in HEADERS.items()},
    **{f"method: {name}": case for name, case in METHODS.items()},
    **{f"address: {name}": case for name, case in ADDRESSES.items()},
    **{f"wire: {name}": case for name, case in WIRE.items()},
}


async def line_of(lines: list[MutableMapping[str, Any]]) -> str:
    """Return the name of the only log line, which may come after the answer."""
    async with asyncio.timeout(PATIENCE):
        while not lines:  # noqa: ASYNC110 - a line in a log sets no event
            await asyncio.sleep(0.001)
    (line,) = lines
    return str(line["event"])


async def check(door: Door, row: Submission, before: int, case: Case, lines: list[MutableMapping[str, Any]]) -> None:
    """Check that there is one log line without secrets, nothing is stored, and the endpoint still works."""
    assert await line_of(lines) == case.logged
    if not case.logged.startswith("request."):
        assert MARKER not in repr(lines)
    assert path(row).rpartition("/")[2] not in redact(repr(lines))
    assert await door.stored() == before
    assert await door.journal.find(row.id) == row
    assert (await door.post(path(row), body(row))).status_code == 200


@pytest.mark.parametrize("name", CORPUS)
async def test_over_a_socket(door: Door, name: str) -> None:
    """The documented status as a problem, no echo, one log line, nothing stored, and the endpoint still works."""
    row, before, case = await door.submission(), await door.stored(), CORPUS[name]
    with logged() as lines:
        answer = await exchange(door.url, case.wire(row))
        await line_of(lines)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [str(case.status).encode()]
    assert b"content-type: application/problem+json" in head.lower()
    assert b"location:" not in head.lower()
    for secret in (MARKER, row.id):
        assert secret.encode() not in answer
    if case.method != "HEAD":
        problem = json.loads(content)
        assert problem["status"] == case.status
        assert problem["detail"].endswith(".")
    await check(door, row, before, case, lines)


@pytest.mark.parametrize("name", [name for name, case in CORPUS.items() if not case.raw])
async def test_through_a_client(door: Door, name: str) -> None:
    """The same through a client library, on a connection that is kept."""
    row, before, case = await door.submission(), await door.stored(), CORPUS[name]
    with logged() as lines:
        response = await case.through(door.client, door.url, row)
    if case.method == "HEAD":
        assert (response.status_code, response.content) == (case.status, b"")
    else:
        assert_problem(response, case.status)
    if case.status == 405 and case.logged == "callback.refused":
        assert response.headers["allow"] == "POST"
    if case.status == 415:
        assert ("Accept-Encoding" if "Content-Encoding" in str(case.headers) else "Accept") in response.headers
    assert "location" not in response.headers
    await check(door, row, before, case, lines)


# Tolerated on purpose


GOOD_BODIES: dict[str, Bytes] = {
    "exactly 256 KiB": lambda row: padded(row, MAX_BODY),
    "BOM": lambda row: b"\xef\xbb\xbf" + body(row),
    "lone surrogate": lambda row: body(row, prompt="PLACE").replace(b"PLACE", rb"\ud83d boat \udc00"),
    "escaped NUL": lambda row: body(row, prompt="a\0b"),
    "integer id": lambda row: body(row, id=int(TASK)),
    "unknown keys": lambda row: body(row, **{f"key{n}": None for n in range(200)}),
    "nulls": lambda row: body(row, **dict.fromkeys(["prompt", "imageUrl", "submitTime", "buttons", "properties"])),
    "wrong types": lambda row: body(row, prompt=[1], imageUrl={"a": 1}, submitTime="soon", buttons=5, properties="x"),
    "huge numbers": lambda row: body(row, submitTime=2**63, startTime=-(2**64), finishTime=1e300, seed=10**300),
    "4,300-digit integer": put(b"9" * 4300),
    "overflowing number": put(b"1e999"),
    "same key twice": lambda row: body(row).replace(b"{", b'{"progress": "3%",', 1),
    "raw UTF-8": lambda row: json.dumps({**json.loads(body(row)), "prompt": "猫 🛶"}, ensure_ascii=False).encode(),
    "63 nested lists": put(b"[" * 62 + b"]" * 62, "seed"),
    "66 nested lists that nobody reads": put(b"[" * 65 + b"]" * 65),
    "60 keys of 4 KB": lambda row: body(row, **{f"key{n}": "y" * 4000 for n in range(60)}),
}


NO_UTF_8: dict[str, Bytes] = {
    "ISO-8859-1": iso_8859_1,
    "GBK": lambda row: body(row, prompt="PLACE").replace(b"PLACE", "小船".encode("gbk")),
    "half a UTF-8 character": lambda row: body(row, prompt="PLACE").replace(b"PLACE", b"\xe7\x8c"),
    "overlong UTF-8": lambda row: body(row, prompt="PLACE").replace(b"PLACE", b"\xc0\xaf"),
    "surrogate in UTF-8": lambda row: body(row, prompt="PLACE").replace(b"PLACE", b"\xed\xa0\x80"),
}


@pytest.mark.parametrize("name", NO_UTF_8)
async def test_a_body_that_is_no_utf_8_starts_a_poll(door: Door, name: str) -> None:
    """Its token is good and its words may be wrong: it is kept, changes nothing, and the provider is asked now."""
    row = await door.submission()
    assert (await door.post("/callbacks/x" + path(row)[11:], NO_UTF_8[name](row))).status_code == 401
    response = await door.post(path(row), NO_UTF_8[name](row))
    assert (response.status_code, response.json()) == (202, {"accepted": False})
    (callback,) = await door.journal.callbacks(row.id)
    assert (callback.cause, json.loads(callback.body)["id"]) == ("encoding", TASK)
    after = await door.journal.find(row.id)
    assert after.poll_due_ms is not None
    assert after.poll_due_ms <= Clock().now_ms()
    assert await door.types(row) == []


@pytest.mark.parametrize("name", GOOD_BODIES)
async def test_tolerated_body(door: Door, name: str) -> None:
    """An odd body with an id is accepted, and stored so that it can be read again."""
    row = await door.submission()
    response = await door.post(path(row), GOOD_BODIES[name](row))
    assert (response.status_code, response.json()) == (200, {"accepted": True})
    (callback,) = await door.journal.callbacks(row.id)
    assert callback.cause is None
    state = json.loads(callback.body.removeprefix("\ufeff".encode()))["state"]
    assert state == f"{row.id}.[redacted]"
    assert await door.types(row) == ["task.progressed.46"]
    after = await door.journal.find(row.id)
    assert after.task is not None
    after.task.prompt.encode()  # no half characters in what is read


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        {"content-type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON;Charset=UTF-8"},
        {"Content-Type": "application/json ; charset=utf-8"},
        {"Content-Type": "application/vnd.provider+json"},
        {"Content-Type": "application/json;charset=ISO-8859-1"},
        {**JSON, "Content-Encoding": "identity"},
        {**JSON, "Content-Encoding": ""},
        {**JSON, "Accept": "text/plain, */*", "Accept-Charset": ", ".join(f"x-charset-{n}" for n in range(3000))},
        {**JSON, "X-Forwarded-For": MARKER, "Host": "evil.test", "Forwarded": "host=evil.test"},
        {**JSON, "Host": "a b<script>"},
        {**JSON, "Expect": "100-continue"},
    ],
    ids=str,
)
async def test_tolerated_headers(door: Door, headers: dict[str, str]) -> None:
    """JSON by any of its names is taken, by any Host, with the very long Accept-Charset of the Java sender."""
    row = await door.submission()
    assert (await door.post(path(row), body(row), headers)).status_code == 200
    assert await door.kept(row) == [None]


GOOD_WIRE: dict[str, Case] = {
    "HTTP/1.0": Case(status=200, version=" HTTP/1.0"),
    "HTTP/1.0 without Host": Case(status=200, version=" HTTP/1.0", host=()),
    "absolute form": Case(status=200, where=lambda row: f"http://evil.test{path(row)}"),
    "query": Case(status=200, where=lambda row: f"{path(row)}?rand=1"),
    "encoded dots": Case(status=200, where=lambda row: path(row).replace(".", "%2E")),
    "empty lines before": Case(status=200, method="\r\n\r\nPOST"),
    "ISO-8859-1 in a header": Case(status=200, headers=(TYPE, "X-A: caf\xe9")),
    "upgrade to HTTP/2": Case(
        status=200, headers=(TYPE, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEA")
    ),
    "upgrade to WebSocket": Case(status=200, headers=(TYPE, "Connection: Upgrade", "Upgrade: websocket")),
    "chunks with extensions and trailers": Case(
        status=200,
        headers=(TYPE, "Transfer-Encoding: chunked"),
        length=False,
        content=lambda row: b"%x;ext=1\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body(row)), body(row)),
    ),
    "chunks and an upgrade": Case(status=200, headers=(TYPE, "Connection: Upgrade", "Upgrade: h2c"), pieces=True),
}


@pytest.mark.parametrize("name", GOOD_WIRE)
async def test_tolerated_on_the_wire(door: Door, name: str) -> None:
    """Odd but real requests are accepted: newer Java clients ask for HTTP/2 with every plain request."""
    row = await door.submission()
    answer = await exchange(door.url, GOOD_WIRE[name].wire(row))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert await door.kept(row) == [None]


async def test_an_upgrade_whose_body_comes_later(door: Door) -> None:
    """Head and body in two packets are one request, with an upgrade asked for, too."""
    row = await door.submission()
    head, _, content = GOOD_WIRE["upgrade to HTTP/2"].wire(row).partition(b"\r\n\r\n")

    def talk() -> bytes:
        with connect(door.url) as connection:
            connection.sendall(head + b"\r\n\r\n")
            connection.sendall(content[:10])
            connection.sendall(content[10:])
            return read_all(connection)

    assert (await asyncio.to_thread(talk)).startswith(b"HTTP/1.1 200 ")
    assert await door.kept(row) == [None]


async def test_expect_100_continue(door: Door) -> None:
    """A sender that waits for `100 Continue` gets it if the token is good, else the 401 at once."""
    row = await door.submission()
    good = Case(status=200, headers=(TYPE, "Expect: 100-continue")).wire(row)
    assert re.findall(rb"HTTP/1\.1 (\d+)", await exchange(door.url, good)) == [b"100", b"200"]
    bad = good.replace(path(row).encode(), b"/callbacks/x")
    assert re.findall(rb"HTTP/1\.1 (\d+)", await exchange(door.url, bad)) == [b"401"]


# One after the other on one connection


def request(row: Submission, content: bytes, *headers: str) -> bytes:
    lines = [f"POST {path(row)} HTTP/1.1", "Host: x", TYPE, *headers, f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def test_pipelining(door: Door) -> None:
    """Requests sent at once on one connection are answered in order."""
    first, second = await door.submission(), await door.submission()
    answer = await exchange(
        door.url,
        request(first, body(first))
        + request(second, b"[]")
        + request(second, body(second, id="other"), "Connection: close"),
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"422", b"202"]
    assert await door.kept(first) == [None]
    assert await door.kept(second) == ["other_task"]


async def test_nonsense_behind_a_request(door: Door) -> None:
    """A complete request is answered before the 400 that ends the connection."""
    row = await door.submission()
    answer = await exchange(door.url, request(row, body(row)) + b"nonsense\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400"]
    assert await door.kept(row) == [None]


async def test_keep_alive_after_a_refusal(door: Door) -> None:
    """A refusal whose body was not read leaves the connection in order for the next request: nothing is smuggled."""
    row = await door.submission()
    hidden = request(row, body(row))
    bad = b"POST /callbacks/bad HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    answer = await exchange(door.url, bad + request(row, body(row, id="other"), "Connection: close"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"401", b"202"]
    assert await door.kept(row) == ["other_task"]


# Slow, and gone


async def test_slow_body(tmp_path: Path) -> None:
    """A body that does not come in time gets a 408, the connection ends, and nothing is stored."""
    async with opened(tmp_path, policy=Policy(), body_timeout=0.2) as door:
        row = await door.submission()
        answer = await exchange(door.url, request(row, body(row))[:-10])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer
        assert b"connection: close" in answer.lower()
        assert await door.kept(row) == []


async def test_unsigned_body_is_not_read(door: Door) -> None:
    """The 401 comes before the body does."""

    def talk() -> bytes:
        with connect(door.url) as connection:
            connection.sendall(b"POST /callbacks/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            return connection.recv(4096)

    assert (await asyncio.to_thread(talk)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("reset", [False, True])
async def test_sender_hangs_up(door: Door, reset: bool) -> None:
    """A sender that goes away in the middle of its body leaves one line in the log and nothing in the journal."""
    row = await door.submission()

    def talk() -> None:
        with connect(door.url) as connection:
            connection.sendall(request(row, body(row))[:-10])
            if reset:
                connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

    with logged() as lines:
        await asyncio.to_thread(talk)
        assert await line_of(lines) == "callback.broken_off"
    assert await door.kept(row) == []


async def test_sender_that_does_not_wait(door: Door) -> None:
    """A sender that hangs up as soon as it has sent its callback has sent it: it is kept."""
    rows = [await door.submission() for _ in range(50)]

    def talk() -> None:
        for row in rows:
            with connect(door.url) as connection:
                connection.sendall(request(row, body(row)))

    with logged() as lines:
        await asyncio.to_thread(talk)
        async with asyncio.timeout(PATIENCE):
            while len([line for line in lines if line["event"].startswith("callback.")]) < len(rows):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert [await door.kept(row) for row in rows] == [[None]] * len(rows)


async def test_slow_sender_holds_up_no_other(door: Door) -> None:
    """While one body trickles in, others are answered. Then the slow one is answered, too."""
    slow = await door.submission()
    data = request(slow, body(slow), "Connection: close")
    connection = await asyncio.to_thread(connect, door.url)
    with connection:
        connection.sendall(data[:-5])
        others = [await door.submission() for _ in range(20)]
        answers = await asyncio.gather(*(door.post(path(row), body(row)) for row in others))
        assert {answer.status_code for answer in answers} == {200}
        assert await door.kept(slow) == []
        connection.sendall(data[-5:])
        assert (await asyncio.to_thread(read_all, connection)).startswith(b"HTTP/1.1 200")
    assert await door.kept(slow) == [None]
