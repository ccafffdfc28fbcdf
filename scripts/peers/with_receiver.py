"""Receiver as `receiver serve` runs it, with one destination: a handler of a few lines that writes the file.

Submissions are made before the port is open. A second start finds them."""

from __future__ import annotations

import asyncio
import os
import sys

from bench_server import HOUR, KEY, Noop, submissions

from peers.effect import FOLDER, PORT, POSTGRES, effect
from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.cli.process import run
from receiver.cli.servers import bind, server, stop_signal, until_stopped
from receiver.deliveries import Receipt
from receiver.handlers.base import Attempt
from receiver.settings import Destination, Settings
from receiver.telemetry import configure


class Effect(Noop):
    """The handler."""

    name = "effect"
    schemes = ("effect",)

    async def deliver(self, attempt: Attempt) -> Receipt:
        effect(attempt.event.task_id or "")
        return Receipt()


def plug_in() -> None:
    package = FOLDER / "peers_effect-1.dist-info"
    package.mkdir(exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: peers-effect\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[receiver.handlers]\neffect = peers.with_receiver:Effect\n")
    sys.path.append(str(FOLDER))


async def serve() -> None:
    plug_in()
    count = int(os.environ["PEERS_SUBMISSIONS"])
    settings = Settings(
        provider_url="http://127.0.0.1:9",  # nobody is asked: callbacks are trusted at once
        provider_key="benchmark",
        keys=(KEY,),
        data=FOLDER / "data",
        database=POSTGRES or None,
        destinations={"effect": Destination(name="effect", handler="effect")},
        confirm_within=0,
        poll_interval=HOUR,
    )
    async with open_runtime(settings) as receiver:
        targets = FOLDER / "targets"
        if not targets.exists():
            rows = submissions(count)
            for start in range(0, count, 1000):
                await asyncio.gather(*(receiver.journal.add(row) for row in rows[start : start + 1000]))
            tokens = receiver.tokens
            lines = [f"{tokens.url_token(row.id)} {tokens.state_token(row.id)} {row.task_id}\n" for row in rows]
            targets.write_text("".join(lines))
        await receiver.start_engine("serve")
        with stop_signal() as stop, bind("127.0.0.1", PORT) as listener:
            await until_stopped(stop, (server(web_app(receiver)), listener))


def web() -> None:
    with (FOLDER / f"log-{os.getpid()}").open("w", buffering=1) as stream:
        configure(level="info", format="json", secrets=[KEY], stream=stream)  # as `receiver serve` logs to a file
        run(serve())
