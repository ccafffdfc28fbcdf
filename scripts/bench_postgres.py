#!/usr/bin/env python3
"""Speed of Receiver with its journal in PostgreSQL, on this machine. Run by `scripts/bench --database postgres`.

usage: scripts/bench_postgres.py [--rounds N] [--seconds N] [--rows N] [--server URL] [--json FILE]

With --server it measures on a server of yours, whose user may make databases: it makes some named `receiver_bench_…`,
and removes them. Otherwise on one of its own, with its usual settings.

The web process has one core; PostgreSQL and the load share the other. A second web process runs on that one, too, so
what it adds here is the least it can add. Claims are made by one process on the first core; pgqueuer and procrastinate
do the same on the same server, in the same rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import uvloop
from msgspec.structs import replace
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from postgres_server import Server
from procrastinate import App, PsycopgConnector

from receiver.cli.servers import spare_the_collector
from receiver.clock import Clock
from receiver.deliveries import Completion, Delivery
from receiver.events import Event, Submission, event_id, new_id
from receiver.intake import Intake, transitions
from receiver.intake.transitions import Policy, Route
from receiver.journal import Change, Journal, Work
from receiver.journal.postgres import open_store as open_postgres
from receiver.tasks import Task, decode_task
from receiver.telemetry import configure

ROOT = Path(__file__).resolve().parent.parent
OWNER = "the-bench"
PLACE = "place"
FEW, MANY = 10_000, 2_000_000
HELD = 3
GROWTH_ROUNDS = 9
"""Each takes a second, and so has what else the machine does in it."""
NEAR = 0.15
"""Tolerance of the rates at many rows, compared with the rates at few."""


def _driver() -> Any:
    """`scripts/bench`, which has no ending."""
    loader = SourceFileLoader("bench", str(ROOT / "scripts" / "bench"))
    spec = spec_from_loader("bench", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["bench"] = module
    loader.exec_module(module)
    return module


bench = _driver()


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: float
    rows: int
    json: Path | None
    server: str | None
    server_core: int
    load_core: int


def main() -> int:
    options = read_options()
    os.sched_setaffinity(0, {options.load_core})
    configure(level="error", format="json", secrets=[])
    figures: dict[str, list[float]] = {}
    problems: list[str] = []
    with Given(options.server) if options.server else Server() as server:
        for number in range(options.rounds):
            found = {**web_round(server, options, problems), **engine_round(server, options)}
            for name, value in found.items():
                figures.setdefault(name, []).append(value)
            tell(f"round {number + 1}/{options.rounds}  " + "  ".join(f"{n} {v:,.2f}" for n, v in found.items()))
        figures["latency_ms"] = latencies(server, options)
        figures |= growth(server, options)
        whole, callbacks = run(kilobytes(database(server, "sizes")))
        figures |= {"task_kb": [whole], "callbacks_kb": [callbacks]}
    print_table(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for problem in problems:
        tell(f"Rows are missing: {problem}")
    return 1 if problems else 0


def read_options() -> Options:
    parser = argparse.ArgumentParser(prog="scripts/bench --database postgres")
    parser.add_argument("--rounds", type=int, default=5, help="how often each kind runs (default 5)")
    parser.add_argument("--seconds", type=float, default=5, help="of load in each run (default 5)")
    parser.add_argument("--rows", type=int, default=MANY, help=f"deliveries of the large journal (default {MANY:,})")
    parser.add_argument("--server", metavar="URL", help="measure there, not on a server of its own")
    parser.add_argument("--quick", action="store_true", help="two rounds of 2 s each, 200,000 rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    return Options(
        rounds=2 if given.quick else max(given.rounds, 1),
        seconds=2 if given.quick else given.seconds,
        rows=200_000 if given.quick else given.rows,
        json=given.json,
        server=given.server,
        server_core=cores[0],
        load_core=cores[-1],
    )


def tell(text: str) -> None:
    """For people; standard output is the table's."""
    print(text, file=sys.stderr, flush=True)


class Given:
    """A server that is there, in place of one of our own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str = "") -> str:
        """Of a database of this name; of the one that was given."""
        return urlsplit(self._url)._replace(path=f"/{database}").geturl() if database else self._url

    def __enter__(self) -> Given:
        return self

    def __exit__(self, *failure: object) -> None:
        for name in DATABASES:
            asyncio.run(drop(self, f"receiver_bench_{name}"))


DATABASES = ("web", "engine", "pgqueuer", "procrastinate", "latency", "few", "many", "sizes")


async def drop(server: Given | Server, name: str) -> None:
    db = await asyncpg.connect(server.url())
    await db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await db.close()


def database(server: Given | Server, name: str) -> str:
    """URL of a new database, and an end to what the last one has left to do."""

    name = f"receiver_bench_{name}"

    async def make() -> None:
        await drop(server, name)
        db = await asyncpg.connect(server.url())
        await db.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
        await db.execute("CHECKPOINT")
        await db.close()

    asyncio.run(make())
    return server.url(name)


# Web


def web_round(server: Given | Server, options: Options, problems: list[str]) -> dict[str, float]:
    """Callbacks a second of the bare route, of one web process and of two, each on a new database."""
    bare = web(server, options, ["bare"], problems)
    one = web(server, options, ["ingest"], problems)
    two = web(server, options, ["ingest", "ingest"], problems)
    return {"bare": bare, "web": one, "web_ratio": one / bare, "webs": two, "webs_ratio": two / bare}


def web(server: Given | Server, options: Options, kinds: list[str], problems: list[str]) -> float:
    url = database(server, "web")
    flights = math.ceil(bench.FASTEST[kinds[0]] * options.seconds / bench.STEPS / bench.FLIGHT)
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="receiver-bench-") as name:
        loads = []
        for number, kind in enumerate(kinds):
            folder = Path(name) / str(number)
            folder.mkdir()
            core = options.load_core if number else options.server_core
            port = stack.enter_context(serving(kind, folder, url, core, flights * bench.FLIGHT))
            loads.append((kind, folder, port))
        running = [wrk(kind, folder, port, options, len(kinds)) for kind, folder, port in loads]
        results = [json.loads(one.communicate(timeout=120)[0].partition("RESULT ")[2]) for one in running]
    answers = sum(result["answers"] for result in results)
    if kinds[0] != "bare":
        problems += missing(url, answers, results)
    return sum((result["answers"] - result["refused"]) / result["seconds"] for result in results)


@contextmanager
def serving(kind: str, folder: Path, url: str, core: int, submissions: int) -> Iterator[int]:
    command = [bench.BIN / "python", ROOT / "scripts" / "bench_server.py", kind, "--folder", folder]
    command += ["--core", str(core), "--submissions", str(submissions), "--database", url]
    with bench.started(command, folder, {}) as process:
        yield json.loads(process.stdout.readline())["port"]


def wrk(kind: str, folder: Path, port: int, options: Options, share: int) -> subprocess.Popen[str]:
    (folder / "load.lua").write_text(bench.LOAD)
    (folder / "body").write_text(bench.body_template())
    command: list[Any] = ["wrk", "-t1", f"-c{bench.CONNECTIONS // share}", f"-d{options.seconds:g}s"]
    command += ["-s", folder / "load.lua", f"http://127.0.0.1:{port}", "--", folder, str(bench.STEPS)]
    command += ["repeat" if kind == "bare" else "once", str(bench.FLIGHT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def missing(url: str, answers: int, results: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the rows. Requests under way at the end are written, but not counted as answered."""

    async def count() -> tuple[int, int, int]:
        db = await asyncpg.connect(url)
        names = ("callbacks", "events", "deliveries")
        found = [await db.fetchval(f"SELECT count(*) FROM receiver.{name}") for name in names]  # noqa: S608
        await db.close()
        return found[0], found[1], found[2]

    callbacks, events, deliveries = asyncio.run(count())
    whole = answers <= callbacks <= answers + bench.CONNECTIONS and events == callbacks and deliveries == 2 * events
    broken = sum(result["broken"] + result["refused"] for result in results)
    if whole and not broken:
        return []
    return [f"{answers} answers, {callbacks} callbacks, {events} events, {deliveries} deliveries, {broken} broken"]


def latencies(server: Given | Server, options: Options) -> list[float]:
    """Milliseconds from the first byte of a terminal callback to the start of its handler, one at a time."""
    body = bench.body_template(status="SUCCESS", progress="100%", imageUrl=None, imageUrls=None)
    times = []
    url = database(server, "latency")
    with tempfile.TemporaryDirectory(prefix="receiver-bench-") as name:
        folder = Path(name)
        command = [bench.BIN / "python", ROOT / "scripts" / "bench_server.py", "latency", "--folder", folder]
        command += ["--core", str(options.server_core), "--submissions", "100", "--database", url]
        with bench.started(command, folder, {}) as process:
            port = json.loads(process.stdout.readline())["port"]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for line in (folder / "targets").read_text().splitlines():
                submission, token, state, task = line.split()
                text = body.replace("@STATE@", state).replace("@TASK@", task)
                begun = time.monotonic()
                connection.request("POST", f"/callbacks/{token}", text.encode(), {"Content-Type": "application/json"})
                connection.getresponse().read()
                told = json.loads(process.stdout.readline())
                assert told["submission"] == submission
                times.append((told["started"] - begun) * 1000)
                time.sleep(0.02)
            connection.close()
    return times


# Engine


def engine_round(server: Given | Server, options: Options) -> dict[str, float]:
    """Deliveries claimed and completed a second, with a handler that does nothing, and the ready-made engines."""
    with on_server_core(options):
        spare_the_collector()  # as `receiver worker` does
        found = {}
        for batch, count in ((200, 20_000), (20, 10_000), (1, 500)):
            found[f"engine_{batch}"] = run(deliveries(database(server, "engine"), batch, count))
        found["pgqueuer"] = run(pgqueuer(database(server, "pgqueuer"), 20_000))
        found["procrastinate"] = run(procrastinate(database(server, "procrastinate"), 2_000))
    return found


@contextmanager
def on_server_core(options: Options) -> Iterator[None]:
    os.sched_setaffinity(0, {options.server_core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, {options.load_core})


def run(measuring: Awaitable[float]) -> float:
    async def wait() -> float:
        return await measuring

    return uvloop.run(wait())


def made(number: int, now_ms: int) -> Submission:
    return Submission(
        id=new_id(now_ms), kind="imagine", created_ms=now_ms, prompt="a paper boat at sunrise", hooked=True,
        request={"prompt": "a paper boat at sunrise"}, status="accepted", sends=1, task_id=f"1773{number:012}",
        task=Task(id=f"1773{number:012}", status="SUCCESS"), ended="task.succeeded", deadline_ms=now_ms,
    )  # fmt: skip


def owing(row: Submission) -> Change:
    fact = Event(
        id=event_id(row.id, "task.succeeded"), type="task.succeeded", submission_id=row.id, created_ms=row.created_ms,
        source="callback", task_id=row.task_id, status="SUCCESS", progress=100, prompt=row.prompt, kind=row.kind,
        labels={}, state=None, parent_id=None, confirmed=True, task=row.task,
    )  # fmt: skip
    owed = Delivery(
        id=new_id(row.created_ms), event_id=fact.id, submission_id=row.id, destination=PLACE,
        created_ms=row.created_ms, due_ms=row.created_ms,
    )  # fmt: skip
    return Change(submission=row, events=(fact,), deliveries=(owed,))


async def fill(journal: Journal, count: int) -> float:
    """Journal so many submissions, then what each owes; how many of the latter a second."""
    now_ms = int(time.time() * 1000)
    rows = [made(number, now_ms) for number in range(count)]
    for start in range(0, count, 500):
        await asyncio.gather(*(journal.add(row) for row in rows[start : start + 500]))
    begun = time.perf_counter()
    for start in range(0, count, 200):
        changes = (journal.change(row.id, lambda _, row=row: owing(row)) for row in rows[start : start + 200])  # type: ignore[misc]
        await asyncio.gather(*changes)
    return count / (time.perf_counter() - begun)


async def work_through(journal: Journal, batch: int, count: int) -> float:
    """Claim, do nothing, complete. As in an engine, the next ones are claimed while those complete; no more than
    `HELD` batches are on the way."""
    now_ms = int(time.time() * 1000) + 1
    held = asyncio.Semaphore(HELD)

    async def complete(works: list[Work]) -> None:
        kept = await asyncio.gather(*(journal.complete(done(work, now_ms)) for work in works))
        assert all(kept)
        assert len(kept) == batch
        held.release()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(0, count, batch):
            await held.acquire()
            works = await journal.claim(PLACE, owner=OWNER, limit=batch, now_ms=now_ms)
            group.create_task(complete(works))
    return count / (time.perf_counter() - begun)


def done(work: Work, now_ms: int) -> Completion:
    return Completion(
        delivery_id=work.delivery.id, submission_id=work.delivery.submission_id, destination=PLACE,
        attempt=work.delivery.attempt, owner=OWNER, outcome="succeeded", status="succeeded", finished_ms=now_ms,
        due_ms=now_ms, counts=False,
    )  # fmt: skip


async def deliveries(url: str, batch: int, count: int) -> float:
    journal = Journal(await open_postgres(url, listen=False))
    await journal.register({PLACE: "noop"})
    await fill(journal, count)
    rate = await work_through(journal, batch, count)
    await journal.aclose()
    return rate


async def pgqueuer(url: str, count: int) -> float:
    """Its own fastest way: batches, and until the queue is empty."""
    async with asyncpg.create_pool(url, min_size=2, max_size=5) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        await queries.enqueue(["noop"] * count, [b""] * count, [0] * count)
        manager = QueueManager(queries)
        ran = 0

        @manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            nonlocal ran
            ran += 1

        begun = time.perf_counter()
        await manager.run(batch_size=200, mode=QueueExecutionMode.drain)
        seconds = time.perf_counter() - begun
    assert ran == count
    return count / seconds


async def procrastinate(url: str, count: int) -> float:
    """Its own fastest way: 20 at a time, until the queue is empty."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=2, max_size=5))
    ran = 0

    @app.task(name="noop")
    async def noop() -> None:
        nonlocal ran
        ran += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*({} for _ in range(count)))
        begun = time.perf_counter()
        await app.run_worker_async(concurrency=20, wait=False, install_signal_handlers=False, listen_notify=False)
        seconds = time.perf_counter() - begun
    assert ran == count
    return count / seconds


# Many rows


GROWTH = """
INSERT INTO receiver.submissions (
    id, version, task_id, status, display, task_status, ended, hooked, settled, body, working)
SELECT '00' || lpad(n::text, 24, '0'), 1, 't' || n, 'accepted', 'succeeded', 'SUCCESS',
    'task.succeeded', true, true, '{{}}', '[[],{{}},{{}}]' FROM generate_series({first}, {last}) AS n;
INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
SELECT '00' || lpad(n::text, 24, '0') || '.task.succeeded', '00' || lpad(n::text, 24, '0'), 'task.succeeded', 1, '{{}}'
FROM generate_series({first}, {last}) AS n;
INSERT INTO receiver.deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, manual)
SELECT '00' || lpad(n::text, 24, '0'), '00' || lpad(n::text, 24, '0') || '.task.succeeded',
    '00' || lpad(n::text, 24, '0'), '{place}', 1, {due}, 'pending', 0, 0, false
FROM generate_series({first}, {last}) AS n;
"""


def growth(server: Given | Server, options: Options) -> dict[str, list[float]]:
    """Inserts and claims a second while few, and while many other deliveries are pending there; in turn."""
    few, many = grown(server, "few", FEW), grown(server, "many", options.rows)
    figures: dict[str, list[float]] = {}
    with on_server_core(options):
        for number in range(GROWTH_ROUNDS):
            found = {}
            turns = [("few", few), ("many", many)]
            for name, url in turns if number % 2 else reversed(turns):
                found[f"insert_{name}"], found[f"claim_{name}"] = run(at_size(url))
            found["insert_growth"] = found["insert_many"] / found["insert_few"]
            found["claim_growth"] = found["claim_many"] / found["claim_few"]
            for name, value in found.items():
                figures.setdefault(name, []).append(value)
            tell(f"size {number + 1}  " + "  ".join(f"{n} {v:,.2f}" for n, v in found.items()))
    return figures


def grown(server: Given | Server, name: str, count: int) -> str:
    """URL of a journal with so many deliveries that are due later."""
    url = database(server, name)

    async def grow() -> None:
        await (Journal(await open_postgres(url))).aclose()
        db = await asyncpg.connect(url, command_timeout=600)
        due = int(time.time() * 1000) + 10**9
        for start in range(1, count + 1, 100_000):
            await db.execute(GROWTH.format(first=start, last=min(start + 99_999, count), place=PLACE, due=due))
        await db.execute("VACUUM (ANALYZE)")
        await db.execute("CHECKPOINT")
        await db.close()

    asyncio.run(grow())
    return url


async def at_size(url: str) -> tuple[float, float]:
    journal = Journal(await open_postgres(url, listen=False))
    await journal.register({PLACE: "noop"})
    inserts = await fill(journal, 6_000)
    claims = await work_through(journal, 200, 6_000)
    await journal.aclose()
    return inserts, claims


# Sizes


TASKS = 3_000
STATUSES = ("SUBMITTED", *["IN_PROGRESS"] * 7, "SUCCESS")
"""Of a task's nine callbacks."""
SIZES = """
SELECT relname AS name, pg_total_relation_size(oid)::float8 AS bytes
FROM pg_class WHERE relnamespace = 'receiver'::regnamespace AND relkind = 'r'
"""


async def kilobytes(url: str) -> tuple[float, float]:
    """Return the kilobytes of a finished task with two destinations, indexes included, and of its callbacks."""
    journal = Journal(await open_postgres(url, listen=False))
    places = ("one", "two")
    await journal.register(dict.fromkeys(places, "noop"))
    intake = Intake(
        journal, policy=Policy(confirm_ms=0), routes=tuple(Route(destination=name) for name in places),
        clock=Clock(), changed=lambda row: None,
    )  # fmt: skip
    db = await asyncpg.connect(url)
    await db.execute("VACUUM")
    empty = {row["name"]: row["bytes"] for row in await db.fetch(SIZES)}
    for start in range(0, TASKS, 100):
        await asyncio.gather(*(live(journal, intake, number) for number in range(start, start + 100)))
        for name in places:
            for work in await journal.claim(name, owner=OWNER, limit=1_000, now_ms=2**50):
                await journal.complete(done(work, int(time.time() * 1000)))
    await db.execute("VACUUM")
    full = {row["name"]: (row["bytes"] - empty[row["name"]]) / TASKS / 1024 for row in await db.fetch(SIZES)}
    await db.close()
    await journal.aclose()
    return sum(full.values()), full["callbacks"]


async def live(journal: Journal, intake: Intake, number: int) -> None:
    """A task from the submit to its end, with bodies as the C# proxy sends them."""
    row = replace(made(number, int(time.time() * 1000)), status="sending", task_id=None, task=None, ended=None)
    await journal.add(row)
    row = await intake.take(row.id, transitions.answered, (f"1773{number:012}",), "accepted")
    for step, status in enumerate(STATUSES):
        end = status == "SUCCESS"
        body = json.loads((bench.PAYLOAD if end else UNDER_WAY).read_text())
        body |= {"id": row.task_id, "status": status, "progress": f"{step * 12}%"}
        data = json.dumps(body | ({} if end else {"buttons": []}), separators=(",", ":")).encode()
        assert await intake.received(row.id, decode_task(data), data, None)


UNDER_WAY = ROOT / "tests" / "payloads" / "callback_11_csharp_submitted.json"


# What was found


def print_table(figures: dict[str, list[float]]) -> None:
    middle = {name: statistics.median(values) for name, values in figures.items()}
    print(f"\n{'KIND':34}{'per second':>12}{'of bare':>10}")
    for name, label in (("bare", "bare Starlette route"), ("web", "one web process"), ("webs", "two web processes")):
        ratio = f"{middle[f'{name}_ratio']:10.3f}" if name != "bare" else ""
        print(f"{label:34}{middle[name]:12,.0f}{ratio}")
    for name, label in ENGINES.items():
        print(f"{label:34}{middle[name]:12,.0f}")
    whole, callbacks = middle["task_kb"], middle["callbacks_kb"]
    print(f"\na task with nine callbacks and two destinations: {whole:.0f} KB, of them callbacks: {callbacks:.0f} KB")
    print(f"\n{'FIGURE':46}{'measured':>14}  {'target':12}")
    for text, measured, target, met in targets(middle):
        print(f"{text:46}{measured:>14}  {target:12}{'met' if met else 'not met'}")


ENGINES = {
    "engine_200": "claims and completions by 200",
    "engine_20": "claims and completions by 20",
    "engine_1": "claims and completions one by one",
    "pgqueuer": "pgqueuer, by 200",
    "procrastinate": "procrastinate, 20 at a time",
}


def targets(middle: dict[str, float]) -> list[tuple[str, str, str, bool]]:
    """(figure, measured, target, met)."""
    inserts, claims = middle["insert_growth"], middle["claim_growth"]
    wait = middle["latency_ms"]
    return [
        ("durable ingest, of the bare route", f"{middle['web_ratio']:.3f}", "≥ 0.20", middle["web_ratio"] >= 0.2),
        ("claims and completions", f"{middle['engine_200']:,.0f}/s", "≥ 20,000/s", middle["engine_200"] >= 20_000),
        ("callback → handler start, idle, p50", f"{wait:.1f} ms", "≤ 10 ms", wait <= 10),
        ("inserts at many rows, of few", f"{inserts:.2f}", "1 ± 0.15", abs(inserts - 1) <= NEAR),
        ("claims at many rows, of few", f"{claims:.2f}", "1 ± 0.15", abs(claims - 1) <= NEAR),
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too
    sys.exit(main())
