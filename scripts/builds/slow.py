"""A handler that takes its time, installed as a stranger's package would be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from receiver.deliveries import Receipt
from receiver.handlers.base import Attempt, HandlerOptions

SECONDS = 50.0
"""Longer than any shutdown may take, and shorter than an attempt may."""


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


def install(folder: Path) -> None:
    """Its entry point, in a folder on the server's path."""
    package = folder / "slow-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[receiver.handlers]\nslow = builds.slow:Slow\n")
