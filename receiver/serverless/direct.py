"""A courier by the settings, for programs that submit without a journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from receiver import runtime
from receiver.courier import Courier
from receiver.settings import load
from receiver.telemetry import use_logging


@asynccontextmanager
async def open_courier(**settings: Any) -> AsyncIterator[Courier]:
    """A courier for the block: `await courier.submit(request)` sends, and the endpoint gets the result.

    Args:
        settings: single settings over those that are read from the environment and `receiver.toml`.

    Raises:
        SettingsError: a setting is missing, wrong, or asks for what needs a journal.
    """
    use_logging()
    async with runtime.open_courier(load(overrides=settings), receives=False) as courier:
        yield courier
