"""Pages of rows in SQL: one query for each combination of conditions, so that a database uses the index for it.

Each condition is written once, in SQL that both databases understand. `Dialect` has the few expressions that differ.
Rows of `requests` hold what people search for and what never changes, apart from the submissions that do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from receiver.events import ALERT_KIND, first_id
from receiver.journal.rows import TABLES, label_text
from receiver.journal.store import REQUEST_CONDITIONS, Filter, Key, RowKind
from receiver.tasks import clean_text

FEW = 1000
"""Submissions up to which a condition on requests is answered by their ids. With more, a page is full soon."""


class Dialect(NamedTuple):
    """Expressions that one database writes in its own way. `{value}` is a parameter.

    Attributes:
        schema: before the name of a table.
        mark: before the number of a parameter.
        among: behind a column whose value is in a list.
        contains: function that finds a text in another one.
        events_of: condition that an event is of a submission in a list. Event ids start with their submission's.
        in_index: the key as in an index of other columns, by key, where that differs.
        to_list: makes a parameter of a list.
        as_bytes: a column of text as bytes.
        with_files: submissions that need files, where this is quicker than to ask for each.
    """

    schema: str
    mark: str
    among: str
    contains: str
    events_of: str
    in_index: Mapping[str, str]
    to_list: Callable[[Sequence[str]], Any]
    as_bytes: str
    with_files: str = ""


_PART = (
    "(substr(id, 1, length(CAST({value} AS text))) = {value}"
    " OR substr(id, length(id) + 1 - length(CAST({value} AS text))) = {value})"
)
_CONDITIONS: Mapping[str, Mapping[str, str]] = {
    "submissions": {
        "ids": "id {among}",
        "submission_id": "id = {value}",
        "parent_id": "parent_id = {value}",
        "task_id": "task_id = {value}",
        "part": _PART,
        "status": "display = {value}",
        "due_after_ms": "id IN (SELECT id FROM {schema}submissions WHERE send_due_ms > {value}"
        " UNION ALL SELECT id FROM {schema}submissions WHERE poll_due_ms > {value}"
        " UNION ALL SELECT id FROM {schema}submissions WHERE media_due_ms > {value})",
        "called_back": "hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')",
        "settled": "settled",
        "with_files": "(SELECT 1 FROM {schema}files WHERE submission_id = submissions.id LIMIT 1) IS NOT NULL",
        "since_ms": "{key} >= {value}",
        "until_ms": "{key} < {value}",
        "requests": "display <> 'alert'",
    },
    "callbacks": {
        "submission_id": "submission_id = {value}",
        "since_ms": "received_ms >= {value}",
        "until_ms": "received_ms < {value}",
    },
    "events": {
        "ids": "id {among}",
        "submission_id": "id > {value} || '.' AND id < {value} || '/'",
        "type": "type = {value}",
        "since_ms": "created_ms >= {value}",
        "until_ms": "created_ms < {value}",
    },
    "deliveries": {
        "ids": "id {among}",
        "submission_id": "submission_id = {value}",
        "part": _PART,
        "destination": "destination = {value}",
        "status": "status = {value}",
        "due_after_ms": "status = 'pending' AND due_ms > {value}",
        "since_ms": "{key} >= {value}",
        "until_ms": "{key} < {value}",
    },
    "attempts": {
        "delivery_id": "delivery_id = {value}",
        "submission_id": "delivery_id IN (SELECT id FROM {schema}deliveries WHERE submission_id = {value})",
    },
    "files": {"submission_id": "submission_id = {value}", "digest": "digest = {value}"},
}
"""Condition for each field of a filter that makes sense for a kind of rows, beside those on requests."""
_OLD_CALLBACKS = (
    "number < coalesce((SELECT number FROM {schema}callbacks WHERE received_ms >= {value} AND received_ms <="
    " (SELECT received_ms FROM {schema}callbacks ORDER BY number DESC LIMIT 1) ORDER BY number LIMIT 1),"
    " 9223372036854775807)"
)
"""Ends the search for old callbacks at the first one that is not old, because they are numbered as they came. One dated
after the newest was written by a clock that was ahead, and ends nothing."""
_REQUEST_OF: Mapping[str, str] = {
    "submissions": "submissions.id", "deliveries": "submission_id", "events": "submission_id"
}  # fmt: skip
"""The submission's id in each kind of rows that conditions on requests select."""

_FINDING_FEW = frozenset({"ids", "submission_id", "parent_id", "task_id", "digest", "due_after_ms"})
"""Fields whose index finds few rows."""
_INDEXED: Mapping[str, str] = {"submissions": "status", "events": "type", "deliveries": "destination"}
"""Fields for which an index has the rows of each value in order of their key."""
_STATUSES: Mapping[str, str] = {
    "pending": "status = 'pending' AND due_ms >= 0",
    "running": "status = 'running'",
    "dead": "status = 'dead'",
    "cancelled": "status = 'cancelled'",
}
"""Conditions on statuses of deliveries that have an index of their own."""


class Query:
    """A query under construction.

    Args:
        dialect: of the database.
        key: the first column of the sort key, written so that the database takes the index meant for it.
    """

    def __init__(self, dialect: Dialect, key: str) -> None:
        self._dialect = dialect
        self.key = key
        self.conditions: list[str] = []
        self.values: list[Any] = []

    def mark(self, value: Any) -> str:
        """Add a parameter."""
        self.values.append(value)
        return f"{self._dialect.mark}{len(self.values)}"

    def add(self, condition: str, value: Any = None) -> None:
        """Add a condition. `{among}` compares with a list, or with its only value, to read an index in order."""
        if "{among}" in condition:
            condition = condition.replace("{among}", "= {value}" if len(value) == 1 else self._dialect.among)
            value = value[0] if len(value) == 1 else self._dialect.to_list(value)
        mark = self.mark(value) if "{value}" in condition else ""
        self.conditions.append(condition.format(value=mark, key=self.key, schema=self._dialect.schema))

    def add_request(self, wanted: Filter) -> None:
        """Add the conditions on a request."""
        if wanted.kind is not None:
            self.add("kind = {value}", wanted.kind)
        for pair in wanted.labels:
            self.add(f"{self._dialect.contains}(labels, {{value}}) > 0", label_text([pair]))
        for word in wanted.words:
            self.add(f"{self._dialect.contains}(prompt, {{value}}) > 0", clean_text(word).casefold())

    def text(self, select: str, keys: Sequence[str], after: Key | None, limit: int, *, newest_first: bool) -> str:
        """Return the statement of a page behind the key `after`."""
        if after is not None:
            marks = ", ".join(map(self.mark, after))
            self.conditions.append(f"({', '.join(keys)}) {'<' if newest_first else '>'} ({marks})")
        where = f" WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        order = ", ".join(f"{name} DESC" if newest_first else name for name in keys)
        return f"{select}{where} ORDER BY {order} LIMIT {self.mark(limit)}"


class RequestsQuery(NamedTuple):
    """The statement that finds submissions by conditions on their requests.

    `whole`: it finds the submissions of the page. Otherwise it finds up to `FEW` of all, and one more.
    """

    text: str
    values: list[Any]
    whole: bool

    def few(self, ids: list[str]) -> list[str] | None:
        """Return the ids it has found. None if there are more than `FEW`."""
        return ids if self.whole or len(ids) <= FEW else None


def requests_query(
    dialect: Dialect, kind: RowKind, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool = False
) -> RequestsQuery | None:
    """Return the statement to run before that of a page. None: there are no conditions on requests."""
    if not _is_by_request(kind, wanted):
        return None
    given = _given(kind, wanted)
    query = Query(dialect, dialect.in_index.get("id", "id") if wanted.kind is not None else "id")
    query.add_request(wanted)
    whole = kind == "submissions" and given.keys() <= {"since_ms", "until_ms", "requests"}
    if kind == "submissions":
        for name in ("since_ms", "until_ms"):
            if name in given:
                query.add(_CONDITIONS[kind][name], first_id(given[name]))
    if whole and wanted.requests:
        query.add("kind <> {value}", ALERT_KIND)
    select = f"SELECT id FROM {dialect.schema}requests"  # noqa: S608
    behind, count = (after, limit) if whole else (None, FEW + 1)
    text = query.text(select, [query.key], behind, count, newest_first=newest_first)
    return RequestsQuery(text, query.values, whole)


def page_query(
    dialect: Dialect,
    kind: RowKind,
    wanted: Filter,
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
    few: Sequence[str] | None = None,
) -> tuple[str, list[Any]]:
    """Return the statement of a page, and its parameters. `few`: submissions that `requests_query` has found, if they
    are all."""
    given = _given(kind, wanted)
    found = few is not None or bool(_FINDING_FEW & given.keys())
    status = wanted.status if kind == "deliveries" and not found else None
    query = Query(dialect, _sort_key(dialect, kind, given, status, found=found))
    if few is not None:
        if kind == "events":
            query.add(dialect.events_of, dialect.to_list(few))
        else:
            query.add(f"{_REQUEST_OF[kind]} {{among}}", few)
    elif _is_by_request(kind, wanted):
        query.add_request(wanted)
        conditions = " AND ".join([f"requests.id = {_REQUEST_OF[kind]}", *query.conditions])
        query.conditions = [f"(SELECT 1 FROM {dialect.schema}requests WHERE {conditions}) IS NOT NULL"]  # noqa: S608
    for name, value in given.items():
        condition = _CONDITIONS[kind][name]
        if name == "status" and status is not None:
            condition = _STATUSES.get(status, condition)
        elif name == "destination" and status in ("running", "dead", "cancelled"):
            condition = "destination || '' = {value}"  # there are fewer of this status than of this destination
        query.add(condition, first_id(value) if "{key}" in condition else value)
    if kind == "callbacks" and given.keys() == {"until_ms"} and not newest_first:
        query.add(_OLD_CALLBACKS, wanted.until_ms)
    source = dialect.with_files if "with_files" in given else ""
    keys = (query.key, *TABLES[kind].key[1:])
    return query.text(select(dialect, kind, source), keys, after, limit, newest_first=newest_first), query.values


def select(dialect: Dialect, kind: RowKind, source: str = "") -> str:
    """Return the statement that reads a kind of rows, without conditions. `source`: in place of its table."""
    table, as_bytes = TABLES[kind], {name: dialect.as_bytes.format(column=name) for name in ("body", "data")}
    columns = table.columns.format(schema=dialect.schema, **as_bytes)
    return f"SELECT {columns} FROM {source or dialect.schema + table.name}"  # noqa: S608


def due_query(dialect: Dialect, kind: str) -> str:
    """Return the query for submissions with work of a kind that is due at parameter 1, up to parameter 2."""
    due = f"{kind}_due_ms <= {dialect.mark}1 ORDER BY {kind}_due_ms LIMIT {dialect.mark}2"
    return f"SELECT body FROM {dialect.schema}submissions WHERE {due}"  # noqa: S608


def _given(kind: RowKind, wanted: Filter) -> dict[str, Any]:
    """Return the conditions that are given, and make sense for a kind."""
    return {name: value for name in _CONDITIONS.get(kind, ()) if (value := getattr(wanted, name)) not in (None, False)}


def _is_by_request(kind: RowKind, wanted: Filter) -> bool:
    return kind in _REQUEST_OF and any(getattr(wanted, name) for name in REQUEST_CONDITIONS)


def _sort_key(dialect: Dialect, kind: RowKind, given: Mapping[str, Any], status: str | None, *, found: bool) -> str:
    """Return the first column of the sort key, written so that a database reads the rows by one index only.

    Few rows, which other columns have found, are sorted. An index may have the rows of one value in order of the key.
    Without either, the rows are read in order of the key itself.

    Args:
        given: the conditions.
        status: of deliveries.
        found: other columns find few rows.
    """
    key = TABLES[kind].key[0]
    if found or status in ("pending", "running"):
        return f"0 + {key}" if key == "number" else f"'' || {key}"
    return dialect.in_index.get(key, key) if _INDEXED.get(kind) in given or status in _STATUSES else key
