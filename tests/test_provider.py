"""The provider over HTTP: what goes out, what comes back, and what every kind of broken network is called."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from answering import Answering
from proxies import connect_proxy

from receiver import provider
from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, ProviderError, Refused, SettingsError, Unreachable, Unreadable
from receiver.provider import Provider
from receiver.provider.client import MAX_ANSWER

PAYLOADS = Path(__file__).parent / "payloads"
KEY = "sk-0123456789abcdef"
ACCEPTED = b'{"code":1,"description":"ok","result":"17"}'

Answer = Callable[[httpx.Request], httpx.Response]


class StillClock(Clock):
    """Stands at `time` until a test moves it."""

    time = 1_000_000.0

    def now(self) -> float:
        return self.time


def client(answer: Answer, *, base_url: str = "https://relay.test", clock: Clock | None = None) -> Provider:
    return Provider(base_url=base_url, key=KEY, clock=clock or StillClock(), pool=Answering(answer))


def always(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return lambda request: httpx.Response(status, content=content, headers=headers)


def task(id: str, **other: Any) -> dict[str, Any]:
    return {"id": id, "status": "IN_PROGRESS", "progress": "46%"} | other


# --- a server that behaves as badly as told -----------------------------------------------------------------------

Behaviour = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behaviour, *, ask_timeout: float = 0.5, seed_timeout: float = 0.5) -> AsyncIterator[Provider]:
    """A client of a local server that hands every request's bytes to `behave`, then closes the connection."""

    running: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if current := asyncio.current_task():
            running.add(current)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            await behave(head + await reader.readexactly(length), writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base_url = f"http://127.0.0.1:{port}"
    client = Provider(
        base_url=base_url,
        key=KEY,
        clock=StillClock(),
        submit_timeout=4.0,  # a quarter of it is for connecting, and a submit that did not connect is not ambiguous
        ask_timeout=ask_timeout,
        seed_timeout=seed_timeout,
    )
    try:
        yield client
    finally:
        await client.aclose()
        server.close()
        for handler in running:
            handler.cancel()  # from Python 3.12 on, wait_closed waits for all of them
        await server.wait_closed()


def says(*chunks: bytes) -> Behaviour:
    async def behave(request: bytes, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return behave


async def hang(request: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def trickle(request: bytes, writer: asyncio.StreamWriter) -> None:
    """Never still for as long as a per-read time-out, never at an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


def http(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body) if length is None else length, body)


BROKEN: dict[str, Behaviour] = {
    "closes without an answer": says(),
    "cuts the head": says(b"HTTP/1.1 200"),
    "no HTTP": says(b"hello\r\n\r\n"),
    "cuts the body": says(http(ACCEPTED, length=500)),
    "cuts the chunks": says(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cod'),
    "cuts the JSON": says(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + ACCEPTED[:-5]),
    "never answers": hang,
    "never ends": trickle,
    "answers without end": says(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * (MAX_ANSWER + 1)),
    "compresses unasked": says(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_submit_that_breaks_is_ambiguous(name: str) -> None:
    """Once bytes may have gone out, no broken answer is ever taken for a refusal."""
    async with serving(BROKEN[name]) as client:
        with pytest.raises(Ambiguous, match="not sent again"):
            await client.submit("imagine", {"prompt": "a boat"}, speed=None)


@pytest.mark.parametrize("name", BROKEN)
async def test_a_question_that_breaks_can_be_asked_again(name: str) -> None:
    """A broken answer to a fetch or list is Unreachable or Unreadable, within the deadline."""
    async with serving(BROKEN[name]) as client:
        with pytest.raises((Unreachable, Unreadable)):
            await client.fetch("17")
        with pytest.raises((Unreachable, Unreadable)):
            await client.list_tasks(["17"])


def packed(body: bytes, encoding: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (
        b"Content-Encoding: %s\r\n" % encoding if encoding else b"",
        len(body),
        body,
    )


BARE = zlib.compressobj(wbits=-15)
READABLE: dict[str, bytes] = {
    "gzip": packed(gzip.compress(ACCEPTED), b"gzip"),
    "x-gzip": packed(gzip.compress(ACCEPTED), b"X-GZip"),
    "gzip without a word": packed(gzip.compress(ACCEPTED), b""),
    "deflate": packed(zlib.compress(ACCEPTED), b"deflate"),
    "deflate without a head": packed(BARE.compress(ACCEPTED) + BARE.flush(), b"deflate"),
    "a word for nothing": packed(ACCEPTED, b"gzip"),
    "a byte order mark": http(b"\xef\xbb\xbf" + ACCEPTED),
    "an envelope": http(b'{"code": 200, "message": "ok", "data": %s}' % ACCEPTED),
    "all at once": packed(gzip.compress(b'\xef\xbb\xbf{"success": true, "data": %s}' % ACCEPTED), b"gzip"),
}


@pytest.mark.parametrize("name", READABLE)
async def test_an_answer_in_an_unusual_wrapping_is_read(name: str) -> None:
    """A gateway may pack or wrap what nobody asked it to."""
    async with serving(says(READABLE[name])) as client:
        assert (await client.submit("imagine", {"prompt": "a boat"}, speed=None)).task_id == "17"


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (gzip.compress(b" " * (MAX_ANSWER + 1)), b"gzip", "longer than 4194304 bytes once unpacked"),
        (gzip.compress(ACCEPTED)[:-12], b"gzip", "cut short"),
        (b"\x1f\x8b spoilt", b"gzip", "spoilt"),
        (b"\x0b\x02\x80", b"br", "packed as br"),
    ],
    ids=["a bomb", "cut short", "spoilt", "another packing"],
)
async def test_an_answer_that_cannot_be_unpacked_is_ambiguous(body: bytes, encoding: bytes, problem: str) -> None:
    """4 MB of gzip may hold 4 GB: no more is unpacked than is read of any answer."""
    async with serving(says(packed(body, encoding))) as client:
        with pytest.raises(Ambiguous, match=problem):
            await client.submit("imagine", {"prompt": "a boat"}, speed=None)


@pytest.mark.parametrize("wrapped", ['{"code":1,"data":%s}', '{"code":1,"description":"","result":%s}', "\ufeff%s"])
async def test_tasks_in_an_envelope_are_read(wrapped: str) -> None:
    """A fetch and a list alike."""
    task = '{"id": "17", "status": "SUCCESS"}'

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=(wrapped % (task if request.method == "GET" else f"[{task}]")).encode())

    fetched, listed = await client(answer).fetch("17"), await client(answer).list_tasks(["17"])
    assert fetched is not None
    assert listed == {"17": fetched}


async def test_what_goes_over_the_wire() -> None:
    """Path, headers and body as the protocol wants them; the task id cannot leave its place in the path."""
    seen: list[bytes] = []

    async def behave(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(http(ACCEPTED))

    async with serving(behave) as client:
        await client.submit("imagine", {"prompt": "猫"}, speed="turbo")
        with pytest.raises(Unreadable):
            await client.fetch("../a b?c#d%")
    post, get = seen
    head, _, body = post.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /mj-turbo/mj/submit/imagine HTTP/1.1")
    for line in (
        b"accept-encoding: identity",
        b"authorization: bearer " + KEY.encode(),
        b"content-type: application/json",
    ):
        assert line in head.lower()
    assert b"user-agent: imagine-receiver/" in head.lower()
    assert json.loads(body) == {"prompt": "猫"}
    assert get.startswith(b"GET /mj/task/..%2Fa%20b%3Fc%23d%25/fetch HTTP/1.1")
    assert b"content-type" not in get.lower()


async def test_nobody_listens() -> None:
    """Without a connection nothing was sent, and the error says so by its type."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    client = Provider(base_url=f"http://127.0.0.1:{port}", key=KEY, clock=StillClock())
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
        await client.submit("imagine", {}, speed=None)
    with pytest.raises(Unreachable):
        await client.fetch("1")
    await client.aclose()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes to the provider and nowhere else."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with serving(says(http(ACCEPTED))) as client:
        assert (await client.submit("imagine", {}, speed=None)).task_id == "17"


FOREIGN = [
    (httpcore.ConnectError, Unreachable, Unreachable),
    (httpcore.ConnectTimeout, Unreachable, Unreachable),
    (httpcore.ConnectionNotAvailable, Unreachable, Unreachable),
    (httpcore.PoolTimeout, Unreachable, Unreachable),
    (httpcore.UnsupportedProtocol, Unreachable, Unreachable),
    (httpcore.ReadTimeout, Ambiguous, Unreachable),
    (httpcore.WriteTimeout, Ambiguous, Unreachable),
    (httpcore.ReadError, Ambiguous, Unreadable),
    (httpcore.WriteError, Ambiguous, Unreachable),
    (httpcore.ProxyError, Unreachable, Unreachable),
    (httpcore.LocalProtocolError, Ambiguous, Unreachable),
    (httpcore.RemoteProtocolError, Ambiguous, Unreadable),
    (ConnectionResetError, Ambiguous, Unreachable),
    (TimeoutError, Ambiguous, Unreachable),
]


@pytest.mark.parametrize(("foreign", "submitted", "asked"), FOREIGN)
async def test_foreign_errors_are_translated(
    foreign: type[Exception], submitted: type[ProviderError], asked: type[ProviderError]
) -> None:
    """No error of the network library leaves this room, and only a missing connection is taken for one."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise foreign("")

    with pytest.raises(submitted) as of_submit:
        await client(fail).submit("imagine", {}, speed=None)
    assert isinstance(of_submit.value.__cause__, foreign)
    with pytest.raises(asked):
        await client(fail).fetch("1")


def test_no_foreign_error_is_missed() -> None:
    """A new error class of httpcore needs a line above."""
    leaves = {
        error
        for error in vars(httpcore).values()
        if isinstance(error, type) and issubclass(error, Exception) and not error.__subclasses__()
    }
    assert leaves <= {foreign for foreign, _, _ in FOREIGN}


# --- submit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "speed", "expected"),
    [
        ("https://relay.test", None, "https://relay.test/mj/submit/imagine"),
        ("https://relay.test/", "fast", "https://relay.test/mj-fast/mj/submit/imagine"),
        ("https://relay.test/mj", "relax", "https://relay.test/mj-relax/mj/submit/imagine"),
        (" https://relay.test/mj/ ", None, "https://relay.test/mj/submit/imagine"),
        ("http://relay.test:8080/prefix/mj", None, "http://relay.test:8080/prefix/mj/submit/imagine"),
    ],
)
async def test_addresses(base_url: str, speed: str | None, expected: str) -> None:
    """A base URL works with and without slash and /mj, and the speed stands before the path."""
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(200, content=ACCEPTED)

    await client(answer, base_url=base_url).submit("imagine", {}, speed=speed)
    assert urls == [expected]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.test",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x?a=1",
        "http://[",
        "http://x:65536",
        "https://x:y",
    ],
)
def test_an_unusable_address_stops_the_start(url: str) -> None:
    """The sentence names the setting."""
    with pytest.raises(SettingsError, match="RECEIVER_PROVIDER_URL"):
        Provider(base_url=url, key=KEY, clock=StillClock())


@pytest.mark.parametrize("key", ["sk-\nx", "sk-ключ"])
def test_an_unusable_key_stops_the_start(key: str) -> None:
    """The sentence names the setting and does not show the key."""
    with pytest.raises(SettingsError, match="COMETAPI_KEY") as refused:
        Provider(base_url="https://relay.test", key=key, clock=StillClock())
    assert key not in str(refused.value)


async def test_without_a_key_no_header_is_sent() -> None:
    """A simulator needs none."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers
        return httpx.Response(200, content=ACCEPTED)

    await Provider(base_url="http://x", key=" ", clock=StillClock(), pool=Answering(answer)).submit(
        "imagine", {}, speed=None
    )


async def test_redirects_are_not_followed() -> None:
    """The key and the prompt stay with the address that was configured."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(307, headers={"Location": "https://elsewhere.test/"})

    with pytest.raises(Refused) as refused:
        await client(answer).submit("imagine", {}, speed=None)
    assert (refused.value.outcome, len(requests)) == ("wrong_address", 1)


@pytest.mark.parametrize(
    ("kind", "body", "speed"),
    [
        ("imagine", {"x": object()}, None),
        ("imagine", {"prompt": "\ud800"}, None),
        ("imagine", {}, "FAST"),
        ("imagine", {}, "slow"),
        ("imagine", {}, ""),
        ("submit/imagine", {}, None),
        ("../task", {}, None),
        ("", {}, None),
    ],
)
async def test_what_cannot_be_sent_is_not_sent(kind: str, body: dict[str, Any], speed: str | None) -> None:
    """A body without JSON form, an unknown kind and an unknown speed are found before anything goes out."""
    with pytest.raises(InputError):
        await client(always(500)).submit(kind, body, speed=speed)


async def test_a_refusal_carries_retry_after_by_the_clock() -> None:
    """A date is measured by the clock that was given."""
    headers = {"Retry-After": "Mon, 12 Jan 1970 13:47:00 GMT"}  # the clock's 1,000,000 s, and 20 more
    with pytest.raises(Refused) as refused:
        await client(always(429, headers=headers)).submit("imagine", {}, speed=None)
    assert refused.value.retry_after == 20.0


async def test_the_key_is_never_shown() -> None:
    """Neither by repr, nor when the provider repeats it."""
    body = json.dumps({"error": {"message": f"bad token {KEY}", "type": "x"}}).encode()
    relay = client(always(401, body))
    assert KEY not in repr(relay)
    with pytest.raises(Refused, match=r"bad token \[redacted\]") as of_submit:
        await relay.submit("imagine", {}, speed=None)
    with pytest.raises(Refused) as of_fetch:
        await relay.fetch("1")
    assert KEY not in f"{of_submit.value!r} {of_fetch.value!r}"


# --- fetch --------------------------------------------------------------------------------------------------------


async def test_fetch_reads_a_task() -> None:
    """The recorded fetch comes back as a task."""
    body = (PAYLOADS / "fetch_05_cometapi_docs.json").read_bytes()
    found = await client(always(200, body)).fetch("1773314942177684")
    assert found is not None
    assert (found.status, found.progress) == ("SUCCESS", 100)


NOT_KNOWN = [
    (400, (PAYLOADS / "error_04_relay_task_not_found_400.json").read_bytes()),
    (200, b'{"code":4,"description":"task_no_found"}'),
    (404, b'{"code":3,"description":"x"}'),
    (404, b'{"title":"Not Found"}'),
    (204, b""),
    (200, b""),
    (200, b"null"),
    (404, b"null"),
]


@pytest.mark.parametrize(("status", "body"), NOT_KNOWN)
async def test_an_unknown_task_is_none(status: int, body: bytes) -> None:
    """Every way in which providers say "no such task"."""
    assert await client(always(status, body)).fetch("17") is None


@pytest.mark.parametrize("task_id", ["", ".", ".."])
async def test_ids_that_would_change_the_path_are_not_asked(task_id: str) -> None:
    """No provider has such tasks."""
    assert await client(always(500)).fetch(task_id) is None


SENSELESS = [
    (200, json.dumps(task("18")).encode()),
    (200, b'{"id":""}'),
    (200, b"[]"),
    (200, b'"17"'),
    (200, b"<html>"),
    (200, b'{"id":"17"'),
    (200, ACCEPTED),
    (200, b"{}"),
    (400, b'{"code":5,"description":"do_request_failed "}'),
    (500, json.dumps(task("17")).encode()),
    (502, b"<html>"),
    (503, b""),
]


@pytest.mark.parametrize(("status", "body"), SENSELESS)
async def test_a_senseless_answer_is_unreadable(status: int, body: bytes) -> None:
    """Another task's object, no task at all, or an error that says nothing."""
    with pytest.raises(Unreadable):
        await client(always(status, body)).fetch("17")


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (401, b"", "unauthorized"),
        (403, b"", "rate_limited"),
        (403, b"no", "unauthorized"),
        (429, b"", "rate_limited"),
        (301, b"", "wrong_address"),
        (404, b"<html>", "wrong_address"),
        (200, b'{"code":30}', "rate_limited"),
    ],
)
async def test_refused_questions(status: int, body: bytes, outcome: str) -> None:
    """A key, rate or address problem is told as such, by fetch and by list alike; only that a list is not at this
    address may mean that there is none, and then a fetch tells."""
    relay = client(always(status, body, {"Retry-After": "9"}))
    with pytest.raises(Refused) as refused:
        await relay.fetch("17")
    assert (refused.value.outcome, refused.value.retry_after) == (outcome, 9.0)
    if outcome == "wrong_address":
        assert await relay.list_tasks(["17"]) is None
    else:
        with pytest.raises(Refused, match=str(refused.value)[:20]):
            await relay.list_tasks(["17"])


# --- list ---------------------------------------------------------------------------------------------------------


class Relay:
    """Knows some tasks; answers list-by-condition as told."""

    def __init__(self, known: dict[str, dict[str, Any]], list_answer: httpx.Response | None = None) -> None:
        self.known = known
        self.list_answer = list_answer
        self.batches: list[list[str]] = []
        self.fetched: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/mj/task/list-by-condition":
            self.batches.append(json.loads(request.content)["ids"])
            return self.list_answer or httpx.Response(200, json=list(self.known.values()))
        task_id = request.url.path.split("/")[3]
        self.fetched.append(task_id)
        return httpx.Response(200, json=self.known.get(task_id))


async def test_list_asks_in_batches_and_keeps_only_what_was_asked() -> None:
    """At most 50 ids at once, none twice; unasked, unknown and unreadable items are left out."""
    ids = [str(n) for n in range(1, 121)]
    relay = Relay({"1": task("1"), "120": task("120"), "999": task("999"), "x": {"status": "SUCCESS"}})
    found = await client(relay).list_tasks([*ids, "1"])
    assert found is not None
    assert sorted(found) == ["1", "120"]
    assert found["1"].progress == 46
    assert [len(batch) for batch in relay.batches] == [50, 50, 20]
    assert not relay.fetched


async def test_an_empty_list_asks_nothing() -> None:
    """No ids, no request."""
    relay = Relay({})
    assert await client(relay).list_tasks([]) == {}
    assert not relay.batches


LACKING = [
    (404, b'{"error":{"message":"Invalid URL"}}'),
    (404, b""),
    (405, b""),
    (301, b""),
    (501, b""),
    (200, b"<!doctype html>"),
    (200, b""),
    (200, b"null"),
    (200, b'{"message":"hello"}'),
    (400, b'{"error":{"message":"x","type":"invalid_request"}}'),
    (400, b'{"code":4,"description":"task_no_found "}'),
]


@pytest.mark.parametrize(("status", "body"), LACKING)
async def test_a_relay_without_the_list_is_asked_for_it_once_an_hour(status: int, body: bytes) -> None:
    """Where the route is missing and fetches work, the list is tried again after an hour, not before."""
    relay, clock = Relay({"1": task("1")}, httpx.Response(status, content=body)), StillClock()
    asking = client(relay, clock=clock)
    assert await asking.list_tasks(["1", "2"]) is None
    await asking.fetch("1")
    clock.time += 3599
    assert await asking.list_tasks(["1"]) is None
    assert len(relay.batches) == 1
    clock.time += 2
    relay.list_answer = None
    assert sorted(await asking.list_tasks(["1"]) or ()) == ["1"]
    assert len(relay.batches) == 2


@pytest.mark.parametrize(("status", "body"), LACKING)
async def test_a_relay_in_trouble_is_not_one_without_a_list(status: int, body: bytes) -> None:
    """While it answers fetches like the list (a web page, nothing at all), only trouble is proven: when that is over,
    the list is asked for at once."""
    relay = Relay({"1": task("1")}, httpx.Response(status, content=body))
    troubled = iter([relay, always(status, body), relay])

    def turn(request: httpx.Request) -> httpx.Response:
        return next(troubled)(request)

    asking = client(turn)
    assert await asking.list_tasks(["1"]) is None
    with contextlib.suppress(ProviderError):
        assert await asking.fetch("1") is None
    relay.list_answer = None
    assert sorted(await asking.list_tasks(["1"]) or ()) == ["1"]


async def test_a_clock_set_back_does_not_forget_the_list() -> None:
    """The pause is an hour at most, whatever the clock does."""
    relay, clock = Relay({"1": task("1")}, httpx.Response(404)), StillClock()
    asking = client(relay, clock=clock)
    await asking.list_tasks(["1"])
    await asking.fetch("1")
    clock.time -= 86400
    await asking.list_tasks(["1"])
    assert len(relay.batches) == 2


@pytest.mark.parametrize(("status", "body"), [(500, b""), (502, b"<html>"), (200, b'[{"id":'), (400, b'{"code":5}')])
async def test_a_list_in_trouble_is_not_a_missing_list(status: int, body: bytes) -> None:
    """An error that may pass does not multiply the requests."""
    relay = Relay({}, httpx.Response(status, content=body))
    with pytest.raises(Unreadable):
        await client(relay).list_tasks(["1", "2"])
    assert not relay.fetched


# --- image seed and cancel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["1234567890", 1234567890, 1.23456789e9, " 1234567890\n"])
async def test_image_seed(result: Any) -> None:
    """Text or number, it comes back as text; asked for by GET under the task's id."""
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        return httpx.Response(200, json={"code": 1, "description": "ok", "result": result})

    assert await client(answer).image_seed(" 17 ") == "1234567890"
    assert seen == [("GET", "/mj/task/17/image-seed")]


@pytest.mark.parametrize("result", ["0", 0])
async def test_zero_is_a_seed(result: Any) -> None:
    """Seeds count from 0."""
    assert await client(always(200, json.dumps({"code": 1, "result": result}).encode())).image_seed("17") == "0"


@pytest.mark.parametrize("result", [None, "", "soon", "-1", -1, True, [1], {}, "1" * 21, 10**20, "1.5"])
async def test_what_is_no_seed_is_unreadable(result: Any) -> None:
    """A success without a seed in it may be asked for again."""
    with pytest.raises(Unreadable, match="image seed"):
        await client(always(200, json.dumps({"code": 1, "result": result}).encode())).image_seed("17")


@pytest.mark.parametrize("body", [b"", b"null", b'{"code":1,"result":null}', b'{"id":"17","status":"FAILURE"}'])
async def test_cancel(body: bytes) -> None:
    """Every way in which a provider says that it took the word; asked by POST without a body."""
    seen: list[tuple[str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, request.content))
        return httpx.Response(200, content=body)

    await client(answer).cancel("17")
    assert seen == [("POST", "/mj/task/17/cancel", b"")]


ASIDE = [
    # the route is not there (PROTOCOL.md §1)
    (404, b"<html>", "unsupported", False),
    (404, b'{"error":{"message":"Invalid URL (POST /mj/task/17/cancel)"}}', "unsupported", False),
    (405, b"", "unsupported", False),
    (501, b"", "unsupported", False),
    (301, b"", "unsupported", False),
    (200, b"<!doctype html>", "unsupported", False),
    # or not for this key
    (400, "演示模式，禁止操作".encode(), "unsupported", False),
    (403, b"no", "unsupported", False),
    (401, b"", "unauthorized", False),
    (403, b'{"error":{"message":"banned","type":"new_api_error"}}', "unauthorized", False),
    # the task is not there, or not ready
    (404, b'{"code":3,"description":"x","result":null}', "not_found", False),
    (400, (PAYLOADS / "error_04_relay_task_not_found_400.json").read_bytes(), "not_found", False),
    (400, b'{"code":4,"description":"task_status_not_success ","type":"upstream_error"}', "not_ready", True),
    (400, b'{"code":4,"description":"x"}', "validation", False),
    (200, b'{"code":23}', "queue_full", True),
    (429, b"", "rate_limited", True),
    (403, b"", "rate_limited", True),
]


@pytest.mark.parametrize(("status", "body", "outcome", "retry"), ASIDE)
async def test_seed_and_cancel_are_refused_alike(status: int, body: bytes, outcome: str, retry: bool) -> None:
    """Not every relay has them: that is told apart from a wrong key, a missing task, and one that is not ready."""
    relay = client(always(status, body))
    for question in (relay.image_seed("17"), relay.cancel("17")):
        with pytest.raises(Refused) as refused:
            await question
        assert (refused.value.outcome, refused.value.retry) == (outcome, retry)


@pytest.mark.parametrize("body", [b"", b"null"])
async def test_an_unknown_task_has_no_seed(body: bytes) -> None:
    """Nothing and null say "no such task", as for a fetch."""
    with pytest.raises(Refused) as refused:
        await client(always(200, body)).image_seed("17")
    assert refused.value.outcome == "not_found"


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"[]"), (200, b'"ok"'), (200, b'{"a'), (502, b"<html>"), (400, b'{"code":5}')]
)
async def test_senseless_answers_to_seed_and_cancel(status: int, body: bytes) -> None:
    """An answer that says neither yes nor no."""
    relay = client(always(status, body))
    for question in (relay.image_seed("17"), relay.cancel("17")):
        with pytest.raises(Unreadable):
            await question


@pytest.mark.parametrize("task_id", ["", " ", "..", "1 2", "1,2", "x" * 65])
async def test_seed_and_cancel_check_the_id(task_id: str) -> None:
    """What can be no id is not asked for; the id cannot leave its place in the path."""
    relay = client(always(500))
    for question in (relay.image_seed(task_id), relay.cancel(task_id)):
        with pytest.raises(InputError):
            await question
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200)

    await client(answer).cancel("../a?b#c%")
    assert paths == [b"/mj/task/..%2Fa%3Fb%23c%25/cancel"]


@pytest.mark.parametrize("name", BROKEN)
async def test_seed_and_cancel_that_break(name: str) -> None:
    """A broken answer is Unreachable or Unreadable, within a deadline."""
    async with serving(BROKEN[name]) as client:
        with pytest.raises((Unreachable, Unreadable)):
            await client.image_seed("17")
        with pytest.raises((Unreachable, Unreadable)):
            await client.cancel("17")


async def test_a_seed_has_a_deadline_of_its_own() -> None:
    """It may take longer than a fetch may, and no longer than was said."""

    async def slowly(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(http(b'{"code":1,"result":"5"}'))

    async with serving(slowly, ask_timeout=0.1, seed_timeout=5) as patient:
        assert await patient.image_seed("17") == "5"
        with pytest.raises(Unreachable):
            await patient.fetch("17")
    async with serving(slowly, seed_timeout=0.1) as hasty:
        with pytest.raises(Unreachable):
            await hasty.image_seed("17")


def test_exports() -> None:
    """The room's door is small, sorted, and holds what it names."""
    assert sorted(provider.__all__, key=lambda name: (name.islower(), not name.isupper(), name)) == provider.__all__
    assert all(hasattr(provider, name) for name in provider.__all__)


async def test_a_proxy_is_asked_for_the_provider() -> None:
    """With its own user and password, which no error repeats. A refusal made no task, because nothing was sent."""
    async with connect_proxy(status=407) as proxy:
        url = f"http://me:p4ssword@127.0.0.1:{proxy.port}"
        provider = Provider(base_url="https://api.test", key="k", clock=Clock(), proxy=url)
        for ask in (provider.fetch("1"), provider.submit("imagine", {"prompt": "a boat"}, speed=None)):
            with pytest.raises(
                Unreachable, match=r"api\.test through the proxy 127\.0\.0\.1 cannot be .*407"
            ) as caught:
                await ask
            assert "p4ssword" not in str(caught.value)
        await provider.aclose()
    assert proxy.asked == ["api.test:443"] * 2
    assert f"Basic {base64.b64encode(b'me:p4ssword').decode()}" in proxy.heads[0]
