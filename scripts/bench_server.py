"""The server of `scripts/bench`: one process per measurement, pinned to one core. Run by Receiver's own Python.

usage: bench_server.py bare|ingest|default|engine|one-commit|latency --folder FOLDER --core N --submissions N

Writes FOLDER/targets (a line `submission URL-token state-token task` for each submission a callback can come for), then
says its port on standard output and serves until SIGTERM. `latency` also says when each handler started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.cli.process import run
from receiver.cli.servers import bind, server, stop_signal, until_stopped
from receiver.clock import Clock
from receiver.deliveries import Receipt
from receiver.events import Submission, new_id
from receiver.handlers.base import Attempt, HandlerOptions
from receiver.journal.sqlite import store
from receiver.settings import Destination, Settings
from receiver.telemetry import configure
from receiver.tokens import Tokens

KEY = "0123456789abcdef" * 4
"""Of the benchmark alone, as long as the ones that people make."""
HOUR = 3600.0
DESTINATIONS = ("one", "two")


class Noop:
    """A handler that does nothing, and in a `latency` run says when it began."""

    name = "noop"
    summary = "Does nothing."
    schemes = ("noop",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        return {}

    def __init__(self, options: HandlerOptions) -> None:
        self._options = options

    async def deliver(self, attempt: Attempt) -> Receipt:
        if os.environ.get("BENCH_KIND") == "latency" and attempt.destination == DESTINATIONS[0]:
            tell(submission=attempt.event.submission_id, started=time.monotonic())
        return Receipt()

    async def aclose(self) -> None:
        return


def main() -> None:
    options = read_options()
    os.environ["BENCH_KIND"] = options.kind
    os.sched_setaffinity(0, {options.core})  # before there are threads, which inherit it
    with (options.folder / "log").open("w", buffering=1) as stream:
        configure(level="info", format="json", secrets=[KEY], stream=stream)  # as `receiver serve` logs to a file
        if options.kind == "one-commit":
            store.MAX_BATCH = 1
        run(bare(options) if options.kind == "bare" else real(options))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["bare", "ingest", "default", "engine", "one-commit", "latency"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--submissions", type=int, required=True)
    parser.add_argument("--database", help="instead of SQLite in FOLDER")
    return parser.parse_args()


async def bare(options: argparse.Namespace) -> None:
    """The yardstick: one plain Starlette route on plain uvicorn, which reads the body and answers 200."""

    async def answer(request: Request) -> Response:
        await request.body()
        return Response()

    write_targets(options, Tokens([KEY], max_age=HOUR, clock=Clock()), submissions(options.submissions))
    app = Starlette(routes=[Route("/callbacks/{token:path}", answer, methods=["POST"])])
    config = uvicorn.Config(app, loop="none", http="httptools", ws="none", lifespan="off", log_config=None)
    config.access_log = False
    with bind("127.0.0.1", 0) as listener:
        tell(port=listener.getsockname()[1])
        await uvicorn.Server(config).serve(sockets=[listener])


async def real(options: argparse.Namespace) -> None:
    """Receiver as `receiver serve` runs it, with two destinations, which want progress unless the kind is `default`."""
    async with opened(options) as app:
        with stop_signal() as stop, bind("127.0.0.1", 0) as listener:
            tell(port=listener.getsockname()[1])
            await until_stopped(stop, (server(app), listener))


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Starlette]:
    plug_in(options.folder)
    settings = Settings(
        provider_url="http://127.0.0.1:9",  # no provider is asked: confirm_within is 0, and polls are an hour away
        provider_key=f"sk-{KEY[:48]}",
        keys=(KEY,),
        data=options.folder / "data",
        database=options.database,
        destinations={
            name: Destination(name=name, handler="noop", progress=options.kind != "default", concurrency=64)
            for name in DESTINATIONS
        },
        confirm_within=0,
        poll_interval=HOUR,
    )
    async with open_runtime(settings) as receiver:
        rows = submissions(options.submissions)
        await asyncio.gather(*(receiver.journal.add(row) for row in rows))
        write_targets(options, receiver.tokens, rows)
        if options.kind in ("engine", "latency"):
            await receiver.start_engine("serve")
        yield web_app(receiver)


def plug_in(folder: Path) -> None:
    """Install the handler above as a stranger's package would be: by an entry point."""
    package = folder / "bench_noop-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-noop\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[receiver.handlers]\nnoop = bench_server:Noop\n")
    sys.path.append(str(folder))


def submissions(count: int) -> list[Submission]:
    """Accepted by the provider, no callback yet."""
    now_ms = Clock().now_ms()
    prompt = "a paper boat floating on calm water at sunrise --v 6.1"
    return [
        Submission(
            id=new_id(now_ms),
            kind="imagine",
            created_ms=now_ms,
            prompt=prompt,
            request={"prompt": prompt},
            hooked=True,
            status="accepted",
            outcome="accepted",
            sends=1,
            task_id=f"17733149421{number:05}",
            deadline_ms=now_ms + int(HOUR * 1000),
        )
        for number in range(count)
    ]


def write_targets(options: argparse.Namespace, tokens: Tokens, rows: list[Submission]) -> None:
    lines = [f"{row.id} {tokens.url_token(row.id)} {tokens.state_token(row.id)} {row.task_id}\n" for row in rows]
    (options.folder / "targets").write_text("".join(lines))


def tell(**values: object) -> None:
    """To the driver."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
