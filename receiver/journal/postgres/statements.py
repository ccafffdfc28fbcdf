"""The statements of `sql/postgres/*.sql`, by name. They name their parameters; the server numbers them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from receiver.journal.postgres.driver import Connection
from receiver.journal.rows import from_row
from receiver.journal.statements import queries
from receiver.tasks import clean_text

T = TypeVar("T", bound=msgspec.Struct)

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)")
_COMMENT = re.compile(r"--[^\n]*\n?")


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `$1`, `$2` … and the names of what they stand for."""

    text: str
    names: tuple[str, ...]

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments in order. A text that holds what no database stores is cleaned, wherever it comes from."""
        return [_clean(values[name]) for name in self.names]


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _numbered(text: str) -> Statement:
    text = _COMMENT.sub("", text)
    names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
    return Statement(_PARAMETER.sub(lambda match: numbers[match[1]], text), names)


SQL: Mapping[str, Statement] = {name: _numbered(text) for name, text in queries("postgres").items()}
"""What this room executes, by name."""


async def rows(db: Connection, name: str, /, **values: Any) -> list[Any]:
    """What a named statement returns."""
    statement = SQL[name]
    return await db.fetch(statement.text, *statement.bind(values))  # type: ignore[no-any-return]


async def row(db: Connection, name: str, /, **values: Any) -> Any | None:
    """The first row a named statement returns; None: there is none."""
    statement = SQL[name]
    return await db.fetchrow(statement.text, *statement.bind(values))


async def select(db: Connection, type: type[T], name: str, /, **values: Any) -> list[T]:
    """What a named statement returns, as structs."""
    return [from_row(type, found) for found in await rows(db, name, **values)]


async def run(db: Connection, name: str, /, **values: Any) -> int:
    """Run a named statement; how many rows it touched, if it is of that kind."""
    statement = SQL[name]
    status = await db.execute(statement.text, *statement.bind(values))
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0
