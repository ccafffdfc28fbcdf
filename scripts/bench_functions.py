"""Costs of a function: its package, its start, the time it adds to a callback, and its requests to the bucket.

usage: .venv/bin/python scripts/bench_functions.py [--starts N] [--tasks N] [--speed N]

The package is installed with the extra `aws` and weighed. The start is that of Amazon's own runtime client on one core,
with a journal on SeaweedFS beside it: from nothing to its first answer. Then tasks are submitted and called back ten
times each, as Midjourney's are, in this process: the answer's time is measured, and the time in which the store was
asked is taken off it; its requests are counted. Exit status 1 if a picture is missing at one of the two destinations.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from buckets import KEY, SECRET, Buckets  # noqa: E402 - a real S3 server, as the tests start it
from builds.replacing import replaced  # noqa: E402
from functions import TOKEN, bearer  # noqa: E402
from lambdas import environment, request_event  # noqa: E402
from providers import Relay, provided  # noqa: E402

import receiver.journal.bucket as bucket_journal  # noqa: E402
from receiver.bucket import BucketOptions  # noqa: E402
from receiver.bucket.client import Bucket  # noqa: E402
from receiver.clock import Clock  # noqa: E402
from receiver.serverless import Application  # noqa: E402
from receiver.settings import load  # noqa: E402
from receiver.telemetry import configure  # noqa: E402

PACE = 6.0
"""Seconds between a task's callbacks (PROTOCOL.md §7)."""
STEPS = ("SUBMITTED", 0, 0, 15, 31, 46, 62, 78, 93, "SUCCESS")
"""Callbacks of an imagine (PROTOCOL.md §7)."""
HANDLERS = """
from receiver.serverless import aws
http, tick = aws()
"""
IMPORTS = """
import sys, receiver.serverless, mangum, receiver.journal.bucket
names = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(len(sys.modules), "modules, of:", ", ".join(sorted(name for name in names if name[0] != "_")))
"""
PRICES = {"PUT": 5.0, "LIST": 5.0, "GET": 0.4, "DELETE": 0.0}
"""Dollars for a million requests (S3, us-east-1)."""


class Asked(Bucket):
    """Counts the time in which at least one request is under way."""

    seconds = 0.0
    _open = 0
    _since = 0.0
    found: Counter[str] | None = None

    def __init__(self, bucket: Bucket) -> None:
        self.__dict__.update(vars(bucket))
        Asked.found = self.requests


def _timed(name: str) -> Callable[..., Awaitable[Any]]:
    method = getattr(Bucket, name)

    async def call(self: Asked, *args: Any, **kwargs: Any) -> Any:
        if Asked._open == 0:
            Asked._since = time.perf_counter()
        Asked._open += 1
        try:
            return await method(self, *args, **kwargs)
        finally:
            Asked._open -= 1
            if Asked._open == 0:
                Asked.seconds += time.perf_counter() - Asked._since

    return call


for _name in ("get", "get_if_changed", "put", "create", "replace", "delete"):
    setattr(Asked, _name, _timed(_name))

_client_of = bucket_journal.client_of


def asked_client(options: BucketOptions, folder: str) -> Bucket:
    return Asked(_client_of(options, folder))


def weigh(folder: Path) -> None:
    """Print the size of a deployment package: Receiver and the extra `aws`, without compiled files."""
    [wheel] = (ROOT / ".venv" / "wheel").glob("*.whl")
    target = folder / "package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), f"{wheel}[aws]"], check=True, stderr=subprocess.DEVNULL)
    sizes = Counter({item.name: _size(item) for item in target.iterdir()})
    heavy = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sizes.most_common(4))
    print(f"package with the extra aws: {sum(sizes.values()) / 1e6:.0f} MB unpacked ({heavy})")
    # Without what else is installed here: some libraries import others only where they are.
    done = subprocess.run(
        [sys.executable, "-S", "-c", IMPORTS],
        check=True, capture_output=True, text=True, env={"PYTHONPATH": str(target)},
    )  # fmt: skip
    print(f"imported at the start: {done.stdout.strip()}")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(item.stat().st_size for item in files if item.is_file())


async def start(folder: Path, variables: dict[str, str], times: int) -> None:
    """Seconds from nothing to the first answer, on one core."""
    folder.joinpath("handlers.py").write_text(HANDLERS)
    imported, answered, used = [], [], []
    for _ in range(times):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        async with environment(folder, "handlers.http", variables, core=max(os.sched_getaffinity(0))) as runtime:
            await runtime.asked.wait()
            imported.append(time.perf_counter() - begun)
            answer = await runtime.invoke(request_event("/submissions", method="GET", authorization=f"Bearer {TOKEN}"))
            answered.append(time.perf_counter() - begun)
            assert answer["statusCode"] == 200, answer
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(
        f"cold start, median of {times}: {statistics.median(answered):.2f} s to the first answer, of which "
        f"{statistics.median(imported):.2f} s to the first event; {statistics.median(used):.2f} s of processor time"
    )


async def call_back(http: httpx.AsyncClient, relay: Relay, picture: str, speed: float) -> list[tuple[str, float]]:
    """One task from submit to end; kind and seconds of each answer, without the store's."""
    answer = await http.post("/submissions", json={"prompt": "a boat"}, headers=bearer(TOKEN))
    assert answer.status_code == 201, answer.text
    found = []
    for step in STEPS:
        await asyncio.sleep(PACE / speed)
        body = relay.ends(picture) if step == "SUCCESS" else relay.goes_on(step)
        asked, begun = Asked.seconds, time.perf_counter()
        answer = await http.post(relay.path, json=body)
        seconds = time.perf_counter() - begun - (Asked.seconds - asked)
        assert answer.status_code == 200, answer.text
        found.append(("end" if step == "SUCCESS" else "progress", seconds))
    return found


async def serve(folder: Path, variables: dict[str, str], relay: Relay, picture: str, options: Any) -> bool:
    """Tasks one after the other in one warm process."""
    settings = load({**variables, "RECEIVER_POLL_INTERVAL": "15"}, folder)
    application = Application(settings, clock=Clock(options.speed), budget=20 * options.speed, limit=2000)
    times: list[tuple[str, float]] = []
    with replaced(bucket_journal, "client_of", asked_client):
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(application), base_url="http://function", timeout=60
        ) as http:
            await http.get("/submissions", headers=bearer(TOKEN))  # warm
            assert Asked.found is not None
            before = Counter(Asked.found)
            for _ in range(options.tasks):
                times += await call_back(http, relay, picture, options.speed)
            spent = Counter(Asked.found)
            spent.subtract(before)
        await application.aclose()
    for kind in ("progress", "end"):
        of_kind = [seconds * 1000 for name, seconds in times if name == kind]
        print(f"warm callback to answer without the store's time, {kind}: p50 {statistics.median(of_kind):.1f} ms")
    each = {name: spent[name] / options.tasks for name in PRICES}
    dollars = sum(each[name] * price for name, price in PRICES.items()) / 1000
    told = ", ".join(f"{number:.1f} {name}" for name, number in each.items())
    print(f"requests for a task of 10 callbacks and 2 destinations: {told}: ${dollars:.3f} for a thousand tasks")
    places = [len(list((folder / name).glob("*.png"))) for name in ("outputs", "second")]
    return places == [options.tasks, options.tasks]


async def bench(folder: Path, options: argparse.Namespace) -> bool:
    server = Buckets(folder / "s3")
    server.start()
    server.bucket("acme")
    try:
        async with provided() as (relay, picture, variables):
            variables |= {
                "RECEIVER_DATABASE": f"s3://acme/receiver?endpoint={server.url}&region=us-east-1",
                "RECEIVER_DATA": str(folder / "data"),
                "RECEIVER_TO": f"file:{folder / 'outputs'}",
                "RECEIVER_DESTINATIONS__SECOND__URL": f"file:{folder / 'second'}",
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
            }
            os.environ |= {name: variables[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
            await start(folder, variables, options.starts)
            return await serve(folder, variables, relay, picture, options)
    finally:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=5, help="cold starts")
    parser.add_argument("--tasks", type=int, default=3, help="tasks, one after the other")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast tasks are called back")
    options = parser.parse_args()
    configure(level="critical", format="json", secrets=[], stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", ignore_cleanup_errors=True) as name:
        weigh(Path(name))
        return 0 if asyncio.run(bench(Path(name), options)) else 1


if __name__ == "__main__":
    sys.exit(main())
