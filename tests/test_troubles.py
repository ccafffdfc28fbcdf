"""What does not work outside is told once, kept in the journal, and forgotten when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from journals import NOW, SetClock

from receiver.engine.health import Troubles
from receiver.journal import Journal, Trouble
from receiver.journal.sqlite import open_store


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(await open_store(tmp_path / "journal.db"))
    yield journal
    await journal.aclose()


async def test_it_is_told_once_and_keeps_its_beginning(journal: Journal) -> None:
    """The text may change while it lasts; since when it lasts does not."""
    clock = SetClock()
    troubles = Troubles(journal=journal, clock=clock)
    assert await troubles.begin("provider", "No connection.")
    clock.seconds += 60
    assert not await troubles.begin("provider", "A wrong key.")
    assert await journal.troubles() == [Trouble(name="provider", since_ms=NOW, text="A wrong key.")]
    over = await troubles.end("provider")
    assert over is not None
    assert over.since_ms == NOW
    assert await troubles.end("provider") is None
    assert await journal.troubles() == []
    assert await troubles.begin("provider", "No connection."), "it begins anew"


async def test_a_restart_tells_it_again_and_knows_when_it_began(journal: Journal) -> None:
    """A log that starts in the middle of a trouble says so."""
    clock = SetClock()
    await Troubles(journal=journal, clock=clock).begin("callbacks", "None come.")
    clock.seconds += 60
    again = Troubles(journal=journal, clock=clock)
    assert await again.begin("callbacks", "None come.")
    assert not await again.begin("callbacks", "None come.")
    assert await journal.troubles() == [Trouble(name="callbacks", since_ms=NOW, text="None come.")]


async def test_troubles_stand_side_by_side(journal: Journal) -> None:
    """The oldest first; one that ends leaves the others."""
    clock = SetClock()
    troubles = Troubles(journal=journal, clock=clock)
    await troubles.begin("provider", "No connection.")
    clock.seconds += 1
    await troubles.begin("callbacks", "None come.")
    assert [trouble.name for trouble in await journal.troubles()] == ["provider", "callbacks"]
    await troubles.end("provider")
    assert [trouble.name for trouble in await journal.troubles()] == ["callbacks"]
