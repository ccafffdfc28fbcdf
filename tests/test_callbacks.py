"""The callback endpoint as senders, and whoever pretends to be one, meet it: real HTTP, a real journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import pytest
import pytest_asyncio
from servers import connect, exchange, read_all, serving
from starlette.applications import Starlette
from structlog.testing import capture_logs

from receiver.clock import Clock
from receiver.events import Submission, new_id
from receiver.intake import Intake, Policy, Route
from receiver.journal.sqlite import SQLiteJournal, open_journal
from receiver.tokens import Tokens
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import MAX_BODY, Callbacks
from receiver.web.connections import Connection
from receiver.web.health import Readyz

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYLOADS = Path(__file__).parent / "payloads"
KEY = "k" * 32
MARKER = "MARKER-b7e1"
TASK = "1773314942177684"
MAX_AGE = 72 * 3600.0
JSON = {"Content-Type": "application/json"}


class Shifted(Clock):
    """A clock that goes wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


def tokens(*, key: str = KEY, shift: float = 0) -> Tokens:
    return Tokens([key], max_age=MAX_AGE, clock=Shifted(shift))


@dataclass(frozen=True)
class Door:
    """The endpoint on a real server, and what lies behind it."""

    url: str
    file: Path
    journal: SQLiteJournal
    callbacks: Callbacks
    client: httpx.AsyncClient

    async def submission(self, *, task_id: str | None = TASK) -> Submission:
        """A submission whose callbacks may come; without a task id its submit answer is still under way."""
        now_ms = Clock().now_ms()
        row = Submission(
            id=new_id(now_ms),
            kind="imagine",
            created_ms=now_ms,
            prompt="a paper boat",
            request={"prompt": "a paper boat"},
            hooked=True,
            status="accepted" if task_id else "sending",
            task_id=task_id,
            deadline_ms=now_ms + 4_200_000,
        )
        await self.journal.add(row)
        return row

    async def post(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.client.post(self.url + path, content=content, headers=JSON if headers is None else headers)

    async def kept(self, row: Submission) -> list[str | None]:
        """The causes of the callbacks in the journal."""
        return [callback.cause for callback in await self.journal.callbacks(row.id)]

    async def stored(self) -> int:
        """How many callbacks there are in all."""
        return await asyncio.to_thread(self._count)

    def _count(self) -> int:
        with contextlib.closing(sqlite3.connect(self.file)) as db:
            return int(db.execute("SELECT count(*) FROM callbacks").fetchone()[0])

    async def types(self, row: Submission) -> list[str]:
        """The events, oldest first."""
        return [event.id.split(".", 1)[1] for event in await self.journal.events(limit=50, submission_id=row.id)][::-1]


@asynccontextmanager
async def opened(folder: Path, *, policy: Policy, body_timeout: float = 10.0) -> AsyncIterator[Door]:
    journal = await open_journal(folder / "journal.db")
    routes = (Route(destination="file", progress=True),)
    intake = Intake(journal, policy=policy, routes=routes, clock=Clock(), changed=lambda: None)
    admission = Admission(journal.check)
    callbacks = Callbacks(intake=intake, tokens=tokens(), admission=admission, body_timeout=body_timeout)
    app = create_app(callbacks=callbacks, readyz=Readyz({}))
    try:
        async with serving(app) as url, httpx.AsyncClient(trust_env=False) as client:
            yield Door(url, folder / "journal.db", journal, callbacks, client)
    finally:
        await journal.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """A door that believes a terminal callback at once."""
    async with opened(tmp_path_factory.mktemp("door"), policy=Policy(confirm_ms=0)) as found:
        yield found


def path(row: Submission) -> str:
    return f"/callbacks/{tokens().url_token(row.id)}"


def body(row: Submission, **changes: Any) -> bytes:
    task = {"id": TASK, "status": "IN_PROGRESS", "progress": "46%", "state": tokens().state_token(row.id)}
    return json.dumps({**task, **changes}).encode()


def assert_problem(response: httpx.Response, status: int) -> None:
    """RFC 9457, in our words only."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["detail"].endswith(".")
    assert MARKER not in response.text


# Trust

STATES: dict[str, Callable[[Submission, Submission], object]] = {
    "good": lambda row, other: tokens().state_token(row.id),
    "missing": lambda row, other: None,
    "empty": lambda row, other: "",
    "mangled": lambda row, other: tokens().state_token(row.id)[:-8] + "AAAAAAAA",
    "a URL token": lambda row, other: tokens().url_token(row.id),
    "a number": lambda row, other: 5,
    "a list": lambda row, other: [tokens().state_token(row.id)],
    "expired": lambda row, other: tokens(shift=-MAX_AGE - 60).state_token(row.id),
    "another submission's": lambda row, other: tokens().state_token(other.id),
}


@pytest.mark.parametrize(
    ("url", "state", "task_id", "status", "cause"),
    [
        ("good", "good", TASK, 200, None),
        ("good", "good", "other", 202, "other_task"),
        ("good", "missing", TASK, 202, "no_state"),
        ("good", "empty", TASK, 202, "no_state"),
        ("good", "mangled", TASK, 202, "bad_state"),
        ("good", "a URL token", TASK, 202, "bad_state"),
        ("good", "a number", TASK, 202, "bad_state"),
        ("good", "a list", TASK, 202, "no_state"),
        ("good", "expired", TASK, 202, "bad_state"),
        ("good", "another submission's", TASK, 202, "other_state"),
        ("none", "good", TASK, 202, "no_url_token"),
        ("none", "good", "other", 202, "no_url_token"),
        ("none", "missing", TASK, 401, None),
        ("none", "empty", TASK, 401, None),
        ("none", "mangled", TASK, 401, None),
        ("none", "a URL token", TASK, 401, None),
        ("none", "a number", TASK, 401, None),
        ("none", "a list", TASK, 401, None),
        ("none", "expired", TASK, 401, None),
    ],
)
async def test_trust(door: Door, *, url: str, state: str, task_id: str, status: int, cause: str | None) -> None:
    """Only both tokens and the right task id are believed; one token keeps the callback and asks the provider."""
    row, other = await door.submission(), await door.submission()
    before = await door.stored()
    where = path(row) if url == "good" else "/callbacks"
    response = await door.post(where, body(row, state=STATES[state](row, other), id=task_id, prompt=MARKER))
    after = await door.journal.find(row.id)
    if status == 401:
        assert_problem(response, 401)
        assert await door.stored() == before
        assert after == row
        return
    assert response.status_code == status
    assert response.json() == {"accepted": status == 200}
    assert await door.kept(row) == [cause]
    assert await door.kept(other) == []
    assert after.callbacks == 1
    assert after.task_id == TASK
    if status == 200:
        assert await door.types(row) == ["task.progressed.46"]
    else:
        assert after.poll_due_ms is not None
        assert after.poll_due_ms <= Clock().now_ms()
        assert await door.types(row) == []


BAD_PATHS: dict[str, Callable[[Submission], str]] = {
    "empty": lambda row: "/callbacks/",
    "garbage": lambda row: f"/callbacks/{MARKER}",
    "id alone": lambda row: f"/callbacks/{row.id}",
    "expired": lambda row: f"/callbacks/{tokens(shift=-MAX_AGE - 60).url_token(row.id)}",
    "from the future": lambda row: f"/callbacks/{tokens(shift=120).url_token(row.id)}",
    "another key's": lambda row: f"/callbacks/{tokens(key='x' * 32).url_token(row.id)}",
    "the state token": lambda row: f"/callbacks/{tokens().state_token(row.id)}",
    "cut short": lambda row: path(row)[:-4],
    "without signature": lambda row: path(row).rpartition(".")[0],
    "signature altered": lambda row: re.sub(r"\.(.)([\w-]{42})$", lambda m: "." + chr(ord(m[1]) ^ 1) + m[2], path(row)),
    "another id": lambda row: path(row).replace(row.id, new_id(row.created_ms)),
    "lower case": lambda row: path(row).replace(row.id, row.id.lower()),
    "very long": lambda row: f"/callbacks/{'A' * 50_000}",
    "twice": lambda row: f"{path(row)}{path(row)}",
    "slash behind": lambda row: path(row) + "/",
    "slash before": lambda row: path(row).replace("/callbacks/", "/callbacks//"),
    "more behind": lambda row: f"{path(row)}/{MARKER}",
    "encoded slash": lambda row: path(row) + "%2F",
    "encoded NUL": lambda row: path(row) + "%00",
    "encoded bytes": lambda row: path(row) + "%FF%FE",
    "half an encoding": lambda row: path(row) + "%",
    "encoded twice": lambda row: path(row).replace(".", "%252E"),
    "dots": lambda row: "/callbacks/../callbacks",
}


@pytest.mark.parametrize("name", BAD_PATHS)
async def test_bad_url_token(door: Door, name: str) -> None:
    """Every bad URL token gets the same 401, whatever the body, and nothing is stored."""
    row = await door.submission()
    before, refused = await door.stored(), door.callbacks.unsigned
    answers = []
    for content in (body(row), MARKER.encode() * 100):
        head = f"POST {BAD_PATHS[name](row)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        end = f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        answers.append(await exchange(door.url, (head + end).encode() + content))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert answer.endswith(b'"detail":"This address is not signed by us."}')
        assert MARKER.encode() not in answer
    assert await door.stored() == before
    assert door.callbacks.unsigned == refused + 2


async def test_unsigned_body_is_not_read(door: Door) -> None:
    """The 401 comes before the body does."""

    def talk() -> bytes:
        with connect(door.url) as connection:
            connection.sendall(b"POST /callbacks/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            return connection.recv(4096)

    assert (await asyncio.to_thread(talk)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace(".", "%2E"),
        lambda path: path + "?rand=1",
        lambda path: path,
    ],
    ids=["encoded dots", "query", "plain"],
)
async def test_good_url_token(door: Door, change: Callable[[str], str]) -> None:
    """A token whose unreserved characters were encoded on the way, or that got a query, is still good."""
    row = await door.submission()
    assert (await door.post(change(path(row)), body(row))).status_code == 200
    assert await door.kept(row) == [None]


async def test_clock_a_little_behind(door: Door) -> None:
    """Tokens from 50 s in the future are good: clocks differ."""
    row = await door.submission()
    ahead = tokens(shift=50)
    answer = await door.post(
        f"/callbacks/{ahead.url_token(row.id)}", body(row, state=ahead.state_token(row.id))
    )  # fmt: skip
    assert answer.status_code == 200


async def test_unknown_submission(door: Door) -> None:
    """Good tokens of a submission that is not in this journal get a 404, and nothing is stored."""
    before = await door.stored()
    row = await door.submission()
    gone = new_id(1)
    state = tokens().state_token(gone)
    response = await door.post(f"/callbacks/{tokens().url_token(gone)}", body(row, state=state, prompt=MARKER))
    assert_problem(response, 404)
    assert await door.stored() == before


async def test_callback_before_the_submit_answer(door: Door) -> None:
    """A callback that outruns the submit answer binds the task id."""
    row = await door.submission(task_id=None)
    assert (await door.post(path(row), body(row))).status_code == 200
    after = await door.journal.find(row.id)
    assert (after.task_id, after.status) == (TASK, "accepted")
    assert await door.types(row) == ["task.accepted", "task.progressed.46"]


async def test_terminal_callback_waits_for_confirmation(tmp_path: Path) -> None:
    """With a time for confirmation, a SUCCESS is kept as a claim and makes no event yet."""
    async with opened(tmp_path, policy=Policy(confirm_ms=30_000)) as door:
        row = await door.submission()
        assert (await door.post(path(row), body(row, status="SUCCESS", progress="100%"))).status_code == 200
        after = await door.journal.find(row.id)
        assert after.claim is not None
        assert after.ended is None
        assert await door.types(row) == []


# Bad input


def padded(row: Submission, size: int) -> bytes:
    bare = len(body(row, padding=""))
    return body(row, padding="x" * (size - bare))


def iso_8859_1(row: Submission) -> bytes:
    return body(row, prompt="PLACE").replace(b"PLACE", f"{MARKER} caf\xe9".encode("iso-8859-1"))


BAD_BODIES: dict[str, tuple[int, Callable[[Submission], bytes]]] = {
    "empty": (400, lambda row: b""),
    "blank": (400, lambda row: b" \n"),
    "not JSON": (400, lambda row: f"hello {MARKER}".encode()),
    "form": (400, lambda row: f"id={TASK}&state={MARKER}".encode()),
    "HTML": (400, lambda row: f"<html>{MARKER}</html>".encode()),
    "truncated": (400, lambda row: body(row)[:-1]),
    "two documents": (400, lambda row: body(row) + body(row)),
    "ISO-8859-1": (400, iso_8859_1),
    "UTF-16": (400, lambda row: body(row).decode().encode("utf-16")),
    "NaN": (400, lambda row: body(row).replace(b'"46%"', b"NaN")),
    "Infinity": (400, lambda row: body(row).replace(b'"46%"', b"-Infinity")),
    "raw NUL": (400, lambda row: body(row).replace(b"46%", b"46\x00")),
    "100,000 [": (400, lambda row: b"[" * 100_000),
    "100,000 objects": (400, lambda row: b'{"a":' * 50_000),
    "100 nested lists": (400, lambda row: body(row, x=0).replace(b'"x": 0', b'"x": ' + b"[" * 100 + b"]" * 100)),
    "4,301-digit integer": (400, lambda row: body(row, x=0).replace(b'"x": 0', b'"x": ' + b"9" * 4301)),
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


@pytest.mark.parametrize(
    ("name", "chunked"),
    [(name, False) for name in BAD_BODIES]
    + [(name, True) for name in ("empty", "truncated", "100,000 [", "list", "one byte too many", "1 MiB")],
)
async def test_bad_body(door: Door, name: str, *, chunked: bool) -> None:
    """A body that is no task gets a problem that repeats nothing of it, and nothing is stored."""
    row = await door.submission()
    before = await door.stored()
    status, make = BAD_BODIES[name]
    content = make(row)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 50_000):
            yield content[at : at + 50_000]

    sent = pieces() if chunked else content
    response = await door.client.post(door.url + path(row), content=sent, headers=JSON)
    assert_problem(response, status)
    assert await door.stored() == before
    assert (await door.post(path(row), body(row))).status_code == 200  # the door is still open


GOOD_BODIES: dict[str, Callable[[Submission], bytes]] = {
    "exactly 256 KiB": lambda row: padded(row, MAX_BODY),
    "BOM": lambda row: b"\xef\xbb\xbf" + body(row),
    "lone surrogate": lambda row: body(row, prompt="PLACE").replace(b"PLACE", rb"\ud83d boat \udc00"),
    "escaped NUL": lambda row: body(row, prompt="a\0b"),
    "integer id": lambda row: body(row, id=int(TASK)),
    "unknown keys": lambda row: body(row, **{f"key{n}": None for n in range(200)}),
    "nulls": lambda row: body(row, **dict.fromkeys(["prompt", "imageUrl", "submitTime", "buttons", "properties"])),
    "wrong types": lambda row: body(row, prompt=[1], imageUrl={"a": 1}, submitTime="soon", buttons=5, properties="x"),
    "huge numbers": lambda row: body(row, submitTime=2**63, startTime=-(2**64), finishTime=1e300, seed=10**300),
    "overflowing number": lambda row: body(row, x=0).replace(b'"x": 0', b'"x": 1e999'),
    "same key twice": lambda row: body(row).replace(b"{", b'{"progress": "3%",', 1),
    "raw UTF-8": lambda row: json.dumps({**json.loads(body(row)), "prompt": "猫 🛶"}, ensure_ascii=False).encode(),
    "63 nested lists": lambda row: body(row, x=0).replace(b'"x": 0', b'"x": ' + b"[" * 62 + b"]" * 62),
    "60 keys of 4 KB": lambda row: body(row, **{f"key{n}": "y" * 4000 for n in range(60)}),
}


@pytest.mark.parametrize("name", GOOD_BODIES)
async def test_tolerated_body(door: Door, name: str) -> None:
    """What is odd but has an id is accepted, and stored so that it can be read again."""
    row = await door.submission()
    response = await door.post(path(row), GOOD_BODIES[name](row))
    assert (response.status_code, response.json()) == (200, {"accepted": True})
    (callback,) = await door.journal.callbacks(row.id)
    assert callback.cause is None
    state = json.loads(callback.body.removeprefix("\ufeff"))["state"]
    assert tokens().read_state_token(state) == row.id
    assert await door.types(row) == ["task.progressed.46"]
    after = await door.journal.find(row.id)
    assert after.task is not None
    after.task.prompt.encode()  # no half characters in what is read


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (415, {}),
        (415, {"Content-Type": ""}),
        (415, {"Content-Type": "text/plain"}),
        (415, {"Content-Type": "application/x-www-form-urlencoded"}),
        (415, {"Content-Type": f"multipart/form-data; boundary={MARKER}"}),
        (415, {"Content-Type": f"text/html; x={MARKER}"}),
        (415, {"Content-Type": "application/jsonp"}),
        (415, {"Content-Type": "application"}),
        (415, {"Content-Type": "text/plain, application/json"}),
        (415, {**JSON, "Content-Encoding": "gzip"}),
        (415, {**JSON, "Content-Encoding": "br"}),
        (415, {**JSON, "Content-Encoding": MARKER}),
        (415, {**JSON, "Content-Encoding": "gzip, identity"}),
        (200, JSON),
        (200, {"content-type": "application/json; charset=utf-8"}),
        (200, {"Content-Type": "Application/JSON;Charset=UTF-8"}),
        (200, {"Content-Type": "application/json ; charset=utf-8"}),
        (200, {"Content-Type": "application/vnd.provider+json"}),
        (200, {"Content-Type": "application/json;charset=ISO-8859-1"}),
        (200, {**JSON, "Content-Encoding": "identity"}),
        (200, {**JSON, "Content-Encoding": ""}),
        (200, {**JSON, "Accept": "text/plain, */*", "Accept-Charset": ", ".join(f"x-charset-{n}" for n in range(80))}),
        (200, {**JSON, "X-Forwarded-For": MARKER, "Host": "evil.test", "Forwarded": "host=evil.test"}),
        (200, {**JSON, "Expect": "100-continue"}),
    ],
)
async def test_headers(door: Door, status: int, headers: dict[str, str]) -> None:
    """JSON by any of its names is taken, other types and compressed bodies are not."""
    row = await door.submission()
    response = await door.post(path(row), body(row), headers)
    if status == 200:
        assert response.status_code == 200
    else:
        assert_problem(response, status)
        assert ("Accept-Encoding" if "Content-Encoding" in headers else "Accept") in response.headers
    assert len(await door.kept(row)) == (status == 200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("signed", [True, False])
async def test_method(door: Door, method: str, signed: bool) -> None:
    """Anything but POST gets a 405 that names POST, signed or not: a GET is a sign of a followed redirect."""
    row = await door.submission()
    response = await door.client.request(method, door.url + (path(row) if signed else "/callbacks"), content=body(row))
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    if method == "HEAD":
        assert response.content == b""
    else:
        assert_problem(response, 405)
    assert await door.kept(row) == []


@pytest.mark.parametrize(
    ("method", "where", "status"),
    [
        ("POST", "/callbacks/", 401),
        ("POST", "/callbacks", 401),
        ("POST", "//callbacks", 404),
        ("POST", "/callback", 404),
        ("POST", "/", 404),
        ("POST", f"/{MARKER}", 404),
        ("POST", f"/CALLBACKS/{MARKER}", 404),
        ("GET", "/livez/", 404),
        ("GET", "/readyz/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/readyz", 405),
    ],
)
async def test_never_redirects(door: Door, method: str, where: str, status: int) -> None:
    """No address redirects, however its slashes are: a redirected POST loses its body."""
    row = await door.submission()
    content = body(row, state=MARKER) if method == "POST" else None
    response = await door.client.request(method, door.url + where, content=content, headers=JSON)
    assert_problem(response, status)
    assert "location" not in response.headers


# The wire


def request(row: Submission, content: bytes, *headers: str, version: str = "1.1", length: bool = True) -> bytes:
    lines = [f"POST {path(row)} HTTP/{version}", "Host: x", "Content-Type: application/json", *headers]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


async def test_http_1_0(door: Door) -> None:
    """An HTTP/1.0 sender is answered and let go."""
    row = await door.submission()
    answer = await exchange(door.url, request(row, body(row), version="1.0"))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert await door.kept(row) == [None]


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


async def test_keep_alive_after_a_refusal(door: Door) -> None:
    """A refusal whose body was not read leaves the connection in order for the next request."""
    row = await door.submission()
    hidden = request(row, body(row))
    bad = b"POST /callbacks/bad HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    answer = await exchange(door.url, bad + request(row, body(row, id="other"), "Connection: close"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"401", b"202"]
    assert await door.kept(row) == ["other_task"]


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: abc",),
        ("Content-Length: -1",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked, x",),
        ("Bad header",),
        ("X-Bad: a\x00b",),
    ],
)
async def test_ambiguous_requests(door: Door, headers: tuple[str, ...]) -> None:
    """A request two readers could read in two ways is refused as a whole: 400, and nothing is stored."""
    row = await door.submission()
    data = request(row, body(row), *headers, "Connection: close", length=False)
    answer = await exchange(door.url, data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert row.id.encode() not in answer
    assert await door.kept(row) == []


async def test_two_content_types(door: Door) -> None:
    """Of two content types both must not be trusted blindly: the answer is 200 or 415, never a 500."""
    row = await door.submission()
    answer = await exchange(door.url, request(row, body(row), "Content-Type: text/plain", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 415 ")


async def test_chunk_extensions_and_trailers(door: Door) -> None:
    """A chunked body with extensions and trailers is read as its data."""
    row = await door.submission()
    content = body(row)
    chunked = b"%x;ext=1\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(content), content)
    head = request(row, b"", "Transfer-Encoding: chunked", "Connection: close", length=False)
    assert (await exchange(door.url, head + chunked)).startswith(b"HTTP/1.1 200")
    assert await door.kept(row) == [None]


@pytest.mark.parametrize("length", [10**9, 10**17])
async def test_declared_too_large(door: Door, length: int) -> None:
    """A body that says it is huge is refused before any of it was sent."""
    row = await door.submission()
    answer = await exchange(door.url, request(row, b"", f"Content-Length: {length}", length=False))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


async def test_slow_body(tmp_path: Path) -> None:
    """A body that does not come in time gets a 408 and an end to the connection; nothing is stored."""
    async with opened(tmp_path, policy=Policy(), body_timeout=0.2) as door:
        row = await door.submission()
        answer = await exchange(door.url, request(row, body(row))[:-10])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer
        assert b"connection: close" in answer.lower()
        assert await door.kept(row) == []


@pytest.mark.parametrize("reset", [False, True])
async def test_sender_hangs_up(door: Door, reset: bool) -> None:
    """A sender that goes away in the middle of its body leaves one line in the log and nothing in the journal."""
    row = await door.submission()

    def talk() -> None:
        with connect(door.url) as connection:
            connection.sendall(request(row, body(row))[:-10])
            if reset:
                connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

    with capture_logs() as lines:
        await asyncio.to_thread(talk)
        async with asyncio.timeout(10):
            while not lines:  # noqa: ASYNC110 - a line in a log sets no event
                await asyncio.sleep(0.001)
    assert [line["event"] for line in lines] == ["callback.broken_off"]
    assert await door.kept(row) == []


async def test_slow_sender_holds_up_nobody(door: Door) -> None:
    """While one body trickles in, others are answered; then so is the slow one."""
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


async def test_same_callback_at_once(door: Door) -> None:
    """Fifty copies of one callback at the same time are all kept and make one event."""
    row = await door.submission()
    answers = await asyncio.gather(*(door.post(path(row), body(row)) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert await door.kept(row) == [None] * 50
    assert await door.types(row) == ["task.progressed.46"]


# Our own trouble


async def test_journal_gone(tmp_path: Path) -> None:
    """What cannot be stored is answered 503 with Retry-After, never 2xx."""
    async with opened(tmp_path, policy=Policy()) as door:
        row = await door.submission()
        await door.journal.aclose()
        response = await door.post(path(row), body(row, prompt=MARKER))
        assert_problem(response, 503)
        assert response.headers["retry-after"].isdigit()
        assert str(tmp_path) not in response.text


async def test_one_line_in_the_log(door: Door) -> None:
    """Each request is one line, whatever it came to, and no line holds a token or the body."""
    row = await door.submission()
    url, state = path(row), tokens().state_token(row.id)
    requests = [
        (url, body(row, prompt=MARKER, state=state), JSON, "callback.received"),
        (f"/callbacks/{MARKER}", body(row), JSON, "callback.refused"),
        ("/callbacks", body(row, state=MARKER), JSON, "callback.refused"),
        (url, MARKER.encode(), JSON, "callback.refused"),
        (url, body(row, state=state), {"Content-Type": MARKER}, "callback.refused"),
    ]
    for where, content, headers, event in requests:
        with capture_logs() as lines:
            await door.post(where, content, headers)
        ours = [line for line in lines if line["event"].startswith("callback.")]
        assert [line["event"] for line in ours] == [event]
        assert MARKER not in repr(lines)
        assert url.rpartition("/")[2] not in repr(lines)
        assert state not in repr(lines)


# Recorded payloads

_ACCEPTED = ["task.accepted"]
RECORDED = {
    "callback_01_java_submitted.json": _ACCEPTED,
    "callback_02_java_in_progress_0.json": [*_ACCEPTED, "task.progressed.0"],
    "callback_03_java_in_progress_46_webp.json": [*_ACCEPTED, "task.progressed.46"],
    "callback_05_java_failure_timeout.json": [*_ACCEPTED, "task.failed"],
    "callback_07_java_describe_success.json": [*_ACCEPTED, "task.succeeded"],
    "callback_11_csharp_submitted.json": _ACCEPTED,
    "callback_13_csharp_success.json": [*_ACCEPTED, "task.succeeded"],
    "callback_14_csharp_failure_banned.json": [*_ACCEPTED, "task.failed"],
    "callback_18_csharp_late_progress_after_success.json": [*_ACCEPTED, "task.progressed.93"],
    "callback_19_crazyrouter_minimal.json": [*_ACCEPTED, "task.succeeded"],
    "callback_20_csharp_wire_escaping.raw.json": [*_ACCEPTED, "task.succeeded"],
}


def ours(name: str, state: str) -> bytes:
    """A recorded callback with our state and task id, and every other byte as it came."""
    text = (PAYLOADS / name).read_text(encoding="utf-8")
    recorded = json.loads(text)
    text = text.replace(json.dumps(recorded["id"]), json.dumps(TASK))
    if recorded.get("state"):
        return text.replace(json.dumps(recorded["state"]), json.dumps(state)).encode()
    return text.replace("{", f'{{"state": "{state}",', 1).encode()


async def test_every_recorded_callback_is_tried() -> None:
    """The table below holds every recorded callback."""
    assert sorted(RECORDED) == sorted(file.name for file in PAYLOADS.glob("callback_*.json"))


@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_callback(door: Door, name: str) -> None:
    """Every recorded callback under our tokens is accepted and makes its events."""
    row = await door.submission(task_id=None)
    content = ours(name, tokens().state_token(row.id))
    response = await door.post(path(row), content)
    assert (response.status_code, response.json()) == (200, {"accepted": True})
    assert await door.types(row) == RECORDED[name]
    (callback,) = await door.journal.callbacks(row.id)
    assert callback.body == content.decode()


# Before the body


async def test_endless_headers(door: Door) -> None:
    """Headers without end are cut off with 431 before they fill our memory; 40 KB of them are still taken."""

    def talk(lines: int) -> bytes:
        with connect(door.url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            for number in range(lines):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 10_000))
            connection.sendall(b"\r\n")
            return read_all(connection)
        return b"cut off"

    assert (await asyncio.to_thread(talk, 4)).startswith(b"HTTP/1.1 200")
    assert (await asyncio.to_thread(talk, 3000)).startswith((b"HTTP/1.1 431", b"cut off"))


class Impatient(Connection):
    head_seconds = 0.2


@pytest.mark.parametrize("sent", [b"", b"POST /callbacks/x HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_slow_headers(sent: bytes) -> None:
    """A sender that never finishes its headers, or never begins, is let go with 408."""
    async with serving(Starlette(), Impatient) as url:
        assert (await exchange(url, sent)).startswith(b"HTTP/1.1 408 ")
