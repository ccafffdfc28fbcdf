"""Replay for commands: which destinations it knows without the process that has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import StillClock
from test_runtime import provider, settings

from receiver import Event, Receiver
from receiver.app.container import replay_of
from receiver.app.journals import journal_of
from receiver.errors import InputError
from receiver.journal.store import Filter


async def test_functions_are_known_by_what_an_engine_registered(tmp_path: Path) -> None:
    """A command cannot see another process's functions, but it may owe them something; what has gone from the settings
    it may not."""
    async with provider() as origin:
        wanted = settings(tmp_path, provider_url=origin.url, to=f"file:{tmp_path / 'outputs'}")
        receiver = Receiver(wanted, engine=False, clock=StillClock())

        @receiver.on("task.succeeded", name="catalogue")
        async def add(event: Event) -> None: ...

        async with receiver:
            await receiver._started().start_engine("serve")
            await receiver._started().stop_engine()
        changed = settings(tmp_path, provider_url=origin.url, destinations={"album": {"url": "file:./album"}}, to="")
        async with journal_of(changed) as journal:
            replay = await replay_of(changed, journal)
            for name in ("catalogue", "album"):
                assert await replay.of_deliveries(Filter(status="dead"), to=name) == []
            with pytest.raises(InputError, match="There are: album, catalogue"):
                await replay.of_deliveries(Filter(status="dead"), to="file")
