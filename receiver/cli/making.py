"""The other requests: `blend`, `describe`, `shorten`, `video`, `edits`, `swap` and `upload`, derived from `KINDS`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from receiver.app import open_runtime
from receiver.cli.options import AsJSON, Label, Speed, State, To, Wait, bot_type, options
from receiver.cli.options import account_filter as read_filter
from receiver.cli.output import print_json, say
from receiver.cli.process import run, settings_for
from receiver.cli.session import Session
from receiver.requests import KINDS, REQUIRED, Field, Request, build


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_JSON = _parameter("as_json", AsJSON, default=False)
_CARRIED = (
    _parameter("wait", Wait, default=False),
    _parameter("speed", Speed),
    _parameter("label", Label),
    _parameter("state", State),
    _parameter("to", To),
    _JSON,
)
_READERS: dict[str, Callable[[Any], Any]] = {"bot_type": bot_type, "account_filter": read_filter}
"""Field → reading of its text on the command line."""


def command_of(kind: str, carried: Sequence[inspect.Parameter] = _CARRIED) -> Callable[..., None]:
    """Return the command of a kind of request.

    Args:
        kind: a key of `KINDS`.
        carried: its options beside its fields.
    """
    declared = KINDS[kind]

    def command(**given: Any) -> None:
        values = {}
        for field in declared.fields:
            value = given.pop(field.option or field.name)
            values[field.name] = _READERS[field.name](value) if field.name in _READERS else value
        request = build(kind, **values)
        as_json, wait = given.pop("as_json"), given.pop("wait", False)
        if declared.answered_by_links:
            _upload(request, as_json=as_json)
        else:
            Session(as_json=as_json).request(request, options(**given), wait=wait)

    parameters = [*map(_field_parameter, declared.fields), *carried]
    command.__name__ = kind
    command.__doc__ = declared.command
    # Typer reads both.
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _field_parameter(field: Field) -> inspect.Parameter:
    info = (typer.Argument if field.argument else typer.Option)(help=field.command_help)
    type = str if field.form.type == dict[str, Any] else field.form.type
    default = inspect.Parameter.empty if field.default is REQUIRED else field.default
    return _parameter(field.option or field.name, Annotated[type | None if default is None else type, info], default)


def _upload(request: Request, *, as_json: bool) -> None:
    async def main() -> list[str]:
        async with open_runtime(settings_for(quiet=True)) as runtime:
            return await runtime.submissions.upload(request)

    urls = run(main())
    if as_json:
        print_json({"urls": urls})
    else:
        for url in urls:
            say(url)


blend, describe, shorten, video, edits, swap = (
    command_of(kind) for kind in ("blend", "describe", "shorten", "video", "edits", "swap")
)
upload = command_of("upload", [_JSON])
