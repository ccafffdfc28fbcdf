"""`receiver serve`, `worker` and `simulate`: starting, refusing to start, and stopping, as real processes."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from journals import delivery, event, owing, submission
from servers import Command, connect, read_all, receiver, serving_receiver

from receiver.clock import Clock
from receiver.events import new_id
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.tokens import Tokens

KEYS = "0123456789abcdef" * 4
ENV = {"COMETAPI_KEY": "sk-simulator-0001", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9", "RECEIVER_KEYS": KEYS}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder in which `receiver serve` runs, and its URL."""
    folder = tmp_path_factory.mktemp("house")
    with serving_receiver(folder, ENV) as (command, url):
        yield folder, url
        assert command.stop().code == 0


def test_ready(house: tuple[Path, str]) -> None:
    """Once the first line is out, the server answers and is ready."""
    _, url = house
    response = httpx.get(f"{url}/readyz", trust_env=False)
    assert (response.status_code, response.json()["ready"]) == (200, True)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_one_engine(house: tuple[Path, str], command: str) -> None:
    """A second engine on one journal is refused by a sentence that names the first, before it listens."""
    folder, _ = house
    result = receiver(command, folder=folder, env=ENV | {"RECEIVER_PORT": "0"})
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: `receiver serve`, process ")
    assert "RECEIVER_DATABASE" in last


def test_serving_without_the_engine_needs_a_shared_journal(tmp_path: Path) -> None:
    """A file of SQLite has one writer: `--no-engine`, or its setting, is refused before anything listens."""
    for arguments, env in ((["--no-engine"], ENV), ([], ENV | {"RECEIVER_ENGINE": "false"})):
        result = receiver("serve", "--port", "0", *arguments, folder=tmp_path, env=env)
        assert (result.code, result.out) == (1, "")
        last = result.err.splitlines()[-1]
        assert last.startswith("Error: Without the engine inside (--no-engine, RECEIVER_ENGINE), ")
        assert last.endswith("or set RECEIVER_DATABASE to postgresql://… (receiver help postgres)")


def test_taken_port(house: tuple[Path, str], tmp_path: Path) -> None:
    """A taken port is a sentence that names it and what to do."""
    port = house[1].rpartition(":")[2]
    result = receiver("serve", "--port", port, folder=tmp_path, env=ENV)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: Nothing can listen on 127.0.0.1:{port}: Address already in use. "
        "Choose another with --port (0 takes a free one) or --host. (receiver help server)\n"
    )


def test_journal_locked_while_serving(house: tuple[Path, str]) -> None:
    """While another program holds the journal, the server is alive but not ready, and ready again afterwards."""
    folder, url = house
    with closing(sqlite3.connect(folder / ".receiver/journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = httpx.get(f"{url}/readyz", trust_env=False)
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
        other.execute("ROLLBACK")
    assert locked.status_code == 503
    assert "ok" not in locked.json()["journal"]
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200


def test_stops_with_a_half_sent_body(tmp_path: Path) -> None:
    """SIGTERM ends the server with 0 within 10 s, although a sender is in the middle of its body."""
    token = Tokens([KEYS], max_age=60, clock=Clock()).url_token(new_id(1))
    head = (
        f"POST /callbacks/{token} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    with serving_receiver(tmp_path, ENV) as (command, url), connect(url) as idle, connect(url) as half:
        half.sendall(head.encode() + b'{"id": ')
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        command.send_signal(signal.SIGTERM)
        result = command.wait()
        assert time.monotonic() - started < 10
        assert read_all(half).startswith(b"HTTP/1.1 503 ")
    assert result.code == 0, result
    assert "Traceback" not in result.err
    assert token not in result.err


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A person who presses Ctrl-C twice need not wait for open requests."""
    token = Tokens([KEYS], max_age=60, clock=Clock()).url_token(new_id(1))
    head = (
        f"POST /callbacks/{token} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    with serving_receiver(tmp_path, ENV) as (command, url), connect(url) as half, connect(url) as other:
        half.sendall(head.encode())
        other.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(4096).endswith(b"\r\n\r\n")
        command.send_signal(signal.SIGTERM)
        assert other.recv(4096) == b""  # it has begun to stop
        command.send_signal(signal.SIGTERM)
        assert command.wait().code == -signal.SIGTERM


def test_worker_stops(tmp_path: Path) -> None:
    """The worker listens nowhere, and Ctrl-C ends it with 0."""
    with Command("worker", folder=tmp_path, env=ENV) as command:
        command.err.line("engine.started")
        command.send_signal(signal.SIGINT)
        assert command.wait().code == 0


def test_simulator_refuses_and_stops(tmp_path: Path) -> None:
    """The simulator takes the one key it was given, and a signal ends it with 0."""
    with Command("simulate", "--port", "0", "--key", "right", folder=tmp_path, env={}) as command:
        line = command.out.line("http://")
        export = command.out.line("export")
        url = export.split("RECEIVER_PROVIDER_URL=")[1].split()[0]
        assert url in line
        assert export.endswith(" COMETAPI_KEY=right")
        for key, status in (("wrong", 401), ("right", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            sent = httpx.post(f"{url}/mj/submit/imagine", json={"prompt": "x"}, headers=headers, trust_env=False)
            assert sent.status_code == status
        assert command.stop().code == 0


def test_port_out_of_range(tmp_path: Path) -> None:
    """A port that is none is refused before anything is opened."""
    result = receiver("serve", "--port", "65536", folder=tmp_path, env=ENV)
    assert result.code == 1
    assert result.err.startswith("Error: --port cannot be 65536. Write a whole number from 0 to 65535.")
    assert list(tmp_path.iterdir()) == []


# The end, under everything that could hold it up

HANDLER = """
import asyncio, time
from receiver.handlers.base import HandlerOptions, Receipt

class Stubborn:
    name, summary, schemes, Options = "stubborn", "Does what a test needs.", ("stubborn",), HandlerOptions

    @classmethod
    def options_from_url(cls, url):
        return {{}}

    def __init__(self, options):
        pass

    async def deliver(self, attempt):
        print("delivering", attempt.number, flush=True)
        {deliver}
        return Receipt()

    async def aclose(self):
        {close}
"""


def plugged_in(folder: Path, deliver: str, close: str = "pass") -> dict[str, str]:
    """The environment of a process that has this handler installed as a stranger's plug-in, and delivers to it."""
    place = folder / "plugins"
    (place / "stubborn-1.dist-info").mkdir(parents=True, exist_ok=True)
    (place / "stubborn_plugin.py").write_text(HANDLER.format(deliver=deliver, close=close))
    (place / "stubborn-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1\n")
    (place / "stubborn-1.dist-info/entry_points.txt").write_text(
        "[receiver.handlers]\nstubborn = stubborn_plugin:Stubborn\n"
    )
    return ENV | {"PYTHONPATH": str(place), "RECEIVER_TO": "stubborn:x"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Command, str, Path]]:
    """`receiver serve` with an HTTP API and one submission that stays `prepared`, because nobody answers it."""
    env = ENV | {"RECEIVER_API_TOKENS": f"test:{SECRET}"}
    with serving_receiver(tmp_path, env) as (command, url):
        yield command, url, tmp_path


SECRET = "s" * 32


def submitted(folder: Path, *, owed: bool = False) -> str:
    """A submission put into the journal beside the server; `owed`: with a result to be delivered."""
    now_ms = Clock().now_ms()
    fields = {"id": new_id(now_ms), "status": "accepted", "task_id": "17", "send_due_ms": None}
    row = submission(**fields, created_ms=now_ms, deadline_ms=now_ms + 10**7, ended="task.succeeded" if owed else None)

    async def add() -> None:
        journal = Journal(await open_store(folder / ".receiver/journal.db"))
        await journal.add(row)
        if owed:
            fact = event(row)
            one = delivery(fact, 1, "stubborn", created_ms=now_ms, due_ms=now_ms)
            await journal.change(row.id, lambda current: owing(current, (fact, one)))
        await journal.aclose()

    asyncio.run(add())
    return row.id


def owed(folder: Path) -> tuple[str, int, int]:
    """Status, attempts and failures of the one delivery there is."""
    with closing(sqlite3.connect(folder / ".receiver/journal.db")) as db:
        status, attempt, failures = db.execute("SELECT status, attempt, failures FROM deliveries").fetchone()
    return status, attempt, failures


def test_stops_with_everything_open(api: tuple[Command, str, Path]) -> None:
    """SIGTERM ends the server with 0 well within 10 s, with an event stream, a half-sent head, a half-sent body, a
    client that never reads, and many idle connections open; the stream ends as streams end."""
    command, url, folder = api
    id = submitted(folder)
    token = Tokens([KEYS], max_age=60, clock=Clock()).url_token(id)
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(url)) for _ in range(24)]
        stream, body, head, *rest = sockets
        accept = f"Authorization: Bearer {SECRET}\r\nAccept: text/event-stream"
        stream.sendall(f"GET /submissions/{id}/events HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n".encode())
        assert stream.recv(4096).startswith(b"HTTP/1.1 200")
        started = f"POST /callbacks/{token} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        body.sendall(f"{started}Content-Length: 50\r\n\r\n".encode() + b'{"id": ')
        head.sendall(started.encode())
        for connection in rest:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")  # and its answer is never read
        began = time.monotonic()
        command.send_signal(signal.SIGTERM)
        assert read_all(body).startswith(b"HTTP/1.1 503 ")
        assert read_all(stream).endswith(b"0\r\n\r\n")
        result = command.wait()
        assert time.monotonic() - began < 6
    assert result.code == 0, result
    assert "Traceback" not in result.err


def test_stops_while_the_journal_is_locked(api: tuple[Command, str, Path]) -> None:
    """A callback that waits for a locked journal when the server stops hears 503, and the end comes within 10 s."""
    command, url, folder = api
    id = submitted(folder)
    tokens = Tokens([KEYS], max_age=60, clock=Clock())
    body = json.dumps({"id": "17", "status": "IN_PROGRESS", "state": tokens.state_token(id)}).encode()
    with closing(sqlite3.connect(folder / ".receiver/journal.db", isolation_level=None)) as other, connect(url) as one:
        other.execute("BEGIN IMMEDIATE")
        one.sendall(
            f"POST /callbacks/{tokens.url_token(id)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        began = time.monotonic()
        command.send_signal(signal.SIGTERM)
        assert read_all(one).startswith(b"HTTP/1.1 503 ")
        command.wait()
        assert time.monotonic() - began < 10


BODIES = {
    "it hangs": ("await asyncio.Event().wait()", "pass", 0),
    "it hangs in a thread": ("await asyncio.to_thread(time.sleep, 60)", "pass", 1),
    "its closing hangs": ("await asyncio.Event().wait()", "await asyncio.Event().wait()", 0),
    "it cannot be interrupted": (
        "while True:\n            try: await asyncio.sleep(60)\n            except BaseException: pass", "pass", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_stops_with_a_handler_that(tmp_path: Path, name: str) -> None:
    """SIGTERM ends the server within 10 s whatever a handler does. An attempt that could be interrupted has used up no
    failure; one that could not is found running by the next start."""
    deliver, close, code = BODIES[name]
    with serving_receiver(tmp_path, plugged_in(tmp_path, deliver, close)) as (command, _):
        submitted(tmp_path, owed=True)
        command.out.line("delivering 1")
        began = time.monotonic()
        command.send_signal(signal.SIGTERM)
        result = command.wait()
        assert time.monotonic() - began < 9.5
    assert result.code == code, result
    assert owed(tmp_path) == ("running" if name == "it cannot be interrupted" else "pending", 1, 0)


def test_after_a_kill(tmp_path: Path) -> None:
    """After kill -9 in the middle of an attempt, the next start is ready as soon as the first one was, and makes the
    attempt anew at once."""
    began = time.monotonic()
    with serving_receiver(tmp_path, plugged_in(tmp_path, "await asyncio.Event().wait()")) as (command, _):
        first = time.monotonic() - began
        submitted(tmp_path, owed=True)
        command.out.line("delivering 1")
        command.send_signal(signal.SIGKILL)
        command.wait()
    assert owed(tmp_path)[0] == "running"
    began = time.monotonic()
    with serving_receiver(tmp_path, plugged_in(tmp_path, "pass")) as (command, url):
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        ready = time.monotonic() - began
        command.out.line("delivering 2")
        delivering = time.monotonic() - began
        command.stop()
    assert owed(tmp_path)[0] == "succeeded"
    # Neither waits until the engine that was killed expires, after 15 s. The experiment kill-9 counts the 2 s of P8.
    assert ready < first * 2 + 10
    assert delivering < ready + 10
