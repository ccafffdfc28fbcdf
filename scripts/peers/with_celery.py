"""Celery with Redis. Worker: celery --app peers.with_celery worker"""

from __future__ import annotations

from typing import Any

from celery import Celery

from peers.effect import REDIS, effect
from peers.web import serve

app = Celery("peers", broker=REDIS)
app.conf.update(worker_prefetch_multiplier=16, broker_connection_retry_on_startup=True)


@app.task(name="made", ignore_result=True)
def made(task: dict[str, Any]) -> None:
    effect(task["id"])


def web() -> None:
    serve(made.delay)
