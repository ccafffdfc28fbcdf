"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from receiver.errors import InputError
from receiver.requests import BOTS, KINDS, SPEEDS
from receiver.settings.kinds import parse_keep
from receiver.submissions import Options

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Reference = Annotated[str, typer.Argument(help="The submission's id, its start or end, or the task id.")]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the result has reached every destination.")]
Speed = Annotated[str | None, typer.Option(help=f"{', '.join(SPEEDS)}.", show_default=False)]
IMAGINE = {field.name: field for field in KINDS["imagine"].fields}
Bot = Annotated[str | None, typer.Option(help=IMAGINE["bot_type"].command_help, show_default=False)]
Label = Annotated[
    list[str] | None, typer.Option(help="name=value, carried by every event. Repeatable.", show_default=False)
]
State = Annotated[str | None, typer.Option(help="Your own state, carried by every event.", show_default=False)]
To = Annotated[
    list[str] | None,
    typer.Option("--to", help="Name of a destination; all of them if not given. Repeatable.", show_default=False),
]
Auto = Annotated[
    str | None,
    typer.Option(help="Buttons to press by itself when it has succeeded, once: U1,U3.", show_default=False),
]
Filter = Annotated[str | None, typer.Option(help=IMAGINE["account_filter"].command_help, show_default=False)]


def spreading(group: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that takes each field of a dataclass as an option, and gets them as its last argument."""
    shared = _parameters(group, {field.name: field.default for field in dataclasses.fields(group)})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        defaults = {name: item.default for name, item in inspect.signature(command).parameters.items()}
        last, _ = defaults.popitem()

        @wraps(command)
        def spread(**given: Any) -> None:
            asked = group(**{item.name: given.pop(item.name) for item in shared})
            command(**given, **{last: asked})

        parameters = [*_parameters(command, defaults), *shared]
        # What typer reads: the one and the other.
        vars(spread)["__signature__"] = inspect.Signature(parameters)
        spread.__annotations__ = {item.name: item.annotation for item in parameters}
        return spread

    return decorate


def _parameters(of: Callable[..., Any], defaults: dict[str, Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(of, include_extras=True)
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in defaults.items()
    ]


def options(
    *,
    speed: str | None = None,
    label: list[str] | None = None,
    state: str | None = None,
    to: list[str] | None = None,
    auto: str | None = None,
) -> Options:
    """The options of a submission from a command's."""
    return Options(
        speed=speed,
        labels=dict(_label(text) for text in label or ()),
        state=state,
        to=tuple(to) if to else None,
        auto=tuple(button for button in (auto or "").split(",") if button.strip()),
    )


def bot_type(name: str | None) -> str | None:
    """The protocol's name of a bot."""
    if name is not None and name not in BOTS:
        raise InputError(f"--bot is {' or '.join(BOTS)}, not {name!r}.")
    return None if name is None else BOTS[name]


def text_or_stdin(text: str) -> str:
    """The text, or what standard input holds for `-`."""
    return text if text != "-" else sys.stdin.buffer.read().decode(errors="surrogateescape")


def account_filter(text: str | None) -> dict[str, Any] | None:
    """The accountFilter from JSON."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InputError("--account-filter is not JSON.") from exc
    if not isinstance(value, dict):
        raise InputError("--account-filter is a JSON object.")
    return value


def duration(option: str, text: str) -> float:
    """Seconds from a text like `2h` or `30d`."""
    seconds = _seconds(text)
    if not seconds:
        raise InputError(f"{option} takes a length of time, for instance 30m, 2h or 30d, not {text!r}.")
    return seconds


def _seconds(text: str) -> float | None:
    try:
        return float(str(parse_keep(text)))
    except ValueError:
        return None


def moment(option: str, text: str | None, now: float) -> int | None:
    """Epoch milliseconds from an ISO time (UTC where it names no zone), or from how long ago it is."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        ago = _seconds(text)
        if not ago:
            raise InputError(
                f"{option} takes a time like 2026-11-25T10:00 (UTC), or how long ago, like 2h or 3d, not {text!r}."
            ) from None
        return int((now - ago) * 1000)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--label takes name=value, not {text!r}.")
    return name, value
