"""Which rows the writer remembers, and for how long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from journals import submission
from receiver.journal.sqlite.recent import Recent


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    ours, other = (sqlite3.connect(tmp_path / "x.db", isolation_level=None) for _ in range(2))
    ours.execute("PRAGMA journal_mode = WAL")
    ours.execute("CREATE TABLE rows (number)")
    yield ours, other
    ours.close()
    other.close()


def test_the_oldest_gives_way() -> None:
    """It is bounded; writing a row again needs no further room."""
    recent = Recent(limit=2)
    for number in (1, 2, 2, 3):
        recent.keep(submission(number))
    assert [recent.get(submission(number).id) is not None for number in (1, 2, 3)] == [False, True, True]


def test_the_last_word_counts() -> None:
    """A row kept twice is what it was the second time."""
    recent = Recent()
    recent.keep(submission(1))
    recent.keep(msgspec.structs.replace(submission(1), sends=5))
    kept = recent.get(submission(1).id)
    assert kept is not None
    assert kept.sends == 5


def test_our_own_commits_are_known(connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """They do not make us forget."""
    ours, _ = connections
    recent = Recent()
    for _ in range(3):
        ours.execute("BEGIN IMMEDIATE")
        recent.refresh(ours)
        recent.keep(submission(1))
        ours.execute("INSERT INTO rows VALUES (1)")
        ours.execute("COMMIT")
    recent.refresh(ours)
    assert recent.get(submission(1).id) is not None


def test_anybody_elses_commit_makes_us_forget(
    connections: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Whatever it was about."""
    ours, other = connections
    recent = Recent()
    recent.refresh(ours)
    recent.keep(submission(1))
    other.execute("INSERT INTO rows VALUES (1)")
    recent.refresh(ours)
    assert recent.get(submission(1).id) is None
