"""Speed of a journal with many rows: listings by a rare value, the first byte of every page, counts, and a purge.

usage: .venv/bin/python scripts/bench_rows.py [--submissions N] [--database sqlite|postgres] [--looks N]
           [--folder FOLDER] [--keep FILE-OR-URL] [--parts lists,pages,purge]

Rows are written by the store's own copy. One of each thousand has the values that are looked for. `--keep` is a file,
or the URL of a database, that is used again where it has rows. The purge deletes some of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from bench_page import NUMBERS, first_bytes, visitor
from journals import submission
from postgres_server import Server

from receiver.app import Runtime, open_runtime
from receiver.deliveries import AttemptRecord, Delivery
from receiver.events import Callback, Event, Submission, event_id, first_id
from receiver.journal import Journal
from receiver.journal.document import Change, Document
from receiver.journal.selection import Selection
from receiver.journal.store import RowKind, Store, StoredRow
from receiver.maintenance.retention import Keep, Retention
from receiver.settings import Settings
from receiver.tasks import decode_task

PAYLOAD = Path(__file__).parent.parent / "tests" / "payloads" / "callback_13_csharp_success.json"
STEP_MS = 8_640
"""Milliseconds between two submissions: ten thousand a day."""
RARE = 1000
CHUNK = 2000
AT_ONCE = 64
SECRET = "bench" * 4
replace = msgspec.structs.replace

LISTS: dict[str, tuple[str, Selection]] = {
    "submissions, newest": ("submissions", Selection()),
    "submissions by status": ("submissions", Selection(status="lost")),
    "submissions by status, common": ("submissions", Selection(status="succeeded")),
    "submissions by kind": ("submissions", Selection(kind="describe")),
    "submissions by kind, common": ("submissions", Selection(kind="imagine")),
    "submissions by label": ("submissions", Selection(labels=(("order", "rare"),))),
    "submissions by label, common": ("submissions", Selection(labels=(("team", "art"),))),
    "submissions by words": ("submissions", Selection(words=("zeppelin",))),
    "submissions by words, none": ("submissions", Selection(words=("zeppelin", "submarine"))),
    "submissions by words, common": ("submissions", Selection(words=("BOAT",))),
    "events by type": ("events", Selection(type="task.lost")),
    "events by type, none": ("events", Selection(type="task.input_required")),
    "events by type, common": ("events", Selection(type="task.succeeded")),
    "events by kind": ("events", Selection(kind="describe")),
    "events by kind, common": ("events", Selection(kind="imagine")),
    "events by label": ("events", Selection(labels=(("order", "rare"),))),
    "events by words": ("events", Selection(words=("zeppelin",))),
    "deliveries by destination": ("deliveries", Selection(destination="rare")),
    "deliveries by destination and status": ("deliveries", Selection(destination="rare", status="succeeded")),
    "deliveries by status": ("deliveries", Selection(status="dead")),
    "deliveries by status, none": ("deliveries", Selection(status="cancelled")),
    "deliveries pending": ("deliveries", Selection(status="pending")),
    "deliveries dead at one": ("deliveries", Selection(destination="rare", status="dead")),
    "deliveries by status, common": ("deliveries", Selection(status="succeeded")),
    "deliveries by kind": ("deliveries", Selection(kind="describe")),
    "deliveries by kind, common": ("deliveries", Selection(kind="imagine")),
    "deliveries by words": ("deliveries", Selection(words=("zeppelin",))),
}
PAGES = (
    "/", "/pictures", "/pictures?search=boat", "/pictures?status=failed", "/tasks", "/tasks?status=lost",
    "/tasks?search=boat", "/tasks?search=zeppelin", "/tasks?label=order%3Drare", "/tasks?kind=describe", "/deliveries",
    "/deliveries?status=dead", "/deliveries?status=pending", "/deliveries?destination=rare", "/destinations", "/make",
    "/system", "/help", "/help/operate",
)  # fmt: skip


def rows(count: int, now_ms: int) -> Iterator[dict[RowKind, list[StoredRow]]]:
    """Yield chunks of submissions that have ended, each with a callback, an event, a delivery and an attempt."""
    task = decode_task(PAYLOAD.read_bytes())
    for first in range(0, count, CHUNK):
        chunk: dict[RowKind, list[StoredRow]] = {
            "submissions": [], "callbacks": [], "events": [], "deliveries": [], "attempts": []
        }  # fmt: skip
        for number in range(first, min(first + CHUNK, count)):
            made_ms = now_ms - (count - number) * STEP_MS
            rare = number % RARE == 0
            ended = "task.lost" if rare else "task.failed" if number % 50 == 1 else "task.succeeded"
            row = Submission(
                id=f"{first_id(made_ms)[:10]}{number:016d}", kind="describe" if rare else "imagine", created_ms=made_ms,
                prompt=f"a paper {'zeppelin' if rare else 'boat'} floating on calm water at sunrise, number {number}",
                request={"prompt": "a paper boat floating on calm water at sunrise --v 6.1"},
                labels={"team": "art"} | ({"order": "rare"} if rare else {}), hooked=True, status="accepted", sends=1,
                task_id=str(number), task=replace(task, id=str(number)), ended=ended, deadline_ms=made_ms + 900_000,
                callbacks=1, callback_bytes=5432,
            )  # fmt: skip
            fact = Event(
                id=event_id(row.id, ended), type=ended, submission_id=row.id, created_ms=made_ms + 60_000,
                source="callback", task_id=row.task_id, status="SUCCESS", progress=None, prompt=row.prompt,
                kind=row.kind, labels=row.labels, state=None, parent_id=None, confirmed=True, task=row.task,
            )  # fmt: skip
            pending = number % (10 * RARE) == 2
            owed = Delivery(
                id=f"{first_id(made_ms + 60_000)[:10]}{number:016d}", event_id=fact.id, submission_id=row.id,
                destination="rare" if rare else f"place-{number % 3}", created_ms=made_ms + 60_000,
                due_ms=made_ms + 60_000, attempt=0 if pending else 1,
                status="pending" if pending else "dead" if number % 500 in (0, 1) else "succeeded",
                finished_ms=None if pending else made_ms + 61_000,
            )  # fmt: skip
            body = b'{"id": "%d", "status": "SUCCESS", "progress": "100%%"}' % number
            heard = Callback(submission_id=row.id, received_ms=made_ms + 60_000, cause=None, body=body)
            tried = AttemptRecord(
                delivery_id=owed.id, number=1, started_ms=made_ms + 60_500, finished_ms=made_ms + 61_000,
                outcome="succeeded",
            )  # fmt: skip
            document = Document(submission=row, version=5, known=(ended,), newest={owed.destination: ended})
            chunk["submissions"].append(StoredRow((row.id,), document))
            chunk["callbacks"].append(StoredRow((number + 1,), heard))
            chunk["events"].append(StoredRow((number + 1,), fact))
            chunk["deliveries"].append(StoredRow((owed.id,), owed))
            chunk["attempts"].append(StoredRow((owed.id, 1), tried))
        yield chunk


async def fill(store: Store, count: int) -> None:
    """Write submissions that have ended."""
    began = time.perf_counter()
    async with store.transfer(fill=True) as target:
        for chunk in rows(count, time.time_ns() // 10**6):
            for kind, found in chunk.items():
                await target.put(kind, found)
    print(f"{count:,} submissions written in {time.perf_counter() - began:.0f} s")


async def lists(journal: Journal, looks: int) -> None:
    """Print the time of a page of each listing."""
    for name, (kind, wanted) in LISTS.items():
        seconds = []
        for _ in range(looks):
            began = time.perf_counter()
            found = await getattr(journal, kind)(wanted, limit=60)
            seconds.append(time.perf_counter() - began)
        print(f"{name:40} {len(found):3} rows, median {statistics.median(seconds) * 1000:8.1f} ms", flush=True)
    for submissions in (False, True):
        began = time.perf_counter()
        await journal.counts(submissions=submissions)
        name = "counts of submissions" if submissions else "counts"
        print(f"{name:40}           median {(time.perf_counter() - began) * 1000:8.1f} ms", flush=True)


async def purge(runtime: Runtime, seconds: float, rounds: int = 3) -> None:
    """Print the speed at which settled submissions are deleted, alone and beside callbacks, and of these callbacks."""
    for number in range(rounds):
        alone, _ = await beside(runtime, seconds, callbacks=False, purging=True)
        _, without = await beside(runtime, seconds, callbacks=True, purging=False)
        gone, kept = await beside(runtime, seconds, callbacks=True, purging=True)
        print(
            f"purge, round {number + 1}: {alone:,.0f} submissions a second, {gone:,.0f} beside callbacks, of which "
            f"{kept:,.0f} a second were kept, {kept / without:.2f} of those without a purge",
            flush=True,
        )


async def beside(runtime: Runtime, seconds: float, *, callbacks: bool, purging: bool) -> tuple[float, float]:
    """Return the submissions deleted, and the callbacks kept, in a second: as many as the journal takes."""
    journal, begin = runtime.journal, next(NUMBERS)
    made = [submission(begin + number, status="accepted", task_id=str(begin + number)) for number in range(AT_ONCE)]
    await asyncio.gather(*(journal.add(row) for row in made))
    keep = Keep(callbacks=0, media=0, submissions=3600.0)
    retention = Retention(journal=journal, store=runtime.store, clock=runtime.clock, keep=keep)
    kept = 0

    async def send(row: Submission) -> None:
        nonlocal kept
        heard = Callback(submission_id=row.id, received_ms=row.created_ms, cause=None, body=PAYLOAD.read_bytes())
        while True:
            await journal.change(row.id, lambda now: Change(submission=replace(now, polls=now.polls + 1)), heard)
            kept += 1

    before, began = await count(journal), time.perf_counter()
    working = [asyncio.create_task(send(row)) for row in made] if callbacks else []
    working += [asyncio.create_task(retention.purge(keep))] if purging else []  # type: ignore[list-item]
    await asyncio.sleep(seconds)
    took, took_kept = time.perf_counter() - began, kept
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    return (before - await count(journal)) / took, took_kept / took


async def count(journal: Journal) -> int:
    return sum((await journal.counts(submissions=True)).submissions.values())


@asynccontextmanager
async def database(options: argparse.Namespace, folder: Path) -> AsyncIterator[Settings]:
    """Yield settings with an empty database."""
    given: dict[str, Any] = {
        "provider_key": "s" * 20, "provider_url": "http://127.0.0.1:9", "data": folder, "poll_interval": 3600.0,
        "page_users": {"bench": f"operator:{SECRET}"}, "keys": ("bench" * 10,),
    }  # fmt: skip
    if options.database == "sqlite":
        yield Settings(**given, database=f"sqlite:{options.keep or folder / 'journal.db'}")
    elif options.keep:
        yield Settings(**given, database=str(options.keep))
    else:
        with Server() as server:
            yield Settings(**given, database=server.url())


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as name:
        async with database(options, Path(name)) as settings, open_runtime(settings) as runtime:
            if not await runtime.journal.submissions(limit=1):
                await fill(runtime.journal.store, options.submissions)
            last = (await runtime.journal.submissions(limit=1))[0]
            if "lists" in options.parts:
                await lists(runtime.journal, 5)
            if "pages" in options.parts:
                async with visitor(runtime) as client:
                    await first_bytes(client, [*PAGES, f"/pictures/{last.id}", f"/tasks/{last.id}"], options.looks)
            if "purge" in options.parts:
                await purge(runtime, options.seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--submissions", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--looks", type=int, default=20, help="looks at each page")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of the purge")
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    parser.add_argument("--keep")
    parser.add_argument("--parts", default="lists,pages,purge")
    asyncio.run(main(parser.parse_args()))
