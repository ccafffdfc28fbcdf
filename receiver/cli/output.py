"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What prompts and providers must not say to a terminal; line ends are for `one_line`."""


def say(text: str) -> None:
    """A line on standard output: no markup, no wrapping, and nothing that steers the terminal."""
    out.print(Text(_STEERING.sub(" ", text)))


def note(text: str) -> None:
    """A line on standard error, for people only."""
    err.print(Text(_STEERING.sub(" ", text)))


def print_json(value: Any) -> None:
    """Any value of structs, lists and mappings as indented JSON on standard output."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(data.decode() + "\n")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, flexible: int | None = None, fold: bool = False
) -> None:
    """Rows under a header. Nothing is cut, except on a terminal too narrow for all: there the `flexible` column gives
    way, cut or folded. Without one, or with no room for it, the terminal wraps, so that ids and paths can be copied.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[at]) for row in [columns, *cells]) for at in range(len(columns))]
    if flexible is not None and out.is_terminal:
        widths[flexible] = _fitting(widths, flexible)
    _print_row(columns, widths, style="bold")
    for row in cells:
        at = flexible or 0
        pieces = textwrap.wrap(row[at], widths[at]) if fold else [_cut(row[at], widths[at])]
        for number, piece in enumerate(pieces or [""]):
            rest = [""] * len(row) if number else row
            _print_row([*rest[:at], piece, *rest[at + 1 :]], widths)


_GAP = "  "
_ROOM = 16
"""Columns a flexible column is not squeezed below."""


def _fitting(widths: Sequence[int], flexible: int) -> int:
    room = out.width - sum(widths) + widths[flexible] - len(_GAP) * (len(widths) - 1)
    return min(room, widths[flexible]) if room >= _ROOM else widths[flexible]


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _print_row(cells: Sequence[str], widths: Sequence[int], style: str = "") -> None:
    line = _GAP.join(set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
    out.print(Text(line.rstrip(), style=style))


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


def one_line(text: str) -> str:
    """The text on one line, so that what a prompt says cannot look like a line of ours."""
    return _STEERING.sub(" ", text).replace("\n", " ")
