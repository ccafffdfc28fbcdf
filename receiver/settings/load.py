"""Load the settings: read the layers, from weakest to strongest, and turn every problem into a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from receiver.errors import SettingsError
from receiver.settings.model import PAGES, Origin, Settings
from receiver.settings.options import WrongValues, declared, nearest

PREFIX = "RECEIVER_"
FILE = "receiver.toml"
CONFIG = "RECEIVER_CONFIG"
_TABLES = "RECEIVER_DESTINATIONS__"
_FOREIGN = re.compile(r"RECEIVER_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP)\w*)\Z")
"""Variables that Kubernetes sets for a service named `receiver`. It also sets RECEIVER_PORT=tcp://…."""
_LINK = re.compile(r"(tcp|udp)://")
_VARIABLE = re.compile(r"\$(\$|[A-Za-z_]\w*|\{[^}]*\}?)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")

Location = tuple[str, ...]


def load(
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> Settings:
    """Read all settings: from the process's environment, and one file.

    Args:
        environ: variables, if not those of the process.
        folder: in place of the working folder.
        overrides: values of command-line flags by setting name. None means that the flag is not given.
        file: the file. Without it `receiver.toml` in the folder, or else in `~/.config/receiver`.

    Raises:
        SettingsError: one or two sentences for each problem, a line each.
    """
    given = os.environ if environ is None else environ
    layers = _Layers({name: without_quotes(text) for name, text in given.items()})
    here = (folder or Path()) / FILE
    for path in [here, *home_file(layers.environ)] if file is None else [file]:
        try:
            layers.read_toml(path.read_text(encoding="utf-8-sig"), FILE if path == here else str(path))
        except FileNotFoundError:
            if file is not None:
                layers.problems.append(f"There is no file {path}. Name another one with --config.")
            continue
        except OSError as exc:
            layers.problems.append(f"{path} cannot be read: {exc.strerror}.")
        except UnicodeDecodeError:
            layers.problems.append(f"{path} cannot be read: it is not UTF-8 text.")
        layers.files.append(str(path.absolute()))
        break
    layers.read_toml(layers.environ.get(CONFIG, ""), CONFIG)
    layers.read_environment()
    for name, value in (overrides or {}).items():
        if value is not None:
            layers.put((name,), value, written=f"--{name.replace('_', '-')}", source="flag")
    return layers.validated()


def home_file(environ: Mapping[str, str]) -> list[Path]:
    """Return the user's own file with settings. Nothing if there is no home."""
    if folder := environ.get("XDG_CONFIG_HOME"):
        return [Path(folder) / "receiver" / FILE]
    return [Path(home) / ".config" / "receiver" / FILE] if (home := environ.get("HOME")) else []


def without_quotes(text: str) -> str:
    """Return the value of a variable without space around it, and without the quotes of an env file.

    `docker --env-file`, systemd's `PassEnvironment` and dashboards hand them on as a part of the value.
    """
    text = text.strip(" \t\r\n\ufeff")
    inner = text[1:-1]
    return inner if len(text) > 1 and text[0] == text[-1] in "\"'" and text[0] not in inner else text


@dataclass(slots=True)
class _Layers:
    """Values merged so far. For each: its name as the user wrote it, and its source."""

    environ: Mapping[str, str]
    values: dict[str, Any] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pages: set[str] = field(default_factory=set)  # of the handbook, about the settings that failed validation

    def put(self, path: Location, value: Any, *, written: str, source: str, expanding: bool = False) -> None:
        """Set one value over that of a weaker layer, with its `$VAR`s replaced if `expanding`."""
        if expanding:
            try:
                value = expand(value, self.environ)
            except ValueError as exc:
                self.problems.append(f"{written}: {exc}")
                return
        table = self.values
        for key in path[:-1]:
            inner = table.get(key)
            table[key] = inner = inner if isinstance(inner, dict) else {}
            table = inner
        table[path[-1]] = value
        self.written[path] = written
        for name in {path[0], ".".join(path[:2])}:
            # A plain value has one source. A table may be put together from several.
            before = self.sources[name].split(", ") if len(path) > 1 and name in self.sources else []
            self.sources[name] = ", ".join(dict.fromkeys([*before, source]))

    def read_toml(self, text: str, source: str) -> None:
        """Read `receiver.toml`, or the same text from a variable."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            reason = str(exc)
            self.problems.append(f"{source} cannot be read as TOML: {reason[:1].lower()}{reason[1:]}.")
            return
        for name, value in document.items():
            written = f"{name} in {source}"
            if name not in declared(Settings):
                self.problems.append(_unknown(written, name, declared(Settings)))
            elif name != "destinations":
                self.put((name,), value, written=written, source=source, expanding=True)
            elif isinstance(value, dict):
                for table, options in value.items():
                    self._read_table(table, options, source)
            else:
                self.problems.append(f"{written} is not a table. Write [destinations.NAME] above its options.")

    def _read_table(self, name: str, table: Any, source: str) -> None:
        if not isinstance(table, dict):
            self.problems.append(
                f"destinations.{name} in {source} is not a table. Write [destinations.{name}] above its options."
            )
            return
        path = ("destinations", name)
        # A stronger layer adds to a table of the same name. It does not replace the table.
        old = self.values.get("destinations", {}).get(name, {})
        self.put(path, dict(old), written=f"[destinations.{name}] in {source}", source=source)
        for option, value in table.items():
            written = f"destinations.{name}.{option} in {source}"
            self.put((*path, option), value, written=written, source=source, expanding=True)

    def read_environment(self) -> None:
        """Read the variables people already have, then ours, which are stronger."""
        for name, item in declared(Settings).items():
            for variable in item.known_as:
                if self.environ.get(variable, "").strip():
                    self._read_variable(name, variable)
        known = {PREFIX + name.upper(): name for name in declared(Settings) if name != "destinations"}
        for variable, text in sorted(self.environ.items()):
            if not variable.startswith(PREFIX) or variable == CONFIG or not text.strip():
                continue
            if _FOREIGN.match(variable) or (variable == "RECEIVER_PORT" and _LINK.match(text)):
                continue
            if variable in known:
                self._read_variable(known[variable], variable)
            elif variable.startswith(_TABLES):
                self._read_option(variable, text.strip())
            elif variable == "RECEIVER_DESTINATIONS":
                self.problems.append(f"{variable} is not a setting. Write {_TABLES}NAME__OPTION, or RECEIVER_TO.")
            else:
                names = [name.removeprefix(PREFIX) for name in (*known, CONFIG)]
                self.problems.append(_unknown(variable, variable.removeprefix(PREFIX), names, prefix=PREFIX))

    def _read_variable(self, name: str, variable: str) -> None:
        source = f"environment {variable}"
        self.put((name,), self.environ[variable].strip(), written=variable, source=source, expanding=name == "to")

    def _read_option(self, variable: str, text: str) -> None:
        """Read one option of a destination. Lists and tables may be written as JSON."""
        name, *path = variable.removeprefix(_TABLES).lower().split("__")
        if not name or not path or not all(path):
            self.problems.append(f"{variable} names no option. Write {_TABLES}NAME__OPTION.")
            return
        # A variable cannot hold a hyphen, so MY_TEAM also means a table called my-team.
        tables = self.values.get("destinations", {})
        name = next((table for table in tables if table.replace("-", "_") == name), name)
        value: Any = text
        if text.startswith(("[", "{")):
            with contextlib.suppress(ValueError):  # the check of the option says what is wrong
                value = json.loads(text)
        self.put(("destinations", name, *path), value, written=variable, source="environment")

    def validated(self) -> Settings:
        """Return the settings, or raise SettingsError with all problems."""
        others = {name: text for name, text in self.environ.items() if not name.startswith(PREFIX)}
        try:
            settings = Settings(**self.values, origin=Origin(self.sources, tuple(self.files), others))
        except WrongValues as exc:
            self.problems += [self._sentence(path, problem) for path, problem in exc.problems.items()]
        if self.problems:
            page = self.pages.pop() if len(self.pages) == len(self.problems) == 1 else ""
            raise SettingsError("\n".join(dict.fromkeys(self.problems)), page=page)
        return settings

    def _sentence(self, path: Location, problem: str) -> str:
        self.pages.add(PAGES.get(path[0], "settings"))
        prefixes = [path[:length] for length in range(len(path), 0, -1)]
        name = next((self.written[prefix] for prefix in prefixes if prefix in self.written), ".".join(path))
        return f"{name} {problem}"


def expand(value: Any, environ: Mapping[str, str]) -> Any:
    """Replace `$VAR` and `${VAR}` in every text within `value`. `$$` is a dollar sign. Raise ValueError."""
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


def _unknown(written: str, name: str, known: Iterable[str], prefix: str = "") -> str:
    guess = nearest(name, known)
    remedy = f"Did you mean {prefix}{guess}?" if guess else "`receiver settings` lists all there are."
    return f"{written} is not a setting of Receiver. {remedy}"
