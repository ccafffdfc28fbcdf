"""Pages of rows in SQL: one query for each combination of conditions, so that a database uses the index for it.

The texts are PostgreSQL's, and `in_sqlite` translates them. Rows of `requests` hold what people search for and what
never changes, apart from the submissions that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from receiver.deliveries import DELIVERY_STATUSES
from receiver.events import ALERT_KIND, Submission, first_id
from receiver.journal.document import to_json
from receiver.journal.store import REQUEST_CONDITIONS, Filter, Key, RowKind
from receiver.tasks import clean_text

FEW = 1000
"""Submissions up to which a condition on requests is answered by their ids. With more, a page is full soon."""
KEYS: Mapping[RowKind, tuple[str, ...]] = {
    "submissions": ("id",), "callbacks": ("number",), "events": ("number",), "deliveries": ("id",),
    "attempts": ("delivery_id", "number"), "files": ("submission_id", "digest"), "leftovers": ("digest",),
    "values": ("key",),
}  # fmt: skip
_FIELDS: Mapping[str, str] = {
    "submissions": "ids submission_id parent_id task_id part statuses due_after_ms called_back settled with_files "
    "since_ms until_ms requests",
    "callbacks": "submission_id since_ms until_ms",
    "events": "ids submission_id types since_ms until_ms",
    "deliveries": "ids submission_id part destination statuses due_after_ms since_ms until_ms",
    "attempts": "delivery_id submission_id",
    "files": "submission_id digest",
}
"""Fields of a filter that make sense for a kind, beside `REQUEST_CONDITIONS` for those with a `_REQUEST`."""
_CONDITIONS: Mapping[str, str] = {
    "ids": "id = ANY ($)",
    "since_ms": "id >= $",
    "until_ms": "id < $",
    "callbacks.since_ms": "received_ms >= $",
    "callbacks.until_ms": "received_ms < $",
    "events.since_ms": "created_ms >= $",
    "events.until_ms": "created_ms < $",
    "submissions.submission_id": "id = $",
    "events.submission_id": "id > $ || '.' AND id < $ || '/'",  # event ids start with their submission's
    "attempts.submission_id": "delivery_id IN (SELECT id FROM receiver.deliveries WHERE submission_id = $)",
    "part": "(substr(id, 1, length($::text)) = $ OR substr(id, length(id) + 1 - length($::text)) = $)",
    "submissions.statuses": "display = ANY ($)",
    "deliveries.statuses": "status = ANY ($)",
    "types": "type = ANY ($)",
    "deliveries.due_after_ms": "status = 'pending' AND due_ms > $",
    "submissions.due_after_ms": "id IN (SELECT id FROM receiver.submissions WHERE send_due_ms > $"
    " UNION ALL SELECT id FROM receiver.submissions WHERE poll_due_ms > $"
    " UNION ALL SELECT id FROM receiver.submissions WHERE media_due_ms > $)",
    "requests": "display <> 'alert'",
    "called_back": "hooked AND status = 'accepted' AND ended IN ('task.succeeded', 'task.failed')",
    "settled": "settled",
    "with_files": "(SELECT 1 FROM receiver.files WHERE submission_id = submissions.id LIMIT 1) IS NOT NULL",
}
"""Conditions by field of the filter, for all kinds or for one. Any other field is a column of its name."""
_REQUEST: Mapping[str, tuple[str, str]] = {
    "submissions": ("submissions.id", "id = ANY ($)"),
    "deliveries": ("submission_id", "submission_id = ANY ($)"),
    "events": (
        "submission_id",
        # An array for each submission, so that PostgreSQL cannot begin with all events.
        "number = ANY (ARRAY(SELECT unnest(ARRAY(SELECT number FROM receiver.events"
        " WHERE events.id > value || '.' AND events.id < value || '/')) FROM unnest($::text[]) AS few (value)))",
    ),
}
"""Column with the submission's id, and the condition that it is one of a few, by kind."""
_OLD_CALLBACKS = (
    "number < coalesce((SELECT number FROM receiver.callbacks WHERE received_ms >= $ AND received_ms <="
    " (SELECT received_ms FROM receiver.callbacks ORDER BY number DESC LIMIT 1) ORDER BY number LIMIT 1),"
    " 9223372036854775807)"
)
"""Ends the search for old callbacks at the first one that is not old, because they are numbered as they came. One dated
after the newest was written by a clock that was ahead, and ends nothing."""
_STATUSES: Mapping[str, str] = {
    "pending": "status = 'pending' AND due_ms >= 0",
    "dead": "status = 'dead' AND status IN ('dead', 'cancelled')",
    "cancelled": "status = 'cancelled' AND status IN ('dead', 'cancelled')",
}
"""Conditions that lead to the partial index of a status."""
_SELECTIVE = {"ids", "submission_id", "parent_id", "task_id", "digest", "due_after_ms"}
"""Fields by which an index finds few rows, which are then sorted. `'' || id` keeps a database from walking through all
of them in the order of their key in place of that."""
_ORDERED: Mapping[str, str] = {"submissions": "statuses", "events": "types", "deliveries": "destination"}
"""Fields for which an index has the rows of each value in order of their key. On PostgreSQL that is `id || ''`, so that
it cannot take the key's own index."""

_ANY = re.compile(r"= ANY \((\$\d+)\)")
_EACH = re.compile(
    r"= ANY \(ARRAY\(SELECT unnest\(ARRAY\((SELECT [^)]*?) WHERE ([^)]*)\)\)"
    r" FROM unnest\((\$\d+)::text\[\]\) AS few \(value\)\)\)"
)
"""Ways in which PostgreSQL takes arrays as parameters. SQLite takes them as JSON."""


class Query:
    """A query under construction: its conditions, and its parameters `$1`, `$2` …"""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.values: list[Any] = []

    def add(self, text: str, value: Any) -> None:
        """Add a condition in which each `$` is the value. A single one is compared, to read an index in order."""
        if isinstance(value, tuple) and len(value) == 1 and text.endswith("= ANY ($)"):
            text, value = text.replace("= ANY ($)", "= $"), value[0]
        if "$" in text:
            self.values.append(value)
        self.texts.append(text.replace("$", f"${len(self.values)}"))

    def add_request(self, wanted: Filter) -> None:
        """Add the conditions on a request."""
        if wanted.kinds:
            self.add("kind = ANY ($)", wanted.kinds)
        for pair in wanted.labels:
            self.add("strpos(labels, $) > 0", label_text([pair]))
        for word in wanted.words:
            self.add("strpos(prompt, $) > 0", clean_text(word).casefold())

    def text(self, select: str, end: str) -> str:
        where = f" WHERE {' AND '.join(self.texts)}" if self.texts else ""
        return f"{select}{where} {end}"


def requests_query(
    kind: RowKind, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool = False
) -> tuple[str, list[Any], bool] | None:
    """Return the statement that finds submissions by conditions on their requests. None: there are no such conditions.

    The third value is True if it finds the submissions of the page. Else it finds up to `FEW`, and one more.
    """
    if kind not in _REQUEST or not any(getattr(wanted, name) for name in REQUEST_CONDITIONS):
        return None
    query, given = Query(), _given(kind, wanted)
    query.add_request(wanted)
    key = "id || ''" if len(wanted.kinds) == 1 else "id"
    whole = kind == "submissions" and given.keys() <= {"since_ms", "until_ms", "requests"}
    if kind == "submissions":
        for name in ("since_ms", "until_ms"):
            if name in given:
                query.add(_CONDITIONS[name].replace("id", key), first_id(given[name]))
    if whole and wanted.requests:
        query.add("kind <> $", ALERT_KIND)
    if whole and after is not None:
        query.add(f"({key}) {'<' if newest_first else '>'} $", after[0])
    end = f"ORDER BY {key}{' DESC' if newest_first else ''} LIMIT {limit if whole else FEW + 1:d}"
    return query.text("SELECT id FROM receiver.requests", end), query.values, whole


def _given(kind: RowKind, wanted: Filter) -> dict[str, Any]:
    """Return the conditions that are given, and make sense for a kind."""
    return {
        name: value
        for name in _FIELDS.get(kind, "").split()
        if (value := getattr(wanted, name)) not in (None, False) and (value != () or name == "ids")
    }


def page_query(
    kind: RowKind,
    select: str,
    wanted: Filter,
    after: Key | None,
    limit: int,
    *,
    newest_first: bool = False,
    few: Sequence[str] | None = None,
) -> tuple[str, list[Any]]:
    """Return the statement of a page, and its parameters.

    Args:
        select: the statement without conditions.
        few: ids that `requests_query` has found, if they are all.
    """
    given = _given(kind, wanted)
    query, key = Query(), KEYS[kind][0]
    empty = "0 + " if key == "number" else "'' || "
    selective = few is not None or bool(_SELECTIVE & given.keys())
    status = wanted.statuses[0] if kind == "deliveries" and len(wanted.statuses) == 1 and not selective else ""
    if selective or status in ("pending", "running"):
        key = empty + key
    elif status in ("dead", "cancelled") or (
        (name := _ORDERED.get(kind)) in given and (name == "destination" or len(given[name]) == 1)
    ):
        key += " + 0" if key == "number" else " || ''"
    column, among = _REQUEST.get(kind, ("", ""))
    if few is not None:
        query.add(among, list(few))
    elif column and any(getattr(wanted, name) for name in REQUEST_CONDITIONS):
        query.add_request(wanted)
        conditions = " AND ".join(query.texts)
        query.texts = [f"(SELECT 1 FROM receiver.requests WHERE requests.id = {column} AND {conditions}) IS NOT NULL"]  # noqa: S608
    for name, value in given.items():
        text = _CONDITIONS.get(f"{kind}.{name}") or _CONDITIONS.get(name) or f"{name} = $"
        if name == "statuses" and status in DELIVERY_STATUSES:
            text = _STATUSES.get(status, f"status = '{status}'")
        elif name == "destination" and status in ("running", "dead", "cancelled"):
            text = "destination || '' = $"  # there are fewer of this status than of this destination
        by_id = text in ("id >= $", "id < $")
        query.add(text.replace("id", key, 1) if by_id else text, first_id(value) if by_id else value)
    if kind == "callbacks" and given.keys() == {"until_ms"} and not newest_first:
        query.add(_OLD_CALLBACKS, wanted.until_ms)
    keys = (key, *KEYS[kind][1:])
    if after is not None:
        first = len(query.values) + 1
        marks = ", ".join(f"${number}" for number in range(first, first + len(keys)))
        query.values += after
        query.texts.append(f"({', '.join(keys)}) {'<' if newest_first else '>'} ({marks})")
    order = ", ".join(f"{name} DESC" if newest_first else name for name in keys)
    query.values.append(limit)
    return query.text(select, f"ORDER BY {order} LIMIT ${len(query.values)}"), query.values


def in_sqlite(text: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return a statement and its parameters as SQLite takes them."""
    text = _EACH.sub(r"IN (\1 JOIN json_each(\3) ON \2)", _ANY.sub(r"IN (SELECT value FROM json_each(\1))", text))
    text = text.replace("receiver.", "").replace("::text", "").replace("strpos(", "instr(").replace("$", "?")
    text = text.replace("id || '' ", "id ").replace("id || '')", "id)").replace("number + 0", "number")
    return text, [to_json(value) if isinstance(value, list | tuple) else value for value in values]


def request_row(row: Submission) -> tuple[str, str, str, str]:
    """Return a submission's row of `requests`: its id, kind, labels, and its prompt in one case."""
    return row.id, row.kind, label_text(row.labels.items()), clean_text(row.prompt).casefold()


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels as the column holds them. Each begins with a comma, so that one is found in many."""
    return "".join(f",{to_json({name: value})[1:-1]}" for name, value in labels)
