"""procrastinate with PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from procrastinate import App, PsycopgConnector

from peers.effect import POSTGRES, effect
from peers.web import serve

app = App(connector=PsycopgConnector(conninfo=POSTGRES, min_size=4, max_size=16))


@app.task(name="made")
async def made(task: dict[str, Any]) -> None:
    effect(task["id"])


@asynccontextmanager
async def lifespan(starlette: Any) -> AsyncIterator[None]:
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        yield


async def queue(task: dict[str, Any]) -> None:
    await made.defer_async(task=task)


async def worked() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=16)


def web() -> None:
    serve(queue, lifespan)


def work() -> None:
    uvloop.run(worked())
