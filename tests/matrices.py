"""A real Matrix server (Synapse) on a free port, with a user and a room."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ports import free_port
from waiting import PATIENCE

SECRET = "shared-by-the-tests-alone"
PASSWORD = "the-password-of-boats"
_CONFIG = """
server_name: localhost
pid_file: {folder}/pid
media_store_path: {folder}/media
signing_key_path: {folder}/key
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
registration_shared_secret: {secret}
database: {{name: sqlite3, args: {{database: ":memory:"}}}}
listeners: [{{port: {port}, type: http, bind_addresses: ["127.0.0.1"], resources: [{{names: [client]}}]}}]
rc_login: {{address: {{per_second: 100, burst_count: 100}}, account: {{per_second: 100, burst_count: 100}}}}
"""


@dataclass
class Matrix:
    """The server, and what its user sees."""

    url: str
    token: str
    room: str

    @property
    def place(self) -> str:
        """The room as an Apprise URL."""
        return f"matrix://boats:{PASSWORD}@{self.url.partition('://')[2]}/#pictures"

    def messages(self) -> list[dict[str, Any]]:
        """What was sent to the room, oldest first."""
        path = f"/_matrix/client/v3/rooms/{self.room}/messages"
        events = _call(self.url, "GET", path, self.token, params={"dir": "f", "limit": "100"})["chunk"]
        return [event["content"] for event in events if event["type"] == "m.room.message"]

    def file(self, mxc: str) -> bytes:
        """An uploaded file by its `mxc:` address."""
        path = f"/_matrix/client/v1/media/download/{mxc.removeprefix('mxc://')}"
        answer = httpx.get(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        answer.raise_for_status()
        return answer.content


@contextmanager
def homeserver(folder: Path) -> Iterator[Matrix]:
    """Synapse as its own process, ended with the block."""
    port = free_port()
    config = folder / "homeserver.yaml"
    config.write_text(_CONFIG.format(folder=folder, secret=SECRET, port=port))
    command = [sys.executable, "-m", "synapse.app.homeserver", "--config-path", str(config)]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True, timeout=PATIENCE)
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(url, process)
            token, room = _register(url), {"room_alias_name": "pictures"}
            yield Matrix(url, token, _call(url, "POST", "/_matrix/client/v3/createRoom", token, json=room)["room_id"])
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, "Synapse has ended"
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise AssertionError("Synapse does not start")


def _register(url: str) -> str:
    path = "/_synapse/admin/v1/register"
    nonce = _call(url, "GET", path)["nonce"]
    signed = "\0".join([nonce, "boats", PASSWORD, "notadmin"]).encode()
    form = {
        "nonce": nonce,
        "username": "boats",
        "password": PASSWORD,
        "admin": False,
        "mac": hmac.new(SECRET.encode(), signed, hashlib.sha1).hexdigest(),
    }
    return str(_call(url, "POST", path, json=form)["access_token"])


def _call(url: str, verb: str, path: str, token: str = "", **request: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.request(verb, url + path, headers=headers, timeout=PATIENCE, **request)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found
