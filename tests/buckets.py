"""A real S3 server for tests: SeaweedFS, a process of its own on free ports of 127.0.0.1."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from obstore.store import S3Store
from ports import free_ports
from waiting import PATIENCE

COMMAND = Path(sys.executable).with_name("weed")
KEY, SECRET = "AKIARECEIVER", "s3cret-of-the-receiver"
READER, READER_SECRET = "AKIAREADER", "s3cret-of-the-reader"
_IDENTITIES = {
    "identities": [
        {"name": "receiver", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
        {
            "name": "reader",
            "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
}
_PORTS = tuple(f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc"))


class Buckets:
    """The server. `start` after `kill` finds what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Every port by name: some defaults are taken on many machines.
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ("127.0.0.1", self._ports["s3.port"])
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._filer = f"http://127.0.0.1:{self._ports['filer.port']}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        folder = self._folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "identities.json"
        config.write_text(json.dumps(_IDENTITIES))
        # By itself a bucket takes seven volumes at its first object, and 28 tests would have all there are.
        (self._folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    COMMAND, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
                    f"-s3.config={config}", "-s3.iam=false", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0",
                    "-s3.port.lance=0", "-volume.max=2000", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false",
                    "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms", "-master.raftHashicorp=false",
                    *(f"-{name}={port}" for name, port in self._ports.items()),
                ],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        self._until_ready(time.monotonic() + PATIENCE)

    def _until_ready(self, deadline: float) -> None:
        while not self._ready():
            assert self._process is not None
            assert self._process.poll() is None, "the S3 server ended: " + (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the S3 server did not come up"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            # Without a bucket a volume cannot be found either; a write to the filer says that all parts have met.
            written = httpx.post(f"{self._filer}/ready/file", files={"file": b"x"}, timeout=5, trust_env=False)
            asked = httpx.get(self.url, timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return written.status_code == 201 and asked.status_code in (200, 403)

    def bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        httpx.post(f"{self._filer}/buckets/{name}/", timeout=10, trust_env=False).raise_for_status()
        return name

    def limit_writes(self, bucket: str, mebibytes: int) -> None:
        """Have the server answer 503 where more than that is under way at once."""
        address = "{0}.{1}".format
        master = address(self._ports["master.port"], self._ports["master.port.grpc"])
        filer = address(self._ports["filer.port"], self._ports["filer.port.grpc"])
        # A bucket's limit counts only where there is one for all, too.
        commands = (
            "s3.circuitBreaker -global -type Count -actions Write -values 10000 -apply\n"
            f"s3.circuitBreaker -buckets {bucket} -type MB -actions Write -values {mebibytes} -apply\n"
        )
        subprocess.run(
            [COMMAND, "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"],
            input=commands.encode(), capture_output=True, check=True, timeout=PATIENCE, cwd=self._folder,
        )  # fmt: skip

    def options(self, bucket: str, **other: Any) -> dict[str, Any]:
        """Options of an `s3` destination here."""
        return {
            "bucket": bucket,
            "endpoint": self.url,
            "region": "us-east-1",
            "access_key": KEY,
            "secret_key": SECRET,
            **other,
        }

    def cpu_seconds(self) -> float:
        """CPU time of the server so far (proc_pid_stat(5): utime and stime)."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def reading(server: Buckets, bucket: str) -> S3Store:
    """Another client, which looks at what lies there."""
    options = server.options(bucket)
    return S3Store(
        bucket,
        endpoint=server.url,
        region="us-east-1",
        access_key_id=options["access_key"],
        secret_access_key=options["secret_key"],
        client_options={"allow_http": True},
    )


async def listed(store: S3Store) -> list[str]:
    return sorted([item["path"] async for batch in store.list() for item in batch])


async def content(store: S3Store, key: str) -> bytes:
    return bytes(await (await store.get_async(key)).bytes_async())


@dataclass
class Between:
    """A relay in front of the real server that loses answers: the request arrives, the connection ends.

    Attributes:
        lost: how many answers are still to be lost.
        before_json: called before the first request for a JSON is passed on.
        seen: the request lines that came.
    """

    target: tuple[str, int]
    lost: int = 0
    before_json: Callable[[], None] | None = None
    seen: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen.append(head.split(b"\r\n")[0].decode())
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if self.before_json is not None and b".json" in head.split(b"\r\n")[0]:
            self.before_json()
        try:
            answer = await self._passed_on(head, body)
        except ConnectionError:
            answer = b""
        if self.lost > 0:
            self.lost -= 1
        elif answer:
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def _passed_on(self, head: bytes, body: bytes) -> bytes:
        there, back = await asyncio.open_connection(*self.target)
        back.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
        answer = await there.read()
        back.close()
        return answer


@asynccontextmanager
async def listening(handle: Any) -> AsyncIterator[str]:
    running = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
    finally:
        running.close()


_shared: Buckets | None = None


def shared_server() -> Buckets:
    """One server for the whole run of this process, with the bucket `journals`; it ends with the process."""
    global _shared  # noqa: PLW0603 - a server takes seconds to start
    if _shared is None:
        folder = tempfile.TemporaryDirectory(prefix="buckets-", ignore_cleanup_errors=True)
        server = Buckets(Path(folder.name))
        atexit.register(folder.cleanup)
        atexit.register(server.kill)
        server.start()
        server.bucket("journals")
        _shared = server
    return _shared
