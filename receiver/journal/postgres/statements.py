"""The statements of `sql/postgres/*.sql`, by name. They name their parameters; the server numbers them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from receiver.journal.postgres.driver import Connection, asyncpg
from receiver.journal.rows import from_row
from receiver.journal.statements import queries
from receiver.tasks import clean_text

T = TypeVar("T", bound=msgspec.Struct)

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)")
_LITERAL = re.compile(r"(?<![:\w]):([a-z_]\w*)::text::text\[\]")
_COMMENT = re.compile(r"--[^\n]*\n?")


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `$1`, `$2` … and the names of what they stand for.

    Attributes:
        literals: parameters, declared `::text::text[]`, whose lists go as one text, which the server reads: a list of
            texts costs the driver half a microsecond for each, four times as much. (Long texts go as a list: in a
            literal each quote needs a backslash.)
    """

    text: str
    names: tuple[str, ...]
    literals: frozenset[str]

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments in order. A text that holds what no database stores is cleaned, wherever it comes from."""
        literals = self.literals
        return [array(values[name]) if name in literals else _clean(values[name]) for name in self.names]


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def array(values: Sequence[str | None]) -> str:
    """A list of texts as the server writes it: PostgreSQL's documentation, "Array Input and Output Syntax". Raises
    DataError, as the driver does, for what is no text."""
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


def _numbered(text: str) -> Statement:
    text = _COMMENT.sub("", text)
    names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
    literals = frozenset(_LITERAL.findall(text))
    return Statement(_PARAMETER.sub(lambda match: numbers[match[1]], text), names, literals)


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
