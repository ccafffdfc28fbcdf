"""dramatiq with Redis. Worker: dramatiq peers.with_dramatiq --processes 1 --threads 8"""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from peers.effect import REDIS, effect
from peers.web import serve

dramatiq.set_broker(RedisBroker(url=REDIS))


@dramatiq.actor
def made(task: dict[str, Any]) -> None:
    effect(task["id"])


def web() -> None:
    serve(made.send)
