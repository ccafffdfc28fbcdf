"""Old and new version side by side on one PostgreSQL, as in the middle of a deploy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from postgres import TABLES, new_database
from servers import receiver, serving_receiver, simulating
from waiting import PATIENCE

from receiver.journal.postgres.maintenance import is_breaking
from receiver.journal.rows import migrations

NEWEST = migrations("postgres")[-1][0]
"""What this version knows. To one with a further script, it is the version before."""


def run(url: str, *statements: str) -> None:
    async def main() -> None:
        db = await asyncpg.connect(url)
        try:
            async with db.transaction():
                for statement in statements:
                    await db.execute(statement)
        finally:
            await db.close()

    asyncio.run(main())


def ledger(number: int, *, breaking: bool) -> str:
    return f"INSERT INTO receiver.migrations (number, breaking) VALUES ({number}, {breaking})"  # noqa: S608


NEXT = (
    *(f"ALTER TABLE receiver.{table} ADD COLUMN mood text NOT NULL DEFAULT 'calm'" for table in TABLES),
    "CREATE TABLE receiver.moods (name text PRIMARY KEY)",
    "CREATE INDEX submissions_mood ON receiver.submissions (mood)",
    ledger(NEWEST + 1, breaking=False),
)
"""All that a script may do to the tables of the version before."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], str]]:
    """`receiver serve` of this version, then the tables of the next one: folder, environment and URL."""
    folder = tmp_path_factory.mktemp("versions")
    with simulating(folder, speed=50) as provider:
        env = {
            "COMETAPI_KEY": "sk-simulator-0001",
            "RECEIVER_PROVIDER_URL": provider,
            "RECEIVER_KEYS": "0123456789abcdef" * 4,
            "RECEIVER_POLL_INTERVAL": "1s",
            "DATABASE_URL": asyncio.run(new_database("versions")),
        }
        with serving_receiver(folder, env) as (command, url):
            run(env["DATABASE_URL"], *NEXT)
            yield folder, env, url
            assert command.stop().code == 0


def test_the_version_before_goes_on_and_starts_anew(house: tuple[Path, dict[str, str], str]) -> None:
    """A process that was running when the tables changed, and one that starts afterwards, bring a task to its end."""
    folder, env, url = house
    result = receiver("submit", "a boat", "--wait", folder=folder, env=env)
    assert result.code == 0, result
    assert Path(result.last_line).read_bytes()
    assert httpx.get(f"{url}/readyz", trust_env=False, timeout=PATIENCE).json()["ready"] is True


def test_a_breaking_change_stops_the_start_of_older_versions(house: tuple[Path, dict[str, str], str]) -> None:
    """By a sentence that says what to do; what runs already is not ended by it."""
    folder, env, url = house
    run(env["DATABASE_URL"], ledger(NEWEST + 2, breaking=True))
    result = receiver("worker", folder=folder, env=env)
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert f"was changed by a newer Receiver (schema {NEWEST + 2}, this one knows {NEWEST})" in last
    assert "Install that version" in last
    assert httpx.get(f"{url}/livez", trust_env=False, timeout=PATIENCE).status_code == 200


def test_without_migrating_a_start_says_what_to_run(tmp_path: Path) -> None:
    """Empty tables, and `receiver migrate` is to be run by the deploy: nothing is made by the way."""
    env = {
        "COMETAPI_KEY": "sk-simulator-0001",
        "RECEIVER_KEYS": "0123456789abcdef" * 4,
        "RECEIVER_DATABASE": asyncio.run(new_database("bare")),
        "RECEIVER_DATABASE_MIGRATE": "false",
    }
    for command, given in (
        (["worker"], env),
        (["tasks", "list"], {**env, "RECEIVER_DATABASE_MIGRATE": "true"}),  # it only looks
        (["engines"], {**env, "RECEIVER_DATABASE_MIGRATE": "true"}),
    ):
        result = receiver(*command, folder=tmp_path, env=given)
        assert (result.code, result.out) == (1, "")
        assert result.err.splitlines()[-1].endswith("Run: receiver migrate (receiver help postgres)")
    assert receiver("migrate", folder=tmp_path, env=env).code == 0
    assert receiver("tasks", "list", folder=tmp_path, env=env).code == 0


TAKES_AWAY = re.compile(r"\b(DROP|RENAME|TRUNCATE|DELETE|ALTER\s+COLUMN|SET\s+NOT\s+NULL|ADD\s+CONSTRAINT)\b", re.I)
NEEDED = re.compile(r"ADD\s+COLUMN[^;]*\bNOT\s+NULL\b(?![^;]*\bDEFAULT\b)", re.I)


def additive(script: str) -> bool:
    """Whether a version that knows nothing of it can go on."""
    plain = re.sub(r"--.*", "", script)
    return TAKES_AWAY.search(plain) is None and NEEDED.search(plain) is None


def test_every_script_leaves_what_the_version_before_uses() -> None:
    """Or says that it breaks it."""
    wrong = [number for number, script in migrations("postgres")[1:] if not (additive(script) or is_breaking(script))]
    assert wrong == [], "they take something away; begin them with -- breaking"


@pytest.mark.parametrize(
    ("script", "well"),
    [
        (";\n".join(NEXT), True),
        ("ALTER TABLE receiver.events DROP COLUMN body;", False),
        ("ALTER TABLE receiver.events RENAME COLUMN body TO text;", False),
        ("ALTER TABLE receiver.events ADD COLUMN mood text NOT NULL;", False),
        ("ALTER TABLE receiver.events ALTER COLUMN body SET NOT NULL;", False),
        ("-- DROP nothing\nCREATE TABLE receiver.moods (name text);", True),
    ],
)
def test_what_takes_something_away_is_seen(script: str, well: bool) -> None:
    """So that the proof above can fail."""
    assert additive(script) is well
