"""arq with Redis. Worker: arq peers.with_arq.WorkerSettings"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from peers.effect import REDIS, effect
from peers.web import serve


async def made(context: dict[str, Any], task: dict[str, Any]) -> None:
    effect(task["id"])


class WorkerSettings:
    functions = [made]
    redis_settings = RedisSettings.from_dsn(REDIS)
    max_jobs = 32
    poll_delay = 0.05
    keep_result = 0


pool: ArqRedis


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    global pool  # noqa: PLW0603
    pool = await create_pool(RedisSettings.from_dsn(REDIS))
    yield


async def queue(task: dict[str, Any]) -> None:
    await pool.enqueue_job("made", task)


def web() -> None:
    serve(queue, lifespan)
