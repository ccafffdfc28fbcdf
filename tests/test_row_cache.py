"""Documents that the writer of a SQLite file remembers, and for how long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import submission

from receiver.journal.document import Document, replace
from receiver.journal.sqlite.documents import RowCache
from receiver.journal.sqlite.files import connect


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    ours, other = (connect(tmp_path / "x.db", 1.0) for _ in range(2))
    yield ours, other
    ours.close()
    other.close()


def held(cache: RowCache, number: int) -> bool:
    return submission(number).id in cache._documents


def detailed(document: Document, detail: str) -> Document:
    return replace(document, submission=replace(document.submission, detail=detail))


def change(db: sqlite3.Connection, cache: RowCache, detail: str) -> None:
    """One transaction that changes a submission."""
    db.execute("BEGIN IMMEDIATE")
    cache.begin(db)
    document = cache.get(db, submission(1).id)
    assert document is not None
    cache.put(document, detailed(document, detail))
    cache.flush(db)
    db.execute("COMMIT")


def test_the_oldest_gives_way(connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """It is bounded; writing a document again needs no further room."""
    ours, _ = connections
    cache = RowCache(limit=2)
    for number in (1, 2):
        cache.insert(ours, submission(number))
    document = cache.get(ours, submission(1).id)
    assert document is not None
    cache.put(document, detailed(document, "again"))
    cache.flush(ours)
    cache.insert(ours, submission(3))
    assert [held(cache, number) for number in (1, 2, 3)] == [True, False, True]


def test_changes_are_seen_before_they_are_written(
    connections: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Of one transaction, the last word counts, and only that is written."""
    ours, other = connections
    cache = RowCache()
    cache.insert(ours, submission(1))
    ours.execute("BEGIN IMMEDIATE")
    cache.begin(ours)
    for detail in ("one", "two"):
        document = cache.get(ours, submission(1).id)
        assert document is not None
        cache.put(document, detailed(document, detail))
    cache.flush(ours)
    ours.execute("COMMIT")
    (version, detail) = other.execute("SELECT version, json_extract(body, '$.detail') FROM submissions").fetchone()
    assert (version, detail) == (2, "two")
    assert cache.written == {submission(1).id}


def test_our_own_commits_are_known(connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """They do not make us forget."""
    ours, _ = connections
    cache = RowCache()
    cache.begin(ours)
    cache.insert(ours, submission(1))
    for number in range(3):
        change(ours, cache, str(number))
    cache.begin(ours)
    assert held(cache, 1)


def test_any_other_commit_makes_us_forget(connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """Whatever it was about."""
    ours, other = connections
    cache = RowCache()
    cache.begin(ours)
    cache.insert(ours, submission(1))
    change(other, RowCache(), "theirs")
    cache.begin(ours)
    assert not held(cache, 1)
    found = cache.get(ours, submission(1).id)
    assert found is not None
    assert found.submission.detail == "theirs"
