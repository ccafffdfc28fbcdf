"""The handbook: `receiver help` lists its pages, `receiver help PAGE` shows one.

Pages are Markdown in `receiver/handbook/`. A terminal shows them formatted, a pipe gets plain text.
"""

from __future__ import annotations

import difflib
import re
import sys
from importlib.resources import files
from typing import Annotated

import typer

from receiver.cli.output import out, print_table, say
from receiver.errors import NotFound

GROUPS: dict[str, tuple[str, ...]] = {
    "Use": ("submit", "cli", "page", "callbacks", "destinations"),
    "Destinations": ("file", "s3", "slack", "discord", "chat", "webhook", "command"),
    "Programs": ("python", "http", "handlers"),
    "Deployment": ("server", "postgres", "bucket", "functions", "lambda", "proxy"),
    "Operation": ("operate", "backup", "settings"),
    "Reference": ("promises", "words", "changes", "contributing"),
}
"""Every page, in the order of the list."""
PAGES = tuple(name for group in GROUPS.values() for name in group)
_WIDTH = max(map(len, PAGES))
_COMMENT = re.compile(r"^<!-- .* -->\n", re.MULTILINE)
_HEADING = re.compile(r"^(##+) (.+)$", re.MULTILINE)


def page(name: str) -> str:
    """Return the Markdown of a page, without comments."""
    text = files("receiver").joinpath("handbook", f"{name}.md").read_text(encoding="utf-8")
    return _COMMENT.sub("", text)


def summary(name: str) -> str:
    """Return the first paragraph of a page."""
    return " ".join(page(name).split("\n\n")[1].split())


def sections(word: str) -> list[tuple[str, str]]:
    """Return page and text of each section with this word in its heading."""
    found = []
    for name in PAGES:
        text = page(name)
        headings = [item for item in _HEADING.finditer(text) if "```" not in item[0]]
        for number, heading in enumerate(headings):
            if word in re.findall(r"[\w-]+", heading[2].lower()):
                later = (item.start() for item in headings[number + 1 :] if len(item[1]) <= len(heading[1]))
                found.append((name, text[heading.start() : next(later, len(text))]))
    return found


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
    from rich.markdown import Markdown  # noqa: PLC0415
    from rich.theme import Theme  # noqa: PLC0415

    with out.use_theme(Theme({"markdown.code": "cyan"})):  # no background, which suits light and dark terminals
        out.print(Markdown(text, code_theme="ansi_dark"), soft_wrap=False)
