"""Reads the layers, from weakest to strongest, and turns everything wrong into sentences."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from receiver.errors import SettingsError
from receiver.settings.kinds import Kind, KnownAs
from receiver.settings.model import HANDLER_VARIABLES, Destination, Settings
from receiver.settings.platform import platform_variables

PREFIX = "RECEIVER_"
FILE = "receiver.toml"
CONFIG = "RECEIVER_CONFIG"
_TABLES = "RECEIVER_DESTINATIONS__"
_FOREIGN = re.compile(r"RECEIVER_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)\w*)\Z")
"""What Kubernetes puts into the environment when a service is itself called `receiver`; also RECEIVER_PORT=tcp://…."""
_LINK = re.compile(r"(tcp|udp)://")
_VARIABLE = re.compile(r"\$(\$|[A-Za-z_]\w*|\{[^}]*\}?)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")

Location = tuple[str, ...]


@dataclass(slots=True)
class _Layers:
    """Values merged so far; for each, how the user wrote its name, and where it came from."""

    environ: Mapping[str, str]
    values: dict[str, Any] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, path: Location, value: Any, *, written: str, source: str) -> None:
        """Set one value, over what a weaker layer said."""
        table = self.values
        for key in path[:-1]:
            inner = table.get(key)
            table[key] = inner = inner if isinstance(inner, dict) else {}
            table = inner
        table[path[-1]] = value
        self.written[path] = written
        for name in {path[0], ".".join(path[:2])}:
            self._add_source(name, source, several=len(path) > 1)

    def _add_source(self, name: str, source: str, *, several: bool) -> None:
        """A plain value comes from one place; a table may be put together from several."""
        before = self.sources[name].split(", ") if several and name in self.sources else []
        self.sources[name] = ", ".join(dict.fromkeys([*before, source]))

    def put_expanded(self, path: Location, value: Any, *, written: str, source: str) -> None:
        """Set one value after filling in its `$VAR`s."""
        try:
            value = expand(value, self.environ)
        except ValueError as exc:
            self.problems.append(f"{written}: {exc}")
            return
        self.put(path, value, written=written, source=source)


def load(
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read all settings.

    Args:
        environ: the environment; the process's own if None.
        folder: where `receiver.toml` is looked for; the working folder if None.
        overrides: values of command-line flags by setting name; None means the flag was not given.

    Raises:
        SettingsError: one or two sentences for everything that is wrong, a line each.
    """
    layers = _Layers(os.environ if environ is None else environ)
    _read_toml(layers, _file_text(layers, (folder or Path()) / FILE), FILE)
    _read_toml(layers, layers.environ.get(CONFIG), CONFIG)
    _read_known_names(layers)
    _read_environment(layers)
    _read_flags(layers, overrides or {})
    return _validated(layers)


def expand(value: Any, environ: Mapping[str, str]) -> Any:
    """Fill in `$VAR` and `${VAR}` in every text within `value`; `$$` is a dollar sign.

    Raises:
        ValueError: a variable is not set; the text names it.
    """
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match[1], environ), value)
    if isinstance(value, list):
        return [expand(item, environ) for item in value]
    if isinstance(value, dict):
        return {key: expand(item, environ) for key, item in value.items()}
    return value


def _variable(text: str, environ: Mapping[str, str]) -> str:
    if text == "$":
        return "$"
    name = text.removeprefix("{").removesuffix("}")
    if not _IDENTIFIER.match(name) or text.startswith("{") != text.endswith("}"):
        raise ValueError("a ${ in it is not followed by a variable's name and }. Write $$ for a dollar sign.")
    if name not in environ:
        raise ValueError(f"the variable {name} is not set. Set it, or write $$ for a dollar sign.")
    return environ[name]


def _file_text(layers: _Layers, path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as exc:
        layers.problems.append(f"{path} cannot be read: {exc.strerror}.")
    except UnicodeDecodeError:
        layers.problems.append(f"{path} cannot be read: it is not UTF-8 text.")
    return None


def _read_toml(layers: _Layers, text: str | None, source: str) -> None:
    if text is None or not text.strip():
        return
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        layers.problems.append(f"{source} cannot be read as TOML: {_lowered(str(exc))}.")
        return
    for name, value in document.items():
        if name not in Settings.model_fields:
            layers.problems.append(_unknown(f"{name} in {source}", name, Settings.model_fields))
        elif name == "destinations":
            _read_tables(layers, value, source)
        else:
            layers.put_expanded((name,), value, written=f"{name} in {source}", source=source)


def _read_tables(layers: _Layers, tables: Any, source: str) -> None:
    if not isinstance(tables, dict):
        layers.problems.append(f"destinations in {source} is not a table. Write [destinations.NAME] above its options.")
        return
    for name, table in tables.items():
        path = ("destinations", name)
        if not isinstance(table, dict):
            layers.problems.append(
                f"destinations.{name} in {source} is not a table. Write [destinations.{name}] above its options."
            )
            continue
        # A stronger layer adds to a table of the same name; it does not replace it.
        old = layers.values.get("destinations", {}).get(name, {})
        layers.put(path, dict(old), written=f"[destinations.{name}] in {source}", source=source)
        for option, value in table.items():
            written = f"destinations.{name}.{option} in {source}"
            layers.put_expanded((*path, option), value, written=written, source=source)


def _read_known_names(layers: _Layers) -> None:
    for name, info in Settings.model_fields.items():
        for marker in info.metadata:
            if isinstance(marker, KnownAs) and layers.environ.get(marker.name, "").strip():
                _read_variable(layers, name, marker.name)


def _read_environment(layers: _Layers) -> None:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields if name != "destinations"}
    for variable in sorted(_ours(layers.environ)):
        if variable in known:
            _read_variable(layers, known[variable], variable)
        elif variable.startswith(_TABLES):
            _read_table_variable(layers, variable)
        elif variable == "RECEIVER_DESTINATIONS":
            layers.problems.append(f"{variable} is not a setting. Write {_TABLES}NAME__OPTION, or RECEIVER_TO.")
        else:
            names = [name.removeprefix(PREFIX) for name in (*known, CONFIG)]
            layers.problems.append(_unknown(variable, variable.removeprefix(PREFIX), names, prefix=PREFIX))


def _ours(environ: Mapping[str, str]) -> Iterator[str]:
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or not value.strip():
            continue
        if _FOREIGN.match(variable) or (variable == "RECEIVER_PORT" and _LINK.match(value)):
            continue
        yield variable


def _read_variable(layers: _Layers, name: str, variable: str) -> None:
    put = layers.put_expanded if name == "to" else layers.put
    put((name,), layers.environ[variable].strip(), written=variable, source=f"environment {variable}")


def _read_table_variable(layers: _Layers, variable: str) -> None:
    name, *path = variable.removeprefix(_TABLES).lower().split("__")
    if not name or not path or not all(path):
        layers.problems.append(f"{variable} names no option. Write {_TABLES}NAME__OPTION.")
        return
    # A variable cannot hold a hyphen, so MY_TEAM also means a table called my-team.
    tables = layers.values.get("destinations", {})
    name = next((table for table in tables if table.replace("-", "_") == name), name)
    value = _list_or_text(layers.environ[variable].strip())
    layers.put(("destinations", name, *path), value, written=variable, source="environment")


def _list_or_text(text: str) -> Any:
    """Options that are lists or tables can be written as JSON in a variable."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_flags(layers: _Layers, overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        if value is not None:
            layers.put((name,), value, written=f"--{name.replace('_', '-')}", source="flag")


def _validated(layers: _Layers) -> Settings:
    context = {
        "sources": layers.sources,
        "platform": platform_variables(layers.environ),
        "variables": {name: text for name in HANDLER_VARIABLES if (text := layers.environ.get(name, "").strip())},
    }
    try:
        settings = Settings.model_validate(layers.values, context=context)
    except ValidationError as exc:
        layers.problems += [_sentence(error, layers.written) for error in exc.errors(include_url=False)]
    if layers.problems:
        raise SettingsError("\n".join(dict.fromkeys(layers.problems)))
    return settings


def _sentence(error: ErrorDetails, written: Mapping[Location, str]) -> str:
    path = tuple(str(part) for part in error["loc"])
    lengths = range(len(path), 0, -1)
    name = next((written[path[:length]] for length in lengths if path[:length] in written), ".".join(path))
    kind = _kind(Destination, path[2]) if len(path) > 2 else _kind(Settings, path[0])
    return f"{name} is wrong: {reason(error)}." + (f" Write {kind.write}." if kind else "")


def _kind(model: type[BaseModel], name: str) -> Kind | None:
    info = model.model_fields.get(name)
    return next((marker for marker in info.metadata if isinstance(marker, Kind)), None) if info else None


_REASONS = {
    "missing": "it is missing",
    "string_pattern_mismatch": "it does not have the right form",
    "path_type": "it is no path",
    "string_type": "it is no text",
    "bool_type": "it is neither true nor false",
    "bool_parsing": "it is neither true nor false",
    "dict_type": "it is no table",
    "tuple_type": "it is no list",
    "too_short": "there is nothing in it",
}


def reason(error: ErrorDetails) -> str:
    """What is wrong with a value, without the value and without a full stop."""
    if error["type"] == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"])).rstrip(".")
    if error["type"] in _REASONS:
        return _REASONS[error["type"]]
    text = error["msg"].replace("Input should", "it should").replace("String should", "it should")
    return _lowered(text).rstrip(".")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like this one, if any does."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _unknown(written: str, name: str, known: Iterable[str], prefix: str = "") -> str:
    guess = nearest(name, known)
    remedy = f"Did you mean {prefix}{guess}?" if guess else "`receiver settings` lists all there are."
    return f"{written} is not a setting of Receiver. {remedy}"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
