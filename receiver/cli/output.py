"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
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
    """Rows under a header; cells are plain text, shortened to the terminal's width."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_one_line(cell), overflow="ellipsis", no_wrap=True) for cell in row))
    out.print(table, soft_wrap=not out.is_terminal)


def when(ms: int | None) -> str:
    """A time for people: UTC, to the second."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _one_line(text: str) -> str:
    """Without control characters: what the provider or a prompt says must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
