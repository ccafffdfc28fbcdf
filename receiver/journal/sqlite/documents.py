"""Documents in tables: read one, keep it in memory, write the difference. Pages of their rows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, cast

import msgspec

from receiver.deliveries import Delivery
from receiver.events import Callback, Event, Submission
from receiver.journal.document import (
    Document,
    changed_rows,
    file_digests,
    open_deadline,
    to_json,
    to_json_bytes,
)
from receiver.journal.pages import Dialect, page_query, requests_query
from receiver.journal.rows import (
    documents_of,
    queries,
    request_row,
    stored_rows,
    working_set,
)
from receiver.journal.store import Filter, Key, Record, RowKind, StoredRow

SQL = queries("sqlite")
Row = tuple[object, ...]
Connection = sqlite3.Connection
CACHED = 4096
"""Documents in memory. A task calls back about ten times, and reading its rows costs more than deciding."""

encode = msgspec.json.encode
attempt_row = msgspec.structs.astuple


# Reading


def load(db: Connection, ids: Sequence[str]) -> dict[str, Document]:
    """Read the documents that exist, by id."""
    return documents_of(db.execute(SQL["load"], (encode(ids), '["pending","running"]')))


# Writing


def insert_document(db: Connection, document: Document) -> Document | None:
    """Write a new submission with its files, and return it as it was written. None: its name (`once`) is taken."""
    row = document.submission
    try:
        columns = (document.version, encode_working(document), *_searched(row), encode(row), row.id)
    except UnicodeEncodeError:
        return insert_document(db, _clean(document))
    if db.execute(SQL["insert_submission"], (*columns, row.parent_id)).rowcount == 0:
        return None
    db.execute(SQL["insert_request"], request_row(row))
    db.executemany(SQL["insert_file"], [(row.id, digest) for digest in file_digests(row)])
    return document


def _clean(document: Document) -> Document:
    """Replace what is no UTF-8 as `to_json` does, so that memory holds what will be read again."""
    return msgspec.json.decode(to_json_bytes(document), type=Document)


def encode_working(document: Document) -> bytes:
    return encode(working_set(document))


def _searched(row: Submission) -> Row:
    return (
        row.task_id, row.once, row.status, row.display_status, row.ended, 1 if row.hooked else 0,
        1 if row.settled else 0, row.send_due_ms, row.media_due_ms, open_deadline(row), row.task_status,
        row.poll_due_ms,
    )  # fmt: skip


def callback_row(item: Callback, number: int | None = None) -> Row:
    return number, item.submission_id, item.received_ms, item.cause, item.body


def event_row(item: Event, number: int | None = None) -> Row:
    return number, item.id, item.submission_id, item.type, item.created_ms, encode(item)


def delivery_row(item: Delivery) -> Row:
    receipt = None if item.receipt is None else encode(item.receipt)
    manual = 1 if item.manual else 0  # sqlite3 looks for an adapter of a bool at each binding
    return (
        item.id, item.event_id, item.submission_id, item.destination, item.created_ms, item.due_ms, item.status,
        item.attempt, item.failures, item.owner, item.detail, receipt, item.finished_ms, manual,
    )  # fmt: skip


_SEARCHED = attrgetter(
    "status", "task_status", "ended", "task_id", "once", "hooked", "send_due_ms", "media_due_ms", "deadline_ms",
    "reply", "settled",
)  # fmt: skip
"""Fields on which the searched columns depend. Few changes touch one."""


def _update(old: Document, new: Document) -> tuple[str, Row]:
    row, version, working = new.submission, old.version + 1, encode_working(new)
    if row is old.submission:
        return "update_working", (version, working, new.id)
    if _SEARCHED(row) == _SEARCHED(old.submission):
        return "update_progress", (version, working, row.poll_due_ms, encode(row), row.id)
    return "update_submission", (version, working, *_searched(row), encode(row), row.id)


_WRITES: Mapping[str, tuple[str, Callable[[Any], Row]]] = {
    "callbacks": ("insert_callback", callback_row),
    "events": ("insert_event", event_row),
    "deliveries": ("write_delivery", delivery_row),
    "attempts": ("write_attempt", attempt_row),
    "files": ("insert_file", tuple),
}


def difference(old: Document, new: Document) -> dict[str, list[Row]]:
    """Return the rows to write by the name of their statement. Raise UnicodeEncodeError where a text is not UTF-8."""
    update, columns = _update(old, new)
    rows = {update: [columns]}
    for kind, items in changed_rows(old, new).items():
        if items:
            statement, row_of = _WRITES[kind]
            rows[statement] = [row_of(item) for item in items]
    return rows


class RowCache:
    """Documents as the writing connection last read or wrote them, and the changes of the open transaction.

    True only between `begin` and the commit: SQLite counts the commits of all other connections, and no other commits
    while we hold the write lock. For the writer's thread alone.
    """

    def __init__(self, limit: int = CACHED) -> None:
        self._limit = limit
        self._documents: dict[str, Document] = {}
        self._changed: dict[str, tuple[Document, Document]] = {}
        self._version = -1
        self.written: set[str] = set()
        """Ids of submissions that the open transaction has written."""

    def begin(self, db: Connection) -> None:
        """Forget everything if another connection has written since the last transaction."""
        self.written = set()
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.forget()
            self._version = version

    def get(self, db: Connection, id: str) -> Document | None:
        """Return a document with the changes of the open transaction."""
        if (changed := self._changed.get(id)) is not None:
            return changed[1]
        found = self._documents.get(id)
        if found is None:
            if any(new.additions for _, new in self._changed.values()):
                self.flush(db)  # perhaps it is one of them
            found = load(db, [id]).get(id)
            if found is not None:
                self._keep(found)
        return found

    def fetch(self, db: Connection, ids: Iterable[str]) -> None:
        """Read documents for `get` in one go. If one of them cannot be read, `get` has to read each."""
        if missing := [id for id in ids if id not in self._documents]:
            with suppress(msgspec.DecodeError):
                for document in load(db, missing).values():
                    self._keep(document)

    def insert(self, db: Connection, submission: Submission) -> Submission:
        """Write a new submission. If its name (`once`) is taken, return the one that has it."""
        document = insert_document(db, Document(submission=submission, version=1))
        if document is None:
            (id,) = db.execute(SQL["get_once"], (submission.once,)).fetchone()
            return cast(Document, self.get(db, id)).submission
        self.written.add(document.id)
        self._keep(document)
        return document.submission

    def put(self, before: Document, after: Document) -> None:
        """Take a document, as a transition gave it, to be written by the next `flush`."""
        changed = self._changed.get(after.id)
        self._changed[after.id] = (before if changed is None else changed[0], after)

    def flush(self, db: Connection) -> None:
        """Write all changes."""
        if not self._changed:
            return
        # One statement for many rows costs a sixth less than the statements of each document in turn.
        rows: dict[str, list[Row]] = defaultdict(list)
        changed, self._changed = self._changed, {}
        for id, (old, new) in changed.items():
            try:
                found = difference(old, new)
            except UnicodeEncodeError:  # keep in memory what will be read again
                changed[id] = old, _clean(new)
                found = difference(*changed[id])
            for name, some in found.items():
                rows[name] += some
        for name, some in rows.items():
            if some and db.executemany(SQL[name], some).rowcount < len(some) and name == "write_delivery":
                raise sqlite3.IntegrityError("UNIQUE constraint failed: deliveries.id")  # of another submission
        added = [Document(submission=row, version=1) for _, new in changed.values() for row in new.additions]
        self.written.update(changed, [document.id for document in added if insert_document(db, document)])
        for _, new in changed.values():
            self._keep(new.written())

    def forget(self, id: str | None = None) -> None:
        """Forget a document, or everything: something was undone, or written past us."""
        if id is not None:
            self._documents.pop(id, None)
            return
        self._documents.clear()
        self._changed.clear()
        self.written = set()

    def _keep(self, document: Document) -> None:
        self._documents.pop(document.id, None)
        if len(self._documents) >= self._limit:
            del self._documents[next(iter(self._documents))]
        self._documents[document.id] = document


# Pages of rows

DIALECT = Dialect(
    schema="",
    mark="?",
    among="IN (SELECT value FROM json_each({value}))",
    contains="instr",
    events_of="number IN (SELECT number FROM json_each({value}) CROSS JOIN events"
    " ON events.id > value || '.' AND events.id < value || '/')",
    in_index={},
    to_list=to_json,
    as_bytes="CAST({column} AS BLOB) AS {column}",
    with_files="(SELECT DISTINCT submission_id AS id FROM files) AS needing CROSS JOIN submissions USING (id)",
)


def read_page(
    db: sqlite3.Connection,
    kind: RowKind,
    wanted: Filter,
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
    read: Callable[[Any], Record] | None = None,
) -> list[StoredRow]:
    """Read the rows of a page, with a reader of its own if one is given."""
    few = None
    if found := requests_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first):
        few = found.few([id for (id,) in db.execute(found.text, found.values)])
    query = page_query(DIALECT, kind, wanted, after, limit, newest_first=newest_first, few=few)
    return stored_rows(kind, db.execute(*query), read)
