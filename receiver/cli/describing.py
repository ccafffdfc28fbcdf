"""`handlers`, `settings` and `inspect`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from receiver import provider
from receiver import settings as settings_room
from receiver.cli.output import print_json, print_table, say
from receiver.cli.process import settings_for
from receiver.errors import InputError
from receiver.handlers.registry import describe_handlers

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def handlers(as_json: AsJSON = False) -> None:
    """List the handlers with their options."""
    found = describe_handlers()
    if as_json:
        print_json([asdict(handler) for handler in found])
        return
    for handler in found:
        say(f"{handler.name}: {handler.problem or f'{handler.summary} ({handler.guarantee})'}")
        for option in handler.options:
            default = "required" if option.default is None else f"default {option.default}"
            say(f"  {option.name} ({option.type}, {default}): {option.help}")


def settings(as_json: AsJSON = False) -> None:
    """List every setting, its value and its source. Secrets are masked."""
    rows = settings_room.show(settings_for(quiet=True))
    if as_json:
        print_json([{"name": name, "value": value, "source": source} for name, value, source in rows])
    else:
        print_table(("SETTING", "VALUE", "SOURCE"), rows, flexible=1, fold=True)


def inspect(
    file: Annotated[str, typer.Argument(help="A file with a payload of the provider; - reads it.")],
    http_status: Annotated[int, typer.Option(help="The HTTP status it came with.", min=100, max=599)] = 200,
) -> None:
    """Show Receiver's reading of a payload of the provider, as JSON."""
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise InputError(f"{file} cannot be read: {exc.strerror}. Check the path.") from exc
    print_json(provider.inspect(body, http_status))
