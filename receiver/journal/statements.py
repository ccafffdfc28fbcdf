"""SQL as package data: named queries and numbered migrations."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def queries(dialect: str) -> dict[str, str]:
    """The statements of `sql/<dialect>/queries.sql` by name."""
    text = files(__package__).joinpath("sql", dialect, "queries.sql").read_text()
    parts = _NAME.split(text)[1:]
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations(dialect: str) -> list[tuple[int, str]]:
    """(number, script) of each `sql/<dialect>/NNNN_*.sql`, in order."""
    folder = files(__package__).joinpath("sql", dialect)
    found = [(int(item.name[:4]), item.read_text()) for item in folder.iterdir() if item.name[:4].isdigit()]
    return sorted(found)


SQL = queries("sqlite")
"""What the rooms for SQLite execute, by name."""
