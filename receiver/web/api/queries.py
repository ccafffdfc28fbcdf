"""Queries of lists: conditions, limit, and the cursor of the next page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request

from receiver.events import id_ms
from receiver.journal.store import Filter
from receiver.requests import KINDS
from receiver.web.problems import Problem

MAX_LIST = 200
LATEST_MS = 10**15
"""A time in the far future. Larger numbers are no epoch milliseconds."""
COMMON = ("limit", "after", "status", "kind", "label", "search", "since_ms", "until_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A page of a list. It starts behind the row with the key `after`."""

    selection: Filter
    limit: int
    after: tuple[str] | None

    def following(self, request: Request, ids: Sequence[str]) -> dict[str, str]:
        """Return the `Link` header (RFC 8288) that leads to the next page, if this one is full."""
        if len(ids) < self.limit:
            return {}
        url = request.url.include_query_params(after=ids[-1])
        return {"Link": f'<{url.path}?{url.query}>; rel="next"'}


def read_query(request: Request, statuses: Sequence[str], *more: str) -> Query:
    """Return the page that a request asks for, or raise Problem (422).

    Args:
        request: the request.
        statuses: those that rows of this list have.
        more: names of further parameters of this list.
    """
    query, known = request.query_params, (*COMMON, *more)
    if any(name not in known for name in query):
        raise Problem(422, f"This address has no such query parameter. There are: {', '.join(known)}.")
    limit = whole_number("limit", query.get("limit", "20"), 1, MAX_LIST)
    return Query(selection=read_conditions(query, statuses), limit=limit, after=read_cursor(query))


def read_conditions(query: QueryParams, statuses: Sequence[str]) -> Filter:
    """Return the rows that a query string selects, or raise Problem (422)."""
    labels = [text.partition("=") for text in query.getlist("label")]
    if not all(equals for _, equals, _ in labels):
        raise Problem(422, "label is written name=value.")
    return Filter(
        status=_one_of("status", query.get("status"), statuses),
        kind=_one_of("kind", query.get("kind"), tuple(KINDS)),
        labels=tuple((name, value) for name, _, value in labels),
        words=tuple(query.get("search", "").split()),
        since_ms=whole_number("since_ms", query["since_ms"], 0, LATEST_MS) if "since_ms" in query else None,
        until_ms=whole_number("until_ms", query["until_ms"], 0, LATEST_MS) if "until_ms" in query else None,
    )


def read_cursor(query: QueryParams) -> tuple[str] | None:
    """Return the key behind which a page starts, or raise Problem (422)."""
    after = query.get("after")
    if after is None:
        return None
    try:
        id_ms(after)
    except ValueError:
        raise Problem(422, "after is the id of the last entry of the page before.") from None
    return (after,)


def whole_number(name: str, text: str, least: int, most: int) -> int:
    """Return the number in a text, or raise Problem (422) if it is not within these bounds."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else least - 1
    if not least <= number <= most:
        raise Problem(422, f"{name} is a whole number from {least} to {most}.")
    return number


def _one_of(name: str, value: str | None, choices: Sequence[str]) -> Any:
    if value is not None and value not in choices:
        raise Problem(422, f"{name} is one of {', '.join(choices)}.")
    return value
