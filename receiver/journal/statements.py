"""SQL as package data: named queries and numbered migrations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def queries(dialect: str) -> dict[str, str]:
    """The statements of `sql/<dialect>/*.sql` by name, except those of the migrations."""
    folder = files(__package__).joinpath("sql", dialect)
    texts = [
        item.read_text() for item in folder.iterdir() if item.name.endswith(".sql") and not item.name[:4].isdigit()
    ]
    return dict(pair for text in texts for pair in _statements(text))


def _statements(text: str) -> Iterator[tuple[str, str]]:
    parts = _NAME.split(text)[1:]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        yield name, body.strip().removesuffix(";")


def migrations(dialect: str) -> list[tuple[int, str]]:
    """(number, script) of each `sql/<dialect>/NNNN_*.sql`, in order."""
    folder = files(__package__).joinpath("sql", dialect)
    found = [(int(item.name[:4]), item.read_text()) for item in folder.iterdir() if item.name[:4].isdigit()]
    return sorted(found)
