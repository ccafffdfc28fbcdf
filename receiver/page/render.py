"""Pages as HTML: the templates, their filters, and the headers of every answer."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.responses import Response

from receiver.disk import size
from receiver.events import Submission
from receiver.web.api.responses import clean

if TYPE_CHECKING:
    from jinja2 import Environment
    from markdown_it import MarkdownIt

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Cookie",
}
FOLDER = Path(__file__).parent
_PAGE_LINK = re.compile(r'href="([a-z0-9-]+)\.md(?:#[^"]*)?"')
_EMOJIS = {"🔄": "Reroll", "⬅️": "Pan left", "➡️": "Pan right", "⬆️": "Pan up", "⬇️": "Pan down", "❤️": "Like"}
_AGES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
STATUS_WORDS: Mapping[str, str] = {
    "prepared": "waiting to be sent",
    "sending": "being sent",
    "accepted": "accepted",
    "in_progress": "under way",
    "input_required": "asks for input",
    "succeeded": "succeeded",
    "failed": "failed",
    "lost": "lost",
    "refused": "refused",
    "unknown": "unclear",
    "pending": "waiting",
    "running": "running",
    "dead": "dead",
    "cancelled": "superseded",
    "working": "working",
    "failing": "failing",
    "paused": "paused",
}


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the templates. Jinja2 is imported at the first page, because most processes never show one."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - see above

    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (clean, size, moment, age, word, short, buttons, spoken, markdown)
    found.filters |= {function.__name__: function for function in filters}
    found.globals["query_of"] = query
    # The macros are global, because a region is rendered without the imports of its template.
    found.globals |= {
        name: macro for name, macro in vars(found.get_template("parts.html").module).items() if name[0] != "_"
    }
    return found


def answer(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Return a whole page."""
    text = environment().get_template(template).render(values)
    return Response(text, status, HEADERS, media_type="text/html")


def regions(template: str, names: Iterable[str], values: Mapping[str, Any]) -> dict[str, str]:
    """Return the HTML inside each region of a page. A region is the block `NAME` in an element with the id `NAME`."""
    found = environment().get_template(template)
    context = found.new_context(dict(values))
    return {name: "".join(found.blocks[name](context)) for name in names}


def partials(changed: Mapping[str, str]) -> str:
    """Return the regions as htmx swaps them into an open page."""
    return "".join(
        f'<hx-partial hx-target="#{html.escape(name)}" hx-swap="innerMorph">{text}</hx-partial>'
        for name, text in changed.items()
    )


# Filters


def word(status: str) -> str:
    """Return a status for people."""
    return STATUS_WORDS.get(status, status)


def short(id: str) -> str:
    """Return the end of an id, by which a submission can be found."""
    return id[-6:]


def moment(ms: int | None) -> str:
    """Return a time in UTC, as `<time>` shows it. The script of the page turns it into local time."""
    return "" if ms is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))


def age(ms: int) -> str:
    """Return a length of time for people, in its largest unit."""
    seconds = max(ms // 1000, 1)
    unit, name = next(item for item in _AGES if seconds >= item[0])
    return f"{seconds // unit} {name}"


def buttons(row: Submission, grid: bool) -> list[str]:
    """Return the names of the buttons of a finished task. On a grid the quadrants show U1 to V4."""
    task = row.task
    if task is None or row.ended != "task.succeeded":
        return []
    quadrants = {f"{letter}{number}" for letter in "UV" for number in range(1, 5)}
    return [button.text for button in task.buttons if button.text and not (grid and button.text in quadrants)]


def spoken(button: str) -> str:
    """Return the name of a button in words. Some have only an emoji (PROTOCOL.md §5 `buttons`)."""
    return _EMOJIS.get(button, button)


def markdown(text: str, root: str) -> Markup:
    """Return a page of the handbook as HTML. Links to other pages of it, and its pictures, stay here."""
    html = _parser().render(text).replace('<img src="', f'<img src="{root}/page/')
    return Markup(_PAGE_LINK.sub(rf'href="{root}/help/\1"', html))  # noqa: S704 - our own text, and raw HTML is off


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - as Jinja2

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def query(given: Mapping[str, Any], **changes: Any) -> str:
    """Return a query string with changes. Empty values are left out."""
    merged = {**given, **changes}
    pairs = [(name, value) for name, value in merged.items() if value not in (None, "", (), [])]
    return f"?{urlencode(pairs, doseq=True)}" if pairs else "?"
