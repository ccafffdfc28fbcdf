"""README and handbook as tests read them: their texts and their blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "receiver/handbook").glob("*.md"))}
TEXTS = {"README": (ROOT / "README.md").read_text(), **PAGES}
EVERYTHING = "\n".join(TEXTS.values())

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code on a page. `kind` is the word after the backquotes."""

    page: str
    kind: str
    text: str


BLOCKS = [Block(page, kind, text) for page, content in TEXTS.items() for kind, text in _BLOCK.findall(content)]


def block(page: str, kind: str, part: str = "") -> str:
    """The one block of that kind on a page that holds `part`."""
    (found,) = (item.text for item in BLOCKS if (item.page, item.kind) == (page, kind) and part in item.text)
    return found


def region(page: str, name: str) -> str:
    """What is between `<!-- name -->` and `<!-- /name -->`."""
    return TEXTS[page].partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
