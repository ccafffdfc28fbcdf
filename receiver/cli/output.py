"""Output of commands: tables and lines for people, JSON for programs."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any, Generic, TypeVar

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from receiver.errors import ReceiverError
from receiver.telemetry import redact, redact_known

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that prompts and providers must not send to a terminal. `one_line` handles line ends."""
_GAP = "  "
_ROOM = 16
"""Least width of a flexible column."""


def say(text: str) -> None:
    """Print a line on standard output, without markup, wrapping, and control characters."""
    out.print(Text(_STEERING.sub(" ", redact_known(text))))


def say_values(rows: Iterable[tuple[str, str]]) -> None:
    """Print a line for each name and value, without empty ones."""
    for name, value in rows:
        if value:
            say(f"{name:12} {one_line(value)}")


def say_result(text: str, record: Any, *, as_json: bool) -> None:
    """Print a result as text, or its record as JSON."""
    print_json(record) if as_json else say(text)


def note(text: str) -> None:
    """Print a line on standard error, for people only."""
    err.print(Text(_STEERING.sub(" ", redact_known(text))))


def print_error(error: ReceiverError, *, traceback: bool) -> None:
    """Print an error as a sentence, below its traceback if wanted."""
    if traceback:
        note(redact("".join(format_exception(error))))
    note(f"Error: {redact(error.with_page)}")


def print_json(value: Any) -> None:
    """Print a value of structs, lists and mappings as indented JSON on standard output."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(redact_known(data.decode()) + "\n")


@dataclass(frozen=True)
class Table(Generic[T]):
    """Layout of a list for people: the columns, and the texts of one row."""

    columns: Sequence[str]
    row: Callable[[T], Sequence[str]]
    flexible: int | None = None

    def print(self, found: Iterable[T]) -> None:
        """Print a row for each, or nothing for none."""
        print_table(self.columns, map(self.row, found), flexible=self.flexible)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, flexible: int | None = None, fold: bool = False
) -> None:
    """Print rows under a header. Only the `flexible` column is cut or folded, on a terminal too narrow for all.

    Without one, or without room for it, the terminal wraps lines, so that ids and paths can be copied. No rows print
    nothing.
    """
    cells = [[one_line(redact_known(cell)) for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(cell_len(row[at]) for row in [columns, *cells]) for at in range(len(columns))]
    at = flexible or 0
    if flexible is not None and out.is_terminal:
        room = out.width - sum(widths) + widths[at] - len(_GAP) * (len(widths) - 1)
        widths[at] = min(room, widths[at]) if room >= _ROOM else widths[at]
    _print_row(columns, widths, style="bold")
    for row in cells:
        parts = [row[at]]
        if fold:
            parts = textwrap.wrap(row[at], widths[at]) or [""]
        elif cell_len(row[at]) > widths[at]:
            parts = [set_cell_size(row[at], widths[at] - 1).rstrip() + "…"]
        for number, part in enumerate(parts):
            rest = [""] * len(row) if number else row
            _print_row([*rest[:at], part, *rest[at + 1 :]], widths)


def print_list(found: Sequence[T], table: Table[T], *, none: str, as_json: bool, records: Any = None) -> None:
    """Print a list as JSON, as a table, or as the note `none` if it is empty. JSON has the `records`, if given."""
    if as_json:
        print_json(found if records is None else records)
    elif found:
        table.print(found)
    else:
        note(none)


def _print_row(cells: Sequence[str], widths: Sequence[int], style: str = "") -> None:
    line = _GAP.join(set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
    out.print(Text(line.rstrip(), style=style))


def when(ms: int | None) -> str:
    """Format a time for people: UTC, to the second."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(ms: int) -> str:
    """Format the time since then, in one unit: `12 s`, `3 min`, `2 h`, `5 d`."""
    return span(max(int(time.time() - ms / 1000), 0))


def span(seconds: int) -> str:
    """Format a length of time in one unit: `12 s`, `3 min`, `2 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def one_line(text: str) -> str:
    """Return the text on one line, so that a prompt cannot look like a line of ours."""
    return _STEERING.sub(" ", text).replace("\n", " ")
