"""One run of `scripts/bench_handlers.py`: a journal with results that are owed, and the engine at work on it, on one
core. Run by Receiver's own Python.

usage: bench_deliveries.py --folder FOLDER --core N --events N --destinations JSON

Prints one JSON object: the seconds from the start of the engine to the last attempt's end by the journal's own times,
the CPU seconds of this process meanwhile, and how many deliveries succeeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec
from bench_server import HOUR, KEY, plug_in, submissions, tell

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.cli.process import run
from receiver.cli.servers import spare_the_collector
from receiver.clock import Clock
from receiver.deliveries import Delivery
from receiver.events import Event, ExpectedFile, Media, Submission, event_id, new_id
from receiver.journal import Change
from receiver.settings import Destination, Settings
from receiver.tasks import Task
from receiver.telemetry import configure

PICTURE = 400_000
"""Bytes of the result's picture: about what a grid of the simulator has."""
LINK = "https://cdn.discordapp.com/attachments/1/2/boat.png"
PATIENCE = 300.0
"""Seconds until a run that does not end is given up."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--destinations", type=json.loads, required=True, help="tables by name")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before there are threads, which inherit it
    with (options.folder / "log").open("w", buffering=1) as stream:
        configure(level="info", format="json", secrets=[KEY], stream=stream)  # as `receiver serve` logs to a file
        run(measured(options))


async def measured(options: argparse.Namespace) -> None:
    plug_in(options.folder)
    settings = Settings(
        provider_url="http://127.0.0.1:9",  # no provider is asked: every task has ended
        provider_key="benchmark",
        keys=(KEY,),
        data=options.folder / "data",
        destinations={name: Destination(name=name, **table) for name, table in options.destinations.items()},
        poll_interval=HOUR,
    )
    async with open_runtime(settings) as receiver:
        picture = b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(PICTURE - 8)  # noqa: S311 - no secret
        media = await receiver.store.put_bytes(picture, url=LINK)
        await asyncio.gather(
            *(owe(receiver, row, media, list(options.destinations)) for row in submissions(options.events))
        )
        spare_the_collector()  # as `receiver serve` does
        begun_ms, cpu = Clock().now_ms(), time.process_time()
        await receiver.start_engine("serve")
        with closing(sqlite3.connect(options.folder / "data" / "journal.db")) as db:
            await settled(db)
            cpu = time.process_time() - cpu
            await receiver.stop_engine()
            query = "SELECT count(*), max(finished_ms) FROM attempts WHERE outcome = 'succeeded'"
            made, finished_ms = db.execute(query).fetchone()
    tell(deliveries=made, seconds=(finished_ms - begun_ms) / 1000, cpu_seconds=cpu)


async def owe(receiver: Runtime, row: Submission, media: Media, destinations: list[str]) -> None:
    """A result with its picture archived, owed to each destination."""
    now_ms = row.created_ms
    task = Task(
        id=row.task_id or "", status="SUCCESS", progress=100, action="IMAGINE", prompt=row.prompt, image_url=LINK
    )
    event = Event(
        id=event_id(row.id, "task.succeeded", None), type="task.succeeded", submission_id=row.id, created_ms=now_ms,
        source="poll", task_id=task.id, status=task.status, progress=100, prompt=row.prompt, kind=row.kind, labels={},
        state=None, parent_id=None, confirmed=True, reason=None, task=task,
    )  # fmt: skip
    deliveries = tuple(
        Delivery(
            id=new_id(now_ms),
            event_id=event.id,
            submission_id=row.id,
            destination=name,
            created_ms=now_ms,
            due_ms=now_ms,
        )
        for name in destinations
    )  # fmt: skip
    await receiver.journal.add(row)
    file = ExpectedFile(place="image_url", links=(media.url,), media=media)

    def ended(row: Submission) -> Change:
        done = msgspec.structs.replace(row, ended="task.succeeded", task=task, files=(file,), poll_due_ms=None)
        return Change(submission=done, events=(event,), deliveries=deliveries)

    await receiver.journal.change(row.id, ended)


async def settled(db: sqlite3.Connection) -> None:
    """Wait until nothing is owed any more."""
    until = time.monotonic() + PATIENCE
    query = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE status IN ('pending', 'running'))"
    while db.execute(query).fetchone()[0]:
        if time.monotonic() > until:
            raise SystemExit("The deliveries did not end in time; see the log in the run's folder.")
        await asyncio.sleep(0.2)  # a look takes as long as a delivery


if __name__ == "__main__":
    main()
