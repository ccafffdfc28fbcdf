"""The copies of rows that benches fill a journal with: documents like those that a journal writes."""

from __future__ import annotations

from pathlib import Path

import many_rows
import pytest
from journals import NOW, STORES, SQLiteStore
from postgres import PostgresStore

from receiver.events import id_ms
from receiver.journal.document import replace
from receiver.journal.store import EVERYTHING, RowKind

BEGIN = NOW // many_rows.WINDOW_MS * many_rows.WINDOW_MS
WRITTEN, COPIES = 6, 3
KINDS: tuple[RowKind, ...] = ("submissions", "callbacks", "events", "deliveries", "attempts", "files")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_copy_is_a_document_of_a_later_time(database: str, tmp_path: Path) -> None:
    """All of its rows are there, none contradicts another, and only ids and times differ from the original."""
    async with STORES[database](tmp_path) as store:
        journal = await store.open()
        await many_rows.write(journal, BEGIN, WRITTEN)
        written = [len(await journal.store.page(kind, EVERYTHING, limit=100)) for kind in KINDS]
        await journal.aclose()
        if isinstance(store, SQLiteStore):
            await many_rows.copy_file(store.path, BEGIN, COPIES)
        elif isinstance(store, PostgresStore):
            await many_rows.copy_database(store.url, BEGIN, COPIES)
        journal = await store.open()
        copied = [len(await journal.store.page(kind, EVERYTHING, limit=100)) for kind in KINDS]
        assert copied == [count * COPIES for count in written]
        ids = [str(row.key[0]) for row in await journal.store.page("submissions", EVERYTHING, limit=100)]
        documents = await journal.store.load(ids)
        for number, id in enumerate(ids[WRITTEN:]):
            found, first = documents[id].submission, documents[ids[number % WRITTEN]].submission
            later = (number // WRITTEN + 1) * many_rows.WINDOW_MS
            assert found.created_ms == id_ms(id) == first.created_ms + later
            assert found.deadline_ms == first.deadline_ms + later
            assert found.task_id == f"task-{id}"
            assert len(found.media) == len(first.media)
            same = {name: getattr(first, name) for name in ("prompt", "labels", "ended", "destinations", "request")}
            assert replace(found, **same) == found
            assert documents[id].known == documents[ids[number % WRITTEN]].known
        assert await journal.store.problems(frozenset()) == []
        await journal.aclose()
