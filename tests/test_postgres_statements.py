"""The statements of the journal on PostgreSQL: each finds its rows by an index, however many there are, and by the plan
that was made when there were none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import postgres
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import NOW
from receiver.journal.postgres.connecting import SETTINGS

from receiver.errors import NotFound
from receiver.journal import Journal
from receiver.journal.postgres import open_store as open_postgres
from receiver.journal.postgres.statements import SQL, array

MANY = """
INSERT INTO receiver.submissions (
    id, kind, created_ms, prompt, request, inputs, labels, auto, hooked, status, sends, send_due_ms, task_id, ended,
    deadline_ms, poll_due_ms, polls, misses, callbacks, media, media_tries, media_due_ms, fallback_urls, parent_id)
SELECT 's' || n, 'imagine', {now}, 'a boat', '{{}}', '[]', '{{}}', '[]', true, 'accepted', 1, {now} + n, 't' || n,
    CASE WHEN n % 2 = 0 THEN 'task.succeeded' END, {now} + n, {now} + n, 0, 0, 0, '[]', 0, {now} + n, '[]',
    CASE WHEN n % 50 = 0 THEN 's' || n - 1 END
FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
SELECT 's' || n || '.task.succeeded', 's' || n, 'task.succeeded', {now}, '{{}}' FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.callbacks (submission_id, received_ms, body)
SELECT 's' || n, {now}, '{{}}' FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, manual, alone, owner)
SELECT 'd' || n, 's' || n || '.task.succeeded', 's' || n, 'place-' || n % 3, {now}, {now} + n,
    (ARRAY['pending', 'pending', 'succeeded', 'dead', 'running'])[1 + n % 5], 1, 0, false, n % 1000 = 0, 'engine'
FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.attempts (delivery_id, number, started_ms, manual)
SELECT 'd' || n, 1, {now}, false FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.files (submission_id, digest) SELECT 's' || n, 'f' || n FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.destinations (name, handler) SELECT 'place-' || n, 'file' FROM generate_series(0, 2) AS n;
"""
COUNT = 6_000

CLAIMED = {"deliveries_pkey", "commits_pkey", "submissions_pkey", "events_id", "deliveries_submission"}
"""Where a claim finds what attempts need."""
INDEXES = {
    "lock_submissions": {"submissions_pkey"},
    "get_submission": {"submissions_pkey", "events_id"},
    "get_submissions": {"submissions_pkey", "events_id"},
    "find_by_task": {"submissions_task", "events_id"},
    "get_once": {"submissions_once", "events_id"},
    "due_sends": {"submissions_send", "events_id"},
    "due_polls": {"submissions_poll", "events_id"},
    "due_media": {"submissions_media", "events_id"},
    "overdue": {"submissions_deadline", "events_id"},
    "called_back": {"submissions_called_back", "events_id"},
    "last_callbacks": {"callbacks_submission"},
    "get_event": {"events_id"},
    "list_submission_events": {"events_id"},
    "write_batch": {"submissions_pkey", "deliveries_submission", "deliveries_pkey", "commits_pkey"},
    "release_deliveries": {"deliveries_submission"},
    "look": {"deliveries_due", "destinations_pkey"},
    "claim": {"deliveries_due", "deliveries_running", "destinations_pkey", *CLAIMED},
    "claim_alone": CLAIMED,
    "alone_due": {"deliveries_alone", "deliveries_running", "destinations_pkey"},
    "any_running": {"deliveries_running"},
    "lock_owing": {"submissions_pkey", "deliveries_pkey"},
    "complete": {"deliveries_pkey", "destinations_pkey", "commits_pkey"},
    "completed": {"attempts_pkey"},
    "cancel_outdated": {"deliveries_pkey", "deliveries_submission", "events_id"},
    "lock_destination": {"destinations_pkey"},
    "lock_destinations": {"destinations_pkey"},
    "update_destinations": {"destinations_pkey"},
    "pause_destination": {"destinations_pkey"},
    "list_strays": {"deliveries_running"},
    "give_back": {"deliveries_pkey"},
    "get_due": {"deliveries_pkey"},
    "accuse": {"deliveries_pkey"},
    "run_alone": {"deliveries_pkey"},
    "lock_left": {"deliveries_running", "engines_pkey"},
    "end_wait": {"deliveries_due", "destinations_pkey"},
    "get_delivery": {"deliveries_pkey"},
    "list_attempts": {"attempts_pkey", "deliveries_pkey"},
    "list_submission_deliveries": {"deliveries_submission"},
    "advance_deliveries": {"deliveries_due", "destinations_pkey"},
    "advance_sends": {"submissions_send"},
    "advance_polls": {"submissions_poll"},
    "advance_media": {"submissions_media"},
    "advance_deadlines": {"submissions_deadline"},
    "beat": {"engines_pkey"},
    "mark": {"commits_pkey"},
}
"""What each statement looks into, and nothing else."""

PLANNED = {
    name
    for name, statement in SQL.items()
    if statement.text.split(maxsplit=1)[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
}
"""Statements that have a plan; some only lock, or count."""

WITHOUT_CONDITION = {
    ("advance_deliveries", "destinations_pkey"),
    ("update_destinations", "destinations_pkey"),
    ("list_strays", "deliveries_running"),
    ("lock_left", "deliveries_running"),
    ("lock_left", "engines_pkey"),
}
"""A table of a few rows, and what runs at this moment: read whole."""


@pytest.fixture(scope="module")
def databases() -> tuple[str, str]:
    """An empty journal, and one with many rows the server has counted."""

    async def make() -> tuple[str, str]:
        empty, full = await postgres.new_database("empty"), await postgres.new_database("full")
        for url in (empty, full):
            await (Journal(await open_postgres(url))).aclose()
        store = postgres.PostgresStore(full)
        await store.execute(MANY.format(now=NOW, count=COUNT))
        await store.execute("ANALYZE")
        return empty, full

    return asyncio.run(make())


async def plans(url: str) -> dict[str, list[dict[str, Any]]]:
    """The nodes of the plan of each statement, as our connections make it."""
    db = await asyncpg.connect(url, server_settings=SETTINGS)
    found = {}
    for name, statement in SQL.items():
        if name not in PLANNED:
            continue
        await db.execute(f"PREPARE a_{name} AS {statement.text}")
        given = f"({', '.join(['NULL'] * len(statement.names))})" if statement.names else ""
        plan = await db.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE a_{name}{given}")
        found[name] = list(nodes(json.loads(plan)[0]["Plan"]))
    await db.close()
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture(scope="module")
def both(databases: tuple[str, str]) -> list[dict[str, list[dict[str, Any]]]]:
    return [asyncio.run(plans(url)) for url in databases]


@pytest.mark.parametrize("name", INDEXES)
def test_hot_statements_use_their_indexes(both: list[dict[str, list[dict[str, Any]]]], name: str) -> None:
    """Those that were made for them, with a condition, on no rows and on many."""
    for found in both:
        looks = [node for node in found[name] if "Index Name" in node]
        assert {node["Index Name"] for node in looks} == INDEXES[name]
        for node in looks:
            if (name, node["Index Name"]) not in WITHOUT_CONDITION:
                assert node.get("Index Cond"), node
        assert not [node for node in found[name] if node["Node Type"] == "Seq Scan"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_list_as_a_literal_is_the_same_list(databases: tuple[str, str], values: list[str | None]) -> None:
    """Whatever its texts hold."""

    async def read() -> Any:
        db = await asyncpg.connect(databases[0])
        found = await db.fetchval("SELECT $1::text::text[]", array(values))
        await db.close()
        return found

    assert asyncio.run(read()) == values


@pytest.mark.parametrize("value", [1, ("a", "b"), b"a"])
def test_a_list_of_something_else_is_refused(value: Any) -> None:
    """As the driver refuses it; otherwise a column would be longer than the others."""
    with pytest.raises(asyncpg.DataError, match="a text was expected"):
        array(["a", value])


def test_every_statement_is_good_sql(both: list[dict[str, list[dict[str, Any]]]]) -> None:
    """Each one was prepared, so that none waits for its day to fail."""
    assert [set(found) for found in both] == [PLANNED] * 2


async def test_finding_what_is_whole_is_hot(databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission is looked up by its id, or its task's, with every request: that reads no others."""
    journal = Journal(await open_postgres(databases[1], listen=False))
    select, asked = journal._select, []

    async def noting(type: type[Any], name: str, **values: Any) -> list[Any]:
        asked.append(name)
        return await select(type, name, **values)

    monkeypatch.setattr(journal, "_select", noting)
    for reference in ("s7", "t7"):
        assert (await journal.find(reference)).id == "s7"
    with pytest.raises(NotFound):
        await journal.find("somebody else's", whole=True)
    await journal.aclose()
    assert asked
    assert set(asked) <= set(INDEXES)


def test_a_claim_looks_at_what_it_takes(databases: tuple[str, str]) -> None:
    """With thousands of due rows a claim of four touches a few pages."""

    async def look() -> int:
        db = await asyncpg.connect(databases[1], server_settings=SETTINGS)
        transaction = db.transaction()
        await transaction.start()
        given = {
            "destination": "'place-1'",
            "owner": "'me'",
            "limit": "4",
            "now_ms": str(NOW + COUNT),
            "mark": "'m'",
            "probing": "false",
        }
        values = [given.get(name, "'{}'") for name in SQL["claim"].names]
        await db.execute(f"PREPARE a AS {SQL['claim'].text}")
        plan = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE a({', '.join(values)})")
        await transaction.rollback()
        await db.close()
        top = json.loads(plan)[0]["Plan"]
        assert top["Actual Rows"] == 4
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    assert asyncio.run(look()) < 250
