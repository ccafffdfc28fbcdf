"""`journal copy`, and what `journal`, `erase` and `purge` say where the journal is on PostgreSQL. Real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from postgres import empty_database
from servers import Result, receiver, serving_receiver
from test_cli_listings import LONG, Library, fill
from test_cli_upkeep import KEY

from receiver.journal import Journal
from receiver.journal.postgres import open_store as open_postgres

SQLITE = "sqlite:.receiver/journal.db"


@pytest.fixture
async def url() -> str:
    """An empty journal on PostgreSQL."""
    return await empty_database()


@pytest.fixture
async def library(tmp_path: Path) -> Library:
    return await fill(tmp_path)


def there(library: Library, url: str, *arguments: str) -> Result:
    """A command on the journal on PostgreSQL."""
    return receiver(*arguments, folder=library.folder, env={"RECEIVER_DATABASE": url})


async def test_moving_to_postgres_and_back(library: Library, url: str) -> None:
    """All of it is there and sound; what to do next is said; the way back is the same."""
    moved = library.run("journal", "copy", SQLITE, url)
    assert moved.code == 0, moved.err
    first, second = moved.out.splitlines()
    assert first.startswith(f"Copied {SQLITE} to postgresql://")
    assert first.endswith(": 3 submissions, 4 events, 4 deliveries, 2 attempts.")
    assert second == "Both were read again and compared by SHA-256: they are the same."
    assert "RECEIVER_DATABASE" in moved.err
    assert f"Do not start it on {SQLITE} again" in moved.err
    assert there(library, url, "tasks", "list", "--json").out == library.run("tasks", "list", "--json").out
    checked = there(library, url, "journal", "check")
    assert "1 deliveries were under way when their engine ended" in checked.out
    back = library.run("journal", "copy", url, "sqlite:back.db", "--json")
    assert json.loads(back.out)["rows"]["submissions"]["count"] == 3
    assert (library.folder / "back.db").exists()
    again = library.run("journal", "copy", SQLITE, url)
    assert again.code == 1
    assert "holds something already, and only an empty one takes a copy" in again.err


async def test_upkeep_on_postgres(library: Library, url: str) -> None:
    """Erased and compacted like a file; what only the server can do, or cannot undo, is said."""
    assert library.run("journal", "copy", SQLITE, url).code == 0
    erased = there(library, url, "erase", library.succeeded, "--force")
    assert erased.out.startswith(f"Erased submission {library.succeeded}: 1 submission, 2 events, ")
    assert "PostgreSQL may still hold its prompt" in erased.err
    compacted = there(library, url, "journal", "compact")
    assert compacted.code == 0, compacted.err
    assert " bytes before, " in compacted.out
    assert LONG.strip() not in there(library, url, "tasks", "list").out
    used = there(library, url, "usage")
    assert (used.code, "The database's own tools show the size" in used.err) == (0, True)
    assert there(library, url, "purge", "--older-than", "1h").err == "Nothing is that old and settled.\n"


async def test_a_backup_leaves_the_database_to_its_own_tools(library: Library, url: str, tmp_path: Path) -> None:
    """Keys and pictures are in it. Each of the two commands says what to do about the journal."""
    env = {"RECEIVER_DATABASE": url, "RECEIVER_KEYS": "a-key-of-thirty-two-bytes-or-more-1"}
    made = receiver("backup", "copy", folder=library.folder, env=env)
    assert made.code == 0, made.err
    assert made.out == "copy: keys, 0 archived files (0 bytes), checked.\n"
    assert "pg_dump --format=custom --schema=receiver --file=copy.dump" in made.err
    restored = receiver("restore", "copy", folder=library.folder, env=env)
    assert restored.code == 0, restored.err
    assert "Restore it with the tools of its database" in restored.err
    in_file = library.run("backup", "other")
    assert in_file.code == 0, in_file.err
    refused = receiver("restore", "other", folder=library.folder, env=env)
    assert refused.code == 1
    assert "has its journal in a file, and RECEIVER_DATABASE names postgresql://" in refused.err


async def test_not_beside_an_engine(library: Library, url: str) -> None:
    """On neither side; it is named."""
    with serving_receiver(library.folder, KEY):
        refused = library.run("journal", "copy", SQLITE, url)
    assert refused.code == 1
    assert f"An engine runs on {SQLITE}: `receiver serve`. Stop it, and every other process" in refused.err
    journal = Journal(await open_postgres(url, listen=False))
    await journal.membership.join("worker", "somebody", store="here")
    refused = library.run("journal", "copy", SQLITE, url)
    assert refused.code == 1
    assert "`receiver worker`. Stop it" in refused.err
    assert await journal.submissions(limit=1) == []
    await journal.aclose()


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("journal.db", "sqlite:other.db", "journal.db:… is no database"),
        (SQLITE, "mysql://me:secret@there/db", "mysql:… is no database"),
        (SQLITE, SQLITE, "A journal is not copied onto itself"),
        ("sqlite:nothing.db", "sqlite:other.db", "There is no journal at nothing.db yet"),
        (SQLITE, "none", "`none` keeps no journal: there is nothing to copy from or to"),
    ],
)
async def test_what_is_no_journal(library: Library, source: str, target: str, words: str) -> None:
    """A sentence, and nothing is made."""
    refused = library.run("journal", "copy", source, target)
    assert refused.code == 1
    assert words in refused.err
    assert "secret" not in refused.err
    assert not (library.folder / "other.db").exists()
