"""Files of `receiver/` that one progress callback passes, from the POST to the 200, and that one dispatch passes, from
the claim to the record of its end.

usage: .venv/bin/python scripts/path_files.py [--database sqlite|postgres|URL] [--json]

A file counts if one of its functions is called, in any thread. The web application is called as the server calls it.
The callback is the second one of its submission. The handler does nothing, and is no file of ours. A URL names an empty
PostgreSQL database. Without one, `postgres` starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from bench_server import KEY, submissions
from postgres_server import Server
from starlette.types import ASGIApp

import receiver
from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.functions import Function
from receiver.app.web import web_app
from receiver.deliveries import Receipt
from receiver.engine.attempts import OpenDestination
from receiver.events import EVENT_TYPES, Event, Submission
from receiver.handlers.base import Attempt
from receiver.settings import Settings
from receiver.telemetry import configure

ROOT = str(Path(receiver.__file__).parent) + "/"
NAME = "noop"


@dataclass
class Recorder:
    """A profile function that notes the files of called functions while it is `on`."""

    on: bool = False
    files: set[str] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(ROOT):
            self.files.add(frame.f_code.co_filename.removeprefix(ROOT))

    @contextmanager
    def recording(self) -> Iterator[set[str]]:
        """Yield the files passed in the block."""
        self.files, self.on = set(), True
        try:
            yield self.files
        finally:
            self.on = False


class Noop:
    """A handler that does nothing."""

    async def deliver(self, attempt: Attempt) -> Receipt:
        return Receipt()

    async def aclose(self) -> None:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--database", default="sqlite", help="sqlite (default), postgres, or the URL of an empty one")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    configure(level="info", format="json", secrets=[KEY], stream=StringIO())  # as `receiver serve` logs
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-path-")))
        url = None if options.database == "sqlite" else options.database
        if url == "postgres":
            url = stack.enter_context(Server()).url()
        passed = asyncio.run(measure(folder, url))
    if options.json:
        print(json.dumps({name: sorted(files) for name, files in passed.items()}))
        return
    for name, files in passed.items():
        print(f"{name}: {len(files)} files", *sorted(files), sep="\n  ")


async def measure(folder: Path, database: str | None) -> dict[str, set[str]]:
    """Return the files by path: `callback` and `dispatch`."""
    recorder = Recorder()
    threading.setprofile(recorder)  # of threads that start from now on
    sys.setprofile(recorder)
    try:
        async with opened(folder, database) as (runtime, row):
            await runtime.journal.register({NAME: NAME})
            app = web_app(runtime)
            await call_back(app, runtime, row, 10)
            with recorder.recording() as callback:
                await call_back(app, runtime, row, 20)
            runtime.dispatcher.owner = "path"
            with recorder.recording() as dispatch:
                started = await runtime.dispatcher.dispatch_once()
                await runtime.dispatcher.settle()
            made = await runtime.journal.deliveries(limit=10, status="succeeded")
            assert started == len(made) == 1, "one dispatch was to be made"
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {"callback": callback, "dispatch": dispatch}


@asynccontextmanager
async def opened(folder: Path, database: str | None) -> AsyncIterator[tuple[Runtime, Submission]]:
    """Open Receiver with one destination for all events, and an accepted submission. The engine does not run."""

    async def nothing(event: Event) -> None:
        return

    function = Function(call=nothing, destination=NAME, types=frozenset(EVENT_TYPES), concurrency=4, timeout=30.0)
    settings = Settings(
        provider_url="http://127.0.0.1:9", provider_key="path", keys=(KEY,), data=folder / "data", database=database,
        to="", poll_interval=3600.0,
    )  # fmt: skip
    async with open_runtime(settings, functions=[function]) as runtime:
        destinations: Any = runtime.destinations
        destinations[NAME] = OpenDestination(name=NAME, handler=Noop(), concurrency=4, timeout=30.0)
        yield runtime, await runtime.journal.add(submissions(1)[0])


async def call_back(app: ASGIApp, runtime: Runtime, row: Submission, percent: int) -> None:
    state = runtime.tokens.state_token(row.id)
    task = {"id": row.task_id, "state": state, "status": "IN_PROGRESS", "progress": f"{percent}%"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://path") as http:
        answer = await http.post(f"/callbacks/{runtime.tokens.url_token(row.id)}", json=task)
    assert answer.status_code == 200, answer.text


if __name__ == "__main__":
    main()
