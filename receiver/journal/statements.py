"""SQL as package data: named queries and numbered migrations."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def queries(dialect: str) -> dict[str, str]:
    """Return the statements of `sql/<dialect>/queries.sql` and `sql/queries.sql` by name."""
    folder = files(__package__).joinpath("sql")
    shared = folder.joinpath("queries.sql").read_text()
    if dialect == "sqlite":
        shared = shared.replace("receiver.", "")
    parts = _NAME.split(folder.joinpath(dialect, "queries.sql").read_text())[1:] + _NAME.split(shared)[1:]
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations(dialect: str) -> list[tuple[int, str]]:
    """Return (number, script) of each `sql/<dialect>/NNNN_*.sql`, in order."""
    folder = files(__package__).joinpath("sql", dialect)
    found = [(int(item.name[:4]), item.read_text()) for item in folder.iterdir() if item.name[:4].isdigit()]
    return sorted(found)
