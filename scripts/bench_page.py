"""Speed of the page: the first byte of every page, how soon a picture appears, and what 50 open pages cost callbacks.

usage: .venv/bin/python scripts/bench_page.py [--submissions N] [--database sqlite|postgres] [--looks N] [--rounds N]
           [--folder FOLDER] [--keep FILE-OR-URL]

The server and one visitor share a process, so a first byte includes the visitor's own time. Open pages are read by
another process. The callbacks of both kinds take turns, and their ratio within a round counts. `--keep` is a file, or
the URL of a database, that is used again where it has rows.
"""

from __future__ import annotations

import argparse
import asyncio
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
import many_rows
from flows import served
from journals import owing, submission

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.cli.servers import address, bind, spare_the_collector
from receiver.events import ExpectedFile, Media
from receiver.settings import Settings
from receiver.telemetry import configure

PAGES = (
    "/", "/pictures", "/tasks", "/deliveries", "/destinations", "/pictures?search=boat", "/pictures?search=zeppelin",
    "/pictures?status=failed", "/tasks?status=lost", "/tasks?search=boat", "/tasks?search=zeppelin",
    "/tasks?search=submarine", "/tasks?label=order%3Drare", "/tasks?kind=describe", "/deliveries?status=dead",
    "/deliveries?status=pending", "/deliveries?destination=rare", "/make", "/system", "/help", "/help/operate",
)  # fmt: skip
OPEN = 50
CALLBACKS = 3000
AT_ONCE = 16


async def main(options: argparse.Namespace) -> None:
    configure(level="warning")  # a line for each callback would count as its cost
    with tempfile.TemporaryDirectory(prefix="receiver-bench-", dir=options.folder) as folder:
        async with many_rows.database(options.database, Path(folder), options.keep) as settings:
            await many_rows.fill(settings, options.submissions)
            async with open_runtime(settings) as runtime, visitor(runtime) as client:
                spare_the_collector()  # as `serve` does
                last = (await runtime.journal.submissions(limit=1))[0].id
                await first_bytes(client, [*PAGES, f"/pictures/{last}", f"/tasks/{last}"], options.looks, settings)
                await appearances(runtime, client, options.looks)
                ratios = [await ingest_ratio(runtime, client) for _ in range(options.rounds)]
                if ratios:
                    ratio = statistics.median(ratios)
                    print(f"callbacks per CPU second, {OPEN} pages open to none: {ratio:.2f}, in rounds {ratios}")


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
            assert (await client.post("/login", data={"secret": many_rows.SECRET})).status_code == 303
            yield client


async def first_bytes(client: httpx.AsyncClient, pages: Iterable[str], looks: int, settings: Settings) -> None:
    cpu = await many_rows.cpu_clock(settings)
    for path in pages:
        seconds, before = [], (0.0, 0.0)
        for look in range(looks + 1):
            before = cpu() if look == 1 else before  # the first look imports and compiles
            began = time.perf_counter()
            async with client.stream("GET", path) as answer:
                assert answer.status_code == 200, (path, answer.status_code)
                await anext(answer.aiter_bytes())
                seconds.append(time.perf_counter() - began)
        ours, theirs = ((now - then) / looks * 1000 for now, then in zip(cpu(), before, strict=True))
        p95 = statistics.quantiles(seconds[1:], n=20)[-1] * 1000
        print(
            f"{path:40.40} first byte p50 {statistics.median(seconds[1:]) * 1000:6.1f} ms, p95 {p95:6.1f} ms, "
            f"CPU {ours:5.1f} ms, of the database's server {theirs:5.1f} ms",
            flush=True,
        )


async def appearances(runtime: Runtime, client: httpx.AsyncClient, count: int) -> None:
    """Tell the seconds from the record of an archived file to the message that shows it, while progress goes on."""
    seconds = []
    headers = {"Accept": "text/event-stream"}
    async with client.stream("GET", "/live", params={"at": "/pictures"}, headers=headers) as answer:
        lines = answer.aiter_lines()
        for number in range(count):
            row = submission(status="accepted", ended="task.succeeded", send_due_ms=None, **many_rows.fresh())
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
    made = [submission(status="accepted", deadline_ms=4 * 10**12, **many_rows.fresh()) for _ in range(CALLBACKS)]
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
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--looks", type=int, default=40, help="looks at each page")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the journal is written")
    parser.add_argument("--keep")
    parser.add_argument("--tabs", help=argparse.SUPPRESS)
    parser.add_argument("--cookie", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(open_tabs(options.tabs, options.cookie) if options.tabs else main(options))
