"""Speed of the page: the first byte of every page, how soon a picture appears, and what 50 open pages cost callbacks.

usage: .venv/bin/python scripts/bench_page.py [--submissions N] [--looks N] [--rounds N]

The server and one visitor share a process, so a first byte includes the visitor's own time. Open pages are read by
another process. The callbacks of both kinds take turns, and their ratio within a round counts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from msgspec.structs import replace

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from flows import served
from journals import NOW, OWNER, completion, delivery, event, owing, submission

from receiver.app import Runtime, open_runtime, web_app
from receiver.cli.servers import address, bind
from receiver.events import ExpectedFile, Media, Submission
from receiver.journal import Journal
from receiver.settings import Settings
from receiver.telemetry import configure

SECRET = "bench" * 4
PAGES = (
    "/",
    "/pictures",
    "/tasks",
    "/tasks?search=boat",
    "/deliveries",
    "/deliveries?status=dead",
    "/destinations",
    "/make",
)
OPEN = 50
CALLBACKS = 3000
AT_ONCE = 16
NUMBERS = itertools.count(10**9, CALLBACKS)
"""Of the submissions whose callbacks are measured."""


async def main(options: argparse.Namespace) -> None:
    configure(level="warning")  # a line for each callback would count as its cost
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as folder:
        settings = Settings(
            provider_key="s" * 20, provider_url="http://127.0.0.1:9", data=Path(folder), poll_interval=3600.0,
            page_users={"bench": f"operator:{SECRET}"},
        )  # fmt: skip
        async with open_runtime(settings) as runtime:
            began = time.perf_counter()
            rows = []
            while len(rows) < options.submissions:
                rows += await fill(runtime.journal, len(rows), min(1000, options.submissions - len(rows)))
            print(f"{len(rows):,} submissions written in {time.perf_counter() - began:.0f} s")
            async with visitor(runtime) as client:
                await first_bytes(client, [*PAGES, f"/pictures/{rows[0].id}", f"/tasks/{rows[0].id}"], options.looks)
                await appearances(runtime, client, options.looks)
                ratios = [await ingest_ratio(runtime, client) for _ in range(options.rounds)]
                ratio = statistics.median(ratios)
                print(f"callbacks per CPU second, {OPEN} pages open to none: {ratio:.2f}, in rounds {ratios}")


async def fill(journal: Journal, first: int, count: int) -> list[Submission]:
    """Write submissions that have succeeded, each with an event and a delivery that was made."""

    async def one(number: int) -> Submission:
        row = submission(
            number, prompt=f"a paper boat {number}", ended="task.succeeded", send_due_ms=None, status="accepted"
        )
        await journal.add(row)
        fact = event(row)
        await journal.change(row.id, lambda _: owing(row, (fact, delivery(fact, number))))
        return row

    rows = await asyncio.gather(*map(one, range(first, first + count)))
    works = await journal.claim("folder", owner=OWNER, limit=count, now_ms=NOW)
    await asyncio.gather(*(journal.complete(completion(work)) for work in works))
    return rows


@asynccontextmanager
async def visitor(runtime: Runtime) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the page, and yield a visitor who has logged in."""
    with bind("127.0.0.1", 0) as listener:
        async with (
            served(web_app(runtime), listener),
            httpx.AsyncClient(
                base_url=address(listener),
                headers={"Sec-Fetch-Site": "same-origin"},
                limits=httpx.Limits(max_connections=None),
                timeout=60,
            ) as client,
        ):
            assert (await client.post("/login", data={"secret": SECRET})).status_code == 303
            yield client


async def first_bytes(client: httpx.AsyncClient, pages: Iterable[str], looks: int) -> None:
    for path in pages:
        seconds = []
        for _ in range(looks + 1):
            began = time.perf_counter()
            async with client.stream("GET", path) as answer:
                assert answer.status_code == 200, (path, answer.status_code)
                await anext(answer.aiter_bytes())
                seconds.append(time.perf_counter() - began)
        p95 = statistics.quantiles(seconds[1:], n=20)[-1] * 1000  # the first look imports and compiles
        print(f"{path:40.40} first byte p50 {statistics.median(seconds[1:]) * 1000:6.1f} ms, p95 {p95:6.1f} ms")


async def appearances(runtime: Runtime, client: httpx.AsyncClient, count: int) -> None:
    """Tell the seconds from the record of an archived file to the message that shows it, while progress goes on."""
    seconds = []
    headers = {"Accept": "text/event-stream"}
    async with client.stream("GET", "/live", params={"at": "/pictures"}, headers=headers) as answer:
        lines = answer.aiter_lines()
        for number in range(count):
            row = submission(next(NUMBERS), status="accepted", ended="task.succeeded", send_due_ms=None)
            await runtime.journal.add(row)
            await asyncio.sleep(number / count)  # the archive may come at any time after the progress
            file = Media(digest=f"{number:064}", type="image/png", size=1, extension=".png", url="", index=0)
            done = replace(row, files=(ExpectedFile(place="image_url", media=file),))
            began = time.perf_counter()
            await runtime.journal.change(row.id, lambda _, done=done: owing(done))
            async for line in lines:
                if f"/pictures/{row.id}/thumbs/0" in line:
                    break
            seconds.append(time.perf_counter() - began)
    longest, median = max(seconds), statistics.median(seconds)
    print(f"a picture appears after its archive: p50 {median:.2f} s, longest {longest:.2f} s, of {count}")


async def ingest_ratio(runtime: Runtime, client: httpx.AsyncClient) -> float:
    without = await ingest(runtime, client)
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    command = [sys.executable, __file__, "--tabs", str(client.base_url), "--cookie", cookie]
    tabs = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert tabs.stdout is not None
    await tabs.stdout.readline()  # all are open
    with_pages = await ingest(runtime, client)
    tabs.terminate()
    await tabs.wait()
    return round(with_pages / without, 3)


async def open_tabs(url: str, cookie: str) -> None:
    """Open the pages and read what they get, in a process of their own."""

    async def read(number: int) -> None:
        headers = {"Accept": "text/event-stream", "Cookie": cookie}
        async with client.stream("GET", "/live", params={"at": PAGES[number % 5]}, headers=headers) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            opened.release()
            async for _ in chunks:
                pass

    opened = asyncio.Semaphore(0)
    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=None), timeout=None) as client:  # noqa: S113
        reading = [asyncio.create_task(read(number)) for number in range(OPEN)]
        for _ in reading:
            await opened.acquire()
        print("open", flush=True)
        await asyncio.gather(*reading, return_exceptions=True)


async def ingest(runtime: Runtime, client: httpx.AsyncClient) -> float:
    """Return callbacks per second of processor time, each the progress of a submission of its own."""
    begin = next(NUMBERS)
    made = [
        submission(begin + number, status="accepted", task_id=str(begin + number), deadline_ms=4 * 10**12)
        for number in range(CALLBACKS)
    ]
    await asyncio.gather(*(runtime.journal.add(row) for row in made))
    waiting = list(made)

    async def send() -> None:
        while waiting:
            row = waiting.pop()
            state = runtime.tokens.state_token(row.id)
            body = {"id": row.task_id, "status": "IN_PROGRESS", "progress": "50%", "state": state}
            answer = await client.post(f"/callbacks/{runtime.tokens.url_token(row.id)}", json=body)
            assert answer.status_code == 200, answer.text

    began = time.process_time()
    await asyncio.gather(*(send() for _ in range(AT_ONCE)))
    return CALLBACKS / (time.process_time() - began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=40, help="looks at each page")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    parser.add_argument("--tabs", help=argparse.SUPPRESS)
    parser.add_argument("--cookie", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(open_tabs(options.tabs, options.cookie) if options.tabs else main(options))
