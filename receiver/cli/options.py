"""Options that several commands share, and the parsers of their values."""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec
import typer

from receiver.errors import InputError
from receiver.journal.store import Filter
from receiver.requests import BOTS, KINDS, REQUIRED, SPEEDS, Field
from receiver.settings.kinds import parse_keep
from receiver.submissions.options import Options

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


def optional(help: str, *names: str) -> Any:
    """Return an option without a default value in its help."""
    return typer.Option(*names, help=help, show_default=False)


AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Reference = Annotated[str, typer.Argument(help="The submission's id, 6 characters of its end, the task id, or last.")]
Limit = Annotated[int, typer.Option(help="How many at most, the newest first.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
After = Annotated[str | None, optional("The page behind this one, by its id.")]
OfSubmission = Annotated[str | None, optional("Of one submission or task.", "--task", "--submission")]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the result has reached every destination.")]
Speed = Annotated[str | None, optional(f"{', '.join(SPEEDS)}.")]
Prompt = Annotated[str | None, optional("The prompt, for a button that asks for one.")]
Mask = Annotated[str | None, optional("Where to repaint, for a button that asks for it: a file, white on black.")]


def labels(given: list[str] | None) -> dict[str, str]:
    """Return labels from texts like `name=value`."""
    found = [text.partition("=") for text in given or ()]
    for name, equals, _ in found:
        if not equals:
            raise InputError(f"--label takes name=value, not {name[:80]!r}.")
    return {name: value for name, _, value in found}


def bot_type(name: str | None) -> str | None:
    """Return the protocol's name of a bot."""
    if name is not None and name not in BOTS:
        raise InputError(f"--bot is {' or '.join(BOTS)}, not {name[:80]!r}.")
    return None if name is None else BOTS[name]


def read_file(file: str) -> bytes:
    """Return the content of a file, or of standard input for `-`."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise InputError(f"{file} cannot be read: {exc.strerror}. Check the path.") from exc


def read_text(file: str) -> str:
    """Return the text of a file, or of standard input for `-`: UTF-8, or UTF-16 as Windows tools write it.

    Marks of the encoding (U+FEFF) are dropped, also where files that begin with one were joined.
    """
    data, name = read_file(file), "Standard input" if file == "-" else file
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    even = next((kind for kind, at in (("utf-16-le", 1), ("utf-16-be", 0)) if data[at:64:2].count(0) > 8), None)
    try:
        text = data.decode("utf-16" if wide else even or "utf-8")
    except UnicodeDecodeError as exc:
        line = len(re.split(rb"\r\n|\r|\n", data[: exc.start]))
        raise InputError(
            f"{name} cannot be read: line {line} is not UTF-8. Save it as UTF-8, for instance with: "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from exc
    if "\0" in text:
        raise InputError(f"{name} cannot be read: it is no text.")
    return text.replace("\ufeff", "")


def account_filter(text: str | None) -> dict[str, Any] | None:
    """Parse the accountFilter from JSON."""
    try:
        return None if text is None else msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InputError("--account-filter is no JSON object.") from exc


C = TypeVar("C", bound=str)


def choice(option: str, value: str | None, choices: Sequence[C]) -> C | None:
    """Return the choice with this value, or None for None. Raise InputError for another value."""
    if value is None or value in choices:
        return cast("C | None", value)
    raise InputError(f"{option} is one of {', '.join(choices)}, not {value[:80]!r}.", page="cli")


def duration(option: str, text: str) -> float:
    """Return seconds from a text like `2h` or `30d`."""
    if seconds := _seconds(text):
        return seconds
    raise InputError(f"{option} takes a length of time, for instance 30m, 2h or 30d, not {text[:80]!r}.", page="cli")


def _seconds(text: str) -> float:
    """Return 0 for a text that is no length of time."""
    try:
        return float(str(parse_keep(text)))
    except ValueError:
        return 0.0


def moment(option: str, text: str | None, now: float) -> int | None:
    """Return epoch milliseconds from `today`, `yesterday`, a length of time ago, or a time.

    A time is local unless it names a zone.
    """
    if text is None:
        return None
    today = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        when = days.get(text.strip().lower()) or datetime.fromisoformat(text)
    except ValueError:
        if ago := _seconds(text):
            return int((now - ago) * 1000)
        raise InputError(
            f"{option} takes today, yesterday, how long ago (2h, 3d), or a local time (2026-11-25T10:00), not "
            f"{text[:80]!r}."
        ) from None
    return int(when.timestamp() * 1000)


# Groups of options. A command takes one with `gathers`.


def selection(
    label: Annotated[list[str] | None, optional("Of submissions with this label, name=value. Repeatable.")] = None,
    search: Annotated[str | None, optional("Of submissions with all these words in their prompt.")] = None,
    since: Annotated[str | None, optional("From then on: today, yesterday, 2h, or a date and time (local).")] = None,
    until: Annotated[str | None, optional("Before that, given like --since.")] = None,
) -> Filter:
    """Return the selection of a list."""
    now = time.time()
    return Filter(
        labels=tuple(labels(label).items()),
        words=tuple((search or "").split()),
        since_ms=moment("--since", since, now),
        until_ms=moment("--until", until, now),
    )


def carried(
    label: Annotated[list[str] | None, optional("name=value, carried by every event. Repeatable.")] = None,
    state: Annotated[str | None, optional("Your own state, carried by every event.")] = None,
    to: Annotated[
        list[str] | None, optional("Name of a destination; all of them if not given. Repeatable.", "--to")
    ] = None,
    auto: Annotated[str | None, optional("Buttons to press by itself when it has succeeded, once: U1,U3.")] = None,
    reply_to: Annotated[
        str | None, optional("A URL that gets its events too, at a host that a webhook destination allows.")
    ] = None,
) -> Options:
    """Return the options of a submission."""
    return Options(
        labels=labels(label),
        state=state,
        to=tuple(to) if to else None,
        auto=tuple(button for button in (auto or "").split(",") if button.strip()),
        reply_to=reply_to,
    )


def fields_of(kind: str, *names: str) -> Callable[..., dict[str, Any]]:
    """Return the group of the fields of a kind of request, or of those named. It makes arguments for `build`."""
    fields = [field for field in KINDS[kind].fields if not names or field.name in names]
    readers: dict[str, Callable[[Any], Any]] = {"bot_type": bot_type, "account_filter": account_filter}

    def read(**given: Any) -> dict[str, Any]:
        values = {field.name: given[field.option or field.name] for field in fields}
        return values | {name: readers[name](values[name]) for name in values.keys() & readers}

    vars(read)["__signature__"] = inspect.Signature([_parameter(field) for field in fields])
    return read


def _parameter(field: Field) -> inspect.Parameter:
    type: Any = str if field.form.type == dict[str, Any] else field.form.type
    default = inspect.Parameter.empty if field.default is REQUIRED else field.default
    repeated = "" if field.argument or field.form.type != list[str] else " Repeatable."
    info = (typer.Argument if field.argument else typer.Option)(help=field.command_help + repeated)
    hint: Any = type | None if default is None else type
    name = field.option or field.name
    return inspect.Parameter(name, KEYWORD_ONLY, default=default, annotation=Annotated[hint, info])


def gathers(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a group in place of its parameter of that name, which gets what the group makes."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        taken = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}

        @wraps(command)
        def gathered(**given: Any) -> None:
            made = {name: groups[name](**{one: given.pop(one) for one in taken[name]}) for name in groups}
            command(**made, **given)

        all_of_them = [one for name, item in own.items() for one in taken.get(name, {name: item}).values()]
        named = [item.replace(kind=KEYWORD_ONLY) for item in all_of_them]
        vars(gathered)["__signature__"] = inspect.Signature(named)  # Typer reads it and the annotations
        gathered.__annotations__ = {item.name: item.annotation for item in named}
        return gathered

    return decorate


def older(command: str, found: Sequence[Any], limit: int) -> str:
    """Return the command for the next page, or "" if this one is not full."""
    if len(found) < limit:
        return ""
    return f"receiver {command} list --after {found[-1].id}, with the same options"
