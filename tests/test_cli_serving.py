"""`receiver serve`, `worker` and `simulate`: starting, refusing to start, and stopping, as real processes."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from servers import Command, connect, read_all, receiver, serving_receiver

from receiver.clock import Clock
from receiver.events import new_id
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


def test_taken_port(house: tuple[Path, str], tmp_path: Path) -> None:
    """A taken port is a sentence that names it and what to do."""
    port = house[1].rpartition(":")[2]
    result = receiver("serve", "--port", port, folder=tmp_path, env=ENV)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: Nothing can listen on 127.0.0.1:{port}: Address already in use. "
        "Choose another with --port (0 takes a free one) or --host.\n"
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
        result = command.wait(15)
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
        assert command.wait(5).code == -signal.SIGTERM


def test_worker_stops(tmp_path: Path) -> None:
    """The worker listens nowhere, and Ctrl-C ends it with 0."""
    with Command("worker", folder=tmp_path, env=ENV) as command:
        command.err.line("engine.started")
        command.send_signal(signal.SIGINT)
        assert command.wait(10).code == 0


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
    assert result.err.startswith("Error: --port is wrong: ")
    assert list(tmp_path.iterdir()) == []
