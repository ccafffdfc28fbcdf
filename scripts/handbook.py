"""Write the generated tables of the handbook and the README anew.

usage: .venv/bin/python scripts/handbook.py

A generated region stands between `<!-- name -->` and `<!-- /name -->`. Its table comes from the code that declares it:
settings, options, commands, kinds of request, handlers, experiments, and the pages themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from receiver.cli import app
from receiver.handbook import GROUPS, summary
from receiver.handlers.registry import describe_handlers
from receiver.metrics import METRICS
from receiver.requests import KINDS, REQUIRED
from receiver.settings import Destination, Settings, declared

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))  # experiments use the tools of the tests
from experiments import EXPERIMENTS  # noqa: E402

PAGES = sorted((ROOT / "receiver/handbook").glob("*.md"))
FILES = [ROOT / "README.md", *PAGES]
_REGION = re.compile(r"<!-- (?P<name>[a-z]+)(?P<of> [a-z0-9-]+)? -->\n.*?<!-- /(?P=name)(?P=of)? -->", re.DOTALL)


def table(columns: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    head = columns.split(", ")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command with its whole name."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        for word, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {word}", inner)
        if not hasattr(command, "commands"):
            yield name, command

    yield from walk("receiver", get_command(app))


def _settings() -> str:
    rows = []
    for name, item in declared(Settings).items():
        own = f"RECEIVER_{name.upper()}" + ("__NAME__OPTION" if name == "destinations" else "")
        rows.append((", ".join(f"`{word}`" for word in (own, *item.known_as)), item.show(item.default), item.help))
    return table("variable, default, meaning", rows)


def _handlers() -> str:
    rows = []
    for item in describe_handlers():
        urls = " ".join(f"`{scheme}:`" for scheme in item.schemes[:4]) + (" …" if len(item.schemes) > 4 else "")
        rows.append((f"`{item.name}`", item.summary, item.guarantee, urls))
    return table("handler, what it does, guarantee, URL in `RECEIVER_TO`", rows)


def _options(name: str) -> str:
    if name == "destination":
        fields = [(name, item) for name, item in declared(Destination).items() if item.help]
        rows = [(f"`{name}`", f"`{item.show(item.default)}`", item.help) for name, item in fields]
        return table("option, default, meaning", rows)
    [item] = [item for item in describe_handlers() if item.name == name]
    rows = [
        (f"`{option.name}`", "required" if option.default is None else f"`{option.default}`", option.help)
        for option in item.options
    ]
    return table("option, default, meaning", rows)


def _text(default: Any) -> str:
    if default in ((), {}, None):
        return "none"
    return str(default).lower() if isinstance(default, bool) else f"{default:g}"


def _kinds() -> str:
    rows = []
    for kind, request in KINDS.items():
        for field in request.fields:
            if kind == "modal" and field.name == "task_id":
                continue
            word = field.option or field.name.replace("_", "-")
            shown = word.upper() if field.argument else f"--{word}"
            needed = " Required." if field.default is REQUIRED else ""
            rows.append((f"`{'submit' if kind == 'imagine' else kind}`", f"`{shown}`", field.command_help + needed))
    return table("command, option, meaning", rows)


def _commands() -> str:
    rows = []
    for name, command in commands():
        arguments = [item.name.upper() for item in command.params if item.param_type_name == "argument"]
        options = [
            max(item.opts, key=len)
            for item in command.params
            if item.param_type_name == "option" and not item.hidden and item.name != "help"
        ]
        summary = command.get_short_help_str(1000)
        rows.append((f"`{' '.join([name, *arguments])}`", summary, " ".join(f"`{text}`" for text in options)))
    return table("command, what it does, options", rows)


def _metrics() -> str:
    rows = []
    for item in METRICS:
        named = [
            f"`{label}`" + (f": {', '.join(f'`{value}`' for value in values)}" if values else "")
            for label, values in item.labels.items()
        ]
        rows.append((f"`{item.shown_name}`", item.kind, item.help, "; ".join(named)))
    return table("metric, kind, meaning, labels", rows)


def _experiments() -> str:
    rows = [(f"`{item.name}`", item.summary) for item in EXPERIMENTS]
    return table("experiment, what is done and what must hold", rows)


def _pages() -> str:
    names = [name for group in GROUPS.values() for name in group]
    return table("page, content", [(f"[{name}](receiver/handbook/{name}.md)", summary(name)) for name in names])


REGIONS: dict[str, Callable[..., str]] = {
    "settings": _settings,
    "handlers": _handlers,
    "options": _options,
    "kinds": _kinds,
    "commands": _commands,
    "metrics": _metrics,
    "experiments": _experiments,
    "pages": _pages,
}


def rewritten(text: str) -> str:
    """Return the text of a page with each region as the code declares it."""

    def fill(found: re.Match[str]) -> str:
        name, of = found["name"], (found["of"] or "").strip()
        if name not in REGIONS:
            return found[0]
        content = REGIONS[name](of) if of else REGIONS[name]()
        begin, end = found[0].partition("\n")[0], found[0].rpartition("\n")[2]
        return f"{begin}\n{content}\n{end}"

    return _REGION.sub(fill, text)


if __name__ == "__main__":
    for path in FILES:
        before = path.read_text()
        if (after := rewritten(before)) != before:
            path.write_text(after)
            print(f"wrote {path.relative_to(ROOT)}")
