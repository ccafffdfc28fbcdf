"""Memory that many pictures take: each is downloaded once, written to a folder and put to a real S3 server.

usage: .venv/bin/python scripts/bench_pictures.py [--pictures N] [--megabytes N] [--tiles] [--bucket]

A stand-in for the provider serves the pictures, SeaweedFS keeps the bucket, and `receiver serve` is what is measured:
its resident memory, twice a second from the first submission to the last delivery. Exit status 1 if anything is
missing or damaged at either place, or was downloaded more than once. With --bucket the media store is a bucket of that
server, too, and its cache has room for a quarter of the pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import obstore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.cli.servers import address, bind, server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from buckets import Buckets, listed, reading  # noqa: E402 - a real S3 server, as the tests start it

TOKEN = "a-token-of-the-benchmark-alone"  # noqa: S105 - no secret: it opens this run's own server
PATIENCE = 1800.0
"""Seconds for the whole run."""
AT_ONCE = 8
"""Submissions under way."""


@dataclass
class Pictures:
    """The provider, as far as it is needed: every task is done at once, and its picture is unlike any other.

    Attributes:
        grid: whether pictures can be cut (dear to make), or are noise behind a PNG's first bytes.
    """

    size: int
    grid: bool
    url: str = ""
    made: int = 0
    served: Counter[int] = field(default_factory=Counter)

    def content(self, number: int) -> bytes:
        """Always the same for a number."""
        if not self.grid:
            return b"\x89PNG\r\n\x1a\n" + random.Random(number).randbytes(self.size - 8)  # noqa: S311 - no secret
        return _noise(number, self.size)

    async def submit(self, request: Request) -> Response:
        self.made += 1
        return JSONResponse({"code": 1, "description": "ok", "result": str(self.made), "properties": {}})

    async def listed(self, request: Request) -> Response:
        return JSONResponse([self._task(id) for id in (await request.json())["ids"]])

    async def fetched(self, request: Request) -> Response:
        return JSONResponse(self._task(request.path_params["id"]))

    async def picture(self, request: Request) -> Response:
        number = int(request.path_params["number"])
        self.served[number] += 1
        return Response(await asyncio.to_thread(self.content, number), media_type="image/png")

    def _task(self, id: str) -> dict[str, Any]:
        return {
            "id": id,
            "status": "SUCCESS",
            "progress": "100%",
            "action": "IMAGINE",
            "prompt": "a boat",
            "imageUrl": f"{self.url}/picture/{id}.png",
        }

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mj/submit/imagine", self.submit, methods=["POST"]),
                Route("/mj/task/list-by-condition", self.listed, methods=["POST"]),
                Route("/mj/task/{id}/fetch", self.fetched),
                Route("/picture/{number:int}.png", self.picture),
            ]
        )


def _noise(number: int, size: int) -> bytes:
    from PIL import Image  # noqa: PLC0415 - for --tiles only

    side = int((size / 3) ** 0.5)  # noise does not compress: three bytes a pixel
    held = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(number).randbytes(side * side * 3)).save(  # noqa: S311
        held, "PNG", compress_level=0
    )
    return held.getvalue()


@dataclass
class Run:
    """One run's parts."""

    folder: Path
    count: int
    pictures: Pictures
    buckets: Buckets
    tiles: bool
    bucket: bool
    memory: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the start, bytes)."""

    @property
    def journal(self) -> Path:
        return self.folder / "data" / "journal.db"

    def configured(self) -> dict[str, str]:
        """The environment of the process that is measured, and its file of destinations."""
        store = self.buckets.options("pictures", tiles=self.tiles)
        tables = {
            "folder": {"handler": "file", "path": str(self.folder / "outputs"), "tiles": self.tiles},
            "store": {"handler": "s3", **store},
        }
        lines = []
        for name, table in tables.items():
            lines += [f"[destinations.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
        (self.folder / "receiver.toml").write_text("\n".join(lines))
        archive = {
            "RECEIVER_MEDIA": f"s3://archive?endpoint={self.buckets.url}",
            "RECEIVER_MEDIA_CACHE_BYTES": str(self.pictures.size * self.count // 4),
            "AWS_ACCESS_KEY_ID": store["access_key"],
            "AWS_SECRET_ACCESS_KEY": store["secret_key"],
            "AWS_REGION": "us-east-1",
        }
        return {
            **(archive if self.bucket else {}),
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "COMETAPI_KEY": "a-key",
            "RECEIVER_PROVIDER_URL": self.pictures.url,
            "RECEIVER_DATA": str(self.folder / "data"),
            "RECEIVER_API_TOKENS": f"bench:{TOKEN}",
            "RECEIVER_POLL_INTERVAL": "2",
            "RECEIVER_LOG_LEVEL": "warning",
        }

    def delivered(self) -> int:
        """Deliveries that have succeeded, at both places together."""
        with sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=10) as connection:
            (count,) = connection.execute("SELECT count(*) FROM deliveries WHERE status = 'succeeded'").fetchone()
        connection.close()
        return int(count)


def resident(pid: int) -> int:
    """Bytes of resident memory (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the process is gone")


async def submitted(url: str, count: int) -> None:
    """Submit them all, a few at once."""
    limit = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:

        async def one() -> None:
            async with limit:
                answer = await client.post(
                    "/submissions", json={"prompt": "a boat"}, headers={"Authorization": f"Bearer {TOKEN}"}
                )
                answer.raise_for_status()

        await asyncio.gather(*(one() for _ in range(count)))


def started(run: Run, port: int) -> subprocess.Popen[bytes]:
    """The process that is measured."""
    with (run.folder / "log").open("wb") as log:
        return subprocess.Popen(
            [Path(sys.executable).with_name("receiver"), "serve", "--port", str(port)],
            cwd=run.folder,
            env=run.configured(),
            stdout=log,
            stderr=log,
        )


async def measured(run: Run) -> float:
    """The whole run; returns its seconds."""
    with bind("127.0.0.1", 0) as listener, bind("127.0.0.1", 0) as free:
        run.pictures.url = address(listener)
        port = free.getsockname()[1]
        free.close()
        standin = server(run.pictures.app)
        serving = asyncio.create_task(standin.serve(sockets=[listener]))
        process = await asyncio.to_thread(started, run, port)
        try:
            url = f"http://127.0.0.1:{port}"
            await _ready(url)
            return await _watched(run, process.pid, url)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait)
            standin.should_exit = True
            await serving


async def _ready(url: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)


async def _watched(run: Run, pid: int, url: str) -> float:
    start = time.monotonic()
    sending = asyncio.create_task(submitted(url, run.count))
    async with asyncio.timeout(PATIENCE):
        while (done := await asyncio.to_thread(run.delivered)) < 2 * run.count:
            run.memory.append((time.monotonic() - start, resident(pid)))
            if len(run.memory) % 20 == 0:
                print(f"{run.memory[-1][0]:6.0f} s  {done:5} delivered  {run.memory[-1][1] / 1e6:4.0f} MB", flush=True)
            await asyncio.sleep(0.5)
    run.memory.append((time.monotonic() - start, resident(pid)))
    await sending
    return time.monotonic() - start


async def problems(run: Run) -> list[str]:
    """Return a sentence for each file that is missing, damaged or was downloaded twice."""
    each = 5 if run.tiles else 1
    found = []
    wanted = {hashlib.sha256(run.pictures.content(n)).hexdigest() for n in range(1, run.count + 1)}
    files = [path for path in (run.folder / "outputs").iterdir() if path.suffix == ".png"]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if len(files) != run.count * each or not wanted <= digests:
        found.append(f"the folder holds {len(files)} pictures, {len(wanted - digests)} of the originals are not there")
    store = reading(run.buckets, "pictures")
    keys = [item["path"] async for batch in store.list() for item in batch if item["path"].endswith(".png")]
    there = set()
    for key in keys:
        there.add(hashlib.sha256(bytes(await (await obstore.get_async(store, key)).bytes_async())).hexdigest())
    if len(keys) != run.count * each or not wanted <= there:
        found.append(f"the bucket holds {len(keys)} pictures, {len(wanted - there)} of the originals are not there")
    if run.bucket and (archived := len(await listed(reading(run.buckets, "archive")))) != run.count:
        found.append(f"the archive holds {archived} files")
    repeated = sum(1 for times in run.pictures.served.values() if times > 1)
    if repeated:
        found.append(f"{repeated} pictures were downloaded more than once")
    return found


def told(run: Run, seconds: float) -> None:
    """The figures."""
    sizes = [size / 1e6 for _, size in run.memory]
    half = sizes[len(sizes) // 2 :]
    print(f"{run.count} pictures of {run.pictures.size / 1e6:g} MB, each to a folder and to an S3 server")
    pace = run.count / seconds
    print(f"in all             {seconds:.0f} s, {pace:.1f} pictures/s, {2 * pace:.1f} deliveries/s")
    print(f"downloads          {sum(run.pictures.served.values())}")
    print(f"memory at first    {sizes[0]:.0f} MB")
    print(f"memory, 2nd half   {statistics.median(half):.0f} MB median, {min(half):.0f} to {max(half):.0f} MB")
    print(f"memory, highest    {max(sizes):.0f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description="How much memory many pictures take.")
    parser.add_argument("--pictures", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--megabytes", type=float, default=2, help="of each (default 2)")
    parser.add_argument("--tiles", action="store_true", help="real grids, cut into tiles for both places")
    parser.add_argument("--bucket", action="store_true", help="the media store in a bucket, too")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="receiver-pictures-", dir=given.folder) as name:
        folder = Path(name)
        buckets = Buckets(folder / "s3")
        try:
            buckets.start()
            buckets.bucket("pictures")
            buckets.bucket("archive")
            pictures = Pictures(size=int(given.megabytes * 1e6), grid=given.tiles)
            run = Run(folder, given.pictures, pictures, buckets, given.tiles, given.bucket)
            seconds = asyncio.run(measured(run))
            told(run, seconds)
            found = asyncio.run(problems(run))
        finally:
            buckets.kill()
    for problem in found:
        print(f"Wrong: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
