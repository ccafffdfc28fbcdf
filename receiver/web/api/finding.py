"""Which submission an address means, and what its query asks for."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from receiver.errors import NotFound
from receiver.events import Submission
from receiver.journal import Journal
from receiver.web.problems import Problem


async def find(journal: Journal, request: Request) -> Submission:
    """The submission whose id, or whose task's id, stands in the path: the whole id, not a part as in a shell.

    Raises:
        Problem: 404.
    """
    try:
        return await journal.find(request.path_params["id"], whole=True)
    except NotFound as exc:
        raise Problem(404, "There is no submission with that id, nor one whose task has it.") from exc


def query(request: Request, known: Collection[str]) -> dict[str, str]:
    """The parameters of the query, each once.

    Raises:
        Problem: 422 for one that is unknown here.
    """
    for name in request.query_params:
        if name not in known:
            raise Problem(422, f"A query has no such parameter here. There are: {', '.join(known) or 'none'}.")
    return dict(request.query_params)


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number a text says, if it lies within these bounds."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    return number if least <= number <= most else None
