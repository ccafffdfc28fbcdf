"""The statements of `sql/`, and queries for pages of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from receiver.deliveries import DELIVERY_STATUSES, AttemptRecord
from receiver.events import Callback, Event, Submission, first_id
from receiver.journal.document import Document, LastReceipt
from receiver.journal.postgres.faults import Connection, asyncpg
from receiver.journal.rows import delivery_from_row, from_row, to_json
from receiver.journal.statements import queries
from receiver.journal.store import Filter, Key, LeftFile, NeededFile, RowKind, SharedValue, StoredRow
from receiver.tasks import clean_text

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)(?:::text::(\w+)\[\])?")
_COMMENT = re.compile(r"--[^\n]*\n?")
TEXTS: Mapping[str, str] = {
    name: _COMMENT.sub("", text).strip().removesuffix(";") for name, text in queries("postgres").items()
}
"""The named statements as they are written."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `$1`, `$2` … and the names of its parameters, each with the type of its list if that is a literal. (The
    driver needs half a microsecond for each element of a list. In a literal each quote needs a backslash, so long
    texts go as a list.)"""

    text: str
    parameters: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Statement:
        found = dict(_PARAMETER.findall(text))
        numbers = {name: f"${number}" for number, name in enumerate(found, start=1)}

        def numbered(match: re.Match[str]) -> str:
            return numbers[match[1]] + (f"::text::{match[2]}[]" if match[2] else "")

        return cls(_PARAMETER.sub(numbered, text), tuple(found.items()))

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the arguments in order."""
        return [
            clean_text(array(values[name]))
            if literal == "text"
            else f"{{{str(list(values[name]))[1:-1].replace('None', 'NULL')}}}"  # numbers
            if literal
            else _clean(values[name])
            for name, literal in self.parameters
        ]


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def array(values: Sequence[str | None]) -> str:
    """Return a list of texts as the server writes it (PostgreSQL's documentation, "Array Input and Output Syntax").

    Raises:
        DataError: one is no text. The driver raises it, too.
    """
    if not values:
        return "{}"
    try:
        text = '","'.join(values)  # type: ignore[arg-type]
    except TypeError:  # most likely because there are NULLs
        return "{" + ",".join([_element(value) for value in values]) + "}"
    if "\\" in text or text.count('"') != 2 * len(values) - 2:
        return "{" + ",".join([_element(value) for value in values]) + "}"
    return f'{{"{text}"}}'


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        raise asyncpg.DataError(f"a text was expected, and it is of the type {type(value).__name__}")
    value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


SQL: Mapping[str, Statement] = {name: Statement.parse(text) for name, text in TEXTS.items()}


@cache
def write_statement(parts: tuple[str, ...]) -> Statement:
    """Return one statement that writes these parts and returns the number of documents and of new deliveries written,
    and the transaction's id."""
    written = ", ".join(f"{part}_rows AS ({TEXTS[part]})" for part in parts)
    counts = [f"(SELECT count(*) FROM {part}_rows) AS {part}" for part in ("written", "owed") if part in parts]  # noqa: S608
    return Statement.parse(f"WITH {written} SELECT {', '.join(counts)}, pg_current_xact_id()::text AS xid")


async def fetch(db: Connection, statement: str | Statement, /, **values: Any) -> list[Any]:
    """Return the rows of a statement, which may be named."""
    found = SQL[statement] if isinstance(statement, str) else statement
    return await db.fetch(found.text, *found.bind(values))  # type: ignore[no-any-return]


# Pages of rows

DELIVERY = (
    "id, event_id, submission_id, destination, created_ms, due_ms, status, attempt, failures, owner, detail, receipt, "
    "finished_ms, manual"
)


class Working(msgspec.Struct, frozen=True):
    """The working set of a document, as it is stored."""

    known: tuple[str, ...] = ()
    newest: dict[str, str] = {}
    receipts: dict[str, LastReceipt] = {}


read_submission = msgspec.json.Decoder(Submission).decode
read_event = msgspec.json.Decoder(Event).decode
read_working = msgspec.json.Decoder(Working).decode


def read_document(row: Mapping[str, Any]) -> Document:
    """Return a document without deliveries."""
    working = read_working(row["working"])
    return Document(
        submission=read_submission(row["submission"]), version=row["version"], known=working.known,
        newest=working.newest, receipts=working.receipts,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """The way in which one kind of rows is read: its key, its columns, and the record of a row."""

    key: tuple[str, ...]
    columns: str
    record: Callable[[Mapping[str, Any]], Any]


TABLES: Mapping[str, Table] = {
    "submissions": Table(("id",), "id, body", lambda row: read_submission(row["body"])),
    "documents": Table(("id",), "id, version, body AS submission, working", read_document),
    "callbacks": Table(
        ("number",), "number, submission_id, received_ms, cause, convert_to(body, 'UTF8') AS body",
        lambda row: from_row(Callback, row),
    ),
    "events": Table(("number",), "number, body", lambda row: read_event(row["body"])),
    "deliveries": Table(("id",), DELIVERY, delivery_from_row),
    "attempts": Table(
        ("delivery_id", "number"), "delivery_id, number, started_ms, finished_ms, outcome, detail, manual",
        lambda row: from_row(AttemptRecord, row),
    ),
    "files": Table(("submission_id", "digest"), "submission_id, digest", lambda row: from_row(NeededFile, row)),
    "leftovers": Table(
        ("digest",),
        "digest, EXISTS (SELECT FROM receiver.files WHERE files.digest = leftovers.digest) AS needed",
        lambda row: from_row(LeftFile, row),
    ),
    "values": Table(
        ("key",), "key, data, version",
        lambda row: SharedValue(key=row["key"], data=row["data"].encode(), version=row["version"]),
    ),
}  # fmt: skip


@dataclass(slots=True)
class _Conditions:
    """SQL conditions, the values of their parameters, and True if an index other than the key's finds few rows."""

    texts: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    few: bool = False

    def add(self, text: str, *values: Any, few: bool = False) -> None:
        """Add a condition, in which `?` is the next value."""
        for value in values:
            self.values.append([*map(clean_text, value)] if isinstance(value, tuple | list) else _clean(value))
            text = text.replace("?", f"${len(self.values)}", 1)
        self.texts.append(text)
        self.few |= few


def _submissions(wanted: Filter, where: _Conditions) -> None:
    if wanted.submission_id is not None:
        where.add("id = ?", wanted.submission_id, few=True)
    if wanted.parent_id is not None:
        where.add("parent_id = ?", wanted.parent_id, few=True)
    if wanted.task_id is not None:
        where.add("task_id = ?", wanted.task_id, few=True)
    if wanted.part is not None:
        where.add("(starts_with(id, ?) OR right(id, length(?::text)) = ?)", *[wanted.part] * 3)
    if wanted.statuses:
        ends, tasks = [f"task.{status}" for status in wanted.statuses], [status.upper() for status in wanted.statuses]
        where.add("(status = ANY (?) OR ended = ANY (?) OR task_status = ANY (?))", wanted.statuses, ends, tasks)
    if wanted.kinds:
        where.add("kind = ANY (?)", wanted.kinds)
    for name, value in wanted.labels:
        where.add("strpos(labels, ?) > 0", label_text({name: value}))
    for word in wanted.words:
        where.add("strpos(prompt, ?) > 0", word.casefold())
    if wanted.due_after_ms is not None:
        dues = " UNION ALL ".join(
            f"SELECT id FROM receiver.submissions WHERE {column} > ?"  # noqa: S608
            for column in ("send_due_ms", "poll_due_ms", "media_due_ms")
        )
        where.add(f"id = ANY (ARRAY({dues}))", *[wanted.due_after_ms] * 3, few=True)
    if wanted.called_back:
        where.add("hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')")
    if wanted.settled:
        where.add("settled")
    if wanted.with_files:
        where.add("(SELECT 1 FROM receiver.files WHERE submission_id = submissions.id LIMIT 1) IS NOT NULL")


def label_text(labels: Mapping[str, str]) -> str:
    """Return labels as the column holds them. Each begins with a comma, so that one is found in many."""
    return "".join(f",{to_json({name: value})[1:-1]}" for name, value in labels.items())


def _events(wanted: Filter, where: _Conditions) -> None:
    if wanted.submission_id is not None:  # event ids start with their submission's
        where.add("id > ? AND id < ?", f"{wanted.submission_id}.", f"{wanted.submission_id}/", few=True)
    if wanted.types:
        where.add("type = ANY (?)", wanted.types)


def _deliveries(wanted: Filter, where: _Conditions) -> None:
    if wanted.submission_id is not None:
        where.add("submission_id = ?", wanted.submission_id, few=True)
    if wanted.destination is not None:
        where.add("destination = ?", wanted.destination)
    statuses = wanted.statuses or (("pending",) if wanted.due_after_ms is not None else ())
    if statuses and where.few:
        where.add("status = ANY (?)", statuses)
    elif statuses:  # as literals, so that partial indexes fit
        known = ", ".join(f"'{status}'" for status in DELIVERY_STATUSES if status in statuses)
        where.add(f"status IN ({known})" if known else "false", few=known == "'running'")
    if wanted.due_after_ms is not None:
        where.add("due_ms > ?", wanted.due_after_ms, few=True)


def page_query(
    kind: str, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool
) -> tuple[str, list[Any]]:
    """Return the query for a page of rows, and its arguments. It has conditions only for what is given."""
    table, where = TABLES[kind], _Conditions()
    key = ", ".join(table.key)
    since, until = wanted.since_ms, wanted.until_ms
    if wanted.ids is not None and kind in ("submissions", "events", "deliveries"):
        where.add("id = ANY (?)", list(wanted.ids), few=True)
    if kind == "submissions":
        _submissions(wanted, where)
    elif kind == "events":
        _events(wanted, where)
    elif kind == "deliveries":
        _deliveries(wanted, where)
    elif kind in ("callbacks", "files") and wanted.submission_id is not None:
        where.add("submission_id = ?", wanted.submission_id)
    elif kind == "attempts" and wanted.delivery_id is not None:
        where.add("delivery_id = ?", wanted.delivery_id)
    elif kind == "attempts" and wanted.submission_id is not None:
        owned = "SELECT id FROM receiver.deliveries WHERE submission_id = ?"
        where.add(f"delivery_id = ANY (ARRAY({owned}))", wanted.submission_id)
    if kind == "files" and wanted.digest is not None:
        where.add("digest = ?", wanted.digest, few=True)
    time = {"submissions": "id", "deliveries": "id", "events": "created_ms", "callbacks": "received_ms"}.get(kind)
    for sign, ms in ((">=", since), ("<", until)):
        if ms is not None and time is not None:
            where.add(f"{time} {sign} ?", first_id(ms) if time == "id" else ms)
    if after is not None:
        where.add(f"({key}) {'<' if newest_first else '>'} ({', '.join('?' * len(after))})", *after)
    hint = (" + 0" if table.key == ("number",) else " || ''") if where.few else ""  # see `queries.sql`
    order = [f"{table.key[0]}{hint}", *table.key[1:]]
    direction = " DESC" if newest_first else ""
    name = {"documents": "submissions", "values": "shared_values"}.get(kind, kind)
    where.values.append(limit)
    return (
        f"SELECT {table.columns} FROM receiver.{name} "  # noqa: S608
        f"{'WHERE ' if where.texts else ''}{' AND '.join(where.texts)} "
        f"ORDER BY {', '.join(column + direction for column in order)} LIMIT ${len(where.values)}"
    ), where.values


async def fetch_page(
    db: Connection, kind: RowKind | str, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool = False
) -> list[StoredRow]:
    """Return a page of rows in order of key, or against it."""
    text, values = page_query(kind, wanted, after, limit, newest_first=newest_first)
    table = TABLES[kind]
    return [
        StoredRow(tuple(row[name] for name in table.key), table.record(row)) for row in await db.fetch(text, *values)
    ]
