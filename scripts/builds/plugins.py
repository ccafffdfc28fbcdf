"""Slow handlers, installed as a third-party package."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from receiver.deliveries import Receipt
from receiver.handlers.base import Attempt, HandlerOptions, RetryLater

SECONDS = 50.0
"""Longer than a shutdown may take, and shorter than an attempt may."""
LATER = 60.0
EFFECTS = "effects"
"""In the server's folder: a line for each effect."""


class Slow:
    """Succeeds late."""

    name = "slow"
    summary = "Succeeds late."
    schemes = ("slow",)
    Options = HandlerOptions

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        return {}

    def __init__(self, options: HandlerOptions) -> None:
        self._options = options

    async def deliver(self, attempt: Attempt) -> Receipt:
        await asyncio.sleep(SECONDS)
        return Receipt()

    async def aclose(self) -> None:
        return


class Later(Slow):
    """Asks to be called again in a minute, and then records an effect."""

    name = "later"
    summary = "Succeeds when it is called again."
    schemes = ("later",)

    async def deliver(self, attempt: Attempt) -> Receipt:
        if attempt.number == 1:
            raise RetryLater(LATER)
        effect = {"key": attempt.idempotency_key, "prompt": attempt.event.prompt, "type": attempt.event.type}
        with Path(EFFECTS).open("a") as file:  # noqa: ASYNC230 - a short line
            file.write(json.dumps(effect) + "\n")
        return Receipt()


def effects(folder: Path) -> list[dict[str, str]]:
    """Return the effects of `Later`."""
    path = folder / EFFECTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def install(folder: Path) -> None:
    """Write entry points for the handlers into a folder on the server's path."""
    package = folder / "experiments-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: experiments\nVersion: 1\n")
    lines = [f"{kind.name} = builds.plugins:{kind.__name__}\n" for kind in (Slow, Later)]
    (package / "entry_points.txt").write_text("[receiver.handlers]\n" + "".join(lines))
