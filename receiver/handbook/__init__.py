"""The handbook: pages of Markdown in this folder, shown by `receiver help` and by the page."""

from __future__ import annotations

import re
from importlib.resources import files

GROUPS: dict[str, tuple[str, ...]] = {
    "Use": ("about", "submit", "cli", "page", "callbacks", "destinations"),
    "Destinations": ("file", "s3", "slack", "discord", "chat", "webhook", "command"),
    "Programs": ("python", "testing", "http", "recipes", "handlers"),
    "Deployment": ("server", "postgres", "bucket", "functions", "lambda", "proxy"),
    "Operation": ("operate", "metrics", "backup", "settings"),
    "Reference": ("promises", "words", "changes", "contributing"),
}
"""Every page, in the order of the list."""
PAGES = tuple(name for group in GROUPS.values() for name in group)
_COMMENT = re.compile(r"^<!-- .* -->\n", re.MULTILINE)
_PICTURE = re.compile(r"^!\[.*\]\(.*\)\n\n", re.MULTILINE)
_HEADING = re.compile(r"^(##+) (.+)$", re.MULTILINE)


def page(name: str, *, pictures: bool = False) -> str:
    """Return the Markdown of a page, without comments, and without pictures unless they can be shown."""
    text = _COMMENT.sub("", files("receiver").joinpath("handbook", f"{name}.md").read_text(encoding="utf-8"))
    return text if pictures else _PICTURE.sub("", text)


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
