"""The statements of the store on PostgreSQL: each finds its rows by an index, however many there are, and by the plan
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
from postgres import open_journal

from receiver.journal.document import DUE_FIELDS
from receiver.journal.pages import due_query, page_query, requests_query
from receiver.journal.postgres.connections import SETTINGS
from receiver.journal.postgres.documents import DIALECT, PARTS, SQL, array, write_statement
from receiver.journal.store import EVERYTHING, ROW_KINDS, Filter, RowKind

MANY = """
INSERT INTO receiver.submissions (
    id, version, parent_id, task_id, status, display, task_status, ended, hooked, settled,
    send_due_ms, poll_due_ms, media_due_ms, deadline_due_ms, body, working)
SELECT 's' || n, 1, CASE WHEN n % 50 = 0 THEN 's' || n - 1 END, 't' || n, 'accepted',
    'succeeded', '', CASE WHEN n % 2 = 0 THEN 'task.succeeded' END, true, false, {now} + n, {now} + n, {now} + n,
    {now} + n, '{{}}', '[[],{{}},{{}}]'
FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.requests (id, kind, labels, prompt)
SELECT 's' || n, 'imagine', '', 'a boat' FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.events (id, submission_id, type, created_ms, body)
SELECT 's' || n || '.task.succeeded', 's' || n, 'task.succeeded', {now}, '{{}}' FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.callbacks (submission_id, received_ms, body)
SELECT 's' || n, {now}, '{{}}' FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.deliveries (
    id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, manual, owner)
SELECT 'd' || n, 's' || n || '.task.succeeded', 's' || n, 'place-' || n % 3, {now}, {now} + n,
    (ARRAY['pending', 'pending', 'succeeded', 'dead', 'running'])[1 + n % 5], 1, 0, false, 'engine'
FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.attempts (delivery_id, number, started_ms, manual)
SELECT 'd' || n, 1, {now}, false FROM generate_series(1, {count}) AS n;
INSERT INTO receiver.files (submission_id, digest) SELECT 's' || n, 'f' || n FROM generate_series(1, {count}) AS n;
"""
COUNT = 6_000

INDEXES = {
    "load": {"submissions_pkey", "deliveries_submission", "events_id", "attempts_pkey"},
    "lock": {"submissions_pkey"},
    "named": {"submissions_once"},
    "update": {"submissions_pkey"},
    "look": {"deliveries_due"},
    "candidates": {"deliveries_due", "deliveries_submission", "submissions_pkey"},
    "fresh": {"deliveries_due", "submissions_pkey"},
    "remove_callbacks": {"callbacks_submission"},
    "remove_events": {"events_id", "events_pkey"},
    "remove_attempts": {"deliveries_submission", "attempts_pkey"},
    "remove_deliveries": {"deliveries_submission"},
    "remove_files": {"files_pkey"},
    "remove_requests": {"requests_pkey"},
    "remove_submissions": {"submissions_pkey"},
    "leave_files": {"files_pkey", "files_digest"},
    "forget_callbacks": {"callbacks_pkey"},
    "forget_leftovers": {"leftovers_pkey"},
    "due_send": {"submissions_send"},
    "due_poll": {"submissions_poll"},
    "due_media": {"submissions_media"},
    "due_deadline": {"submissions_deadline"},
    "count_submissions": {"submissions_display"},
    "count_deliveries": {"deliveries_due", "deliveries_running", "deliveries_dead"},
    "replace_value": {"shared_values_pkey"},
    "delete_value": {"shared_values_pkey"},
}
"""What each statement looks into, and nothing else."""
COUNTING = {"count_submissions", "count_deliveries"}
"""Statements that read a whole index."""

FEW = {"submissions": "submissions_pkey", "events": "events_id", "deliveries": "deliveries_submission"}
"""Rows of a few submissions, which a condition on requests has found, and the index by which they are."""

PAGES: dict[str, tuple[RowKind, Filter, str]] = {
    "all submissions": ("submissions", EVERYTHING, "submissions_pkey"),
    "a submission": ("submissions", Filter(ids=("s1",)), "submissions_pkey"),
    "follow-ups": ("submissions", Filter(parent_id="s1"), "submissions_parent"),
    "a task": ("submissions", Filter(task_id="t7"), "submissions_task"),
    "called back": ("submissions", Filter(called_back=True, until_ms=NOW), "submissions_called_back"),
    "settled": ("submissions", Filter(settled=True, until_ms=NOW, with_files=True), "submissions_pkey"),
    "far away": ("submissions", Filter(due_after_ms=NOW), "submissions_poll"),
    "callbacks": ("callbacks", Filter(submission_id="s1"), "callbacks_submission"),
    "old callbacks": ("callbacks", Filter(until_ms=NOW), "callbacks_pkey"),
    "events": ("events", Filter(type="task.lost"), "events_type"),
    "a status": ("submissions", Filter(status="lost", requests=True), "submissions_display"),
    "words": ("submissions", Filter(words=("boat",)), "requests_pkey"),
    "a kind's deliveries": ("deliveries", Filter(kind="blend"), "requests_pkey"),
    "a destination": ("deliveries", Filter(destination="place-1"), "deliveries_destination"),
    "a destination and a status": (
        "deliveries",
        Filter(destination="place-1", status="succeeded"),
        "deliveries_destination",
    ),
    "dead": ("deliveries", Filter(status="dead"), "deliveries_dead"),
    "dead there": ("deliveries", Filter(destination="place-1", status="dead"), "deliveries_dead"),
    "cancelled": ("deliveries", Filter(status="cancelled"), "deliveries_cancelled"),
    "an event": ("events", Filter(ids=("s1.task.lost",)), "events_id"),
    "a submission's events": ("events", Filter(submission_id="s1"), "events_id"),
    "a delivery": ("deliveries", Filter(ids=("d1",)), "deliveries_pkey"),
    "a submission's deliveries": (
        "deliveries",
        Filter(submission_id="s1", status="dead"),
        "deliveries_submission",
    ),
    "pending": ("deliveries", Filter(destination="place-1", status="pending"), "deliveries_due"),
    "running": ("deliveries", Filter(status="running"), "deliveries_running"),
    "attempts": ("attempts", Filter(delivery_id="d1"), "attempts_pkey"),
    "files": ("files", Filter(submission_id="s1"), "files_pkey"),
    "a file": ("files", Filter(digest="f1"), "files_digest"),
}
"""Pages, and the index by which each is found."""


REQUESTS = {
    "requests_pkey": Filter(words=("boat", "sea"), labels=(("a", "b"),)),
    "requests_kind": Filter(kind="blend", words=("boat",)),
}
"""Conditions on requests, by the index in whose order they are read."""


@pytest.fixture(scope="module")
def databases() -> tuple[str, str]:
    """An empty journal, and one with many rows the server has counted."""

    async def make() -> tuple[str, str]:
        empty, full = await postgres.new_database("empty"), await postgres.new_database("full")
        for url in (empty, full):
            await (await open_journal(url)).aclose()
        store = postgres.PostgresStore(full)
        await store.execute(MANY.format(now=NOW, count=COUNT))
        await store.execute("ANALYZE")
        return empty, full

    return asyncio.run(make())


def statements() -> dict[str, str]:
    """All statements that have a plan, with a write of everything."""
    pages = {
        f"page {number}": page_query(
            DIALECT, kind, wanted, ("",) if kind == "deliveries" else None, 9, newest_first=True
        )[0]
        for number, (kind, wanted, _) in enumerate(PAGES.values())
    }
    pages |= {f"few {kind}": page_query(DIALECT, kind, Filter(words=("boat",)), None, 9, few=["s1"])[0] for kind in FEW}
    for name, wanted in REQUESTS.items():
        pages[name] = requests_query(DIALECT, "submissions", wanted, ("x",), 9, newest_first=True).text  # type: ignore[union-attr]
    dues = {f"due_{kind}": due_query(DIALECT, kind) for kind in DUE_FIELDS}
    return {**SQL, "update": write_statement(("update",)), "whole": write_statement(tuple(PARTS)), **dues, **pages}


async def plans(url: str) -> dict[str, list[dict[str, Any]]]:
    """The nodes of the plan of each statement, as our connections make it."""
    db = await asyncpg.connect(url, server_settings=SETTINGS)
    found = {}
    for number, (name, statement) in enumerate(statements().items()):
        await db.execute(f"PREPARE a_{number} AS {statement}")
        count = await db.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", f"a_{number}"
        )
        given = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = await db.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE a_{number}{given}")
        found[name] = list(nodes(json.loads(plan)[0]["Plan"]))
    await db.close()
    return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


Plans = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def both(databases: tuple[str, str]) -> list[Plans]:
    return [asyncio.run(plans(url)) for url in databases]


@pytest.mark.parametrize("name", INDEXES)
def test_hot_statements_use_their_indexes(both: list[Plans], name: str) -> None:
    """Those that were made for them, with a condition, on no rows and on many."""
    for found in both:
        looks = [node for node in found[name] if "Index Name" in node]
        assert {node["Index Name"] for node in looks} == INDEXES[name]
        for node in looks:
            if name not in COUNTING:
                assert node.get("Index Cond"), node
        assert not [node for node in found[name] if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("number", range(len(PAGES)), ids=PAGES)
def test_pages_use_their_indexes(both: list[Plans], number: int) -> None:
    """No page reads a table from end to end, however many rows there are."""
    for found in both:
        looks = [node for node in found[f"page {number}"] if "Index Name" in node]
        assert [*PAGES.values()][number][2] in {node["Index Name"] for node in looks}
        assert not [node for node in found[f"page {number}"] if node["Node Type"] == "Seq Scan"]


def test_what_has_failed_is_passed_over_in_the_index(both: list[Plans]) -> None:
    """A probe reads no row of it."""
    for found in both:
        assert [node for node in found["fresh"] if "failures = 0" in node.get("Index Cond", "")]


@pytest.mark.parametrize(("kind", "index"), FEW.items())
def test_rows_of_a_few_submissions_are_found_by_their_ids(both: list[Plans], kind: str, index: str) -> None:
    """No other row is looked at."""
    for found in both:
        looks = [node for node in found[f"few {kind}"] if "Index Name" in node]
        assert [node["Index Name"] for node in looks if node.get("Index Cond")] in ([index], [index, "events_pkey"])
        assert not [node for node in found[f"few {kind}"] if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("index", REQUESTS)
def test_requests_are_read_in_the_order_of_the_page(both: list[Plans], index: str) -> None:
    """So that the reading ends with the last row of the page."""
    for found in both:
        assert [node["Node Type"] for node in found[index]] == ["Limit", "Index Scan"]
        assert found[index][1]["Index Name"] == index


def test_every_statement_is_good_sql(both: list[Plans]) -> None:
    """Each one was prepared, so that none waits for its day to fail."""
    assert [set(found) for found in both] == [set(statements())] * 2
    assert {kind for kind, _, _ in PAGES.values()} == set(ROW_KINDS) - {"leftovers", "values"}


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


@pytest.mark.parametrize("values", [[], [1, None, -(2**62)], [True, False, None]])
def test_a_list_of_numbers_as_a_literal_is_the_same_list(databases: tuple[str, str], values: list[Any]) -> None:
    """Also of truth values."""
    kind = "boolean" if any(value is True for value in values) else "bigint"

    async def read() -> Any:
        db = await asyncpg.connect(databases[0])
        found = await db.fetchval(f"SELECT $1::text::{kind}[]", array(values))
        await db.close()
        return found

    assert asyncio.run(read()) == values


def test_a_claim_looks_at_what_it_takes(databases: tuple[str, str]) -> None:
    """With thousands of due rows a claim of four touches a few pages."""

    async def look() -> int:
        db = await asyncpg.connect(databases[1], server_settings=SETTINGS)
        transaction = db.transaction()
        await transaction.start()
        values = ["'place-1'", str(NOW + COUNT), "'{}'", "'running'", "4"]
        await db.execute(f"PREPARE a AS {SQL['candidates']}")
        plan = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE a({', '.join(values)})")
        await transaction.rollback()
        await db.close()
        top = json.loads(plan)[0]["Plan"]
        assert top["Actual Rows"] == 4
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    assert asyncio.run(look()) < 250
