"""pgqueuer with PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from peers.effect import POSTGRES, effect
from peers.web import serve

queries: Queries


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    global queries  # noqa: PLW0603
    async with asyncpg.create_pool(POSTGRES, min_size=4, max_size=16) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        if not await queries.has_table("pgqueuer"):
            await queries.install()
        yield


async def queue(task: dict[str, Any]) -> None:
    await queries.enqueue("made", json.dumps(task).encode())


async def worked() -> None:
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(POSTGRES)))

    @pgq.entrypoint("made")
    async def made(job: Job) -> None:
        effect(json.loads(job.payload or b"{}")["id"])

    await pgq.run(batch_size=50)


def web() -> None:
    serve(queue, lifespan)


def work() -> None:
    uvloop.run(worked())
