"""huey with SQLite. Worker: huey_consumer peers.with_huey.huey --workers 4"""

from __future__ import annotations

from typing import Any

from huey import SqliteHuey

from peers.effect import FOLDER, effect
from peers.web import serve

huey = SqliteHuey(filename=str(FOLDER / "huey.db"))


@huey.task()
def made(task: dict[str, Any]) -> None:
    effect(task["id"])


def web() -> None:
    serve(made)
