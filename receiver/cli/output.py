"""Output of commands: tables and lines for people, JSON for programs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from traceback import format_exception
from typing import Any, TypeVar

import msgspec
import typer
from rich.cells import cell_len, set_cell_size

from receiver.errors import ReceiverError
from receiver.tasks.reasons import in_english
from receiver.telemetry import STEERING, escape_lines, redact, redact_known

T = TypeVar("T")

_STEERING = re.compile(f"[\x00-\x09\x0b-\x1f{STEERING}]")
"""Characters that prompts and providers must not send to a terminal. `one_line` handles line ends."""
_GAP = "  "
_ROOM = 16
"""Least width of a flexible column."""


class Stream:
    """Standard output or standard error. Rich, which only draws the progress, would double the time of a start."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_terminal(self) -> bool:
        return bool(getattr(sys, self._name).isatty())

    @property
    def width(self) -> int:
        return shutil.get_terminal_size().columns

    def print(self, *parts: tuple[str, str | None]) -> None:
        """Print a line of texts, each with the name of its style or None. Only a terminal gets styles."""
        styled = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        texts = (f"\x1b[{_CODES[style]}m{text}\x1b[0m" if styled and style and text else text for text, style in parts)
        print(*texts, sep="", file=getattr(sys, self._name), flush=True)


_CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36, "bright_black": 90}
out, err = Stream("stdout"), Stream("stderr")


def say(text: str, style: str | None = None) -> None:
    """Print a line on standard output, without control characters."""
    out.print((_STEERING.sub(" ", redact_known(text)), style))


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted, on a terminal and unless `yes`. Any answer but yes ends the command."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True)


def say_values(rows: Iterable[tuple[str, str]]) -> None:
    """Print a line for each name and value, without empty ones."""
    for name, value in rows:
        if value:
            style = _STYLE.get(value.partition(" ")[0].rstrip(":")) if name == "status" else None
            out.print((f"{name:12} ", None), (one_line(redact_known(value)), style))


def say_result(text: str, record: Any, *, as_json: bool) -> None:
    """Print a result as text, or its record as JSON."""
    print_json(record) if as_json else say(text)


def note(text: str) -> None:
    """Print a line on standard error, for people only. A terminal gets it broken between words."""
    text = _STEERING.sub(" ", redact_known(text))
    if err.is_terminal:
        wrap = textwrap.TextWrapper(err.width, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(wrap.fill(line) for line in text.split("\n"))
    err.print((text, None))


def print_error(error: ReceiverError, *, traceback: bool) -> None:
    """Print an error as a sentence, below its traceback if wanted."""
    if traceback:
        note(redact("".join(format_exception(error))))
    note(f"Error: {in_english(redact(error.with_page))}")


def print_json(value: Any) -> None:
    """Print a value of structs, lists and mappings as indented JSON on standard output."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(escape_lines(redact_known(data.decode())) + "\n")


_STYLES = {
    "green": ("succeeded", "working", "ok"),
    "red": ("failed", "lost", "refused", "dead", "rejected", "vanished", "unusable"),
    "yellow": ("input_required", "unknown", "pending", "postponed", "interrupted", "paused", "failing", "warning"),
    "cyan": ("prepared", "sending", "accepted", "in_progress", "running"),
    "bright_black": ("cancelled",),
}
_STYLE = {word: style for style, words in _STYLES.items() for word in words}
"""Colours of statuses. Those of the terminal's own palette suit light and dark ones."""


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    flexible: int | None = None,
    fold: bool = False,
    below: bool = False,
    ids: bool = False,
) -> None:
    """Print rows under a header, and no header without rows.

    A pipe gets everything in one line for each row. A terminal gets no column that is empty in all rows, and less of
    the long ones if it is narrow.

    Args:
        flexible: the column that is cut between words, or folded if `fold`.
        below: the last column goes on a line of its own, so that paths and links can be copied.
        ids: a terminal shows the shortest ends of the ids in the first column that differ from each other.
    """
    cells = [[one_line(redact_known(cell)) for cell in row] for row in rows]
    if not cells:
        return
    if ids and out.is_terminal:
        for row, short in zip(cells, short_ids([row[0] for row in cells]), strict=True):
            row[0] = short
    all_columns = range(len(columns))
    kept = [column for column in all_columns if not out.is_terminal or any(row[column] for row in cells)]
    flexible = kept.index(flexible) if flexible in kept else None
    columns, cells = [columns[column] for column in kept], [[row[column] for column in kept] for row in cells]
    widths = [max(cell_len(row[column]) for row in [columns, *cells]) for column in range(len(columns))]
    apart = below and out.is_terminal and _total(widths) > out.width
    tails = [row.pop() if apart else "" for row in cells]
    if apart:
        columns, widths = columns[:-1], widths[:-1]
    column = flexible if flexible is not None and flexible < len(widths) else 0
    if flexible is not None and out.is_terminal:
        room = out.width - _total(widths) + widths[column]
        widths[column] = min(room, widths[column]) if room >= _ROOM else widths[column]
    _print_row(columns, widths, columns)
    for row, tail in zip(cells, tails, strict=True):
        parts = textwrap.wrap(row[column], widths[column]) or [""] if fold else [_cut(row[column], widths[column])]
        for number, part in enumerate(parts):
            rest = [""] * len(row) if number else row
            _print_row([*rest[:column], part, *rest[column + 1 :]], widths, columns)
        if tail:
            say(f"  {tail}")


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cut(text: str, width: int) -> str:
    """Cut a text between words, if that leaves more than half of the room."""
    if cell_len(text) <= width:
        return text
    cut = set_cell_size(text, width - 1).rstrip()
    words = cut.rpartition(" ")[0] if text[len(cut) : len(cut) + 1].strip() else cut
    return f"{words if cell_len(words) * 2 > width else cut}…"


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return the shortest ends of ids, 6 characters or more, that differ. Of an event, the type is kept."""
    heads, tails = zip(*((head, dot + tail) for head, dot, tail in (id.partition(".") for id in ids)), strict=True)
    size = next(n for n in range(6, 99) if len({head[-n:] for head in heads}) == len(set(heads)))
    return [head[-size:] + tail for head, tail in zip(heads, tails, strict=True)]


def print_list(
    found: Sequence[T],
    table: Callable[[Sequence[T]], None],
    *,
    none: str,
    as_json: bool,
    records: Any = None,
    older: str = "",
) -> None:
    """Print a list as JSON, as a table, or as the note `none` if it is empty. JSON has the `records`, if given.

    `table` prints the list for people. `older` is the command for the next page.
    """
    if as_json:
        print_json(found if records is None else records)
    elif found:
        table(found)
    else:
        note(none)
    if older and not as_json and out.is_terminal:
        note(f"Older ones: {older}")


def _print_row(cells: Sequence[str], widths: Sequence[int], columns: Sequence[str]) -> None:
    """Print a row. The header is the row of its own columns, and in bold."""
    style = "bold" if cells is columns else None
    texts = [set_cell_size(cell, width) + _GAP for cell, width in zip(cells, widths, strict=True)]
    while len(texts) > 1 and not texts[-1].strip():
        texts.pop()
    texts[-1] = texts[-1].rstrip()
    words = zip(cells, columns, strict=True)
    styles = [_STYLE.get(cell.partition(" ")[0], style) if name in _STATUSES else style for cell, name in words]
    out.print(*zip(texts, styles, strict=False))


_STATUSES = frozenset({"STATUS", "OUTCOME"})
"""Columns with coloured words."""


def when(ms: int | None) -> str:
    """Format a time for people: local, to the second."""
    return "" if ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def at(ms: int | None) -> str:
    """Format a time with its zone, for a sentence."""
    return "" if ms is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(ms / 1000))


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
