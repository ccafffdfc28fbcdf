"""Deliveries a second of each handler, and the cost of more destinations. Part of `scripts/bench`.

usage: .venv/bin/python scripts/bench_handlers.py [--rounds N] [--seconds N] [--json FILE] [--folder FOLDER]
                                                  [--core N] [--concurrency N]

Results with a picture of 400 KB are owed when the engine starts, on one core; what they go to runs on another: an S3
server (SeaweedFS), and a web server that reads each webhook and answers 204. Kinds take turns in rounds, and what
counts is their ratio to the handler that does nothing within a round. Where the other end takes more CPU than ours, its
core bounds the rate, so its CPU is told, too. Exit status 1 if deliveries are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from standardwebhooks import Webhook

from receiver.cli.process import run
from receiver.cli.servers import address, bind

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from buckets import Buckets  # noqa: E402 - a real S3 server, as the tests start it

KINDS = {"no-op": 1, "file": 1, "webhook": 1, "s3": 1, "no-op × 5": 5, "no-op × 20": 20}
"""Number of destinations of each event."""
PACE = {"no-op": 1000, "file": 300, "webhook": 400, "s3": 120}
"""Deliveries a second that a run is made for: it takes as many as these are in its time."""
SECRET = "whsec_" + "Zm9yIHRoaXMgYmVuY2htYXJrIGFsb25l"
PATIENCE = 400


@dataclass
class Figures:
    """Runs by kind, as `bench_deliveries.py` tells them."""

    runs: dict[str, list[dict[str, float]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def of(self, kind: str, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(item[name] for item in self.runs[kind])

    def ratio(self, kind: str) -> float:
        """To the handler that does nothing: the median of the ratios within each round."""
        pairs = zip(self.runs[kind], self.runs["no-op"], strict=True)
        return statistics.median(item["per_second"] / beside["per_second"] for item, beside in pairs)


def main() -> int:
    options = read_options()
    figures = Figures()
    missing = []
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as name, places(Path(name)) as there:
        for number in range(options.rounds):
            for kind, width in KINDS.items():
                item = measured(kind, width, there, options)
                figures.runs[kind].append(item)
                told = f"round {number + 1}/{options.rounds}  {kind:10}  {item['per_second']:8,.0f}/s"
                print(told, file=sys.stderr, flush=True)
                if item["deliveries"] != item["owed"]:
                    missing.append(f"{kind}: {item['deliveries']:.0f} of {item['owed']:.0f} were made")
    print_table(figures)
    summary = {"table": table(figures), "runs": figures.runs, "missing": missing}
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    for problem in missing:
        print(f"Deliveries are missing: {problem}", file=sys.stderr)
    return 1 if missing else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How many deliveries a second each handler makes.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each kind runs (default 5)")
    parser.add_argument("--seconds", type=float, default=5, help="of work in each run, roughly (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the usual temporary one)")
    parser.add_argument("--core", type=int, help="for the engine; the rest takes the others (default: the first)")
    parser.add_argument("--concurrency", type=int, help="of each destination (default: that of its kind)")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    options.core = cores[0] if options.core is None else options.core
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores) - {options.core})  # of this process, and of the servers it starts
    return options


# Where deliveries go


@dataclass(frozen=True)
class Places:
    """The servers at the other end."""

    buckets: Buckets
    webhook: str
    """A URL."""
    folder: Path

    def cpu_seconds(self) -> float:
        """CPU time of both servers so far."""
        return time.process_time() + self.buckets.cpu_seconds()


@contextmanager
def places(folder: Path) -> Iterator[Places]:
    """Both servers, while the block runs."""
    buckets = Buckets(folder / "s3")
    (folder / "s3").mkdir()
    started = threading.Event()
    with bind("127.0.0.1", 0) as listener:
        app = Endpoint(started)
        config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", lifespan="on", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        try:
            buckets.start()
            started.wait()
            yield Places(buckets, address(listener), folder)
        finally:
            server.should_exit = True
            buckets.kill()
            thread.join(10)


class Endpoint:
    """Reads and verifies a webhook, and answers 204: what the plainest receiver would do."""

    def __init__(self, started: threading.Event) -> None:
        self._started = started
        self._webhook = Webhook(SECRET)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._started.set()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self._webhook.verify(body, {name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def destinations(kind: str, width: int, there: Places, folder: Path) -> dict[str, dict[str, Any]]:
    """The tables of one run's destinations."""
    match kind:
        case "file":
            return {"place": {"handler": "file", "options": {"path": str(folder / "outputs")}}}
        case "webhook":
            return {"place": {"handler": "webhook", "options": {"url": there.webhook, "secret": SECRET}}}
        case "s3":
            bucket = there.buckets.bucket(folder.name.lower().replace("_", "-"))
            return {"place": {"handler": "s3", "options": there.buckets.options(bucket)}}
        case _:
            return {f"place-{number}": {"handler": "noop"} for number in range(width)}


# Runs


def measured(kind: str, width: int, there: Places, options: argparse.Namespace) -> dict[str, float]:
    """One run of one kind in a process of its own."""
    owed = int(PACE.get(kind, PACE["no-op"]) * options.seconds)
    events = max(owed // width, 1)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=there.folder))
    tables = destinations(kind, width, there, folder)
    for table in tables.values() if options.concurrency else ():
        table["concurrency"] = options.concurrency
    command = [sys.executable, str(ROOT / "scripts" / "bench_deliveries.py"), "--folder", str(folder)]
    command += ["--core", str(options.core), "--events", str(events), "--destinations", json.dumps(tables)]
    cpu = there.cpu_seconds()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    cpu = there.cpu_seconds() - cpu
    item: dict[str, float] = json.loads(done.stdout)
    item["owed"] = events * width
    item["per_second"] = item["deliveries"] / item["seconds"]
    item["events_per_second"] = item["per_second"] / width
    item["cpu_ms"] = 1000 * item["cpu_seconds"] / item["deliveries"]
    item["cpu_ms_there"] = 1000 * cpu / item["deliveries"]
    return item


def table(figures: Figures) -> list[dict[str, Any]]:
    """A row for each kind, for programs."""
    return [
        {
            "kind": kind,
            "per_second": figures.of(kind, "per_second"),
            "events_per_second": figures.of(kind, "events_per_second"),
            "of_noop": figures.ratio(kind),
            "cpu_ms": figures.of(kind, "cpu_ms"),
            "cpu_ms_there": figures.of(kind, "cpu_ms_there"),
        }
        for kind in KINDS
    ]


def print_table(figures: Figures) -> None:
    print(f"\n{'DELIVERIES TO':14}{'per second':>12}{'of no-op':>10}{'events/s':>10}{'CPU ms each':>13}{'there':>8}")
    for row in table(figures):
        print(
            f"{row['kind']:14}{row['per_second']:12,.0f}{row['of_noop']:10.3f}{row['events_per_second']:10,.0f}"
            f"{row['cpu_ms']:13.2f}{row['cpu_ms_there']:8.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
