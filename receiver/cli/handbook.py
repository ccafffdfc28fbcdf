"""The handbook: `receiver help` lists its pages, `receiver help PAGE` shows one.

A terminal shows them formatted, a pipe gets plain text.
"""

from __future__ import annotations

import difflib
import sys
from typing import Annotated

import typer

from receiver.cli.output import out, print_table, say
from receiver.errors import NotFound
from receiver.handbook import GROUPS, PAGES, page, sections, summary

_WIDTH = max(map(len, PAGES))


def help(
    topic: Annotated[str | None, typer.Argument(help="A page, or a word of a heading.", show_default=False)] = None,
) -> None:
    """Show the handbook: the list of its pages, or one page."""
    if topic is None:
        for group, names in GROUPS.items():
            print_table(
                (group.upper().ljust(_WIDTH), ""), [(name, summary(name)) for name in names], flexible=1, fold=True
            )
            say("")
        say("Show a page with: receiver help PAGE")
        return
    word = topic.lower()
    if word in PAGES:
        _show(page(word))
    elif found := sections(word):
        for name, text in found:
            _show(f"*From the page {name}:*\n\n{text}")
    else:
        near = difflib.get_close_matches(word, PAGES, n=3, cutoff=0.5)
        advice = f"Did you mean {' or '.join(near)}?" if near else "See: receiver help"
        raise NotFound(f"The handbook has no page and no heading {topic[:40]!r}. {advice}")


def _show(text: str) -> None:
    """Print Markdown: formatted on a terminal, as it is elsewhere."""
    if not out.is_terminal:
        sys.stdout.write(text)
        return
    # Its parser takes 60 ms, and only a terminal needs it.
    from rich.console import Console  # noqa: PLC0415
    from rich.markdown import Markdown  # noqa: PLC0415
    from rich.theme import Theme  # noqa: PLC0415

    theme = Theme({"markdown.code": "cyan"})  # no background, which suits light and dark terminals
    Console(theme=theme).print(Markdown(text, code_theme="ansi_dark"))
