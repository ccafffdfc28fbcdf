"""Names made of a prompt: short, plain, and never a path, whatever the prompt holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

SLUG_LENGTH = 40

_LINKS = re.compile(r"\S*://\S*")
# Midjourney reads flags at the end of a prompt only; phones turn "--" into a dash.
FIRST_FLAG = re.compile(r"(?:^|\s)(?:--|—)(?=[A-Za-z])")
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "in", "into", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "then", "this", "to", "was", "were", "with"}
)
_LONGEST_END = 20


def slug(prompt: str, button: str = "") -> str:
    """A prompt as at most 40 characters of `[a-z0-9-]`, cut at a word; "" when nothing is left. A button that was
    pressed stands at the end."""
    if end := slug(button)[:_LONGEST_END] if button else "":
        return f"{_cut(slug(prompt), SLUG_LENGTH - len(end) - 1)}-{end}".strip("-")
    words = FIRST_FLAG.split(_LINKS.sub(" ", prompt), maxsplit=1)[0].replace("'", "").replace("’", "")
    return joined(word for word in plain_words(words) if word not in _STOP_WORDS)


def plain_words(text: str) -> list[str]:
    """The words of a text in `[a-z0-9]`, accents taken off."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.findall("[a-z0-9]+", folded)


def joined(words: Iterable[str]) -> str:
    """Words with hyphens between them, as many as fit into 40 characters."""
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:SLUG_LENGTH]
        if len(longer) > SLUG_LENGTH:
            break
        name = longer
    return name


def _cut(name: str, length: int) -> str:
    """A slug shortened at a word."""
    return name if len(name) <= length else name[: length + 1].rpartition("-")[0]
