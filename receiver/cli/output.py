"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on standard output, exactly as it is: no markup, no wrapping."""
    out.print(Text(text))


def note(text: str) -> None:
    """A line on standard error, for people only."""
    err.print(Text(text))


def print_json(value: Any) -> None:
    """Any value of structs, lists and mappings as indented JSON on standard output."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(data.decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under a header. The first column, an id, is never cut; the rest shrink to fit a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        table.add_column(name, no_wrap=True, overflow="fold" if at == 0 else "ellipsis", min_width=26 if at == 0 else 6)
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    if out.is_terminal:
        out.print(table, soft_wrap=False)
    else:
        Console(width=_WIDE, highlight=False).print(table)


_WIDE = 4000
"""Columns where nobody looks: a pipe or a file gets everything."""


def when(ms: int | None) -> str:
    """A time for people: UTC, to the second."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(ms: int) -> str:
    """How long ago, in one unit: `12 s`, `3 min`, `2 h`, `5 d`."""
    seconds = max(int(time.time() - ms / 1000), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _one_line(text: str) -> str:
    """Without control characters: what the provider or a prompt says must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
